"""What must hold of every rule, read from the facts that it declares."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels.gram import BLOCK
from ensembles.kernels.jit import LANE
from ensembles.rules.arcs import nuslerp
from ensembles.rules.distances import geometric_median
from ensembles.rules.elementwise import (
    geometric_mean,
    mean,
    median,
    power_mean,
    trimmed_mean,
)
from ensembles.rules.passes import Position
from ensembles.rules.rule import Rule
from ensembles.rules.spherical import karcher_mean, multislerp, slerp
from ensembles.weights import moderate

Dtype = np.dtype[Any]
DTYPES = list(FLOATS)
# A rule with a base has a case by hand, and tests of its own.
BASELESS = [r for r in RULES.values() if not (r.needs_base or r.needs_moments)]
ELEMENT = [rule for rule in BASELESS if rule.is_elementwise]
SPHERICAL = [slerp, nuslerp, karcher_mean, multislerp]
# They pick entries, and of two take the middle: nothing of it is rounded on the way.
PICKING = [RULES[name] for name in ("median", "minimum", "maximum")]
# They add in the order of the members.
ADDING = [mean, RULES["linear_combination"], geometric_mean, power_mean]
PARAMS: dict[str, list[dict[str, Any]]] = {
    "trimmed_mean": [{"proportion": a} for a in (0, 0.1, 0.35, 0.49)],
    "power_mean": [{"p": p} for p in (1, 3.5, 0.5, 0.1, -1, -0.01)],
    "linear_combination": [{"scale": s} for s in (0, -0.5, 3)],
    "nearswap": [{"t": t} for t in (0, 0.5, 3)],
}

each_rule = pytest.mark.parametrize("rule", BASELESS, ids=lambda r: r.name)
each_mean = pytest.mark.parametrize(
    "rule", [r for r in BASELESS if not r.weight_sum_matters], ids=lambda r: r.name
)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def drawn(
    rule: Rule, rng: np.random.Generator, shape: tuple[int, ...] = (40,)
) -> Float64:
    """Members that the rule takes."""
    n_members = rule.n_members or 5
    low = {"any": -4.0, "non-negative": 0.0}[rule.domain]
    return rng.uniform(low, 4, (n_members, *shape))


def weights_for(rule: Rule, *, signed: bool = False) -> Float64:
    weights = np.array([0.1, 0.3, 0.2, 0.2, 0.1][: rule.n_members])
    if not rule.weighted:
        weights = np.ones(len(weights))
    return weights * ([-1, 1, 1, 1, 1][: rule.n_members] if signed else 1)


def fitting(rule: Rule, weights: list[float]) -> list[float]:
    """Weights for the rule's number of members, equal if they do not count."""
    return (weights if rule.weighted else [1.0] * len(weights))[: rule.n_members]


def eps(dtype: Dtype) -> float:
    return float(2.0 ** -FLOATS[dtype].mantissa)


def near(found: Array, expected: Array, *, ulps: float = 2) -> None:
    """Equal up to some units in the last place of the largest entry."""
    wide = expected.astype(np.float64)
    slack = ulps * eps(found.dtype) * np.abs(wide).max(initial=1)
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=0, atol=slack)


# Second opinions on elementwise rules: loops over float64.


def add_up(column: list[float], weights: list[float]) -> float:
    total = weights[0] * column[0]
    for value, weight in zip(column[1:], weights[1:], strict=True):
        total += weight * value
    return total / math.fsum(weights)


def add_up_undivided(
    column: list[float], weights: list[float], scale: float = 1.0
) -> float:
    return sum(w * scale * x for x, w in zip(column, weights, strict=True))


