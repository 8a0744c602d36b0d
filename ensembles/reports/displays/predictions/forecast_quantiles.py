"""Quantile forecasts of ensembles and their members, for displays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.predictions.forecasts.quantiles import check_levels


class ForecastQuantiles(NamedTuple):
    """Quantile forecasts of an ensemble and of its members.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
        Quantile levels.
    combined : ndarray of shape (n_units, n_levels)
        Quantiles of the ensemble.
    members : ndarray of shape (n_members, n_units, n_levels)
        Quantiles of the members.
    names : list of str or None
        Names of the members; None if the ensemble does not know them.
    """

    levels: Float64
    combined: Float64
    members: Float64
    names: list[str] | None


def predict_quantiles(ensemble: Any, X: Any, levels: Any) -> ForecastQuantiles:
    """Quantile forecasts of a fitted ensemble and of its members.

    Parameters
    ----------
    ensemble : QuantileEnsemble or EnsembleRegressor
        Fitted ensemble that predicts quantiles.
    X : array-like of shape (n_units, ...)
        Units that the ensemble was not fitted to.
    levels : array-like of shape (n_levels,) or None
        Quantile levels; None uses ``levels_`` of the ensemble.

    Returns
    -------
    ForecastQuantiles

    Raises
    ------
    ValueError
        If ``levels`` is None and the ensemble does not know them, or the ensemble does
        not predict a column for each of them.
    """
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(ensemble)
    levels = getattr(ensemble, "levels_", None) if levels is None else levels
    if levels is None:
        raise ValueError(
            f"levels must be passed for {type(ensemble).__name__}, which has no levels_"
        )
    levels = check_levels(levels)
    combined = np.asarray(ensemble.predict(X), np.float64)
    combined = combined[:, None] if combined.ndim == 1 else combined
    if combined.shape[1] != len(levels):
        raise ValueError(
            f"the ensemble must predict a column for each of {len(levels)} levels, "
            f"found {combined.shape[1]} columns"
        )
    if not hasattr(ensemble, "named_estimators_"):  # X has the forecasts themselves
        stack = np.asarray(X, np.float64).reshape(len(X), -1, len(levels))
        return ForecastQuantiles(levels, combined, stack.transpose(1, 0, 2), None)
    members = ensemble.named_estimators_
    stack = np.stack([np.asarray(member.predict(X)) for member in members.values()])
    return ForecastQuantiles(levels, combined, stack, list(members))
