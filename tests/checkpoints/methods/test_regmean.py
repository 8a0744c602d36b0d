"""RegMean, against the joint least-squares solution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints.methods.builtin import regmean


def data(
    rng: np.random.Generator, n_inputs: int = 6, n_rows: int = 20
) -> tuple[Float64, list[Float64], list[Float64]]:
    """Weights of three layers with 4 outputs, their inputs, and Gram matrices."""
    weights = rng.normal(size=(3, 4, n_inputs))
    inputs = [rng.normal(size=(n_rows + k, n_inputs)) * (1 + k) for k in range(3)]
    return weights, inputs, [x.T @ x for x in inputs]


def joint_solution(
    weights: Float64, inputs: list[Float64], counts: Any = (1, 1, 1)
) -> Float64:
    """Least-squares weight for the outputs of all layers on their own inputs."""
    scales = np.sqrt(np.asarray(counts, float))
    x = np.concatenate([s * x for s, x in zip(scales, inputs, strict=True)])
    y = np.concatenate(
        [s * x @ w.T for s, x, w in zip(scales, inputs, weights, strict=True)]
    )
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0].T)


def test_it_is_the_joint_least_squares_solution(rng: np.random.Generator) -> None:
    weights, inputs, grams = data(rng)
    found = regmean(weights, moments=grams, alpha=1)
    np.testing.assert_allclose(found, joint_solution(weights, inputs), rtol=1e-11)
    found = regmean(weights, [1, 0.5, 3], moments=grams, alpha=1)
    expected = joint_solution(weights, inputs, [1, 0.5, 3])
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_transposed_weights_give_the_transposed_result(
    rng: np.random.Generator,
) -> None:
    weights, _, grams = data(rng)
    straight = regmean(weights, moments=grams)
    swapped = regmean(weights.swapaxes(1, 2), moments=[g[..., None] for g in grams])
    np.testing.assert_allclose(swapped, straight.T, rtol=1e-13)


@pytest.mark.parametrize("alpha", [0, 0.1, 0.9])
def test_entries_outside_of_the_diagonal_are_scaled(
    alpha: float, rng: np.random.Generator
) -> None:
    weights, _, grams = data(rng)
    scaled = [alpha * g + (1 - alpha) * np.diag(g.diagonal()) for g in grams]
    products = sum(w @ g for w, g in zip(weights, scaled, strict=True))
    expected = products @ np.linalg.inv(sum(scaled))
    found = regmean(weights, moments=grams, alpha=alpha)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_directions_without_data_keep_the_mean(rng: np.random.Generator) -> None:
    weights, inputs, _ = data(rng)
    for x in inputs:
        x[:, 2] = 0  # an input that is always 0
        x[:, 4] = 2 * x[:, 3]  # and one that repeats another
    grams = [x.T @ x for x in inputs]
    found = regmean(weights, moments=grams, alpha=1)
    mean = weights.mean(axis=0)
    np.testing.assert_allclose(found[:, 2], mean[:, 2], rtol=1e-12)
    for x in inputs:  # the outputs are those of any least-squares solution
        expected = x @ joint_solution(weights, inputs).T
        np.testing.assert_allclose(x @ found.T, expected, rtol=1e-9, atol=1e-9)
    zeros = [np.zeros_like(gram) for gram in grams]
    np.testing.assert_allclose(regmean(weights, moments=zeros), mean, rtol=1e-15)


def test_rounding_errors_of_a_singular_matrix_do_not_matter(
    rng: np.random.Generator,
) -> None:
    """With fewer rows than inputs, the smallest eigenvalues are noise."""
    weights, inputs, grams = data(rng, n_inputs=60, n_rows=4)
    exact = regmean(weights, moments=grams, alpha=1)
    for x, w in zip(inputs, weights, strict=True):  # rows are independent: all fit
        np.testing.assert_allclose(x @ exact.T, x @ w.T, rtol=1e-9, atol=1e-9)
    stored = [gram.astype(np.float32) for gram in grams]
    found = regmean(weights, moments=stored, alpha=1)
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_equal_members_are_a_fixed_point(rng: np.random.Generator) -> None:
    weights, _, grams = data(rng)
    same = np.array([weights[0]] * 3)
    assert np.array_equal(regmean(same, moments=grams), weights[0])


def test_equal_gram_matrices_give_the_mean(rng: np.random.Generator) -> None:
    weights, _, grams = data(rng)
    found = regmean(weights, [1, 2, 3], moments=[grams[0]] * 3)
    expected = np.average(weights, axis=0, weights=[1, 2, 3])
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_a_member_with_weight_zero_does_not_count(rng: np.random.Generator) -> None:
    weights, _, grams = data(rng)
    found = regmean(weights[:2], moments=grams[:2])
    weights[2] = np.inf
    assert np.array_equal(regmean(weights, [1, 1, 0], moments=grams), found)


def test_invalid_matrices_and_parameters_are_refused(rng: np.random.Generator) -> None:
    weights, _, grams = data(rng)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], found 2"):
        regmean(weights, moments=grams, alpha=2)
    with pytest.raises(
        ValueError, match=r"shape \(4, 6\) must be square, of its numbe"
    ):
        regmean(weights, moments=[np.eye(4)] * 3)
    with pytest.raises(
        ValueError, match="must be finite, and positive on the diagonal"
    ):
        regmean(weights, moments=[np.full((6, 6), np.nan)] * 3)
    indefinite = np.where(np.eye(6) == 1, 1.0, 3.0)
    with pytest.raises(ValueError, match="positive semi-definite, found an eigenvalue"):
        regmean(weights, moments=[indefinite] * 3)