def part_in_halves(column: list[float], weights: list[float]) -> float:
    """Write each value as often as its weight counts in tenths."""
    written: list[float] = []
    for value, weight in zip(column, weights, strict=True):
        written += [value] * round(10 * weight)
    written = in_order(written)
    low, high = written[(len(written) - 1) // 2], written[len(written) // 2]
    return low if low == high else (low + high) / 2


def in_order(values: list[float]) -> list[float]:
    """Sorted, -0 before 0."""
    return sorted(values, key=lambda value: (value, math.copysign(1, value)))


def counted(column: list[float], weights: list[float]) -> list[float]:
    pairs = zip(column, weights, strict=True)
    return in_order([value for value, weight in pairs if weight])


def between_the_cuts(
    column: list[float], weights: list[float], proportion: float = 0.2
) -> float:
    """Mean of the quantile function between two shares of the weight, in fractions."""
    tenths = [round(10 * weight) for weight in weights]
    low = Fraction(str(proportion)) * sum(tenths)
    high, below = sum(tenths) - low, 0
    total = Fraction()
    for value, weight in sorted(zip(column, tenths, strict=True)):
        left = min(high, Fraction(below + weight)) - max(low, Fraction(below))
        total += max(left, Fraction()) * Fraction(value)
        below += weight
    return float(total / (high - low))


def by_decimals(
    column: list[float], weights: list[float], p: float | None = 2.0
) -> float:
    """Power mean, without a power the geometric mean, of numbers with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        pairs = [
            (Decimal(x), Decimal(w)) for x, w in zip(column, weights, strict=True) if w
        ]
        whole = sum((w for _, w in pairs), Decimal())
        if not all(x for x, _ in pairs) and (p is None or p < 0):
            return 0.0
        if p is None:
            logs = sum((w * x.ln() for x, w in pairs), Decimal())
            return float((logs / whole).exp())
        power = Decimal(p)
        total = sum((w * x**power for x, w in pairs), Decimal())
        return float((total / whole) ** (1 / power))


def geometric(column: list[float], weights: list[float]) -> float:
    return by_decimals(column, weights, None)


def moved(column: list[float], weights: list[float], t: float = 1e-4) -> float:
    first, second = column
    if abs(second - first) <= t:
        return second
    return first + math.copysign(t, second - first)


ORACLES: dict[str, Callable[..., float]] = {
    "nearswap": moved,
    "mean": add_up,
    "linear_combination": add_up_undivided,
    "median": part_in_halves,
    "trimmed_mean": between_the_cuts,
    "geometric_mean": geometric,
    "power_mean": by_decimals,
    "minimum": lambda column, weights: counted(column, weights)[0],
    "maximum": lambda column, weights: counted(column, weights)[-1],
}


@each_dtype
@pytest.mark.parametrize("weights", [[1.0] * 5, [0.1, 0.3, 0.2, 0.2, 0.1]], ids=str)
@pytest.mark.parametrize("rule", ELEMENT, ids=lambda rule: rule.name)
def test_element_rules_are_their_float64_formula_rounded_once(
    rule: Rule, weights: list[float], dtype: Dtype, rng: np.random.Generator
) -> None:
    weights = fitting(rule, weights)
    stack = round_to_dtype(drawn(rule, rng, (500,)), dtype)
    columns = stack.astype(np.float64).T.tolist()
    oracle = np.array([ORACLES[rule.name](column, weights) for column in columns])
    found = rule(stack, weights)
    if rule is mean and dtype == np.float64:
        exact = [math.fsum(np.multiply(c, weights)) for c in columns]
        near(found, np.array(exact) / math.fsum(weights))
    elif rule in [mean, *PICKING]:
        assert found.tobytes() == round_to_dtype(oracle, dtype).tobytes()
    elif dtype == np.float64:
        near(found, oracle)
    else:  # half-way between two numbers, the last bits in float64 decide
        allowed = [
            round_to_dtype(oracle + d * np.abs(oracle), dtype) for d in (-1e-15, 1e-15)
        ]
        assert ((found == allowed[0]) | (found == allowed[1])).all()
        assert (found == round_to_dtype(oracle, dtype)).mean() >= 0.98


@pytest.mark.parametrize("weights", [[1.0] * 5, [0.1, 0.3, 0.0, 0.2, 0.1]], ids=str)
@pytest.mark.parametrize(
    ("name", "params"), [(n, p) for n, found in PARAMS.items() for p in found], ids=str
)
def test_parameters_do_what_the_formula_says(
    name: str, params: dict[str, Any], weights: list[float], rng: np.random.Generator
) -> None:
    weights = fitting(RULES[name], weights)
    stack = drawn(RULES[name], rng, (300,))
    oracle = [ORACLES[name](c, weights, **params) for c in stack.T.tolist()]
    np.testing.assert_allclose(
        RULES[name](stack, weights, **params), oracle, rtol=3e-15, atol=3e-15
    )


def test_every_parameter_has_an_oracle() -> None:
    assert {rule.name for rule in ELEMENT if rule.params} == PARAMS.keys()


@pytest.mark.parametrize("n_members", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("proportion", [0.0, 0.1, 0.2, 0.25, 0.4])
def test_a_trimmed_mean_of_whole_members_is_scipys(
    n_members: int, proportion: float, rng: np.random.Generator
) -> None:
    from scipy.stats import trim_mean

    stack = rng.normal(size=(n_members, 30))
    if not math.isclose(n_members * proportion, round(n_members * proportion)):
        pytest.skip("the cut goes through a member")
    expected = trim_mean(stack, proportion, axis=0)
    near(trimmed_mean(stack, proportion=proportion), expected)


def test_a_cut_towards_half_leaves_the_median(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(4, 50))
    for weights in (None, [1, 2, 3, 5]):
        found = trimmed_mean(stack, weights, proportion=math.nextafter(0.5, 0))
        np.testing.assert_allclose(found, median(stack, weights), rtol=1e-14)


@pytest.mark.parametrize("weights", [None, [2, 1, 1, 1, 1.5]], ids=str)
def test_what_is_cut_off_may_be_anything(weights: list[float] | None) -> None:
    stack = np.array([[1.0], [-np.inf], [3.0], [np.inf], [2.0]])
    assert np.isfinite(trimmed_mean(stack, weights, proportion=0.25)).all()


def test_a_cut_that_rounding_moves_leaves_nothing_of_what_it_met() -> None:
    stack = np.ones((49, 1))
    stack[3] = -np.inf
    assert 49 * (1 / 49) < 1
    assert trimmed_mean(stack, proportion=1 / 49).tolist() == [1]


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [2, 2, 2, 0.5]], ids=str)
def test_a_nan_is_not_cut_off(weights: list[float]) -> None:
    stack = np.array([[1.0, 1], [2, 2], [3, 3], [np.nan, -np.nan]])
    assert np.isnan(trimmed_mean(stack, weights, proportion=0.3)).all()


@given(st.permutations(range(6)), st.lists(st.sampled_from([0, -0.0, 1.1]), min_size=6))
def test_equal_values_are_cut_the_same_in_any_order(
    order: list[int], values: list[float]
) -> None:
    stack = np.array(values[:6])[:, None]
    weights = np.array([0.1, 0.2, 0.3, 0.7, 0.15, 0.1])
    found = trimmed_mean(stack[order], weights[order], proportion=0.15)
    assert found.tobytes() == trimmed_mean(stack, weights, proportion=0.15).tobytes()


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=6),
    st.lists(st.integers(1, 3), min_size=6, max_size=6),
    st.floats(0, 0.49),
)
def test_a_weight_of_a_trimmed_mean_is_a_repetition(
    values: list[float], counts: list[int], proportion: float
) -> None:
    counts = counts[: len(values)]
    once = trimmed_mean(np.array(values)[:, None], counts, proportion=proportion)
    often = trimmed_mean(np.repeat(values, counts)[:, None], proportion=proportion)
    slack = 1e-13 * max(abs(value) for value in values) / (0.5 - proportion)
    np.testing.assert_allclose(once, often, rtol=0, atol=slack)


@pytest.mark.parametrize("p", [1.0, 2.0, 0.5, -1.0, -3.0])
def test_power_and_geometric_means_are_scipys(
    p: float, rng: np.random.Generator
) -> None:
    from scipy.stats import gmean, pmean

    stack, weights = rng.uniform(0, 9, (5, 40)), rng.uniform(0.1, 1, 5)
    wide = np.broadcast_to(weights[:, None], stack.shape)
    expected = pmean(stack, p, axis=0, weights=wide)
    np.testing.assert_allclose(power_mean(stack, weights, p=p), expected, rtol=1e-14)
    expected = gmean(stack, axis=0, weights=wide)
    np.testing.assert_allclose(geometric_mean(stack, weights), expected, rtol=1e-14)


def test_power_means_rise_with_the_power_from_least_to_largest(
    rng: np.random.Generator,
) -> None:
    stack, weights = rng.uniform(0, 9, (5, 40)), rng.uniform(0.1, 1, 5)
    powers = [-900, -2, -1, -0.1, -1e-13, 1e-13, 0.1, 0.49, 0.5, 1, 2, 900]
    means = np.array([power_mean(stack, weights, p=p) for p in powers])
    assert (np.diff(means, axis=0) > -1e-14).all()
    np.testing.assert_allclose(means[0], stack.min(axis=0), rtol=1e-2)
    np.testing.assert_allclose(means[-1], stack.max(axis=0), rtol=1e-2)
    for near_zero in means[4:6]:
        expected = geometric_mean(stack, weights)
        np.testing.assert_allclose(near_zero, expected, rtol=1e-12)


@pytest.mark.parametrize("p", [None, 2.0, -2.0, 0.1, -0.1])
@pytest.mark.parametrize(
    "column", [[1e300, 1e308], [5e-324, 1e-310], [1e-320, 1e300], [3e-155, 1e155]]
)
def test_nothing_that_float64_holds_is_lost_on_the_way(
    p: float | None, column: list[float]
) -> None:
    stack, weights = np.array(column)[:, None], [1.0, 99.0]
    rule = geometric_mean if p is None else power_mean
    params: dict[str, Any] = {} if p is None else {"p": p}
    found = rule(stack, weights, **params)
    expected = by_decimals(column, weights, p)
    np.testing.assert_allclose(found, [expected], rtol=1e-12, atol=5e-324)


def test_zero_and_infinity_take_their_limits() -> None:
    stack = np.array([[0, 0, np.inf, 0, -0.0], [2, np.inf, 2, 0, 0]])
    expected = [0, np.nan, np.inf, 0, 0]
    np.testing.assert_array_equal(geometric_mean(stack), expected)
    np.testing.assert_array_equal(power_mean(stack, p=1), [1, *[np.inf] * 2, 0, 0])
    np.testing.assert_array_equal(power_mean(stack, p=-1), [0, 0, 4, 0, 0])
    for order in (stack, stack[::-1]):
        assert not np.signbit(power_mean(order)).any()
        assert not np.signbit(geometric_mean(order)[[0, 3, 4]]).any()


@pytest.mark.parametrize("p", [0, 0.0, math.inf, -math.inf, math.nan, "2", None])
def test_a_power_must_be_finite_and_not_zero(p: Any) -> None:
    with pytest.raises(ValueError, match=r"^p of 'power_mean' must be .* found "):
        power_mean.check(3, {"p": p})


@pytest.mark.parametrize("proportion", [-0.1, 0.5, 1, math.nan, "0.2"])
def test_a_cut_must_leave_something(proportion: Any) -> None:
    expected = r"^proportion of 'trimmed_mean' must be .* found "
    with pytest.raises(ValueError, match=expected):
        trimmed_mean.check(3, {"proportion": proportion})


@each_rule
@each_dtype
def test_entries_outside_the_domain_are_refused_by_their_member(
    rule: Rule, dtype: Dtype, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(drawn(rule, rng), dtype)
    stack[1, 3], stack[1, 7] = -0.5, -0.25
    if rule.domain == "any":
        assert rule(stack).shape == (40,)
        return
    expected = (
        rf"^entries for rule '{rule.name}' must not be negative: members\[1\] has -0.5$"
    )
    with pytest.raises(ValueError, match=expected):
        rule(stack)
    # One that does not count may hold anything, and NaN is told by the result.
    assert np.isfinite(rule(stack, [1, 0, 1, 1, 1]).astype(np.float64)).all()
    stack[1] = -np.abs(round_to_dtype(np.array(np.nan), dtype))
    assert np.isnan(rule(stack).astype(np.float64)).all()


def test_rules_are_pickled_by_their_names() -> None:
    for rule in RULES.values():
        assert pickle.loads(pickle.dumps(rule)) is rule


def direct_slerp(stack: Float64, weights: Float64) -> Float64:
    """Shoemake's formula on the members themselves, the angle as Kahan takes it."""
    one, other = stack
    t = weights[1] / weights.sum()
    ahead, beside = (v / np.linalg.norm(v) for v in (one, other))
    halves = np.linalg.norm(ahead - beside), np.linalg.norm(ahead + beside)
    angle = 2 * math.atan2(*halves)
    weighted = math.sin((1 - t) * angle) * one + math.sin(t * angle) * other
    return np.asarray(weighted / math.sin(angle))


@each_dtype
@pytest.mark.parametrize("spread", [2.0, 1e-1, 1e-4, 1e-7])
def test_slerp_is_its_formula_rounded_once(
    spread: float, dtype: Dtype, rng: np.random.Generator
) -> None:
    first = rng.normal(size=600)
    stack = round_to_dtype(
        np.array([first, first + spread * rng.normal(size=600)]), dtype
    )
    if (stack[0] == stack[1]).all():
        assert slerp(stack, [3, 1]).tobytes() == stack[0].tobytes()
        return
    expected = direct_slerp(stack.astype(np.float64), np.array([3, 1]))
    found = slerp(stack, [3, 1])
    rounded_once = round_to_dtype(expected, dtype)
    near(found, rounded_once, ulps=1 if dtype.itemsize < 8 else 8)
    if dtype.itemsize < 8:
        assert (found != rounded_once).sum() <= 1  # a coefficient's last bit


def test_slerp_keeps_the_length_of_members_of_equal_length() -> None:
    stack = np.array([[3.0, 0, 0], [0, 3.0, 0]])
    for t in np.linspace(0, 1, 11):
        length = np.linalg.norm(slerp(stack, [1 - t, t]))
        assert length == pytest.approx(3, rel=1e-15)


def test_slerp_is_nearly_exact_on_wide_arcs(rng: np.random.Generator) -> None:
    first, other = rng.normal(size=(2, 50))
    for angle in (3.0, 3.14, math.pi - 1e-4):
        ahead = first / np.linalg.norm(first)
        beside = other - (other @ ahead) * ahead
        beside /= np.linalg.norm(beside)
        stack = np.array([ahead, math.cos(angle) * ahead + math.sin(angle) * beside])
        expected = direct_slerp(stack, np.array([2.0, 3.0]))
        # What inner products in float64 can tell of an angle close to pi.
        slack = 1e-14 / math.sin(angle) ** 2
        np.testing.assert_allclose(slerp(stack, [2, 3]), expected, atol=slack)


@pytest.mark.parametrize(
    "stack",
    [[[1.0, 2.0], [-1.0, -2.0]], [[0.0, 0.0], [1.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]],
    ids=["opposite", "one is zero", "both are zero"],
)
def test_slerp_is_a_straight_line_where_there_is_no_arc(stack: list[Any]) -> None:
    expected = 0.25 * np.array(stack[0]) + 0.75 * np.array(stack[1])
    np.testing.assert_allclose(slerp(stack, [1, 3]), expected, atol=1e-15)


SIZES = [(1e-170, "small"), (5e-324, "small"), (1e160, "large"), (1e300, "large")]


@pytest.mark.parametrize(("size", "word"), SIZES)
@pytest.mark.parametrize("rule", SPHERICAL, ids=lambda rule: rule.name)
@pytest.mark.parametrize("n_blocks", [1, 3])
def test_members_whose_squares_float64_cannot_hold_are_refused(
    rule: Rule, size: float, word: str, n_blocks: int
) -> None:
    stack = np.zeros((2, n_blocks * BLOCK))
    stack[0, ::BLOCK], stack[1, 1] = 1.0, size
    with pytest.raises(ValueError, match=rf"^members .*members\[1\] are too {word};"):
        rule(stack)


@pytest.mark.parametrize("size", [1e-130, 1e-30, 1e100, 1e145])
@pytest.mark.parametrize("rule", SPHERICAL, ids=lambda rule: rule.name)
def test_members_whose_squares_float64_can_hold_have_an_angle(
    rule: Rule, size: float
) -> None:
    found = rule(size * np.eye(2))
    np.testing.assert_allclose(found, size * np.sqrt([0.5, 0.5]), rtol=1e-14)


def test_tiny_entries_in_part_zeros_and_infinities_are_not_refused() -> None:
    stack = np.zeros((2, 3 * BLOCK))
    stack[0, 0], stack[1, BLOCK] = 1.0, 1.0
    stack[:, -1] = 1e-170
    np.testing.assert_allclose(slerp(stack)[[0, BLOCK]], np.sqrt([0.5, 0.5]))
    assert slerp([[0.0, 0.0], [0.0, 2.0]]).tolist() == [0, 1]
    assert np.isnan(slerp([[np.inf, 0.0], [0.0, 2.0]])).any()
    stack[0, -1] = np.inf
    assert np.isnan(slerp(stack)).any()
    assert np.isnan(slerp([[np.nan, 0.0], [0.0, 2.0]])).any()


@pytest.mark.parametrize("gap", [1e-3, 1e-4, 2e-5])
def test_slerp_near_pi_loses_what_its_docstring_says(gap: float) -> None:
    angle = math.pi - gap
    stack = np.array([[1.0, 0, 0], [math.cos(angle), math.sin(angle), 0]])
    expected = direct_slerp(stack, np.array([1.0, 1.0]))
    error = np.abs(slerp(stack, [1, 1]) - expected).max() / np.abs(expected).max()
    assert error < 1e-15 / gap**2


@pytest.mark.parametrize("gap", [0.9e-5, 1e-7, 0.0])
def test_slerp_of_nearly_opposite_members_is_a_straight_line(gap: float) -> None:
    angle = math.pi - gap
    stack = np.array([[1.0, 0], [math.cos(angle), math.sin(angle)]])
    np.testing.assert_array_equal(slerp(stack, [1, 3]), [0.25, 0.75] @ stack)


@pytest.mark.parametrize("angle", [1e-9, 1e-6, 1e-3, 0.5, math.pi / 2, 2.5, 3.0])
@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 1.0])
def test_the_centre_of_two_directions_lies_on_the_arc_between(
    angle: float, t: float
) -> None:
    stack = np.array([[1.0, 0, 0], [math.cos(angle), math.sin(angle), 0]])
    centre, arc = karcher_mean(stack, [1 - t, t]), slerp(stack, [1 - t, t])
    np.testing.assert_allclose(centre, arc, atol=1e-12)


