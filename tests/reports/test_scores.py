"""Scores on resamples, against a loop over scikit-learn's scorer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import get_scorer

from ensembles.predictions.members.outputs import (
    Predictions,
    check_class_targets,
    check_regression_targets,
)
from ensembles.predictions.members.precomputed import (
    PrecomputedClassifier,
    PrecomputedRegressor,
)
from ensembles.reports.scores import HeldOutScore, spearman_scorer

CLASS_SCORES = ["accuracy", "neg_log_loss", "roc_auc_ovr", "f1_macro"]
REGRESSION_SCORES = [
    "r2",
    "neg_mean_squared_error",
    "neg_root_mean_squared_error",
    "neg_median_absolute_error",
]


def loop(score: HeldOutScore, models: list[Predictions], estimator: Any) -> Any:
    """Scores on the resamples that the generator draws, one after the other."""
    n_rows = len(score.y)
    draws = np.random.default_rng(5).integers(n_rows, size=(12, n_rows))
    scorer = get_scorer(score.scoring)
    return [
        [scorer(estimator, model[0][rows], score.y[rows]) for rows in draws]
        for model in models
    ]


@pytest.mark.parametrize("scoring", CLASS_SCORES)
def test_resampled_scores_of_classifiers_are_the_scorers(
    scoring: str, rng: np.random.Generator
) -> None:
    y = np.array(list("abc") * 30)
    outputs, y = check_class_targets(y, [], voting=False, missing_class="error")
    models = [[rng.dirichlet(np.ones(3), size=90)] for _ in range(3)]
    score = HeldOutScore(y, outputs, scoring)
    expected = loop(score, models, PrecomputedClassifier(outputs))
    resampled = score.resampled(models, n_resamples=12, seed=5)
    np.testing.assert_allclose(resampled, expected, rtol=1e-12)
    assert score(models[0]) == pytest.approx(
        get_scorer(scoring)(PrecomputedClassifier(outputs), models[0][0], y)
    )


@pytest.mark.parametrize("scoring", REGRESSION_SCORES)
def test_resampled_scores_of_regressors_are_the_scorers(
    scoring: str, rng: np.random.Generator
) -> None:
    outputs, y = check_regression_targets(1e4 + rng.normal(size=50), quantiles=False)
    models = [[(y + rng.normal(size=50))[:, None]] for _ in range(3)]
    score = HeldOutScore(y, outputs, scoring)
    expected = loop(score, models, PrecomputedRegressor(multioutput=False))
    resampled = score.resampled(models, n_resamples=12, seed=5)
    np.testing.assert_allclose(resampled, expected, rtol=1e-9)


def test_resampled_correlations_are_spearmans(rng: np.random.Generator) -> None:
    outputs, y = check_regression_targets(rng.normal(size=30), quantiles=False)
    models = [[(y + rng.normal(size=30))[:, None]] for _ in range(2)]
    score = HeldOutScore(y, outputs, spearman_scorer)
    draws = np.random.default_rng(0).integers(30, size=(10, 30))
    expected = [
        [spearmanr(model[0][rows, 0], y[rows]).statistic for rows in draws]
        for model in models
    ]
    resampled = score.resampled(models, n_resamples=10, seed=0)
    np.testing.assert_allclose(resampled, expected)
    assert score(models[0]) == pytest.approx(spearmanr(models[0][0][:, 0], y).statistic)


def test_a_score_that_is_undefined_on_a_resample_is_nan(
    rng: np.random.Generator,
) -> None:
    y = np.array([0] * 20 + [1])
    outputs, y = check_class_targets(y, [], voting=False, missing_class="error")
    y_proba = rng.dirichlet(np.ones(2), size=21)
    resampled = HeldOutScore(y, outputs, "roc_auc").resampled(
        [[y_proba]], n_resamples=64, seed=0
    )
    draws = np.random.default_rng(0).integers(21, size=(64, 21))
    lacks_class = (draws != 20).all(axis=1)
    assert 0 < lacks_class.sum() < 64
    np.testing.assert_array_equal(np.isnan(resampled[0]), lacks_class)


def test_a_scorer_that_raises_on_a_resample_gives_nan() -> None:
    def scorer(estimator: Any, y_proba: Any, y: Any) -> float:
        if 1 not in y:
            raise ValueError("no sample of class 1")
        return float(np.mean(y))

    y = np.array([0] * 20 + [1])
    outputs, y = check_class_targets(y, [], voting=False, missing_class="error")
    score = HeldOutScore(y, outputs, scorer)
    resampled = score.resampled([[np.eye(2)[y]]], n_resamples=64, seed=0)
    assert 0 < np.isnan(resampled).sum() < 64
