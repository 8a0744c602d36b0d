"""Model Stock: against a loop in float64, by hand, and as mergekit computes it."""

from __future__ import annotations

from itertools import combinations
from math import cos, pi, sin
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average
from ensembles.checkpoints.methods import model_stock
from ensembles.dtypes import FLOATS, round_to_dtype
from tests.checkpoints.methods.test_arithmetic import BASE, MEMBERS


def ratio(stack: Array, base: Array) -> float:
    """The formula of the paper, with the mean cosine over all pairs."""
    vectors = [row.astype(np.float64) - base.astype(np.float64) for row in stack]
    cosines = [
        x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        for x, y in combinations(vectors, 2)
    ]
    n_members, cosine = len(stack), np.mean(cosines)
    return float(n_members * cosine / (1 + (n_members - 1) * cosine))


def related(rng: np.random.Generator, n_members: int, size: int) -> Float64:
    """A base, and members that move from it in similar directions."""
    base, shared = rng.normal(size=(2, size))
    noise = 0.02 * rng.normal(size=(n_members, size))
    return np.array([base, *(base + 0.01 * shared + noise)])


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
@pytest.mark.parametrize("n_members", [2, 3, 5])
def test_it_is_its_formula_rounded_once(
    dtype: np.dtype[Any], n_members: int, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(related(rng, n_members, 4_000), dtype)
    wide = stack.astype(np.float64)
    t = ratio(stack[1:], stack[0])
    assert 0 < t < 1
    expected = wide[0] + t * (wide[1:].mean(axis=0) - wide[0])
    found = model_stock(stack[1:], base=stack[0])
    if dtype == np.float64:
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)
    else:
        same = found == round_to_dtype(expected, dtype)
        assert same.mean() > 0.999


@pytest.mark.parametrize("degrees", [0, 10, 45, 89, 90])
def test_two_members_at_an_angle(degrees: int) -> None:
    """t = 2 cos / (1 + cos), the foot of the perpendicular of their circle's center."""
    angle = degrees * pi / 180
    stack = [[2 * cos(angle), 2 * sin(angle)], [2.0, 0.0]]
    t = 2 * cos(angle) / (1 + cos(angle))
    found = model_stock(stack, base=[0.0, 0.0])
    np.testing.assert_allclose(found, t * np.mean(stack, axis=0), atol=1e-15)


def test_noise_around_a_center_is_projected_to_it(rng: np.random.Generator) -> None:
    """Also with unequal weights: t minimizes the distance to the center."""
    base, shift = rng.normal(size=(2, 60_000))
    center = base + 0.3 * shift
    stack = center + rng.normal(size=(4, 60_000))
    weights = np.array([1.0, 2.0, 3.0, 0.5])
    direction = weights @ stack / weights.sum() - base
    best = (center - base) @ direction / (direction @ direction)
    found = (model_stock(stack, weights, base=base) - base) @ direction
    assert found / (direction @ direction) == pytest.approx(best, rel=0.05)


def test_mergekit_computes_the_same_without_clamp() -> None:
    # mergekit 0.1.5, merge_tensors([base, *members], "model_stock", base_index=0) in
    # float64, of the first four entries below and -1, 3, 0, 2.
    base = [*BASE, -1.0, 3.0, 0.0, 2.0]
    rest = [[-0.95, 2.6, 0.2, 2.0], [-1.0, 2.8, 0.1, 2.0], [-0.95, 3.3, 0.25, 2.0]]
    stack = [[*a, *b] for a, b in zip(MEMBERS, rest, strict=True)]
    expected = [
        *(0.9872801728760641, -1.9745603457521281, 0.4809202593140961, 4.0),
        *(-1.006359913561968, 3.0190797406859042, -0.03497952459082393, 2.0),
    ]
    found = model_stock(stack, base=base, clamp=False)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    # By default a negative mean cosine does not extrapolate.
    assert model_stock(stack, base=base).tolist() == base


def test_opposite_members_give_the_base_and_equal_ones_their_value() -> None:
    for clamp in (True, False):
        assert model_stock([[3.0], [1.0]], base=[2.0], clamp=clamp).tolist() == [2]
        assert model_stock([[3.1], [3.1]], base=[2.0], clamp=clamp).tolist() == [3.1]