def squared_angles(point: Float64, stack: Float64, weights: Float64) -> float:
    lengths = np.linalg.norm(stack, axis=1) * np.linalg.norm(point)
    cosines = np.clip(stack @ point / lengths, -1, 1)
    return float(weights @ np.arccos(cosines) ** 2)


@pytest.mark.parametrize("n_members", [2, 3, 8])
@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0])
def test_no_direction_near_the_centre_has_smaller_squared_angles(
    n_members: int, offset: float, rng: np.random.Generator
) -> None:
    stack = np.abs(rng.normal(size=(n_members, 6))) + offset
    weights = rng.uniform(0.1, 1, n_members)
    centre = karcher_mean(stack, weights)
    unit = centre / np.linalg.norm(centre)
    # Logarithms of the members at the centre, by another formula; they must cancel.
    directions = stack / np.linalg.norm(stack, axis=1)[:, None]
    tangents = directions - (directions @ unit)[:, None] * unit
    sizes = np.linalg.norm(tangents, axis=1)
    angles = np.arctan2(sizes, directions @ unit)
    pull = (weights * angles / sizes) @ tangents
    assert np.linalg.norm(pull) < 1e-7 * weights.sum()
    least = squared_angles(unit, stack, weights)
    for step in 1e-3 * rng.normal(size=(20, 6)):
        assert squared_angles(unit + step, stack, weights) > least - 1e-12
    mean_length = weights @ np.linalg.norm(stack, axis=1) / weights.sum()
    assert np.linalg.norm(centre) == pytest.approx(mean_length, rel=1e-12)


