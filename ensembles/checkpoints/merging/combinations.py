"""Members that are combined again and again, by other weights each time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.running_mean import RunningMean
from ensembles.checkpoints.planning.options import Options
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.rules.rule import Rule

# So often members count at most, where one counts twice: of more, a block each would
# not fit into the memory that a plan takes by default.
MOST = 50


class Pool:
    """Members opened once, and the mean of some of them kept as a running sum.

    Parameters
    ----------
    members : sequence of Checkpoint
    rule : str or Rule, default="mean"
    params : mapping of str to value, default={}
        Of the rule.
    folder : path or None, default=None
        Where running sums are kept; None is the system's place for such.
    options : Options or None, default=None
        Of every plan, besides the rule, its parameters and weights.
    counted : bool, default=True
        Whether weights stand for members that are added one by one, as a greedy
        selection adds them.

    Attributes
    ----------
    order : list of int
        Members as they were added last.
    """

    def __init__(
        self,
        members: Sequence[Checkpoint],
        *,
        rule: str | Rule = "mean",
        params: Mapping[str, Any] | None = None,
        folder: str | os.PathLike[str] | None = None,
        options: Options | None = None,
        counted: bool = True,
    ) -> None:
        self.members = tuple(members)
        self.rule = rule
        self.params = dict(params or {})
        self.options: Options = {} if options is None else options
        self.stream = RunningMean(folder)
        self.counted = counted
        self.order: list[int] = []

    def plan(self, weights: Float64, out: str | os.PathLike[str] | None = None) -> Plan:
        """Plan of the members that count.

        Weights that are multiples of one number stand for members that count once or
        several times, in the order in which they were first added, where that reads no
        more than every member once.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
        out : path or None, default=None

        Returns
        -------
        Plan
        """
        some = np.flatnonzero(weights).tolist()
        named = self.rule if isinstance(self.rule, str) else self.rule.name
        if len(some) == 1:
            return self._plan(some, out, {})
        counts = as_counts(weights) if self.counted else None
        if named == "mean" and counts is not None:
            order = _in_order(self.order, counts)
            # Else, as with nine parts of a base, each counts once, by its weight.
            if len(order) - _n_shared(self.order, order) <= len(some):
                self.order = order
                return self._plan(order, out, {})
        return self.weighed(weights, out)

    def weighed(self, weights: Float64, out: str | os.PathLike[str] | None) -> Plan:
        """Plan of the members that count, each once, by its weight.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
        out : path or None

        Returns
        -------
        Plan
        """
        some = np.flatnonzero(weights).tolist()
        shares = np.asarray(weights)[some]
        own: Options = {"rule": self.rule, "weights": shares, "params": self.params}
        return self._plan(some, out, own)

    def _plan(
        self,
        places: Sequence[int],
        out: str | os.PathLike[str] | None,
        own: Options,
    ) -> Plan:
        members = [self.members[place] for place in places]
        given: Options = {**self.options, **own}
        return plan(members, out, **given)


def as_counts(weights: Float64) -> Counts | None:
    """Whole numbers that the weights are proportional to, None if their sum is large.

    Of members that count once it may be.

    Parameters
    ----------
    weights : ndarray of shape (n_members,), with sum above 0

    Returns
    -------
    ndarray of shape (n_members,), int64, or None

    Examples
    --------
    >>> as_counts(np.array([0.5, 0.0, 0.25, 0.25]))
    array([2, 0, 1, 1])
    """
    parts = np.asarray(weights / np.abs(weights[weights != 0]).min())
    for size in range(1, MOST):
        counts = np.rint(parts * size)
        if np.allclose(parts * size, counts, rtol=0, atol=1e-9 * size):
            few = counts.sum() <= MOST or counts.max() == 1
            return counts.astype(np.int64) if few and (counts >= 0).all() else None
        if counts.sum() > MOST:
            return None
    return None


def _n_shared(before: Sequence[int], order: Sequence[int]) -> int:
    """How many are the same from the start."""
    pairs = enumerate(zip(before, order, strict=False))
    fewer = min(len(before), len(order))
    return next((place for place, (a, b) in pairs if a != b), fewer)


def _in_order(before: Sequence[int], counts: Counts) -> list[int]:
    """Members as often as they count: as they were before, then what is new."""
    left = Counter({place: int(n) for place, n in enumerate(counts) if n})
    order = []
    for place in before:
        if left[place]:
            left[place] -= 1
            order.append(place)
    return order + sorted(left.elements())
