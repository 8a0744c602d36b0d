"""Calibration error of class probabilities, with a confidence interval."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import check_choice
from ensembles._typing import Counts, Float64
from ensembles.predictions.members.sample_weight import check_sample_weight
from ensembles.predictions.metrics.class_labels import column_indices

STRATEGIES = ("uniform", "quantile")
ROUNDING = 1e-6  # of float32 probabilities, whose largest can exceed 1


class CalibrationError(NamedTuple):
    """Calibration errors of binned probabilities, with an interval of the true one.

    Parameters
    ----------
    ece : float
        Expected calibration error: mean absolute gap between probability and frequency,
        as it is usually reported. It is too large, also for calibrated probabilities,
        in particular with few rows in each bin.
    rms : float
        Root-mean-square gap, corrected for the noise of the frequencies; 0 if the gaps
        are no larger than that noise.
    low, high : float
        Confidence interval of the true root-mean-square gap. ``low`` is 0 if the
        probabilities may be calibrated.
    """

    ece: float
    rms: float
    low: float
    high: float


def calibration_error(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: str = "uniform",
    classes: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    level: float = 0.95,
) -> CalibrationError:
    """Gap between predicted probabilities and the frequencies of the labels.

    Rows are binned by probability. In each bin, the mean probability is compared with
    the frequency of the label; the gaps are averaged over the rows.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Class probabilities: the largest of each row is compared with how often its
        label is right. If one-dimensional, the probability of the second label, which
        is compared with its frequency; pass ``y_true == label`` and the column of a
        label to measure the calibration of that label.
    n_bins : int, default=15
        Number of bins.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width in [0, 1], or with about equally many rows.
    classes : array-like of shape (n_classes,) or None, default=None
        Labels of the columns; None takes the sorted labels of ``y_true``.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        Sample weights; None weights all samples equally.
    level : float between 0 and 1, default=0.95
        Confidence level of the interval.

    Returns
    -------
    CalibrationError

    Raises
    ------
    ValueError
        If the shapes do not match, a probability is not between 0 and 1, or a sample
        weight is negative or not finite.

    Notes
    -----
    The squared gap of a bin, minus the variance of its mean, is an unbiased estimate of
    the true squared gap. The interval has the values whose distance from the sum of
    these estimates is within the normal quantile times the standard deviation that the
    sum has for that value. In simulations with 60 to 3000 rows, intervals of 95 %
    contained the true value in 95 to 98 % of the samples; bootstrap intervals of the
    expected calibration error in 40 to 95 %, as the error is not smooth at 0.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger (2017), "On calibration of modern neural networks",
    ICML, for the expected calibration error; Kumar, Liang & Ma (2019), "Verified
    uncertainty calibration", NeurIPS, for the correction; Sun, Chaudhari, Barnett &
    Dobriban (2024), "A confidence interval for the l2 expected calibration error",
    arXiv:2408.08998, for the limit distributions.

    Examples
    --------
    >>> error = calibration_error([1, 0, 1, 1], [0.9, 0.9, 0.3, 0.3], n_bins=2)
    >>> round(error.ece, 3)
    0.55
    """
    from scipy.stats import norm

    check_choice("strategy", strategy, STRATEGIES)
    if n_bins < 1 or not 0 < level < 1:
        raise ValueError(
            "n_bins must be at least 1, and level between 0 and 1: found "
            f"{n_bins} and {level}"
        )
    probability, outcome = _events(y_true, y_proba, classes)
    weight = _row_weights(sample_weight, len(outcome))
    bins = probability_bins(probability, n_bins, strategy)
    share, gap, variance = _bin_gaps(bins, outcome - probability, probability, weight)
    excess = gap**2 - variance  # unbiased estimate of the true squared gap
    estimate = float(share @ excess)
    # Variance of the estimate for a true value t: slope * t + constant.
    slope = 4 * float(share**2 @ variance)
    positive = np.maximum(excess, 0)
    spread = float(share @ positive**2 - (share @ positive) ** 2)
    constant = 2 * float(share**2 @ variance**2) + max(spread, 0) * float(
        weight @ weight
    )
    z = float(norm.ppf((1 + level) / 2))
    middle = estimate + z**2 * slope / 2
    radius = math.sqrt(max(middle**2 - estimate**2 + z**2 * constant, 0))
    low, high = (math.sqrt(max(middle + end, 0)) for end in (-radius, radius))
    rms = math.sqrt(max(estimate, 0))
    return CalibrationError(float(share @ np.abs(gap)), rms, low, high)


def _events(y_true: Any, y_proba: Any, classes: Any) -> tuple[Float64, Float64]:
    """Probability of an event in each row, and whether it happened."""
    proba, y = np.asarray(y_proba, np.float64), np.asarray(y_true)
    if proba.ndim not in (1, 2) or y.ndim != 1 or len(proba) != len(y) or not len(y):
        raise ValueError(
            "y_proba must have one row for each label of y_true, which has one column: "
            f"found shapes {proba.shape} and {y.shape}"
        )
    is_valid = (proba >= 0) & (proba <= 1 + ROUNDING)
    if not is_valid.all():
        found = proba[~is_valid][0]
        raise ValueError(f"probabilities must be between 0 and 1: found {found}")
    proba = np.minimum(proba, 1)
    codes = column_indices(y, classes, 2 if proba.ndim == 1 else proba.shape[1])
    if proba.ndim == 1:
        return proba, codes.astype(np.float64)
    return proba.max(axis=1), (proba.argmax(axis=1) == codes).astype(np.float64)


def _row_weights(sample_weight: Any, n_samples: int) -> Float64:
    """Weights of the rows, with sum 1."""
    if sample_weight is None:
        return np.full(n_samples, 1 / n_samples)
    weight = check_sample_weight(sample_weight, n_samples)
    return np.asarray(weight / weight.sum())


def probability_bins(probability: Float64, n_bins: int, strategy: str) -> Counts:
    """Index of the bin of each probability.

    Parameters
    ----------
    probability : ndarray of shape (n_rows,)
        Probabilities; equal ones are in the same bin, and 1 is in the last bin.
    n_bins : int, at least 1
        Number of bins.
    strategy : {"uniform", "quantile"}
        Bins of equal width in [0, 1], or with about equally many rows.

    Returns
    -------
    ndarray of shape (n_rows,), int64
    """
    if strategy == "uniform":
        edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    else:
        shares = np.linspace(0, 1, n_bins + 1)[1:-1]
        edges = np.unique(np.quantile(probability, shares))
    return np.searchsorted(edges, probability, side="right").astype(np.int64)


def _bin_gaps(
    bins: Counts, gaps: Float64, probability: Float64, weight: Float64
) -> tuple[Float64, Float64, Float64]:
    """Share of the weight, mean gap, and variance of that mean, of each bin."""

    def total(values: Float64) -> Float64:
        return np.asarray(np.bincount(bins, values)[is_used])

    is_used = np.bincount(bins, weight) > 0
    share = total(weight)
    gap = total(weight * gaps) / share
    effective = share**2 / total(weight**2)  # rows, if the weights are equal
    spread = total(weight * gaps**2) / share - gap**2
    # A bin with a single row: the variance of a calibrated label.
    single = total(weight * probability * (1 - probability)) / share
    is_single = effective < 1.5
    variance = np.where(
        is_single, single, spread / np.where(is_single, 1, effective - 1)
    )
    return share, gap, np.maximum(variance, 0)
