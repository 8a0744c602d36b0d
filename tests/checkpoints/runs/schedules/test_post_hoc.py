"""Post-hoc EMA: averages from stored ones against those kept during a run."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints import average, post_hoc_weights, sigma_rel_to_gamma

N_STEPS = 4096
STORED = (0.05, 0.10)
EVERY = 128


def trajectory(rng: np.random.Generator) -> Float64:
    """Parameters at each step: convergence to a point, and noise around it."""
    noise = np.cumsum(rng.normal(size=(N_STEPS, 8)), axis=0) * 0.05
    decay = np.exp(-np.arange(1, N_STEPS + 1) / 800)[:, None]
    return np.asarray(3 * decay + noise + rng.normal(size=noise.shape))


def kept(run: Float64, sigma_rel: float) -> Float64:
    """Power-function average of a run after each step, by its definition."""
    exponent = sigma_rel_to_gamma(sigma_rel) + 1
    averages, moving = np.empty_like(run), np.zeros(run.shape[1])
    for index, parameters in enumerate(run):
        beta = (1 - 1 / (index + 1)) ** exponent
        moving = beta * moving + (1 - beta) * parameters
        averages[index] = moving
    return averages


@pytest.fixture(scope="module")
def run() -> Float64:
    return trajectory(np.random.default_rng(0))


@pytest.fixture(scope="module")
def stored(run: Float64) -> tuple[list[int], list[float], Float64]:
    """Steps, sigma_rel and averages that a run has stored."""
    steps = list(range(EVERY, N_STEPS + 1, EVERY))
    averages = {sigma_rel: kept(run, sigma_rel) for sigma_rel in STORED}
    rows = [(step, s, averages[s][step - 1]) for step in steps for s in STORED]
    return [r[0] for r in rows], [r[1] for r in rows], np.stack([r[2] for r in rows])


@pytest.mark.parametrize("target", [0.05, 0.07, 0.10, 0.15, 0.20])
@pytest.mark.parametrize("at", [None, 2048, 3072])
def test_the_average_equals_one_that_was_kept_directly(
    run: Float64,
    stored: tuple[list[int], list[float], Float64],
    target: float,
    at: int | None,
) -> None:
    steps, sigma_rels, averages = stored
    weights, error = post_hoc_weights(steps, sigma_rels, target=target, at=at)
    step, gamma = at or N_STEPS, sigma_rel_to_gamma(target)
    direct = kept(run, target)[step - 1]
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert error < 0.03
    # Both profiles have the sum 1, so that distances from any point are a bound.
    norm = (gamma + 1) / np.sqrt((2 * gamma + 1) * step)
    bound = error * norm * np.linalg.norm(run - run.mean(0), axis=0)
    assert (np.abs(weights @ averages - direct) <= bound + 1e-4).all()
    assert np.abs(weights @ averages - direct).max() < 0.02 * run.std()


def test_a_stored_average_has_all_the_weight_of_itself() -> None:
    weights, error = post_hoc_weights([10, 10, 20, 20], [0.05, 0.1] * 2, target=0.1)
    np.testing.assert_allclose(weights, [0, 0, 0, 1], atol=1e-9)
    assert error < 1e-7


def test_the_error_is_that_of_the_profiles() -> None:
    steps, sigma_rels = [500, 500, 1000, 1000], [0.05, 0.1, 0.05, 0.1]
    with pytest.warns(UserWarning, match="only with an error of"):
        weights, error = post_hoc_weights(steps, sigma_rels, target=0.07, at=900)
    time = (np.arange(400_000) + 0.5) / 400

    def profile(sigma_rel: float, end: float) -> Float64:
        gamma = sigma_rel_to_gamma(sigma_rel)
        inside = np.where(time <= end, time / end, 0.0)
        return np.asarray((gamma + 1) / end * inside**gamma)

    total = sum(
        w * profile(s, t) for w, s, t in zip(weights, sigma_rels, steps, strict=True)
    )
    wanted = profile(0.07, 900)
    difference = np.linalg.norm(total - wanted) / np.linalg.norm(wanted)
    assert error == pytest.approx(difference, rel=1e-3)


def test_weights_are_those_of_the_paper() -> None:
    steps, sigma_rels = np.repeat([1000.0, 2000, 3000], 2), np.tile(STORED, 3)
    gammas = np.array([sigma_rel_to_gamma(float(s)) for s in sigma_rels])
    gamma = sigma_rel_to_gamma(0.08)

    def product(t_a: float, g_a: float, t_b: float, g_b: float) -> float:
        """Equation 151 of Karras et al."""
        exponent = g_b if t_a < t_b else -g_a
        top = (g_a + 1) * (g_b + 1) * (t_a / t_b) ** exponent
        return float(top / ((g_a + g_b + 1) * max(t_a, t_b)))

    pairs = list(zip(steps, gammas, strict=True))
    a = np.array([[product(*row, *column) for column in pairs] for row in pairs])
    b = np.array([product(*row, 3000, gamma) for row in pairs])
    solution = np.linalg.solve(a, b)
    weights = post_hoc_weights(steps, sigma_rels, target=0.08).weights
    np.testing.assert_allclose(weights, solution / solution.sum(), rtol=1e-9)


def test_the_order_and_the_unit_of_the_steps_do_not_matter(
    rng: np.random.Generator,
) -> None:
    steps = np.repeat([100.0, 200, 300, 400], 2)
    sigma_rels = np.tile(STORED, 4)
    weights = post_hoc_weights(steps, sigma_rels, target=0.12, at=300).weights
    order = rng.permutation(8)
    moved = post_hoc_weights(
        steps[order] * 4096, sigma_rels[order], target=0.12, at=300 * 4096
    ).weights
    np.testing.assert_allclose(moved, weights[order], rtol=1e-8, atol=1e-10)


def test_many_averages_have_no_large_weights_of_opposite_signs() -> None:
    steps = np.repeat(np.arange(1, 101), 2) * 10.0
    weights = post_hoc_weights(steps, np.tile(STORED, 100), target=0.08).weights
    assert np.abs(weights).sum() < 10


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_an_average_with_negative_weights_is_rounded_once(
    rng: np.random.Generator, dtype: Any
) -> None:
    steps, sigma_rels = [100, 100, 200, 200], [0.05, 0.1] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        weights = post_hoc_weights(steps, sigma_rels, target=0.15).weights
    assert weights.min() < 0
    members = [{"w": rng.normal(size=40).astype(dtype)} for _ in steps]
    merged = average(members, weights=weights)["w"]
    total = sum(map(Fraction, weights.tolist()))
    for index, value in enumerate(merged):
        exact = sum(
            Fraction(w) * Fraction(float(member["w"][index]))
            for w, member in zip(weights.tolist(), members, strict=True)
        )
        assert value == np.asarray(float(exact / total)).astype(dtype)


def test_a_target_out_of_reach_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"reach sigma_rel=0.25 at step 100 only with"):
        post_hoc_weights([100, 100], STORED, target=0.25)


@pytest.mark.parametrize(
    ("steps", "sigma_rels", "params", "message"),
    [
        ([], [], {}, "at least one stored average, found none"),
        ([0, 1], 0.1, {}, r"positions of stored averages must be positive, found \[0"),
        ([1, np.nan], 0.1, {}, "positions of stored averages must be positive"),
        ([1, 1], 0.1, {}, "must be different, found 2 at step 1 with sigma_rel=0.1"),
        ([1, 2], 0.3, {}, "sigma_rel must be positive and at most"),
        ([1, 2], 0.1, {"target": 0.0}, "sigma_rel must be positive and at most"),
        ([1, 2], 0.1, {"at": 3}, "at most the step of the last stored average, 2, fou"),
        ([1, 2], 0.1, {"at": 0}, "at must be positive"),
        ([1, 2], [0.1, 0.2, 0.25], {}, "broadcast"),
    ],
    ids=str,
)
def test_wrong_averages_are_an_error(
    steps: Any, sigma_rels: Any, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        post_hoc_weights(steps, sigma_rels, **{"target": 0.1, **params})
