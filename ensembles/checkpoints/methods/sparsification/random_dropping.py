"""Differences from the base, with random elements dropped."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.sparsification.trimming import shares_of_members
from ensembles.kernels.task_vectors.random_masks import RESOLUTION
from ensembles.kernels.task_vectors.random_merge import (
    Masks,
    masked_deltas,
    merge_randomly,
)
from ensembles.rules.passes import Position

Shares = float | Sequence[float]
Rescale = Literal["expected", "l1"] | None


class Dropping(NamedTuple):
    """Which entries of the differences from the base are kept, and their factors.

    Parameters
    ----------
    position : Position
        Position of the block.
    density : float or sequence of float, from 2**-32 to 1
        Mean probability of keeping an element, or one for each member.
    epsilon : float or sequence of float
        Probabilities are ``density - epsilon`` for the smallest difference of a row,
        and ``density + epsilon`` for the largest; with density 1 all are 1.
    rescale : {"expected", "l1"} or None
        Factor of the elements that are kept: 1 divided by their probability, the
        ``state``, or 1.
    seed : int
        Seed of the random masks.
    state : ndarray of shape (n_members,) or None, default=None
        Factor of each member with ``rescale="l1"``.
    """

    position: Position
    density: Shares
    epsilon: Shares
    rescale: Rescale
    seed: int
    state: Float64 | None = None

    def deltas(self, stack: Float64, base: Float64) -> Float64:
        """Difference of each member from the base, 0 where it is dropped.

        Parameters
        ----------
        stack : ndarray of shape (n_members, size), float64
            Members along axis 0; whole rows if ``epsilon`` is not 0.
        base : ndarray of shape (size,), float64
            Common ancestor of the members.

        Returns
        -------
        ndarray of shape (n_members, size)

        Raises
        ------
        ValueError
            If a parameter is not valid.
        """
        return masked_deltas(stack, base, self._masks(np.ones(len(stack))))

    def merge(
        self, stack: Array, base: Array, weights: Float64, **options: Any
    ) -> Array:
        """Base plus the merged differences that are kept, rounded once.

        Parameters
        ----------
        stack : ndarray of shape (n_members, size), a float format
            Members along axis 0; whole rows if ``epsilon`` is not 0.
        base : ndarray of shape (size,), dtype of ``stack``
            Common ancestor of the members.
        weights : ndarray of shape (n_members,)
            Weight of each member.
        **options
            Options of `merge_randomly`.

        Returns
        -------
        ndarray of shape (size,), dtype of ``stack``

        Raises
        ------
        ValueError
            If a parameter is not valid.
        """
        masks = self._masks(np.ones(len(stack)))
        return merge_randomly(stack, weights, base, masks, **options)

    def add(
        self, stack: Array, base: Array, weights: Float64, *, scale: float
    ) -> Array:
        """Base plus the scaled and weighted sum of the differences that are kept.

        Parameters
        ----------
        stack, base, weights
            As in `merge`.
        scale : float
            Factor of the sum.

        Returns
        -------
        ndarray of shape (size,), dtype of ``stack``

        Raises
        ------
        ValueError
            If a parameter is not valid.
        """
        counted = (weights != 0).astype(np.float64)
        masks = self._masks(weights)
        return merge_randomly(stack, counted, base, masks, scale=scale, sign=None)

    def _masks(self, weights: Float64) -> Masks:
        """Masks with factors that are multiplied by weights."""
        _check(self.rescale, self.seed)
        position, row_size = self.position, self.position.row_size
        shares = (_hashable(value) for value in (self.density, self.epsilon))
        lowest, highest = _ranges(*shares, len(weights), row_size > 1)
        factors = weights
        if self.state is not None:  # NaN for a member with NaN
            factors = np.where(weights == 0, 0.0, weights * self.state)
        return Masks(
            np.arange(len(weights), dtype=np.uint32),
            lowest,
            highest,
            factors,
            highest is not lowest,
            self.rescale == "expected",
            row_size,
            self.seed,
            position.name,
            position.start,
        )


def _check(rescale: Any, seed: Any) -> None:
    if rescale not in ("expected", "l1", None):
        raise ValueError(
            "rescale must be 'expected', 'l1' or None (--param rescale=null), found "
            f"{rescale!r}"
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(f"seed must be a whole number, found {seed!r}")


def _hashable(value: Any) -> Any:
    """Tuples for lists and arrays, text for other values without a hash."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return value if isinstance(value, Hashable) else repr(value)


@lru_cache(maxsize=64, typed=True)  # checks take longer than a block
def _ranges(
    density: Any, epsilon: Any, n_members: int, is_ranked: bool
) -> tuple[Float64, Float64]:
    """Lowest and highest probability of each member, one array if they are equal."""
    means = shares_of_members("density", density, n_members)
    halves = shares_of_members("epsilon", epsilon, n_members)
    halves = np.where(means == 1, 0.0, halves)
    lowest, highest = means - halves, means + halves
    # Rounding: 0.7 + 0.3 may exceed 1.
    if (lowest < RESOLUTION).any() or (highest > 1 + RESOLUTION).any():
        if not halves.any():
            raise ValueError(f"density must be at least 2**-32, found {density!r}")
        raise ValueError(
            "density - epsilon must be above 0 and density + epsilon at most 1, as "
            f"probabilities are, found density={density!r} and epsilon={epsilon!r}; "
            "pass a smaller epsilon"
        )
    if is_ranked and halves.any():
        return lowest, np.minimum(highest, 1)
    return means, means


def absolute_sums(stack: Float64, base: Float64, dropping: Dropping) -> Float64:
    """Sums of absolute differences in a block: statistics for ``rescale="l1"``.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.
    base : ndarray of shape (size,), float64
        Common ancestor of the members.
    dropping : Dropping
        Parameters, with ``rescale=None``.

    Returns
    -------
    ndarray of shape (1, n_members, 2)
        Sums over all elements, and over the ones that are kept.
    """
    blocks = stack - base, dropping.deltas(stack, base)
    return np.stack([np.abs(block).sum(axis=1) for block in blocks], axis=1)[None]


def l1_factors(total: Float64, weights: Float64) -> Float64:
    """Factor of each member that restores the sum of absolute differences.

    Parameters
    ----------
    total : ndarray of shape (n_members, 2)
        Sum of `absolute_sums`.
    weights : ndarray of shape (n_members,)
        Weight of each member; not used.

    Returns
    -------
    ndarray of shape (n_members,)
        1 if all differences are dropped or 0.
    """
    whole, kept = total.T
    factors: Float64 = np.ones_like(whole)
    np.divide(whole, kept, out=factors, where=kept != 0)
    return factors


def needs_sums(rescale: Rescale = "expected") -> bool:
    """Whether the rescaling needs `absolute_sums`.

    Parameters
    ----------
    rescale : {"expected", "l1"} or None
        Parameter of the rule.

    Returns
    -------
    bool
    """
    return rescale == "l1"
