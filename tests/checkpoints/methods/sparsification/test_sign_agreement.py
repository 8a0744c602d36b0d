"""TIES: against a sort in float64, by hand, and as published code computes it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array
from ensembles.checkpoints import average, plan
from ensembles.checkpoints.methods import ties
from ensembles.dtypes import FLOATS, round_to_dtype
from tests.checkpoints.methods.sparsification.trimmed import (
    BASE,
    MEMBERS,
    WEIGHTS,
    elected_mean,
    trimmed,
)
from tests.rules.test_rules import near


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
def test_it_is_the_mean_of_the_largest_differences_that_agree(
    dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    base, *members = round_to_dtype(rng.normal(size=(4, 30, 20)), dtype)
    weights = [1.0, 0.5, -0.25]
    stack = np.array(members)
    for density in (0.02, 0.2, 0.777):
        merged = ties(stack, weights, base=base, density=density, scale=0.5)
        wide = base.astype(np.float64)
        deltas = trimmed(stack.astype(np.float64) - wide, int(density * 600))
        expected = wide + 0.5 * elected_mean(deltas, weights).reshape(30, 20)
        near(merged, round_to_dtype(expected, dtype), ulps=1)


def test_all_is_kept_with_density_one_and_nothing_is_read_first(
    rng: np.random.Generator,
) -> None:
    stack, base = rng.normal(size=(3, 50)), rng.normal(size=50)
    assert ties.needed_passes({"density": 1}) == ()
    assert len(ties.needed_passes({})) == 2
    assert len(ties.needed_passes({"density": 1.0, "zero_sum": "majority"})) == 1
    merged = ties(stack, base=base, density=1)
    np.testing.assert_allclose(merged, base + elected_mean(stack - base, [1, 1, 1]))
    assert ties(stack, base=base, density=[1, 1, 1]).tolist() == merged.tolist()


def test_entries_that_equal_the_smallest_kept_one_are_kept() -> None:
    member = np.array([3.0, -2, 2, 1, 2])
    merged = ties(member[None], base=np.zeros(5), density=0.4)
    assert merged.tolist() == [3, -2, 2, 0, 2]


def test_members_may_have_densities_of_their_own() -> None:
    stack = np.array([[4.0, 3, 2, 1], [0.1, 0.2, 0.3, 0.4]])
    merged = ties(stack, base=np.zeros(4), density=[0.25, 0.5], normalize=False)
    assert merged.tolist() == [4, 0, 0.3, 0.4]


def test_one_entry_is_kept_at_least() -> None:
    merged = ties(np.array([[1.0, 2, 3]]), base=np.zeros(3), density=0.2)
    assert merged.tolist() == [0, 0, 3]


def test_nan_is_kept_and_counts_as_the_largest() -> None:
    stack = np.array([[np.nan, 3.0, 2, 1], [4.0, 3, 2, 1]])
    merged = ties(stack, base=np.zeros(4), density=0.5)
    np.testing.assert_array_equal(merged, [np.nan, 3, 0, 0])


# Differences (2, -2, 1, 3) and (-2, 2, 1, 3): the first two are zero sums.
ZERO_SUMS = np.array([[2.0, -2, 1, 3], [-2.0, 2, 1, 3]])


@pytest.mark.parametrize(
    ("zero_sum", "first", "second"),
    [("zero", 0, 0), ("positive", 2, 2), ("majority", 2, 2)],
)
def test_zero_sums_are_resolved_as_told(
    zero_sum: Any, first: float, second: float
) -> None:
    merged = ties(ZERO_SUMS, base=np.zeros(4), density=1, zero_sum=zero_sum)
    assert merged.tolist() == [first, second, 1, 3]
    negated = ties(-ZERO_SUMS, base=np.zeros(4), density=1, zero_sum=zero_sum)
    sign = -1 if zero_sum == "majority" else 1
    assert negated.tolist() == [sign * first, sign * second, -1, -3]


def test_an_even_number_of_signs_has_no_majority() -> None:
    stack = np.array([[2.0, 3, -4], [-2.0, 3, -4]])
    merged = ties(stack, base=np.zeros(3), density=1, zero_sum="majority")
    assert merged.tolist() == [0, 3, -4]


def test_the_majority_counts_the_trimmed_differences_as_they_vote() -> None:
    # After trimming two entries are negative and one is positive; before, the positive
    # ones are more. Without weights the negative ones are more too, and the second
    # member's -2 agrees, with the weight -1.
    stack = np.array([[2.0, 5, -4, -4, 1, 1, 1], [-2.0, 5, -4, -4, 1, 1, 1]])
    params: dict[str, Any] = {"density": 4 / 7, "zero_sum": "majority"}
    merged = ties(stack, base=np.zeros(7), **params)
    assert merged.tolist() == [-2, 5, -4, -4, 0, 0, 0]
    merged = ties(stack, [1, -1], base=np.zeros(7), sign="unweighted_mass", **params)
    assert merged.tolist() == [2, 0, 0, 0, 0, 0, 0]


def test_the_papers_definition_is_the_default() -> None:
    # Each keeps two of five: (4, 3, 0, 0, 0), (0, -5, 1, 0, 0) and (0, 4, 0, 0, 6). The
    # sum of the second entries is 2, positive, so that it is the mean of 3 and 4.
    stack = np.array([[4.0, 3, 2, 1, -1], [0, -5, 1, 0.5, 0], [3, 4, 2, 1, 6]])
    merged = ties(stack, base=np.zeros(5), density=0.4)
    assert merged.tolist() == [4, 3.5, 1, 0, 6]


def close(merged: Array, expected: list[float]) -> None:
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-11)


def test_mergekit_is_reproduced() -> None:
    # mergekit 0.1.5, method "ties" of the registry on float64 tensors, with these
    # weights, density 0.5, normalize: true; then normalize: false, lambda: 0.7; then
    # density 1.
    params: dict[str, Any] = {"scope": "tensor", "zero_sum": "positive"}
    half, whole = {**params, "density": 0.5}, {**params, "density": 1}
    close(
        ties(MEMBERS, WEIGHTS, base=BASE, **half),
        [1.9, -2, -0.25, 3, 0.85, -1, 1.2, 4.733333333333, -3, -0.35],
    )
    close(
        ties(MEMBERS, WEIGHTS, base=BASE, normalize=False, scale=0.7, **half),
        [1.63, -2, -0.55, 3, 1.19, -1, 0.32, 5.54, -3, -0.59],
    )
    close(
        ties(MEMBERS, WEIGHTS, base=BASE, **whole),
        [
            *(1.433333333333, -2.366666666667, -0.25, 3.3, 0.85),
            *(-1.3, 1.2, 4.733333333333, -2.55, -0.35),
        ],
    )


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        ("unweighted_mass", [1.9, -2, -1, 3, -0.55, -1, 0.8, 5.1, -3, 0.85]),
        ("count", [1.9, -2, 0.7, 3, -0.55, -1, 0.8, 5.1, -3, 0.85]),
    ],
)
def test_peft_is_reproduced(sign: Any, expected: list[float]) -> None:
    # peft 0.21, base + peft.utils.merge_utils.ties(deltas, weights, 0.5, method) in
    # float64, with the methods "total" and "frequency".
    merged = ties(
        MEMBERS,
        WEIGHTS,
        base=BASE,
        density=0.5,
        sign=sign,
        normalize="count",
        zero_sum="positive",
        scope="tensor",
    )
    close(merged, expected)


def test_the_authors_code_is_reproduced_with_one_entry_more() -> None:
    # prateeky2806/ties-merging, ties_merging(deltas, reset_thresh=0.4, "dis-mean") in
    # float64, added to the base: it keeps five of ten entries. More signs are negative.
    merged = ties(MEMBERS, base=BASE, density=0.5, zero_sum="majority")
    close(merged, [0.1, -2, -0.25, 3, -0.75, -1, 1.275, 4.75, -3, -0.35])
    merged = ties(2 * BASE - MEMBERS, base=BASE, density=0.5, zero_sum="majority")
    close(merged, [1.9, -2, 1.25, 3, 0.75, -1, 2.725, 3.25, -3, 0.85])


@pytest.fixture
def paths(tmp_path: Path, rng: np.random.Generator) -> dict[str, Path]:
    """Two members and their base, of several formats and sizes."""
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "a.w": ((300, 400), ml_dtypes.bfloat16),
        "b.w": ((70_001,), np.float32),
        "c": ((3,), np.float16),
        "empty": ((0, 2), np.float32),
    }
    origin = {name: rng.normal(size=shape) for name, (shape, _) in shapes.items()}
    found = {}
    for member, change in (("base", 0), ("x", 0.3), ("y", 0.3)):
        state = {}
        for name, (shape, dtype) in shapes.items():
            noise = change * rng.normal(size=shape) * (0.01 if name == "c" else 1)
            state[name] = (origin[name] + noise).astype(dtype)
        found[member] = tmp_path / f"{member}.safetensors"
        save_file(state, found[member])
    return found


@pytest.mark.parametrize("zero_sum", ["zero", "majority"])
def test_whole_models_are_trimmed_at_one_magnitude_for_each_member(
    zero_sum: Any, paths: dict[str, Path], tmp_path: Path
) -> None:
    params: dict[str, Any] = {"density": 0.3, "zero_sum": zero_sum}
    contents = set()
    for memory, threads in ((4 << 20, 1), (64 << 20, 3)):
        out = tmp_path / f"{memory}.safetensors"
        average(
            [paths["x"], paths["y"]],
            out,
            base=paths["base"],
            rule="ties",
            rule_params=params,
            memory=memory,
            threads=threads,
        )
        contents.add(out.read_bytes())
    assert len(contents) == 1
    states = {name: load_file(path) for name, path in paths.items()}
    merged, names = load_file(out), list(states["base"])
    flat = {
        member: np.concatenate([s[n].astype(np.float64).ravel() for n in names])
        for member, s in states.items()
    }
    stack = np.array([flat["x"], flat["y"]])
    expected = ties(stack, base=flat["base"], **params)
    start = 0
    for name in names:
        part = expected[start : start + merged[name].size]
        start += merged[name].size
        rounded = round_to_dtype(part.reshape(merged[name].shape), merged[name].dtype)
        assert merged[name].tobytes() == rounded.tobytes()
    # None of the small differences of this tensor is among the largest of the model.
    assert merged["c"].tolist() == states["base"]["c"].tolist()


def test_tensors_are_trimmed_each_at_its_own_magnitude(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    out, params = tmp_path / "out.safetensors", {"density": 0.4, "scope": "tensor"}
    members = [paths["x"], paths["y"]]
    average(members, out, base=paths["base"], rule="ties", rule_params=params)
    x, y, base, merged = (load_file(p) for p in (*members, paths["base"], out))
    for name in base:
        expected = ties(np.array([x[name], y[name]]), base=base[name], density=0.4)
        assert merged[name].tobytes() == expected.tobytes()
    assert (merged["c"] != base["c"]).any()


def test_histograms_of_many_tensors_are_not_in_memory_at_once(
    rng: np.random.Generator,
) -> None:
    base = {f"w{i}": rng.normal(size=100).astype(np.float32) for i in range(60)}
    members = [{n: w + np.float32(k) for n, w in base.items()} for k in (1, 2)]
    tracemalloc.start()
    average(members, base=base, rule="ties", rule_params={"scope": "tensor"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20  # one histogram is 1 MiB for each member


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"density": 0}, "density must be above 0, found 0"),
        ({"density": 1.5}, "density must be a number from 0 to 1, .* found 1.5"),
        ({"density": "all"}, "density must be a number from 0 to 1, .* found 'all'"),
        ({"density": [0.1, 0.2, 0.3]}, "or a list of 2, one for each member, found"),
        ({"density": [0.1, None]}, "density must be a number from 0 to 1"),
        ({"sign": "sum"}, "sign must be one of mass"),
        ({"zero_sum": 0}, "zero_sum of 'ties' must be one of 'zero'"),
        ({"normalize": "mean"}, "normalize must be True, False or 'count'"),
        ({"density": True}, "density must be a number from 0 to 1"),
        ({"scope": "layer"}, "scope of 'ties' must be one of 'tensor', 'model'"),
        ({"scale": np.inf}, "scale of 'ties' must be a finite number"),
    ],
    ids=str,
)
def test_parameters_are_checked_before_anything_is_read(
    params: dict[str, Any], message: str
) -> None:
    states = [{"w": np.ones(3)}, {"w": np.zeros(3)}]
    with pytest.raises(ValueError, match=message):
        plan(states, base={"w": np.ones(3)}, rule="ties", rule_params=params)


def test_signs_are_counted_in_float64(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensembles.kernels.jit.WORTHWHILE", -1)
    members = rng.normal(size=(3, 3_000)).astype(ml_dtypes.bfloat16)
    base = members[0] + (0.01 * rng.normal(size=3_000)).astype(ml_dtypes.bfloat16)
    base[:1_500], members[:2, :1_500], members[2, :1_500] = 0, 1, -2  # zero sums
    options: dict[str, Any] = {"density": 0.7, "zero_sum": "majority"}
    merged = ties(members, base=base, **options)
    wide = ties(members.astype(float), base=base.astype(float), **options)
    assert merged.tobytes() == wide.astype(ml_dtypes.bfloat16).tobytes()
