"""Trimming of task vectors: entries of small or of very large magnitude become zero."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.kernels.task_vectors.magnitudes import (
    Bins,
    count_lower,
    count_upper,
    deltas_between,
    find_bins,
    find_magnitudes,
)
from ensembles.rules.passes import Pass

Scope = Literal["tensor", "model"]
SCOPES = ("tensor", "model")


class Kept(NamedTuple):
    """Magnitudes of the entries of task vectors that are kept.

    Parameters
    ----------
    low, high : ndarray of shape (n_members,)
        Smallest and largest magnitude of each member.
    majority : -1, 0 or 1, default=0
        Sign that more elements elect; 0 for equal numbers, or if they are not counted.
    """

    low: Float64
    high: Float64
    majority: int = 0


def shares_of_members(name: str, value: Any, n_members: int) -> Float64:
    """Share of the elements of each member, from a parameter.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value : float or sequence of float
        A share for all members, or one for each.
    n_members : int
        Number of members.

    Returns
    -------
    ndarray of shape (n_members,)

    Raises
    ------
    ValueError
        If the value is not a number from 0 to 1, or one for each member.
    """
    try:
        shares = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        shares = np.array(np.nan)
    is_valid = shares.shape in ((), (n_members,)) and not isinstance(value, bool | str)
    if not (is_valid and ((shares >= 0) & (shares <= 1)).all()):
        raise ValueError(
            f"{name} must be a number from 0 to 1, or a list of {n_members}, one for "
            f"each member, found {value!r}"
        )
    return np.broadcast_to(shares, n_members)


def n_kept(density: Any, n_elements: Counts) -> Counts:
    """Number of elements of each member that a density keeps, one at least.

    Parameters
    ----------
    density : float or sequence of float
        The parameter ``density``.
    n_elements : ndarray of shape (n_members,), int64
        Number of elements.

    Returns
    -------
    ndarray of shape (n_members,), int64

    Raises
    ------
    ValueError
        If the density is not valid.
    """
    shares = shares_of_members("density", density, len(n_elements))
    if not shares.all():
        raise ValueError(f"density must be above 0, found {density!r}")
    kept = np.maximum((shares * n_elements).astype(np.int64), 1)
    return np.minimum(kept, n_elements)


def trimming(default: float) -> tuple[Pass, Pass]:
    """Passes of a rule that keeps a share of the entries, the largest.

    Parameters
    ----------
    default : float
        Default of the rule's parameter ``density``.

    Returns
    -------
    tuple of two Pass
        The state after them is `Kept`, and None with the density 1.
    """

    def find(total: Counts, weights: Float64, *, density: Any = default) -> Bins:
        return find_bins(total, n_kept(density, total.sum(axis=1))[:, None])

    def is_needed(density: Any = default) -> bool:
        # True equals 1, and the passes refuse it.
        return isinstance(density, bool) or not np.array_equal(density, 1)

    return (
        Pass(count_upper, find, is_needed, fused=True),
        Pass(count_lower, _find_low, is_needed, fused=True),
    )


def _find_low(total: Counts, weights: Float64, *, state: Bins) -> Kept:
    (low,) = find_magnitudes(total, state).T
    return Kept(low, np.full(len(low), np.inf))


def kept_deltas(stack: Float64, base: Float64, kept: Kept | None) -> Float64:
    """Task vectors, with zeros for the trimmed entries.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0.
    base : ndarray of shape (size,), float64
        Common ancestor of the members.
    kept : Kept or None
        State of the passes; None keeps all.

    Returns
    -------
    ndarray of shape (n_members, size)
    """
    if kept is None:
        return stack - base
    return deltas_between(stack, base, kept.low, kept.high)
