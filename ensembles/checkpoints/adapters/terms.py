"""The updates of one module in all adapters, and their weighted sum."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.adapters.concatenation import concatenated
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.checkpoints.formats.lora.adapter import (
    Factors,
    LowRankUpdate,
    read_array,
)

SMALLEST = 1e-30  # scale that is written as an alpha


class Term(NamedTuple):
    """Update of a module in one adapter, with its coefficient.

    Parameters
    ----------
    member : int
        Index of the adapter.
    update : LowRankUpdate
        Its update.
    coefficient : float
        Factor of ``b @ a``: the coefficient of the rule times the scale.
    """

    member: int
    update: LowRankUpdate
    coefficient: float


@dataclass(frozen=True)
class ModuleSum:
    """Weighted sum of the updates of one module.

    Parameters
    ----------
    name : str
        Name of the module in the result.
    terms : tuple of Term
        Update of each adapter that has the module; the updates of others are zero.
    """

    name: str
    terms: tuple[Term, ...]

    @property
    def first(self) -> LowRankUpdate:
        """Update of the first adapter that has the module."""
        return self.terms[0].update

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors that are read."""
        return [tensor for term in self.terms for tensor in term.update.tensors]

    @property
    def largest_rank(self) -> int:
        """Rank of the concatenated factors, if no factors are equal."""
        return sum(term.update.rank for term in self.terms)

    @property
    def scale(self) -> float:
        """Largest coefficient: the factors of terms that have it are not changed."""
        largest = max((term.coefficient for term in self.terms), key=abs)
        # Alphas of kohya are float32, and an alpha of 0 counts as the rank.
        return largest if SMALLEST < abs(largest) < 1 / SMALLEST else 1.0

    def bias(self, scale: float) -> Float64 | None:
        """Sum of the biases of second factors, divided by the scale of the result."""
        biases = [
            term.coefficient / scale * read_array(bias).astype(np.float64)
            for term in self.terms
            if (bias := term.update.bias) is not None
        ]
        return np.sum(biases, axis=0) if biases else None


Digests = dict[Tensor, list[bytes]]  # of the blocks of each tensor


class Groups(NamedTuple):
    """Terms with an equal factor, whose other factors are added instead of stacked.

    Parameters
    ----------
    shared : {"a", "b"}
        Factor that is equal inside a group.
    groups : list of list of Term
        Terms of each group, in the order of the adapters.
    """

    shared: str
    groups: list[list[Term]]

    @property
    def rank(self) -> int:
        """Rank of the concatenated factors."""
        return sum(group[0].update.rank for group in self.groups)


def grouped(terms: Sequence[Term], digests: Digests) -> Groups:
    """Group terms with an equal first or second factor, whichever gives fewer groups.

    Adapters that were trained with a frozen factor, steps of one run with the same
    initialization, and copies of an adapter need no larger rank.

    Parameters
    ----------
    terms : sequence of Term
        Terms of a module.
    digests : dict of Tensor to list of bytes
        Digests of the factors.

    Returns
    -------
    Groups
    """
    by_a: dict[Hashable, list[Term]] = {}
    by_b: dict[Hashable, list[Term]] = {}
    for term in terms:
        update = term.update
        keys = [_key(tensor, digests) for tensor in (update.a, update.middle) if tensor]
        by_a.setdefault(tuple(keys), []).append(term)
        by_b.setdefault(_key(update.b, digests), []).append(term)
    if len(by_b) < len(by_a):
        return Groups("b", list(by_b.values()))
    return Groups("a", list(by_a.values()))


def _key(tensor: Tensor, digests: Digests) -> Hashable:
    return tensor.dtype, tensor.shape, tuple(digests[tensor])


def summed(groups: Groups, scale: float) -> Factors:
    """Factors of the weighted sum of terms, divided by the scale of the result.

    The coefficients multiply second factors; a coefficient that equals the scale leaves
    the factors unchanged.

    Parameters
    ----------
    groups : Groups
        Terms of a module.
    scale : float
        Scale of the result, not 0.

    Returns
    -------
    Factors
    """
    parts: list[Factors] = []
    for first, *others in groups.groups:
        a, b = first.update.read()
        if groups.shared == "a":
            b = b * (first.coefficient / scale)
            for term in others:
                b = b + term.update.read().b * (term.coefficient / scale)
        elif others:
            a = a * (first.coefficient / scale)
            for term in others:
                a = a + term.update.read().a * (term.coefficient / scale)
        else:
            b = b * (first.coefficient / scale)
        parts.append(Factors(a, b))
    return concatenated(parts, [1.0] * len(parts))
