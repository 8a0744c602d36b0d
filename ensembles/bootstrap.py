"""Paired bootstrap: statistics of several models on the same resamples of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64

LEVEL = 0.95
STEP = 64  # resamples drawn together


class ConfidenceInterval(NamedTuple):
    """A statistic and its percentile bootstrap interval.

    Parameters
    ----------
    value : float
        The statistic on all rows.
    low, high : float
        Ends of the interval; at the level 95 % unless stated otherwise.
    """

    value: float
    low: float
    high: float


def resample(
    statistic: Callable[[Counts], Float64],
    n_rows: int,
    *,
    n_resamples: int,
    seed: int,
) -> Float64:
    """Statistics of all models on resamples of the rows, drawn with replacement.

    Parameters
    ----------
    statistic : callable (rows) -> ndarray of shape (n_models, n_drawn)
        Statistic of each model for each row of indices in ``rows``, an array of shape
        (n_drawn, n_rows).
    n_rows : int
        Number of rows of the data.
    n_resamples : int
        Number of resamples.
    seed : int
        Seed of the resampling.

    Returns
    -------
    ndarray of shape (n_models, n_resamples)
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for start in range(0, n_resamples, STEP):
        size = (min(STEP, n_resamples - start), n_rows)
        blocks.append(statistic(rng.integers(n_rows, size=size)))
    return np.concatenate(blocks, axis=1)


def percentile_interval(
    value: float, resampled: Float64, level: float = LEVEL
) -> ConfidenceInterval:
    """Percentile interval of a statistic from its values on resamples.

    Parameters
    ----------
    value : float
        The statistic on all rows.
    resampled : ndarray of shape (n_resamples,)
        The statistic on each resample.
    level : float, between 0 and 1, default=0.95
        Share of the resamples between the ends of the interval.

    Returns
    -------
    ConfidenceInterval

    References
    ----------
    Efron & Tibshirani (1993), "An introduction to the bootstrap", chapter 13.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return ConfidenceInterval(float(value), float(low), float(high))
