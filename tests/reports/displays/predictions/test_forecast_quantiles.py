"""Displays of forecasts: one picture from an estimator and from its predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from ensembles._typing import Float64
from ensembles.predictions import EnsembleRegressor
from ensembles.predictions.forecasts import QuantileEnsemble
from ensembles.reports import (
    CoverageDisplay,
    PITDisplay,
    SelectionPathDisplay,
    WeightsDisplay,
)
from ensembles.reports.displays.predictions.forecast_quantiles import (
    predict_quantiles,
)
from tests.predictions.doubles import Saying

LEVELS = [0.1, 0.5, 0.9]
NAMES = ["narrow", "wide"]


@pytest.fixture
def forecasts(rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Forecasts of two members, of shape (n_units, n_members, n_levels); outcomes."""
    means = rng.normal(size=(60, 2, 1))
    scales = np.array([[0.5], [1.5]])
    y = means.mean(axis=(1, 2)) + rng.normal(size=60)
    return means + scales * norm.ppf(LEVELS), y


def same(a: Any, b: Any) -> None:
    np.testing.assert_equal(a.to_dict(), b.to_dict())
    assert a.summary == b.summary


def test_coverage_and_pit_give_one_picture(forecasts: Any) -> None:
    X, y = forecasts
    ensemble = QuantileEnsemble(LEVELS).fit(X[:40], y[:40])
    X, y = X[40:], y[40:]
    combined = ensemble.predict(X)
    same(
        CoverageDisplay.from_estimator(ensemble, X, y, names=NAMES),
        CoverageDisplay.from_predictions(
            y, combined, LEVELS, members=X.transpose(1, 0, 2), names=NAMES
        ),
    )
    same(
        PITDisplay.from_estimator(ensemble, X, y),
        PITDisplay.from_predictions(y, combined, LEVELS),
    )


@pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
def test_weights_and_path_of_forecasts_are_drawn(forecasts: Any) -> None:
    X, y = forecasts
    ensemble = QuantileEnsemble(LEVELS, weights="greedy").fit(X, y)
    weights = WeightsDisplay.from_estimator(ensemble, names=NAMES)
    np.testing.assert_array_equal(weights.weights, ensemble.weights_)
    assert weights.names == NAMES
    assert weights.metric == "score of quantiles"
    assert weights.score == -ensemble.oof_score_
    path = SelectionPathDisplay.from_estimator(ensemble)
    np.testing.assert_array_equal(path.scores, [-t.score for t in ensemble.history_])
    assert {step.removeprefix("+ ") for step in path.steps} <= {"a", "b"}
    with pytest.raises(ValueError, match="each of 2 members, found 1"):
        WeightsDisplay.from_estimator(ensemble, names=["narrow"])


def test_members_that_predict_quantiles_are_drawn_by_their_names(
    forecasts: Any,
) -> None:
    X, y = forecasts
    members = [("first", Saying(width=3)), ("second", Saying(width=3))]
    ensemble = EnsembleRegressor(members, rule="quantile_mean", weights=None)
    ensemble.fit(X[:, 0], y)
    predicted = predict_quantiles(ensemble, X[:, 0], LEVELS)
    assert predicted.names == ["first", "second"]
    np.testing.assert_array_equal(predicted.members[1], X[:, 0])
    np.testing.assert_allclose(predicted.combined, X[:, 0])
    with pytest.raises(ValueError, match="EnsembleRegressor, which has no levels_"):
        CoverageDisplay.from_estimator(ensemble, X[:, 0], y)
    with pytest.raises(ValueError, match="each of 2 levels, found 3 columns"):
        PITDisplay.from_estimator(ensemble, X[:, 0], y, levels=[0.1, 0.9])


def test_a_single_level_is_a_column(forecasts: Any) -> None:
    X, y = forecasts
    median = QuantileEnsemble(0.5, weights=None).fit(X[:, :, 1], y)
    predicted = predict_quantiles(median, X[:, :, 1], None)
    assert predicted.combined.shape == (60, 1)
    assert predicted.members.shape == (2, 60, 1)