def test_directions_that_cancel_have_no_centre_but_a_mean() -> None:
    stack = np.array([[1.0, 0], [-1.0, 0]])
    assert karcher_mean(stack).tolist() == [0, 0]


def test_members_of_length_zero_count_in_the_length_alone() -> None:
    stack = np.array([[3.0, 4.0], [0, 0]])
    np.testing.assert_allclose(karcher_mean(stack, [3, 1]), [2.25, 3.0], rtol=1e-15)
    assert karcher_mean(np.zeros((3, 2))).tolist() == [0, 0]
    # The only weight lies on the member that has no direction.
    assert karcher_mean(stack, [0, 1]).tolist() == [0, 0]


@each_mean
@each_dtype
def test_identical_members_are_a_fixed_point(
    rule: Rule, dtype: Dtype, rng: np.random.Generator
) -> None:
    one = round_to_dtype(drawn(rule, rng)[0], dtype)
    stack = np.array([one] * (rule.n_members or 5))
    for weights in (None, weights_for(rule)):
        near(rule(stack, weights), one, ulps=4 if dtype == np.float64 else 0)


@each_rule
def test_one_member_is_its_own_result(rule: Rule, rng: np.random.Generator) -> None:
    if rule.n_members is not None:
        pytest.skip("takes a fixed number of members")
    one = drawn(rule, rng)[0]
    near(rule(one[None]), one)


