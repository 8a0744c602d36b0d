"""Contract 1: correctly rounded, and the same bytes however the work is cut."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import MergeReport, average, plan, verify
from ensembles.rules.builtin import RULES
from tests.checkpoints import oracles
from tests.checkpoints.building import (
    FLOATS,
    Tensors,
    floats,
    load,
    same_bytes,
    save,
    save_shards,
)

BLOCK = 65_536
MANTISSA = {"float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2}
WEIGHTS = [0.7, 0.3, 1.1]
dtypes = pytest.mark.parametrize("dtype", FLOATS, ids=str)
rules = pytest.mark.parametrize(
    "rule", sorted(n for n, r in RULES.items() if not (r.needs_base or r.needs_moments))
)


def stack_of(
    rng: np.random.Generator, dtype: Any, n_members: int = 3, *, wide: bool = True
) -> list[Tensors]:
    """Members with a tensor of several blocks, a small, a single and an empty one."""
    shapes = {"big": (3 * BLOCK + 77,), "a.small": (5, 3), "one": (), "none": (0, 4)}
    return [
        {name: floats(rng, shape, dtype, wide=wide) for name, shape in shapes.items()}
        for _ in range(n_members)
    ]


def is_wide(rule: str) -> bool:
    """Whether the result of large finite members is finite."""
    return RULES[rule].is_elementwise and rule != "linear_combination"


def fit_for(rule: str, members: list[Tensors]) -> list[Tensors]:
    """Members in the domain of the rule."""
    if RULES[rule].domain == "any":
        return members
    return [{name: abs(value) for name, value in m.items()} for m in members]


def n_members_of(rule: str) -> int:
    return RULES[rule].n_members or 3


def least_memory(members: list[Path], **options: Any) -> int:
    """Memory for one block of one thread, as the library asks for it."""
    with pytest.raises(ValueError, match="memory must be at least") as caught:
        plan(members, memory=1, **options)
    return int(re.findall(r"at least (\d+) bytes", str(caught.value))[0])


def close_ulps(found: Any, expected: Any, n_ulps: int) -> bool:
    """Whether float64 numbers are no more than so many steps apart."""
    return bool(
        (np.abs(found - expected) <= n_ulps * np.spacing(np.abs(expected))).all()
    )


def test_every_element_rule_has_an_oracle() -> None:
    known = oracles.ELEMENT.keys() | oracles.NEAR.keys()
    assert known == {name for name, rule in RULES.items() if rule.is_elementwise}


@dtypes
@pytest.mark.parametrize("rule", sorted(oracles.ELEMENT))
@pytest.mark.parametrize("weights", [WEIGHTS, [1, 1, 1], [3, 0.1, 1e-3]], ids=str)
def test_element_rules_equal_the_float64_oracle_rounded_once(
    rng: np.random.Generator, rule: str, dtype: Any, weights: list[float]
) -> None:
    members = stack_of(rng, dtype, n_members_of(rule))
    if not RULES[rule].weighted:
        weights = [1.0] * len(members)
    found = average(members, rule=rule, weights=weights)
    for name, result in found.items():
        stack = [member[name] for member in members]
        expected = oracles.ELEMENT[rule](stack, weights, dtype)
        assert result.dtype == dtype
        assert result.shape == stack[0].shape
        if dtype == np.float64 and rule == "mean":
            columns = np.array(stack).reshape(3, -1)[:, :500]
            exact = [oracles.exact_mean(c, weights) for c in columns.T]
            assert close_ulps(result.reshape(-1)[:500], np.array(exact), 1)
        elif dtype == np.float64:
            assert close_ulps(result, expected, 1)
        else:
            assert result.tobytes() == expected.tobytes(), name


@dtypes
@pytest.mark.parametrize("rule", sorted(oracles.NEAR))
@pytest.mark.parametrize("weights", [WEIGHTS, [1, 1, 1]], ids=str)
def test_element_rules_with_roots_and_cuts_lie_next_to_their_oracle(
    rng: np.random.Generator, rule: str, dtype: Any, weights: list[float]
) -> None:
    members = fit_for(rule, stack_of(rng, dtype, wide=is_wide(rule)))
    found = average(members, rule=rule, weights=weights)
    for name, result in found.items():
        stack = [member[name] for member in members]
        expected = oracles.NEAR[rule](stack, weights)
        largest = np.abs(np.array(stack, np.float64)).max(axis=0, initial=0)
        may_cancel = RULES[rule].domain == "any"
        slack = 1e-14 * largest if may_cancel else 1e-12 * expected
        low, high = (
            oracles.rounded(expected + side * slack, np.dtype(dtype))
            for side in (-1, 1)
        )
        assert ((result >= low) & (result <= high)).all(), name


def test_an_entry_outside_the_domain_is_told_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    members = [{"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, -4.0])}]
    with pytest.raises(
        ValueError, match=r"must not be negative: members\[1\] has -4.0"
    ):
        average(members, tmp_path / "out.safetensors", rule="geometric_mean")
    assert not list(tmp_path.iterdir())


def test_a_wrong_parameter_is_told_by_the_plan() -> None:
    with pytest.raises(ValueError, match=r"p of 'power_mean' must be a finite number"):
        plan([{"w": np.ones(2)}] * 2, rule="power_mean", rule_params={"p": 0})


def test_the_oracle_rounds_as_the_specification_says() -> None:
    e4m3 = np.dtype(ml_dtypes.float8_e4m3fn)
    values = np.array([464.0, 464.1, 1.0625, 1.1875, 2**-10, 3 * 2.0**-10])
    found = oracles.rounded(values, e4m3).astype(np.float64)
    assert found.tolist()[:1] == [448.0]
    assert np.isnan(found[1])
    assert found.tolist()[2:] == [1.0, 1.25, 0.0, 2**-8]


@pytest.mark.parametrize("dtype", [d for d in FLOATS if d.itemsize < 4], ids=str)
def test_the_mean_never_goes_by_way_of_float32(dtype: Any) -> None:
    """Off the middle of two numbers by less than a float32 can hold."""
    step = 2.0 ** -MANTISSA[str(dtype)]
    values = np.array([1.0, 1.0 + step, 1.0 + 2 * step]).astype(dtype)
    little = 1 + 2**-30
    above = average([{"w": values[:1]}, {"w": values[1:2]}], weights=[1, little])
    below = average([{"w": values[1:2]}, {"w": values[2:]}], weights=[little, 1])
    assert above["w"].astype(float).tolist() == [1.0 + step]
    assert below["w"].astype(float).tolist() == [1.0 + step]


def test_a_tensor_whose_squares_float64_cannot_hold_is_refused_by_its_name(
    tmp_path: Path,
) -> None:
    state = {"a": np.eye(2), "tiny": 1e-170 * np.eye(2)}
    for name in ("one", "two"):
        save_file(state, tmp_path / f"{name}.safetensors")
    paths = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"^tensor 'tiny': members must have "):
        average(paths, tmp_path / "out.safetensors", rule="slerp")
    assert sorted(tmp_path.iterdir()) == paths
    assert average([state, state])["tiny"][0, 0] == 1e-170


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("rule", ["slerp", "karcher_mean"])
def test_rules_on_the_sphere_follow_the_great_circle(
    rng: np.random.Generator, rule: str, t: float
) -> None:
    a, b = rng.normal(size=(2, BLOCK + 5))
    found = average([{"w": a}, {"w": b}], rule=rule, weights=[1 - t, t])["w"]
    if rule == "slerp":
        expected = oracles.arc(a, b, t)
    else:
        lengths = np.linalg.norm(a), np.linalg.norm(b)
        length = (1 - t) * lengths[0] + t * lengths[1]
        expected = length * oracles.arc(a / lengths[0], b / lengths[1], t)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@dtypes
@rules
def test_bytes_do_not_depend_on_budget_threads_or_shards(
    rng: np.random.Generator, tmp_path: Path, rule: str, dtype: Any
) -> None:
    stack = stack_of(rng, dtype, n_members_of(rule), wide=is_wide(rule))
    members = fit_for(rule, stack)
    names = sorted(members[0])
    files = [
        save(tmp_path / f"{i}.safetensors", member) for i, member in enumerate(members)
    ]
    shards = [
        save_shards(
            tmp_path / str(i),
            [{n: member[n]} for n in names[1:]] + [{names[0]: member[names[0]]}],
        )
        for i, member in enumerate(members)
    ]
    weights = WEIGHTS[: len(members)] if RULES[rule].weighted else None
    options: Any = {"rule": rule, "weights": weights}
    # Whole rows are read, whatever the memory.
    is_element = RULES[rule].unit == "element"
    least = least_memory(files, rule=rule) if is_element else 1 << 20
    one = average(members, threads=1, memory=1 << 30, **options)
    digests = set()
    for paths in (files, shards):
        for threads, memory in (
            (1, least),
            (2, 2 * least + 1),
            (3, 64 << 20),
            (4, least),
        ):
            out = tmp_path / "out.safetensors"
            report = average(
                paths, out, threads=threads, memory=memory, force=True, **options
            )
            assert same_bytes(load(out), one)
            digests.add((report.digest, *report.member_digests))
    assert len(digests) == 1
    # All at once, by the rule itself.
    whole = RULES[rule](np.array([m["big"] for m in members]), weights)
    assert whole.tobytes() == one["big"].tobytes()


def test_the_same_job_gives_the_same_file(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    paths = [
        save(tmp_path / f"{i}.safetensors", member)
        for i, member in enumerate(stack_of(rng, np.float16))
    ]
    written = []
    for threads in (1, 4):
        (tmp_path / str(threads)).mkdir()
        out = tmp_path / str(threads) / f"{threads}.safetensors"
        average(paths, out, threads=threads, weights=WEIGHTS)
        written.append(out.read_bytes())
    assert written[0] == written[1]


@dtypes
def test_paths_and_state_dicts_give_the_same(
    rng: np.random.Generator, tmp_path: Path, dtype: Any
) -> None:
    members = stack_of(rng, dtype)
    paths = [
        save(tmp_path / f"{i}.safetensors", member) for i, member in enumerate(members)
    ]
    average(paths, tmp_path / "out.safetensors", weights=WEIGHTS)
    found = load(tmp_path / "out.safetensors")
    assert same_bytes(found, average(members, weights=WEIGHTS))
    assert same_bytes(found, average(paths, weights=WEIGHTS))


@pytest.mark.filterwarnings("ignore:.* the same initialization")
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ],
    ids=str,
)
def test_torch_state_dicts_come_back_as_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    states = []
    for _ in range(2):
        wide = {
            "w": torch.randn(40, 30, generator=generator),
            "one": torch.randn((), generator=generator),
            "none": torch.zeros(0, 3),
        }
        states.append({name: value.to(dtype) for name, value in wide.items()})
    found = average(states)
    assert list(found) == ["w", "one", "none"]
    for name, value in found.items():
        a, b = (state[name] for state in states)
        exact = ((a.double() + b.double()) / 2).to(dtype)
        assert value.dtype == dtype
        assert value.shape == a.shape
        assert torch.equal(value.double(), exact.double())


def test_a_torch_state_dict_may_hold_views_and_parameters() -> None:
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "turned": base.view(4, 6).t(),
        "tail": base[12:],
        "every.other": base[::2],
        "parameter": torch.nn.Parameter(base.clone()),
        "turned.half": base.view(4, 6).t().bfloat16().t(),
    }
    found = average([state, state])
    for name, value in state.items():
        assert torch.equal(found[name], value.detach()), name


def test_tied_tensors_in_memory_come_back_as_one_object() -> None:
    shared = torch.ones(3)
    state = {"a": shared, "b": shared, "c": torch.ones(3)}
    found = average([state, state])
    assert found["a"] is found["b"]
    assert found["a"] is not found["c"]


def test_members_are_left_as_they_were(rng: np.random.Generator) -> None:
    members = stack_of(rng, np.float32)
    before = [{name: value.copy() for name, value in m.items()} for m in members]
    average(members)
    assert all(same_bytes(a, b) for a, b in zip(members, before, strict=True))


def test_one_member_is_a_copy_of_itself(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    member = stack_of(rng, ml_dtypes.bfloat16)[0]
    path = save(tmp_path / "a.safetensors", member)
    average([path], tmp_path / "out.safetensors", weights=[0.3])
    assert same_bytes(load(tmp_path / "out.safetensors"), member)


def test_progress_adds_up_to_the_bytes_that_the_plan_reads(
    rng: np.random.Generator,
) -> None:
    members = stack_of(rng, np.float32)
    counted: list[int] = []
    average(members, progress=counted.append, memory=6 << 20, threads=2)
    assert sum(counted) == plan(members).read_bytes
    assert len(counted) > 3


def test_a_report_says_what_was_done(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / f"{i}.safetensors", {"w": np.array([float(i)])}) for i in (1, 2)
    ]
    report = average(paths, tmp_path / "out.safetensors")
    assert isinstance(report, MergeReport)
    assert report.out == tmp_path / "out.safetensors"
    assert report.files == ["out.safetensors"]
    assert len(report.member_digests) == 2
    assert report.nonfinite_tensors == []
    assert report.sha256 == {}
    # The digest is that of the tensors: an average of the result alone has it too.
    again = average([report.out], tmp_path / "again.safetensors")
    assert again.member_digests == [report.digest]
    assert again.digest == report.digest


def test_an_error_of_a_rule_names_the_tensor() -> None:
    members = [{"a": np.ones(3), "b": np.array([1.0, sign])} for sign in (1.0, -1.0)]
    with pytest.raises(ValueError, match=r"^tensor 'b': entries for rule 'power_mean'"):
        average(members, rule="power_mean")


@pytest.mark.parametrize("params", [[1], "x", 3])
def test_rule_params_must_be_a_dict(params: Any) -> None:
    with pytest.raises(TypeError, match="rule_params must be a dict or None, found"):
        average([{"a": np.ones(3)}], rule="power_mean", rule_params=params)


@pytest.mark.parametrize("weight", [1.0, 2.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_single_member_is_copied_or_scaled_with_the_digests_of_both(
    tmp_path: Path, weight: float, scale: float
) -> None:
    stored = np.array([1.0, -0.0, 3.0, np.nan], np.float32)
    stored.view(np.uint32)[3] = 0x7FC01234  # NaN keeps its bits in a copy
    member, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_file({"w": stored}, member)
    how: Any = {"rule": "linear_combination", "rule_params": {"scale": scale}}
    with pytest.warns(UserWarning, match="contains NaN"):
        average([member], out, weights=[weight], **how)
    expected = stored if weight * scale == 1 == scale else stored * (weight * scale)
    assert load_file(out)["w"].tobytes() == expected.tobytes()
    assert verify(out, [member]).is_intact
