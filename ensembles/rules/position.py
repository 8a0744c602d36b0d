"""The class `Position` of a block of elements in a tensor."""

from __future__ import annotations

import math
from typing import NamedTuple


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