@each_rule
@each_dtype
def test_the_order_of_members_does_not_matter_where_symmetric(
    rule: Rule, dtype: Dtype, rng: np.random.Generator
) -> None:
    if not rule.symmetric:
        pytest.skip("the order matters")
    stack = round_to_dtype(drawn(rule, rng), dtype)
    weights = weights_for(rule)
    for _ in range(5):
        order = rng.permutation(len(stack))
        found, expected = rule(stack[order], weights[order]), rule(stack, weights)
        if rule.is_elementwise and rule not in ADDING:
            assert found.tobytes() == expected.tobytes()
        near(found, expected)


@pytest.mark.parametrize("weights", [[1, 1, 1], [2, 2, 1], [0, 1, 1]], ids=str)
@pytest.mark.parametrize("rule", ELEMENT, ids=lambda rule: rule.name)
def test_zeros_of_both_signs_come_out_alike_in_any_order(
    rule: Rule, weights: list[float]
) -> None:
    if not rule.symmetric:
        pytest.skip("the order matters")
    stack, given = np.array([[0.0], [-0.0], [3.0]]), np.array(weights)
    found = {
        rule(stack[order], given[order]).tobytes()
        for order in ([0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0])
    }
    assert len(found) == 1


def test_halves_are_halves_in_any_order_of_the_members() -> None:
    # In floats 0.1 + 0.2 + 0.3 depends on the order, and 0.1 + 0.2 is not 0.3.
    stack, weights = np.array([[1.0], [2.0], [4.0]]), np.array([0.1, 0.2, 0.3])
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert median(stack[order], weights[order]).tolist() == [3.0]


