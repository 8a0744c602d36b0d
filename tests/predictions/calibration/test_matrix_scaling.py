"""Matrix scaling: recovered maps, gradients, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.metrics import log_loss

from ensembles.predictions.calibration import matrix_scaling
from ensembles.predictions.calibration.matrix_scaling import (
    MatrixScaling,
    penalized_loss,
)

MATRIX = np.array([[0.8, 0.2, 0.0], [0.0, 0.5, 0.0], [-0.2, 0.0, 1.2]])
INTERCEPT = np.array([0.3, -0.3, 0.0])


def distorted(n_samples: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Probabilities, and classes drawn after a linear map of their logarithms."""
    y_proba = rng.dirichlet(np.ones(3), n_samples) * 0.99 + 0.01 / 3
    logits = np.log(y_proba) @ MATRIX.T + INTERCEPT
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    draws = rng.random(n_samples)[:, None]
    return y_proba, (draws > shares.cumsum(axis=1)).sum(axis=1)


def test_a_linear_map_is_recovered_up_to_terms_without_effect(
    rng: np.random.Generator,
) -> None:
    y_proba, codes = distorted(200_000, rng)
    model = MatrixScaling().fit(y_proba, codes)
    # A vector added to all rows, or a number to all intercepts, changes no probability.
    found = model.matrix_ - model.matrix_.mean(axis=0)
    np.testing.assert_allclose(found, MATRIX - MATRIX.mean(axis=0), atol=0.03)
    shift = model.intercept_ - model.intercept_.mean()
    np.testing.assert_allclose(shift, INTERCEPT, atol=0.03)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_gradient_equals_differences_of_the_loss(
    n_classes: int, rng: np.random.Generator
) -> None:
    logs = np.log(rng.dirichlet(np.ones(n_classes), 30))
    codes, shares = rng.integers(0, n_classes, 30), rng.dirichlet(np.ones(30))
    point = rng.normal(size=1 + n_classes * (n_classes + 1))
    arguments = (logs, codes, shares, 30.0)
    _, gradient = penalized_loss(point, *arguments)
    numeric = approx_fprime(point, lambda p: penalized_loss(p, *arguments)[0], 1e-7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-5)


def test_huge_penalties_give_temperature_scaling(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(matrix_scaling, "DEVIATION_RIDGE", 1e9)
    monkeypatch.setattr(matrix_scaling, "INTERCEPT_RIDGE", 1e9)
    y_proba, codes = distorted(2000, rng)
    model = MatrixScaling().fit(y_proba, codes)
    scale = model.matrix_[0, 0]
    np.testing.assert_allclose(model.matrix_, scale * np.eye(3), atol=1e-4)
    losses = []
    for power in (scale, scale - 0.01, scale + 0.01):
        powers = y_proba**power
        losses.append(log_loss(codes, powers / powers.sum(axis=1, keepdims=True)))
    assert losses[0] == min(losses)


def test_weights_count_as_repetitions(rng: np.random.Generator) -> None:
    y_proba, codes = distorted(300, rng)
    counts = rng.integers(0, 4, 300)
    weighted = MatrixScaling().fit(y_proba, codes, counts.astype(float))
    rows = np.repeat(np.arange(300), counts)
    repeated = MatrixScaling().fit(y_proba[rows], codes[rows])
    np.testing.assert_allclose(weighted.matrix_, repeated.matrix_, atol=1e-4)


def test_a_distortion_is_reduced_on_new_samples(rng: np.random.Generator) -> None:
    y_proba, codes = distorted(4000, rng)
    model = MatrixScaling().fit(y_proba[:2000], codes[:2000])
    after = model.predict_proba(y_proba[2000:])
    assert after.sum(axis=1) == pytest.approx(1)
    before = log_loss(codes[2000:], y_proba[2000:])
    assert log_loss(codes[2000:], after) < before - 0.02
