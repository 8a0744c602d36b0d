"""Order of the members in many combinations, one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.checkpoints.planning.options import MEMORY
from ensembles.kernels.gram import BLOCK
from ensembles.rules.builtin import RULES
from ensembles.rules.rule import Rule


def is_mean(rule: Rule) -> bool:
    """Whether a rule is the registered mean, not another rule of its name.

    Parameters
    ----------
    rule : Rule
        Rule, or a copy of it.

    Returns
    -------
    bool
    """
    return rule.function is RULES["mean"].function


class Combination(NamedTuple):
    """Members to read, and their weights.

    Parameters
    ----------
    members : list of int
        Indices of the members, in the order in which they are read.
    weights : ndarray of shape (n_read,) or None
        Weight of each; None is their mean, in which a member may occur several times.
    """

    members: list[int]
    weights: Float64 | None


class MemberCombinations:
    """Orders members so that each mean adds few members to the one before.

    Parameters
    ----------
    n_members : int
        Number of members that weights refer to.
    memory : int, default=64 MiB
        Memory budget of a mean in bytes. A member is read several times only if a block
        of each reading fits into it, in the widest format.

    Attributes
    ----------
    order : list of int
        Indices of the members in the last mean, with repetitions.
    """

    def __init__(self, n_members: int, *, memory: int = MEMORY) -> None:
        # 8 bytes as stored and 8 as float64 for each, and two blocks for the result.
        self._most_read = max(n_members, (memory // BLOCK - 16) // 16)
        self.order: list[int] = []

    def arrange(self, weights: Float64, counts: Counts | None = None) -> Combination:
        """Members with nonzero weight, in the order in which they are read.

        Counts become repetitions of members, in the order of the previous mean, so that
        `RunningMean` reads only the added ones. If that would read more than each
        member once, the weights are used directly.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weight of each member; a member with weight 0 is not read.
        counts : ndarray of shape (n_members,), int64, or None, default=None
            How often each member was added, in the ratio of the weights, for a mean;
            None uses the weights directly.

        Returns
        -------
        Combination
        """
        members = np.flatnonzero(weights).tolist()
        if len(members) == 1:
            return Combination(members, None)
        if counts is not None:
            counts = counts // np.gcd.reduce(counts)
            if counts.sum() <= self._most_read:
                order = _in_order(self.order, counts)
                if len(order) - _n_shared(self.order, order) <= len(members):
                    self.order = order
                    return Combination(order, None)
        return Combination(members, np.asarray(weights)[members])


def _n_shared(before: Sequence[int], order: Sequence[int]) -> int:
    """Length of the common prefix."""
    pairs = zip(before, order, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _in_order(before: Sequence[int], counts: Counts) -> list[int]:
    """Indices repeated by their counts: those in ``before`` first, in its order."""
    left = Counter({index: int(count) for index, count in enumerate(counts) if count})
    order = []
    for index in before:
        if left[index]:
            left[index] -= 1
            order.append(index)
    return order + sorted(left.elements())
