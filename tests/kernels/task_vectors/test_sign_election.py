"""Sign election: compiled loops against NumPy, and both against fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.kernels import jit
from ensembles.kernels.task_vectors.sign_election import SIGNS, elected_sum

OPTIONS = [
    {"sign": sign, "normalize": normalize, "zero_sum": zero_sum}
    for sign, normalize, zero_sum in product(SIGNS, (True, "count", False), (-1, 0, 1))
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def exact(column: list[float], weights: list[float], options: dict[str, Any]) -> float:
    """One element in fractions."""
    sign, normalize = options["sign"], options["normalize"]
    sides: dict[int, list[tuple[Fraction, Fraction]]] = {1: [], -1: []}
    votes = Fraction()
    for value, weight in zip(column, weights, strict=True):
        delta, factor = Fraction(value), Fraction(weight)
        if not delta or not factor:
            continue
        ballot = delta if sign == "unweighted_mass" else delta * factor
        side = 1 if ballot > 0 else -1
        votes += side if sign == "count" else ballot
        sides[side].append((delta * factor, abs(factor)))
    elected = (1 if votes > 0 else -1) if votes else options["zero_sum"]
    agreeing = sides.get(elected, [])
    if not agreeing:
        return 0.0
    total = sum(delta for delta, _ in agreeing)
    divisor = {
        True: sum(weight for _, weight in agreeing),
        "count": len(agreeing),
        False: 1,
    }[normalize]
    return float(total / divisor)


def small(rng: np.random.Generator, size: int) -> Float64:
    """Deltas with many zeros and many zero sums, exact in float64."""
    return rng.integers(-3, 4, (4, size)) / 4


@each_option
def test_sums_equal_fractions(
    options: dict[str, Any], rng: np.random.Generator
) -> None:
    deltas = small(rng, 400)
    for weights in ([1.0, 1, 1, 1], [1, 2, 0, 0.5], [1, -1, 2, -0.5]):
        merged = elected_sum(deltas, np.array(weights), **options)
        expected = [exact(column, weights, options) for column in deltas.T.tolist()]
        np.testing.assert_allclose(merged, expected, rtol=1e-15, atol=0)


@each_option
def test_loops_equal_numpy_bit_for_bit(
    options: dict[str, Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (0, 1, 511, 1030):
        deltas = rng.normal(size=(5, size)) * (rng.random((5, size)) < 0.6)
        special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1e308]
        deltas.flat[: size // 2] = rng.choice(special, size // 2)
        weights = np.array([0.3, 0.0, -1.2, 1e-3, 2.0])
        results = []
        for worthwhile in (-1, 1 << 62):
            monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)
            with np.errstate(all="ignore"):
                merged = elected_sum(deltas, weights, **options)
            merged[np.isnan(merged)] = np.nan
            results.append(merged.tobytes())
        assert results[0] == results[1]


def test_a_zero_sum_up_to_rounding_is_a_zero_sum_in_any_order() -> None:
    deltas, weights = np.array([[1.0], [1.0], [-1.0]]), np.array([0.1, 0.2, 0.3])
    assert 0.1 + 0.2 - 0.3 != 0
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert elected_sum(deltas[order], weights[order]).tolist() == [0]
    up = elected_sum(deltas, weights, zero_sum=1, normalize=False)
    assert up.tolist() == [pytest.approx(0.3)]
    # More than the rounding of sums elects a sign.
    deltas[0] += 1e-14
    assert elected_sum(deltas, weights) > 0


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("zero_sum", [-1, 0, 1])
def test_nan_is_never_outvoted_and_the_elected_side_may_be_infinite(
    sign: Any, zero_sum: int
) -> None:
    deltas = np.array([[np.nan, np.inf], [-1.0, 2.0], [-5.0, 0.0]])
    with np.errstate(all="ignore"):
        merged = elected_sum(deltas, np.ones(3), sign=sign, zero_sum=zero_sum)
    np.testing.assert_array_equal(merged, [np.nan, np.inf])


def test_infinities_of_both_signs_are_a_zero_sum_that_is_nan() -> None:
    deltas = np.array([[np.inf], [-np.inf]])
    with np.errstate(all="ignore"):
        assert np.isnan(elected_sum(deltas, np.ones(2)))


def test_options_that_do_not_exist_are_refused() -> None:
    deltas, weights = np.ones((2, 1)), np.ones(2)
    wrong: Any = "sum"
    with pytest.raises(ValueError, match=r"sign must be one of mass, .*, found 'sum'"):
        elected_sum(deltas, weights, sign=wrong)
    with pytest.raises(ValueError, match=r"normalize must be True, .* found 'sum'"):
        elected_sum(deltas, weights, normalize=wrong)
