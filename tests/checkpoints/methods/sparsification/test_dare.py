"""DARE: against loops over masks, by expectation, and as published code computes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average, plan
from ensembles.checkpoints.methods import (
    dare_linear,
    dare_ties,
    della_linear,
    della_ties,
    task_arithmetic,
)
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels import jit
from ensembles.kernels.task_vectors import random_masks
from ensembles.kernels.task_vectors.random_masks import (
    Words,
    philox,
    random_words,
    stream_key,
)
from ensembles.rules.rule import Rule
from tests.checkpoints.building import save_shards

SIGMAS = 5
BASE = np.array(
    [
        [1.0625, 1.75, -2.5625, -0.125, 1.0, 1.375],
        [0.625, 1.5, 0.3125, 0.5625, 0.1875, -1.0625],
        [-0.875, 0.375, -0.5625, 1.25, 1.3125, 1.8125],
    ]
)
MEMBERS = np.array(
    [
        [
            [1.03125, 3.140625, -3.46875, -0.9375, 1.078125, 1.65625],
            [-0.96875, -0.234375, 0.671875, -0.296875, 1.390625, -0.671875],
            [-0.5625, 0.578125, 0.328125, 1.09375, 2.390625, 1.28125],
        ],
        [
            [0.84375, 1.0625, -1.96875, -0.09375, 0.140625, 3.375],
            [0.265625, 1.390625, 0.703125, 2.3125, 0.046875, -0.359375],
            [-0.78125, -1.09375, 0.234375, 2.265625, 1.078125, 1.796875],
        ],
        [
            [-0.4375, 0.234375, -2.953125, 0.5, 0.53125, 1.671875],
            [1.59375, 1.59375, 0.890625, 2.015625, -1.0625, -0.3125],
            [-2.765625, 0.8125, -0.359375, 0.703125, 0.234375, 1.75],
        ],
    ]
)
WEIGHTS = [1.0, 0.5, 2.0]
MASKS: dict[str, Any] = {"base": BASE, "name": "w", "seed": 7}


def masks(
    shape: tuple[int, ...], density: float, *, seed: int = 0, name: str = ""
) -> Array:
    """Masks of the members of a stack, as the rules draw them."""
    size = math.prod(shape[1:])
    words = [random_words(seed, name, i, 0, size) for i in range(shape[0])]
    return np.array(words).reshape(shape) * 2.0**-32 < density


def kept_differences(stack: Array, base: Array, density: float) -> Float64:
    """Differences in float64, divided by their probability."""
    deltas = stack.astype(np.float64) - base.astype(np.float64)
    return np.where(masks(stack.shape, density), deltas, 0) / density


def agreeing_mean(deltas: Float64, weights: list[float]) -> Float64:
    """Mean of the entries whose sign is the one of the sum, in a loop."""
    merged = []
    for column in deltas.reshape(len(deltas), -1).T.tolist():
        weighted = [w * d for w, d in zip(weights, column, strict=True)]
        side = np.sign(math.fsum(weighted))
        agreeing = [w * side * d > 0 for w, d in zip(weights, column, strict=True)]
        total = math.fsum(
            d for d, agrees in zip(weighted, agreeing, strict=True) if agrees
        )
        share = math.fsum(
            abs(w) for w, agrees in zip(weights, agreeing, strict=True) if agrees
        )
        merged.append(total / share if share else 0.0)
    return np.array(merged).reshape(deltas.shape[1:])


def nearly_equal(found: Array, expected: Float64) -> None:
    """Equal to the rounded float64, or to a neighbor where it is in the middle."""
    slack = np.finfo(np.float64).eps * 8 * np.abs(expected).max(initial=1)
    low, high = (round_to_dtype(expected + s, found.dtype) for s in (-slack, slack))
    assert ((low <= found) & (found <= high)).all()


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
@pytest.mark.parametrize("density", [0.1, 0.5, 1])
def test_they_are_their_formulas_rounded_once(
    dtype: np.dtype[Any], density: float, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(rng.normal(size=(4, 20, 30)), dtype)
    base, stack = stack[0], stack[1:]
    weights, how = [1.0, -0.5, 0.75], {"base": base, "density": density, "scale": 0.6}
    deltas = kept_differences(stack, base, density)
    wide = base.astype(np.float64)
    total = sum(w * row for w, row in zip(weights, deltas, strict=True))
    nearly_equal(dare_linear(stack, weights, **how), wide + 0.6 * total)
    normalized = dare_linear(stack, weights, normalize=True, **how)
    nearly_equal(normalized, wide + 0.6 * total / 1.25)
    expected = wide + 0.6 * agreeing_mean(deltas, weights)
    nearly_equal(dare_ties(stack, weights, **how), expected)


def test_density_1_is_task_arithmetic(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(4, 100)).astype(np.float32)
    for rescale in ("expected", "l1", None):
        found = dare_linear(stack[1:], base=stack[0], density=1, rescale=rescale)
        assert (found == task_arithmetic(stack[1:], base=stack[0])).all()


def test_members_may_have_densities_of_their_own(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(3, 1000))
    found = dare_linear(stack[1:], base=stack[0], density=[0.25, 1])
    first = dare_linear(stack[1:2], base=stack[0], density=0.25)
    np.testing.assert_allclose(found, first + stack[2] - stack[0], atol=1e-14)


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_the_expectation_is_task_arithmetic_and_the_variance_as_documented(
    density: float,
) -> None:
    n, weights = 20_000, [1.0, -0.5]
    stack, base = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([0.0, 1.0])
    many = [np.tile(values, n) for values in (*stack, base)]
    how: Any = {"base": many.pop(), "density": density, "scale": 0.8}
    found = dare_linear(many, weights, **how).reshape(n, 2)
    exact = task_arithmetic(stack, weights, base=base, scale=0.8)
    terms = 0.8 * np.array(weights)[:, None] * (stack - base)
    variance = (1 / density - 1) * (terms**2).sum(0)
    assert (np.abs(found.mean(0) - exact) < SIGMAS * np.sqrt(variance / n)).all()
    np.testing.assert_allclose(found.var(0), variance, rtol=0.05)


def test_the_expectation_of_identical_members_is_as_documented() -> None:
    base, density, n = np.zeros(100_000), 0.3, 3
    found = dare_ties(np.ones((n, 100_000)), base=base, density=density)
    expected = (1 - (1 - density) ** n) / density
    assert abs(found.mean() - expected) < SIGMAS * found.std() / math.sqrt(found.size)


def test_l1_restores_the_sum_of_absolute_differences(rng: np.random.Generator) -> None:
    base = rng.normal(size=(100, 50))
    member = base + 1e-3 * rng.standard_t(2, size=base.shape)
    for density in (0.02, 0.5):
        found = dare_linear([member], base=base, density=density, rescale="l1")
        restored, whole = (np.abs(x - base).sum() for x in (found, member))
        assert math.isclose(restored, whole, rel_tol=1e-10)
        dropped = (found == base).mean()
        assert abs(dropped - (1 - density)) < 0.05
    all_dropped = dare_linear([[2.0]], base=[1.0], density=2.0**-32, rescale="l1")
    assert all_dropped == [1.0]
    assert (dare_linear([base], base=base, rescale="l1") == base).all()


# Published code, run in float64 with torch.bernoulli replaced by one that returns masks
# of `words_of_counters`, for density 0.5, on MEMBERS, BASE and WEIGHTS.


def words_of_counters(
    seed: int, name: str, member: int, start: int, size: int
) -> Words:
    """Random numbers that are whole words, four of a counter."""
    return philox(stream_key(seed, name), member, start, -(-size // 4))[:size]


def published(rule: Rule, expected: list[float], **params: Any) -> None:
    weights = params.pop("weights", WEIGHTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_masks, "random_words", words_of_counters)
        patch.setattr(jit, "WORTHWHILE", 1 << 62)  # not the loops
        found = rule(MEMBERS, weights, density=0.5, **MASKS, **params).reshape(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # mergekit masks in float32


def test_mergekit_computes_the_same() -> None:
    # mergekit 0.1.5, merge_tensors([BASE, *MEMBERS], "dare_linear", base_index=0,
    # parameters={"weight": {1: 1.0, 2: 0.5, 3: 2.0}, "density": {1: 0.5, ...},
    # "lambda": 0.75}), with "rescale": False, and "dare_ties".
    l1 = [
        *(0.996906998, -0.634155646, -4.464697063, -0.107727787, -0.522594571),
        *(3.0707587, 0.625, 1.439547256, 0.3125, 6.249786973, -3.87275219),
        *(2.582188517, -0.875, -0.436794072, 1.74734205, 0.922034994),
        *(-2.31900879, 0.697418988),
    ]
    published(dare_linear, l1, rescale="l1", scale=0.75)
    plain = [
        *(1.0390625, 0.26171875, -3.2421875, -0.11328125, 0.296875, 2.3359375),
        *(0.625, 1.458984375, 0.3125, 3.3984375, -1.6875, 0.619140625),
        *(-0.875, -0.17578125, 0.404296875, 1.1328125, -0.392578125, 1.4140625),
    ]
    published(dare_linear, plain, rescale=None, scale=0.75)
    elected = [
        *(0.996906998, -3.553044215, -4.464697063, -0.107727787, -0.522594571),
        *(3.0707587, 0.625, 1.439547256, 0.3125, 6.249786973, -3.87275219),
        *(2.582188517, -0.875, -0.436794072, 1.74734205, 0.922034994),
        *(-2.31900879, 0.697418988),
    ]
    how: Any = {"normalize": False, "zero_sum": "positive"}
    published(dare_ties, elected, rescale="l1", scale=0.75, **how)


def test_peft_computes_the_same() -> None:
    # peft 0.21.2, BASE + merge_utils.dare_linear(differences, WEIGHTS, 0.5) and
    # dare_ties with both values of majority_sign_method.
    linear = [
        *(1.0, -2.21875, -4.375, -0.09375, -0.875, 3.9375, 0.625, 1.390625, 0.3125),
        *(8.125, -4.8125, 3.421875, -0.875, -1.09375, 2.015625, 0.9375, -3.234375),
        0.75,
    ]
    published(dare_linear, linear)
    elected = [
        *(1.0, -1.625, -4.375, -0.09375, -0.875, 2.65625, 0.625, 1.390625, 0.3125),
        *(4.34375, -4.8125, 0.432291667, -0.875, -1.09375, 0.7265625, 0.9375),
        *(-0.9609375, 0.75),
    ]
    how: Any = {"normalize": "count", "zero_sum": "positive"}
    published(dare_ties, elected, sign="unweighted_mass", **how)
    published(dare_ties, elected, sign="count", **how)


def test_the_authors_code_computes_the_same() -> None:
    # MergeLM, mask_input_with_mask_rate(difference, 0.5, use_rescale=True,
    # mask_strategy="random"), then average_merging, and task_arithmetic of 0.75.
    mean = [
        *(1.041666667, 1.208333333, -3.166666667, -0.104166667, 0.6875, 2.895833333),
        *(0.625, 1.427083333, 0.3125, 2.697916667, -0.645833333, 0.166666667),
        *(-0.875, -0.604166667, 0.5625, 1.145833333, 0.4375, 1.458333333),
    ]
    published(dare_linear, mean, weights=None, normalize=True)
    total = [
        *(1.015625, 0.53125, -3.921875, -0.078125, 0.296875, 4.796875, 0.625),
        *(1.3359375, 0.3125, 5.3671875, -1.6875, 1.703125, -0.875, -1.828125),
        *(1.96875, 1.015625, -0.65625, 1.015625),
    ]
    published(dare_linear, total, weights=None, scale=0.75)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("rescale", ["expected", "l1", None])
def test_small_densities_do_not_overflow_in_half_precision(
    dtype: str, rescale: Any, rng: np.random.Generator
) -> None:
    # In float16, a sum of 65,536 differences and 1 / density are infinite.
    half = np.dtype(dtype)
    base = round_to_dtype(rng.normal(size=(300, 400)), half)
    member = round_to_dtype(base.astype(np.float64) + 2, half)
    for rule in (dare_linear, dare_ties):
        how: Any = {"base": base, "density": 2.0**-12, "rescale": rescale}
        found = rule([member], **how).astype(np.float64)
        assert np.isfinite(found).all()
        assert 0 < (found != base.astype(np.float64)).sum() < 100


def test_masks_depend_on_seed_name_and_member(rng: np.random.Generator) -> None:
    base, member = np.zeros(10_000), np.ones(10_000)
    how: Any = {"base": base, "rescale": None}
    first = dare_linear([member], name="a", **how)
    assert (dare_linear([member], name="a", **how) == first).all()
    other = [
        dare_linear([member], name="b", **how),
        dare_linear([member], name="a", seed=1, **how),
        dare_linear([base, member], name="a", **how),
    ]
    for mask in other:
        assert abs((mask == first).mean() - 0.5) < 0.05


def test_files_and_memory_give_the_same_for_any_threads_and_shards(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    names = ("a", "b", "c")
    base = {name: rng.normal(size=(300, 401)).astype(np.float32) for name in names}
    members, paths = [], []
    for i in range(2):
        state = {
            n: t + rng.normal(size=t.shape).astype(t.dtype) for n, t in base.items()
        }
        members.append(state)
        paths.append(
            save_shards(
                tmp_path / f"m{i}", [{"a": state["a"]}, {n: state[n] for n in "bc"}]
            )
        )
        save_file(state, tmp_path / f"m{i}.safetensors")
    save_file(base, tmp_path / "base.safetensors")
    files = [tmp_path / f"m{i}.safetensors" for i in range(2)]
    for rule, params in (
        ("dare_linear", {"rescale": "l1", "density": 0.3}),
        ("dare_ties", {"seed": 5}),
    ):
        results = set()
        for inputs, memory, threads in (
            (files, 4 << 20, 1),
            (files, 64 << 20, 3),
            (paths, 9 << 20, 2),
        ):
            out = tmp_path / "out"
            merged = average(
                inputs,
                out if inputs is paths else out.with_suffix(".safetensors"),
                base=tmp_path / "base.safetensors",
                rule=rule,
                rule_params=params,
                memory=memory,
                threads=threads,
                force=True,
            )
            parts = sorted(merged.out.rglob("*.safetensors")) or [merged.out]
            found = {n: t for part in parts for n, t in load_file(part).items()}
            results.add(b"".join(found[name].tobytes() for name in names))
        in_memory = average(members, base=base, rule=rule, rule_params=params)
        results.add(b"".join(in_memory[name].tobytes() for name in names))
        assert len(results) == 1
        again = {"dare_linear": dare_linear, "dare_ties": dare_ties}[rule]
        stack = np.array([state["b"] for state in members])
        alone = again(stack, base=base["b"], name="b", **params)
        assert alone.tobytes() == in_memory["b"].tobytes()


def test_nan_and_infinity_pass_through() -> None:
    stack = np.ones((2, 50))
    stack[0, ::2], stack[1, 1::4] = np.nan, np.inf
    for rule in (dare_linear, dare_ties):
        found = rule(stack, base=np.zeros(50))
        assert np.isnan(found[::2]).all()
        assert not np.isfinite(found[1::4]).any()
        assert np.isfinite(found[3::4]).all()


def test_members_of_weight_0_have_no_effect(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(3, 200))
    others = stack.copy()
    others[1] = np.nan
    for rule in (dare_linear, dare_ties, della_linear, della_ties):
        for rescale in ("expected", "l1"):
            how: Any = {"base": np.zeros(200), "rescale": rescale}
            a, b = (rule(x, [1, 0, 2], **how) for x in (stack, others))
            assert (a == b).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"density": 0}, r"density must be at least 2\*\*-32, found 0"),
        ({"density": 1.5}, "density must be a number from 0 to 1, or a list of 2"),
        ({"density": [0.5]}, "density must be .* a list of 2, .* found .0.5."),
        ({"density": "x", "rescale": "l1"}, "density must be a number .* found 'x'"),
        ({"density": {"w": 1}}, "density must be .* a list of 2"),
        ({"rescale": "L1"}, "rescale must be 'expected', 'l1' or None .* found 'L1'"),
        ({"seed": 0.5}, "seed must be a whole number, found 0.5"),
        ({"seed": True}, "seed must be a whole number, found True"),
        ({"scale": "a"}, "scale of 'dare_linear' must be a finite number, found 'a'"),
        ({"normalize": 2}, "normalize of 'dare_linear' must be one of True, False"),
    ],
    ids=str,
)
def test_parameters_that_are_not_valid_are_refused_before_data_is_read(
    params: dict[str, Any], message: str
) -> None:
    state, base = {"w": np.ones(3)}, {"w": np.ones(3)}
    with pytest.raises(ValueError, match=message):
        plan([state] * 2, base=base, rule="dare_linear", rule_params=params)


def test_weights_that_sum_to_zero_are_refused_with_normalize() -> None:
    state = {"w": np.ones(3)}
    how: Any = {"base": {"w": np.ones(3)}, "rule": "dare_linear", "weights": [1, -1]}
    with pytest.raises(ValueError, match="must not sum to zero with normalize=True"):
        plan([state] * 2, rule_params={"normalize": True}, **how)
    assert plan([state] * 2, **how).targets