def test_float16_members_with_tiny_nearly_orthogonal_differences(
    rng: np.random.Generator,
) -> None:
    """Norms in float16 underflow, where mergekit's result is 14 differences away."""
    base = rng.normal(size=3_000).astype(np.float16)
    stack = np.nextafter(base, rng.choice([-9, 9], (3, 3_000)).astype(np.float16))
    found = model_stock(stack, base=base).astype(np.float64)
    deltas = stack.astype(np.float64) - base.astype(np.float64)
    assert np.abs(found - base.astype(np.float64)).max() <= np.abs(deltas).max()


def test_a_member_that_equals_the_base_is_orthogonal_to_the_others() -> None:
    base, moved = [1.0, 1.0], [2.0, 1.0]
    assert model_stock([base, moved], base=base).tolist() == base
    # Of three pairs one has the cosine 1: t = 3 / 3 / (1 + 2 / 3).
    found = model_stock([base, moved, moved], base=base)
    np.testing.assert_allclose(found, [1 + 0.6 * 2 / 3, 1])


def test_one_ratio_for_the_model_or_for_each_tensor(rng: np.random.Generator) -> None:
    small, large = related(rng, 3, 500), related(rng, 3, 2_000)
    base, *members = ({"a": a, "b": b} for a, b in zip(small, 10 * large, strict=True))
    how: Any = {"base": base, "rule": "model_stock"}
    by_tensor = average(members, **how)
    for name, stack in (("a", small), ("b", 10 * large)):
        alone = model_stock(stack[1:], base=stack[0])
        assert by_tensor[name].tobytes() == alone.tobytes()
    whole = average(members, rule_params={"scope": "model"}, **how)
    both = np.concatenate([small, 10 * large], axis=1)
    expected = model_stock(both[1:], base=both[0])
    found = np.concatenate([whole["a"], whole["b"]])
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert not np.allclose(whole["a"], by_tensor["a"], rtol=1e-6)


@pytest.mark.parametrize("n_members", [3, 5, 8])
@pytest.mark.parametrize("row_size", [7, 33, 1001])
def test_rows_do_not_depend_on_the_rows_that_are_read_with_them(
    rng: np.random.Generator, n_members: int, row_size: int
) -> None:
    base = rng.normal(size=(50, row_size))
    stack = base + 0.1 * rng.normal(size=(n_members, *base.shape))
    weights = np.arange(1, n_members + 1) / 3
    options: dict[str, Any] = {"weights": weights, "vectors": "row"}
    whole = model_stock(stack, base=base, **options)
    for row in range(50):
        part = slice(row, row + 1)
        alone = model_stock(stack[:, part], base=base[part], **options)
        np.testing.assert_array_equal(whole[part], alone)


def test_fewer_than_two_members_have_no_angle() -> None:
    with pytest.raises(ValueError, match="at least two members with a nonzero weight"):
        model_stock([[1.0]], base=[0.0])
    with pytest.raises(ValueError, match=r"found weights \[1.0, 0.0\]"):
        model_stock([[1.0], [2.0]], [1, 0], base=[0.0])


@pytest.mark.parametrize("special", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("clamp", [False, True])
def test_a_member_without_a_direction_leaves_no_number(
    special: float, clamp: bool
) -> None:
    stack = [[special, 2.0], [3.0, 1.0]]
    assert np.isnan(model_stock(stack, base=[1.0, 1.0], clamp=clamp)).all()


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="scope of 'model_stock' must be one of"):
        model_stock([[1.0], [2.0]], base=[0.0], scope="row")
    with pytest.raises(ValueError, match="clamp of 'model_stock' must be one of"):
        model_stock([[1.0], [2.0]], base=[0.0], clamp=2)


def test_a_member_without_weight_may_hold_anything() -> None:
    stack = np.array([[2.0, 1], [np.nan, np.inf], [3, 1]], ml_dtypes.bfloat16)
    base = np.ones(2, ml_dtypes.bfloat16)
    found = model_stock(stack, [1, 0, 1], base=base)
    assert found.tobytes() == model_stock(stack[::2], base=base).tobytes()
