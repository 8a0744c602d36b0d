"""What rules compute first, and where: the classes `Pass` and `Position`."""

from __future__ import annotations

import math
from typing import NamedTuple

from ensembles.rules.signatures import Function


class Pass(NamedTuple):
    """A pass over all members before they are combined.

    Parameters
    ----------
    statistics : callable (stack, *, weights, base, state, position, total, **params)
        Returns statistics of a block of the stack, see `Rule`. Each function of a pass
        receives the arguments that its signature names.
    finish : callable (total, weights, *, state, position, **params) -> state, or None
        Called with the sum of the statistics; returns the state for the next pass or
        for the rule. None uses the sum as the state.
    is_needed : callable (**params) -> bool, or None
        Whether parameters require the pass; None means always. Without the pass, the
        state stays the one of the pass before, None before the first.
    fused : bool or None, default=None
        Whether ``statistics`` take members and base of any one float format as they are
        stored. None is the property ``fused`` of the rule.
    """

    statistics: Function
    finish: Function | None = None
    is_needed: Function | None = None
    fused: bool | None = None

    @property
    def functions(self) -> tuple[Function, ...]:
        """The functions of the pass."""
        functions = (self.statistics, self.finish, self.is_needed)
        return tuple(function for function in functions if function is not None)


class Position(NamedTuple):
    """Position of a block of elements in a tensor.

    Parameters
    ----------
    name : str
        Name of the tensor in the result; empty for a tensor without a name. Tied
        tensors have the name of the first.
    shape : tuple of int
        Shape of the tensor.
    start : int, default=0
        Index of the block's first element in the flat tensor.
    """

    name: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def row_size(self) -> int:
        """Elements in a row: the last axis; a vector or a number is one row."""
        return self.shape[-1] if self.shape else 1

    @property
    def matrix_size(self) -> int:
        """Elements in a matrix: the last two axes; a vector is one matrix."""
        return math.prod(self.shape[-2:])

    def advanced(self, n_elements: int) -> Position:
        """Position of a block that starts a number of elements later.

        Parameters
        ----------
        n_elements : int
            Number of elements, not negative.

        Returns
        -------
        Position
        """
        return self._replace(start=self.start + n_elements)
