"""Continuous ranked probability score (CRPS) of samples and of quantiles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import check_bool
from ensembles._typing import Float64
from ensembles.predictions.forecasts.quantiles import (
    as_numbers,
    check_levels,
    check_outcomes,
    check_quantiles,
)
from ensembles.weights import check_weights


def crps_of_samples(
    y: ArrayLike,
    samples: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    fair: bool = False,
) -> Float64:
    """CRPS of samples: mean |x - y| minus half of the mean |x - x'|.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    samples : array-like of shape (..., n_units, n_samples)
        Samples of the predictive distribution, in any order; a forecast with a NaN is
        absent.
    weights : array-like of shape (n_samples,) or None, default=None
        Non-negative weights of the samples; None weights them equally.
    fair : bool, default=False
        Whether samples are not paired with themselves in the mean of |x - x'|, which
        makes the score an unbiased estimate for the distribution that they were drawn
        from. Otherwise it is the score of the empirical distribution.

    Returns
    -------
    ndarray of shape (..., n_units)
        NaN where the forecast is absent or the outcome unknown.

    Raises
    ------
    ValueError
        If the shapes do not match, weights are not valid, or only one sample is
        weighted with ``fair=True``.

    References
    ----------
    Gneiting & Raftery (2007), "Strictly proper scoring rules, prediction, and
    estimation", Journal of the American Statistical Association 102, equation 21; Ferro
    (2014), "Fair scores for ensemble forecasts", Quarterly Journal of the Royal
    Meteorological Society 140.

    Examples
    --------
    >>> crps_of_samples([1.0], [[0.0, 1.0, 3.0]]).round(4).tolist()
    [0.3333]
    """
    check_bool("fair", fair)
    outcomes, samples = _check_samples(y, samples)
    shares = check_weights(weights, samples.shape[-1])
    shares /= shares.sum()
    # Relative to the outcome, so that large values do not cancel.
    distances = samples - outcomes[..., None]
    order = np.argsort(distances, axis=-1)
    distances = np.take_along_axis(distances, order, -1)
    sorted_shares = shares[order]
    below = np.cumsum(sorted_shares, axis=-1)
    spread = (sorted_shares * distances * (2 * below - sorted_shares - 1)).sum(-1)
    if fair:
        is_different = 1 - (shares**2).sum()
        if not is_different > 0:
            raise ValueError("fair=True must have at least two weighted samples")
        spread /= is_different
    return np.asarray((sorted_shares * np.abs(distances)).sum(-1) - spread)


def crps_of_quantiles(y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike) -> Float64:
    """CRPS of the distribution that interpolates quantiles linearly.

    The integral of (F(x) - 1{y <= x}) ** 2, exact for the distribution function F that
    is linear between the quantiles and has the mass beyond the outermost levels on the
    outermost quantiles. `weighted_interval_score` approximates the same integral from
    the levels alone.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    quantiles : array-like of shape (..., n_units, n_levels)
        Quantile forecasts in ascending order; NaN at all levels where absent.
    levels : array-like of shape (n_levels,)
        Quantile levels in ascending order.

    Returns
    -------
    ndarray of shape (..., n_units)
        NaN where the forecast is absent or the outcome unknown.

    Raises
    ------
    ValueError
        If the shapes do not match, or quantiles cross.

    References
    ----------
    Gneiting & Raftery (2007), "Strictly proper scoring rules, prediction, and
    estimation", Journal of the American Statistical Association 102, equation 20.

    Examples
    --------
    >>> crps_of_quantiles([0.0], [[0.0, 1.0]], levels=[0.25, 0.75]).round(4).tolist()
    [0.2708]
    """
    levels = check_levels(levels)
    quantiles = check_quantiles(quantiles, levels)
    outcomes = check_outcomes(y, quantiles)[..., None]
    left, right = quantiles[..., :-1], quantiles[..., 1:]
    split = np.clip(outcomes, left, right)
    width = right - left
    share = (split - left) / np.where(width > 0, width, 1.0)
    low, high = levels[:-1], levels[1:]
    middle = low + share * (high - low)
    # The square of a linear function from a to b has the mean (aa + ab + bb) / 3.
    squares = (split - left) * (low**2 + low * middle + middle**2)
    low, middle, high = 1 - low, 1 - middle, 1 - high
    squares += (right - split) * (middle**2 + middle * high + high**2)
    below = np.maximum(quantiles[..., 0] - outcomes[..., 0], 0.0)
    above = np.maximum(outcomes[..., 0] - quantiles[..., -1], 0.0)
    return np.asarray(squares.sum(-1) / 3 + below + above)


class CRPSParts(NamedTuple):
    """Parts of a mean CRPS: reliability - resolution + uncertainty.

    Parameters
    ----------
    reliability : float
        Deviation of observed frequencies from the predicted probabilities; 0 if
        forecasts are calibrated.
    resolution : float
        How much better the forecasts are, once calibrated, than the climatology.
    uncertainty : float
        CRPS of the climatology, which is the distribution of all outcomes.
    """

    reliability: float
    resolution: float
    uncertainty: float


def decompose_crps(y: ArrayLike, samples: ArrayLike) -> CRPSParts:
    """Reliability, resolution and uncertainty of the mean CRPS of samples.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes, without NaN.
    samples : array-like of shape (n_units, n_samples)
        Equally weighted samples of each unit, in any order, without NaN.

    Returns
    -------
    CRPSParts
        ``reliability - resolution + uncertainty`` is the mean of `crps_of_samples`.

    Raises
    ------
    ValueError
        If the shapes do not match, or there is a NaN.

    References
    ----------
    Hersbach (2000), "Decomposition of the continuous ranked probability score for
    ensemble prediction systems", Weather and Forecasting 15, equations 24 to 39.
    """
    outcomes, samples = _check_samples(y, samples)
    if samples.ndim != 2:
        raise ValueError(
            f"samples must have the shape (n_units, n_samples), found {samples.shape}"
        )
    if np.isnan(samples).any() or np.isnan(outcomes).any() or not len(outcomes):
        raise ValueError(
            "y and samples must be at least one unit, without NaN; leave out units "
            "without a forecast or an outcome"
        )
    observed, lengths = _bins(outcomes[:, None], np.sort(samples, axis=1))
    predicted = np.arange(len(observed)) / samples.shape[1]
    reliability = float(lengths @ (observed - predicted) ** 2)
    potential = float(lengths @ (observed * (1 - observed)))
    climatology = np.broadcast_to(outcomes, (len(outcomes), len(outcomes)))
    uncertainty = float(crps_of_samples(outcomes, climatology).mean())
    return CRPSParts(reliability, uncertainty - potential, uncertainty)


def _bins(y: Float64, samples: Float64) -> tuple[Float64, Float64]:
    """Observed frequency of an outcome below each bin's end, and the bin's mean length.

    The bins are between neighboring samples, and beyond the first and the last.
    """
    first, last = samples[:, :1], samples[:, -1:]
    split = np.clip(y, samples[:, :-1], samples[:, 1:])
    below, above = (samples[:, 1:] - split).mean(0), (split - samples[:, :-1]).mean(0)
    lengths = below + above
    observed = np.divide(below, lengths, out=np.zeros(len(below)), where=lengths > 0)
    # Beyond the samples, the mean is over the units whose outcome is there.
    low, high = float((y < first).mean()), float((y <= last).mean())
    low_length = float(np.maximum(first - y, 0.0).mean()) / (low or 1.0)
    high_length = float(np.maximum(y - last, 0.0).mean()) / (1 - high or 1.0)
    return np.hstack([low, observed, high]), np.hstack(
        [low_length, lengths, high_length]
    )


def pit_of_samples(y: ArrayLike, samples: ArrayLike) -> Float64:
    """Probability integral transform (PIT) of samples.

    Parameters
    ----------
    y : array-like of shape (n_units,)
        Outcomes; NaN if unknown.
    samples : array-like of shape (..., n_units, n_samples)
        Samples of the predictive distribution; a forecast with a NaN is absent.

    Returns
    -------
    ndarray of shape (..., n_units)
        Share of the samples below the outcome, equal ones counting half; NaN where the
        forecast is absent or the outcome unknown.

    References
    ----------
    Dawid (1984), "Statistical theory: the prequential approach", Journal of the Royal
    Statistical Society A 147.
    """
    outcomes, samples = _check_samples(y, samples)
    points = outcomes[..., None]
    share = ((samples < points).mean(-1) + (samples <= points).mean(-1)) / 2
    return np.asarray(np.where(np.isnan(samples).any(-1), np.nan, share) + 0 * outcomes)


def _check_samples(y: ArrayLike, samples: ArrayLike) -> tuple[Float64, Float64]:
    values = as_numbers("samples", samples)
    outcomes = check_outcomes(y, values)
    if values.shape[-1] < 1:
        raise ValueError(f"there must be at least one sample, found {values.shape}")
    return outcomes, values
