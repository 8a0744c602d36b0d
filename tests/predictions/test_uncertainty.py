"""Uncertainty of the prediction: the parts add up, and mean what they should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, make_multilabel_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import BayesianRidge, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import (
    EnsembleClassifier,
    EnsembleRegressor,
    decompose_entropy,
    decompose_variance,
)

pytestmark = pytest.mark.filterwarnings("ignore:selection .* did not beat")


def entropy(proba: Any) -> float:
    return -math.fsum(p * math.log(p) for p in proba if p > 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_entropies_add_up_and_equal_the_formula(
    seed: int, n_members: int, n_classes: int
) -> None:
    rng = np.random.default_rng(seed)
    stack = rng.dirichlet(np.full(n_classes, 0.2), (n_members, 3))
    stack[0, 0] = np.eye(n_classes)[0]  # logarithms of zero
    weights = rng.random(n_members) + 0.1
    parts = decompose_entropy(stack, weights)
    np.testing.assert_allclose(
        parts.total, parts.aleatoric + parts.epistemic, atol=1e-14
    )
    shares = weights / weights.sum()
    for row in range(3):
        mixture = [math.fsum(shares * column) for column in stack[:, row].T]
        assert parts.total[row] == pytest.approx(entropy(mixture), abs=1e-14)
        noise = math.fsum(
            s * entropy(p) for s, p in zip(shares, stack[:, row], strict=True)
        )
        assert parts.aleatoric[row] == pytest.approx(noise, abs=1e-14)
    assert (parts.epistemic >= 0).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_variances_add_up_and_equal_those_of_the_mixture(
    seed: int, n_members: int
) -> None:
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=(n_members, 4)), rng.random((n_members, 4))
    weights = rng.random(n_members) + 0.1
    parts = decompose_variance(means, deviations**2, weights)
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic)
    second = np.average(means**2 + deviations**2, axis=0, weights=weights)
    mean = np.average(means, axis=0, weights=weights)
    np.testing.assert_allclose(parts.total, second - mean**2, atol=1e-12)
    no_noise = decompose_variance(means, None, weights)
    np.testing.assert_allclose(no_noise.total, parts.epistemic)


def test_a_single_member_has_no_epistemic_part() -> None:
    assert decompose_entropy([[[0.2, 0.8]]]).epistemic.tolist() == [0.0]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([[0.5, 0.5]], r"shape \(n_members, n_samples, n_classes\): found \(1, 2\)"),
        ([[[0.5, 0.6]]], "row 0 of member 0 sums to 1.1"),
        ([[[0.5, 0.5]], [[-0.5, 1.5]]], "member 1 has -0.5 in row 0"),
        ([[[np.nan, 1.0]]], "member 0 has nan in row 0"),
    ],
)
def test_wrong_probabilities_are_refused(predictions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decompose_entropy(predictions)


def test_negative_variances_are_refused() -> None:
    with pytest.raises(ValueError, match="variances must not be negative: found -1"):
        decompose_variance([[1.0]], [[-1.0]])


def test_a_classifier_splits_the_entropy_of_its_mixture(iris: Any) -> None:
    members = [("nb", GaussianNB()), ("tree", DecisionTreeClassifier(max_depth=2))]
    ensemble = EnsembleClassifier(members, rule="mean", weights=[2, 1]).fit(*iris)
    X, _ = iris
    parts = ensemble.predict_uncertainty(X)
    stack = [member.predict_proba(X) for member in ensemble.estimators_]
    for found, expected in zip(parts, decompose_entropy(stack, [2, 1]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    far = ensemble.predict_uncertainty(X + 0.3)
    assert far.epistemic.mean() > parts.epistemic.mean()


def test_several_targets_have_a_column_each() -> None:
    X, y = make_multilabel_classification(100, n_classes=3, random_state=0)
    members = [(str(k), DecisionTreeClassifier(max_depth=k)) for k in (1, 2)]
    ensemble = EnsembleClassifier(members, weights=None).fit(X, y)
    parts = ensemble.predict_uncertainty(X)
    assert parts.total.shape == (100, 3)
    np.testing.assert_allclose(
        parts.total, parts.aleatoric + parts.epistemic, atol=1e-12
    )


def test_negative_weights_are_refused(iris: Any) -> None:
    members = [("nb", GaussianNB()), ("lr", LogisticRegression(max_iter=1000))]
    ensemble = EnsembleClassifier(members, weights=[2, -1]).fit(*iris)
    with pytest.raises(ValueError, match="must not be negative"):
        ensemble.predict_uncertainty(iris[0])


def test_noise_of_a_regressor_is_its_own_or_its_out_of_fold_error() -> None:
    X, y = load_diabetes(return_X_y=True)
    scaled = make_pipeline(StandardScaler(), BayesianRidge())
    members = [
        ("scaled", scaled),
        ("ridge", Ridge(0.1)),
        ("frozen", FrozenEstimator(BayesianRidge().fit(X, y))),
    ]
    ensemble = EnsembleRegressor(members[:2], weights=[1, 1]).fit(X, y)
    parts = ensemble.predict_uncertainty(X)
    assert np.isnan(parts.total).all()
    assert np.isnan(parts.aleatoric).all()
    assert not np.isnan(parts.epistemic).any()
    ensemble.set_params(estimators=members, rule="median", weights="top_k")
    with pytest.warns(UserWarning, match="must not have seen"):
        ensemble.set_params(weights_params={"k": 3}).fit(X, y)
    parts = ensemble.predict_uncertainty(X)
    means, deviations = zip(
        ensemble.estimators_[0].predict(X, return_std=True),
        (ensemble.estimators_[1].predict(X), np.nan),
        ensemble.estimators_[2].predict(X, return_std=True),
        strict=True,
    )
    error = np.mean((ensemble.oof_[1, :, 0] - y) ** 2)
    variances = [deviations[0] ** 2, np.full(len(X), error), deviations[2] ** 2]
    expected = decompose_variance(means, variances)
    for part, value in zip(parts, expected, strict=True):
        assert part.shape == (len(X),)
        np.testing.assert_allclose(part, value)


def test_quantiles_are_refused() -> None:
    X, y = load_diabetes(return_X_y=True)
    members = [("a", Ridge()), ("b", Ridge(2.0))]
    ensemble = EnsembleRegressor(members, rule="quantile_mean", weights=None).fit(X, y)
    with pytest.raises(ValueError, match="those of rule 'quantile_mean' are quantiles"):
        ensemble.predict_uncertainty(X)
