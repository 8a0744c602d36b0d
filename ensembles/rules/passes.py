"""The class `Pass`: statistics of whole tensors that a rule needs first."""

from __future__ import annotations

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
