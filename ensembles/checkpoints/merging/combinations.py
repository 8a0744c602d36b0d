"""Plan many combinations of the same members, with different weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.running_mean import RunningMean
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.rules.rule import Rule

# Largest sum of counts if a member counts twice: with more, one block per count does
# not fit into the default memory of a plan.
MOST = 50


class Pool:
    """Members that are opened once, with a running sum for their means.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members; the weights of every plan refer to their order.
    rule : str or Rule, default="mean"
        Rule that combines them.
    params : mapping of str to value, default={}
        Parameters of the rule, by name.
    folder : path or None, default=None
        Directory for the temporary file of the running sum; None is the system's
        directory for temporary files.
    options : mapping of str to value or None, default=None
        Options of every plan, without ``rule``, ``rule_params`` and ``weights``; None
        uses the defaults.
    counted : bool, default=True
        Whether weights with integer ratios are planned as repeated members, which suits
        selections that add members one by one (greedy).

    Attributes
    ----------
    order : list of int
        Indices of the members in the last such plan, with repetitions.
    """

    def __init__(
        self,
        members: Sequence[Checkpoint],
        *,
        rule: str | Rule = "mean",
        params: Mapping[str, Any] | None = None,
        folder: str | os.PathLike[str] | None = None,
        options: Mapping[str, Any] | None = None,
        counted: bool = True,
    ) -> None:
        self.members = tuple(members)
        self.rule = rule
        self.params = dict(params or {})
        self.options = dict(options or {})
        self.stream = RunningMean(folder)
        self.counted = counted
        self.order: list[int] = []

    def plan(self, weights: Float64, out: str | os.PathLike[str] | None = None) -> Plan:
        """Plan a combination of the members with nonzero weight.

        With ``counted`` and the rule "mean", weights with small integer ratios become
        repetitions of members, in the order of the previous plan, so that
        `RunningMean` reads only the added ones. If that would read more than each
        member once, the weights are used directly.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weight of each member; a member with weight 0 is not read.
        out : path or None, default=None
            Path of the output; None for a state dict in memory.

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
            # Otherwise, e.g. with a base that counts nine times, read each member once.
            if len(order) - _n_shared(self.order, order) <= len(some):
                self.order = order
                return self._plan(order, out, {})
        return self.weighed(weights, out)

    def weighed(self, weights: Float64, out: str | os.PathLike[str] | None) -> Plan:
        """Plan a combination of the members with nonzero weight, each read once.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weight of each member; a member with weight 0 is not read.
        out : path or None
            Path of the output; None for a state dict in memory.

        Returns
        -------
        Plan
        """
        some = np.flatnonzero(weights).tolist()
        shares = np.asarray(weights)[some]
        own = {"rule": self.rule, "weights": shares, "rule_params": self.params}
        return self._plan(some, out, own)

    def _plan(
        self,
        places: Sequence[int],
        out: str | os.PathLike[str] | None,
        own: Mapping[str, Any],
    ) -> Plan:
        members = [self.members[place] for place in places]
        return plan(members, out, **self.options, **own)


def as_counts(weights: Float64) -> Counts | None:
    """Smallest non-negative integers in the ratio of the weights.

    Parameters
    ----------
    weights : ndarray of shape (n_members,), with sum above 0
        Weight of each member.

    Returns
    -------
    ndarray of shape (n_members,), int64, or None
        None if a weight is negative, or the integers sum to more than 50 and are not
        all 0 or 1.

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
    """Length of the common prefix."""
    pairs = enumerate(zip(before, order, strict=False))
    fewer = min(len(before), len(order))
    return next((place for place, (a, b) in pairs if a != b), fewer)


def _in_order(before: Sequence[int], counts: Counts) -> list[int]:
    """Indices repeated by their counts: those in ``before`` first, in its order."""
    left = Counter({place: int(n) for place, n in enumerate(counts) if n})
    order = []
    for place in before:
        if left[place]:
            left[place] -= 1
            order.append(place)
    return order + sorted(left.elements())
