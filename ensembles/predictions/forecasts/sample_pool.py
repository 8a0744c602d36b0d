"""Linear pool of sample forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Counts, Float64
from ensembles.predictions.forecasts.quantiles import as_numbers, first_index
from ensembles.selection.table import check_integer, generator_of
from ensembles.weights import check_weights


def pool_samples(
    stack: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_samples: int | None = None,
    random_state: Any = 0,
) -> Float64:
    """Samples of the weighted mixture of the members' distributions.

    Each member gives a share of the samples by its weight, rounded so that they add up
    (largest remainders). The samples of a member are drawn without replacement, and the
    same ones for all units, so that a sample stays a trajectory over the units, e.g.
    over horizons.

    Parameters
    ----------
    stack : array-like of shape (n_members, n_units, n_samples_of_members)
        Samples of each member. Entries with the same last index are a trajectory. NaN
        in all entries of a member that is absent.
    weights : array-like of shape (n_members,) or None, default=None
        Non-negative weights of the members; None weights all members equally.
    n_samples : int or None, default=None
        Number of samples of the pool, at most that of each member; None means the same.
    random_state : int, Generator, RandomState or None, default=0
        Seed or generator of the draws; None gives different draws in each call.

    Returns
    -------
    ndarray of shape (n_units, n_samples), float64
        Samples of the members in their order.

    Raises
    ------
    ValueError
        If the shape, the weights or ``n_samples`` are not valid, or a member is present
        in a part of the units only, so that it has no trajectories over all of them.

    References
    ----------
    Shandross et al. (2024), "hubEnsembles: Ensembling methods in R", medRxiv
    2024.06.24.24309416, for the pool of trajectories.

    Examples
    --------
    >>> stack = [[[1.0, 2.0, 3.0, 4.0]], [[10.0, 20.0, 30.0, 40.0]]]
    >>> pool_samples(stack, [3, 1]).shape
    (1, 4)
    >>> int((pool_samples(stack, [3, 1]) < 10).sum())
    3
    """
    values = as_numbers("stack", stack)
    if values.ndim != 3 or not values.size:
        raise ValueError(
            "stack must have the shape (n_members, n_units, n_samples), without empty "
            f"axes, found {values.shape}"
        )
    is_absent = np.isnan(values)
    partly = is_absent.any((1, 2)) & ~is_absent.all((1, 2))
    if partly.any():
        raise ValueError(
            "a member must have all samples of all units, or NaN everywhere: member "
            f"{first_index(partly)[0]} lacks some; pool units with the same members"
        )
    weights = np.where(is_absent.all((1, 2)), 0, check_weights(weights, len(values)))
    if not weights.any():
        raise ValueError("at least one member with a weight must be present")
    n_available = values.shape[2]
    n_samples = n_available if n_samples is None else n_samples
    check_integer(n_samples=n_samples)
    if not 1 <= n_samples <= n_available:
        raise ValueError(
            f"n_samples must be from 1 to the {n_available} samples of each member, "
            f"found {n_samples}"
        )
    rng = generator_of(random_state)
    drawn = [
        member[:, np.sort(rng.choice(n_available, count, replace=False))]
        for member, count in zip(values, _apportion(weights, n_samples), strict=True)
    ]
    return np.hstack(drawn)


def _apportion(weights: Float64, total: int) -> Counts:
    """Counts in the ratio of the weights that sum to ``total``: largest remainders."""
    exact = weights / weights.sum() * total
    counts: Counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