@each_rule
def test_negative_weights_are_refused_unless_signed(
    rule: Rule, rng: np.random.Generator
) -> None:
    stack, weights = drawn(rule, rng), weights_for(rule, signed=True)
    if rule.signed:
        assert rule(stack, weights).shape == stack.shape[1:]
    else:
        expected = rf"^weights of '{rule.name}' must not be negative: weights\[0\] is"
        with pytest.raises(ValueError, match=expected):
            rule(stack, weights)


@each_rule
@each_dtype
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_the_result_has_the_members_dtype_and_shape(
    rule: Rule, dtype: Dtype, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    result = rule(round_to_dtype(drawn(rule, rng, shape), dtype), weights_for(rule))
    assert result.dtype == dtype
    assert result.shape == shape


@each_rule
def test_integers_and_lists_become_float64(rule: Rule) -> None:
    members = [[1, 2], [3, 5]]
    result = rule(members, [1, 1])
    assert result.dtype == np.float64
    assert result.tolist() == rule(np.array(members, np.float64), [1, 1]).tolist()


@each_dtype
@pytest.mark.parametrize("weights", [None, [0.1, 0.3, 0.2, 0.2, 0.1]], ids=str)
@pytest.mark.parametrize("rule", ELEMENT, ids=lambda rule: rule.name)
def test_any_cut_gives_the_same_bytes(
    rule: Rule, weights: list[float] | None, dtype: Dtype, rng: np.random.Generator
) -> None:
    bits, n_members = FLOATS[dtype].bits, rule.n_members or 5
    weights = None if weights is None else fitting(rule, weights)
    size = 9 * LANE + 11
    most = np.iinfo(bits).max >> (rule.domain != "any")  # without the sign
    entries = rng.integers(0, most, (n_members, size), dtype=bits, endpoint=True)
    stack = entries.view(dtype)
    whole = rule(stack, weights)
    marks = np.unique([0, 1, 8, LANE - 1, 8199, *rng.integers(0, size, 9), size])
    pieces = [rule(stack[:, a:b], weights) for a, b in pairwise(marks.tolist())]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@each_rule
@each_dtype
def test_members_without_weight_do_not_count(
    rule: Rule, dtype: Dtype, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(drawn(rule, rng), dtype)
    if rule.n_members == 2:
        near(rule(stack, [2, 0]), stack[0], ulps=0 if dtype.itemsize < 8 else 1)
        near(rule(stack, [0, 3]), stack[1], ulps=0 if dtype.itemsize < 8 else 1)
        return
    weights = np.array([0.1, 0.0, 0.3, 0.0, 0.3])
    near(rule(stack, weights), rule(stack[weights > 0], weights[weights > 0]), ulps=1)


@each_mean
def test_scaling_all_weights_changes_nothing(
    rule: Rule, rng: np.random.Generator
) -> None:
    stack, weights = drawn(rule, rng), weights_for(rule)
    assert rule(stack, 4 * weights).tobytes() == rule(stack, weights).tobytes()


@each_mean
@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("power", [1020, -200, -1074])
def test_weights_of_any_size_count_by_their_proportions(
    power: int, rule: Rule, dtype: Any, rng: np.random.Generator
) -> None:
    stack = 50 * drawn(rule, rng)[:2]
    members = round_to_dtype(stack, np.dtype(dtype))
    weights = fitting(rule, [1.0, 3.0])
    found = rule(members, np.ldexp(weights, power))
    assert found.tobytes() == rule(members, weights).tobytes()


@pytest.mark.parametrize("n_members", [300, 1000])
def test_the_mean_of_many_narrow_members_does_not_stall(n_members: int) -> None:
    """As in pytorch/xla#2425: a sum in bfloat16 stops growing at 256."""
    ones = np.ones((n_members, 3), ml_dtypes.bfloat16)
    assert RULES["mean"](ones).astype(float).tolist() == [1.0] * 3
    steps = round_to_dtype(np.arange(1.0, n_members + 1), np.dtype(ml_dtypes.bfloat16))
    exact = round_to_dtype(steps.astype(float).mean(keepdims=True), steps.dtype)
    assert RULES["mean"](steps[:, None]).tobytes() == exact.tobytes()


def test_weights_that_lie_far_apart_all_count() -> None:
    assert moderate(np.array([2.0**1020, 2.0**-60])).all()
    assert moderate(np.array([2.0**1023, 5e-324])).all()
    weights = np.array([0.0, 3.0, 1e-9])
    assert moderate(weights) is weights
    assert moderate(np.array([0.0, 2.0**-1074])).tolist() == [0.0, 0.5]
    assert RULES["minimum"]([[1.0], [2.0]], [5e-324, 1.7e308]).tolist() == [1.0]


@each_rule
@each_dtype
def test_nan_spreads_as_far_as_the_cut(
    rule: Rule, dtype: Dtype, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(drawn(rule, rng), dtype)
    stack[1, 7] = np.nan
    where = np.isnan(rule(stack, weights_for(rule)))
    expected = np.arange(40) == 7 if rule.is_elementwise else np.full(40, True)
    assert np.array_equal(where, expected)


@pytest.mark.parametrize("rule", ELEMENT, ids=lambda rule: rule.name)
def test_members_of_several_formats_are_combined_in_float64(
    rule: Rule, rng: np.random.Generator
) -> None:
    wide = drawn(rule, rng)
    formats = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.float32]
    members = [
        round_to_dtype(row, np.dtype(f)) for row, f in zip(wide, formats, strict=False)
    ]
    weights = weights_for(rule)
    stack = np.array([member.astype(np.float64) for member in members])
    for out in (np.dtype(np.float16), np.dtype(np.float64)):
        found = rule.combine(members, weights, out)
        assert found.tobytes() == round_to_dtype(rule(stack, weights), out).tobytes()


def block(rule: Rule, members: Any, weights: Float64, dtype: np.dtype[Any]) -> Any:
    """A vector combined as one block."""
    position = Position("", members[0].shape)
    state = rule.state_of(members, weights, None, {}, position=position)
    return rule.combine(members, weights, dtype, state=state, position=position)


@each_rule
def test_an_output_of_another_format_is_rounded_once(
    rule: Rule, rng: np.random.Generator
) -> None:
    stack = drawn(rule, rng).astype(np.float32)
    weights, narrow = weights_for(rule), np.dtype(ml_dtypes.bfloat16)
    found = block(rule, stack, weights, narrow)
    expected = block(rule, stack.astype(np.float64), weights, np.dtype(np.float64))
    assert found.tobytes() == round_to_dtype(expected, narrow).tobytes()


@each_rule
def test_an_output_of_a_wider_format_is_not_rounded_to_that_of_the_members(
    rule: Rule, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(drawn(rule, rng), np.dtype(ml_dtypes.bfloat16))
    weights = weights_for(rule)
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        found = block(rule, stack, weights, dtype)
        expected = block(rule, stack.astype(np.float64), weights, dtype)
        assert found.tobytes() == expected.tobytes()


@each_rule
def test_members_may_come_as_a_list(rule: Rule, rng: np.random.Generator) -> None:
    stack = drawn(rule, rng).astype(np.float32)
    weights, dtype = weights_for(rule), stack.dtype
    found = block(rule, list(stack), weights, dtype)
    assert found.tobytes() == block(rule, stack, weights, dtype).tobytes()


def test_the_number_of_members_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^rule 'slerp' needs 2 members, found 3$"):
        slerp(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"^there must be at least one member, found"):
        mean(np.ones((0, 4)))


@each_rule
def test_weights_that_do_not_affect_the_result_must_be_equal(rule: Rule) -> None:
    stack = np.ones((rule.n_members or 2, 4))
    if rule.weighted:
        assert rule(stack, [1, 3]).shape == (4,)
        return
    expected = rf"^weights of '{rule.name}' must be equal, .* found \[1.0, 3.0\]"
    with pytest.raises(ValueError, match=expected):
        rule(stack, [1, 3])


@each_rule
def test_unknown_parameters_are_refused(rule: Rule) -> None:
    with pytest.raises(ValueError, match=rf"'{rule.name}' has no parameter 'q' \("):
        rule(np.ones((2, 4)), q=3)


def test_a_rule_of_plain_numpy_gets_float64_and_its_parameters() -> None:
    seen = []

    def shifted_sum(stack: Array, weights: Float64, *, shift: float = 1.0) -> Array:
        seen.append(stack.dtype)
        return np.asarray(weights @ stack + shift)

    rule = Rule(shifted_sum)
    assert rule.params == {"shift": 1.0}
    stack = np.array([[1, 2], [3, 4]], ml_dtypes.bfloat16)
    result = rule(stack, [2, 1], shift=0.5)
    assert result.dtype == stack.dtype
    assert result.astype(float).tolist() == [5.5, 8.5]
    assert set(seen) == {np.dtype(np.float64)}


def test_a_rule_keeps_the_name_and_words_of_its_function() -> None:
    assert mean.name == mean.__name__ == "mean"  # type: ignore[attr-defined]
    assert (mean.__doc__ or "").startswith("Weighted mean")
    assert {rule.name: rule for rule in RULES.values()} == RULES


@pytest.mark.parametrize("rule", SPHERICAL, ids=lambda rule: rule.name)
def test_members_of_the_largest_float32_are_no_trouble(rule: Rule) -> None:
    largest = np.finfo(np.float32).max
    stack = np.array([[largest, 0], [0, largest]], np.float32)
    near(rule(stack), np.full(2, largest / math.sqrt(2)), ulps=1)


@pytest.mark.parametrize(
    "rule", [*SPHERICAL, geometric_median], ids=lambda rule: rule.name
)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_member_without_a_direction_leaves_no_number(
    rule: Rule, special: float
) -> None:
    stack = np.array([[special, 1.0], [-1.0, 2.0]])
    assert np.isnan(rule(stack, [1, 3])).all()


def test_a_rule_that_returns_another_shape_is_reported() -> None:
    short = Rule(lambda stack, weights: stack.mean(0)[:-1])
    with pytest.raises(ValueError, match=r"must return an array of shape \(3,\)"):
        short([[1.0, 2.0, 3.0]])
