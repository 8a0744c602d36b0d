"""Properties of all rules that merge matrices: which tensors, threads, formats, NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.stats import ortho_group
from threadpoolctl import threadpool_limits

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average, plan
from ensembles.checkpoints.methods import iso_c
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.methods.matrices.task_matrices import EXCLUDE, is_matrix
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.rules.passes import Position
from ensembles.rules.rule import Rule

EXACT = {"solver": "exact"}
# Each rule with parameters for which it does not depend on the scale of differences.
CASES: dict[str, dict[str, Any]] = {
    "wudi": EXACT,
    "tsv": {},
    "iso_c": {},
    "iso_cts": {},
}
each_case = pytest.mark.parametrize(
    ("rule", "params"), [(RULES[n], p) for n, p in CASES.items()], ids=list(CASES)
)


def tasks_of(rng: np.random.Generator, *shape: int) -> Float64:
    return rng.normal(size=shape) * np.geomspace(1, 3, shape[0])[:, None, None]


def merged(rule: Rule, tasks: Array, **params: Any) -> Array:
    return rule(tasks, base=np.zeros_like(tasks[0]), **params)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (8, 8)),
        ("model.layers.0.mlp.gate.weight", (4, 8)),
        ("h.0.attn.c_attn.weight", (8, 24)),
        ("bert.encoder.layer.0.output.dense.weight", (8, 8)),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 16)),
        ("model.layers.0.mlp.experts.3.up_proj.weight", (16, 8)),
        ("head.weight", (10, 8)),
        ("coefs_.0", (8, 4)),
        ("", (3, 3)),
    ],
)
def test_matrices_of_linear_layers_are_merged_as_matrices(
    name: str, shape: tuple[int, ...]
) -> None:
    assert is_matrix(Position(name, shape), EXCLUDE)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (50, 8)),
        ("transformer.wte.weight", (50, 8)),
        ("transformer.wpe.weight", (50, 8)),
        ("shared.weight", (50, 8)),
        ("lm_head.weight", (50, 8)),
        ("output.weight", (50, 8)),
        ("text_projection", (8, 8)),
        ("visual.positional_embedding", (50, 8)),
        ("layers.0.blocks.0.attn.relative_position_bias_table", (169, 4)),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (4, 16)),
        ("backbone.layers.0.mixer.A_log", (16, 4)),
        ("backbone.layers.0.mixer.conv1d.weight", (16, 1, 4)),
        ("conv1.weight", (8, 3, 3, 3)),
        ("model.norm.weight", (8,)),
        ("", (3, 3, 3)),
    ],
)
def test_all_other_tensors_are_not(name: str, shape: tuple[int, ...]) -> None:
    assert not is_matrix(Position(name, shape), EXCLUDE)


@each_case
def test_other_tensors_get_the_mean_the_sum_or_nothing(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    stack, base = rng.normal(size=(3, 5, 4)), rng.normal(size=(5, 4))
    weights = np.array([1.0, 0.0, -0.5])
    total = weights[0] * (stack[0] - base) + weights[2] * (stack[2] - base)
    how: dict[str, Any] = {"base": base, "name": "wte.weight", "scale": 0.7, **params}
    for others, factor in (("mean", 0.5), ("sum", 1.0), ("base", 0.0)):
        found = rule(stack, weights, others=others, **how)
        np.testing.assert_allclose(found, base + 0.7 * factor * total, rtol=1e-14)
    as_matrix = rule(stack, weights, exclude="", **how)
    assert not np.allclose(as_matrix, rule(stack, weights, **how))
    assert np.array_equal(as_matrix, rule(stack, weights, **{**how, "name": "q"}))


@each_case
def test_each_expert_is_a_matrix_of_its_own(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    stack, base = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(3, 5, 4))
    found = rule(stack, base=base, name="mlp.experts.up_proj", **params)
    each = [rule(stack[:, i], base=base[i], name="q", **params) for i in range(3)]
    assert np.array_equal(found, each)


@each_case
def test_a_matrix_with_nan_or_infinity_is_nan_and_others_are_not(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    stack, base = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(3, 5, 4))
    stack[0, 0, 1, 1], stack[1, 2, 3, 3] = np.nan, np.inf
    found = rule(stack, base=base, name="experts", **params)
    assert np.isnan(found).all(axis=(1, 2)).tolist() == [True, False, True]
    assert np.isfinite(found[1]).all()


@each_case
@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
def test_a_result_is_rounded_once(
    rule: Rule, params: dict[str, Any], dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    stack = round_to_dtype(rng.normal(size=(3, 6, 5)), dtype)
    base = round_to_dtype(rng.normal(size=(6, 5)), dtype)
    found = rule(stack, base=base, **params)
    wide = rule(stack.astype(np.float64), base=base.astype(np.float64), **params)
    assert found.tobytes() == round_to_dtype(wide, dtype).tobytes()


@each_case
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (1, 5), (5, 1), (1, 1)])
def test_scaled_and_rotated_tasks_give_a_scaled_and_rotated_result(
    rule: Rule,
    params: dict[str, Any],
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    tasks = tasks_of(rng, 3, *shape)
    expected = merged(rule, tasks, **params)
    np.testing.assert_allclose(merged(rule, 2.5 * tasks, **params), 2.5 * expected)
    half = merged(rule, tasks, scale=0.5, **params)
    np.testing.assert_allclose(half, 0.5 * expected)
    left, right = (
        ortho_group.rvs(n, random_state=1) if n > 1 else np.eye(1) for n in shape
    )
    found = merged(rule, left @ tasks @ right, **params)
    np.testing.assert_allclose(found, left @ expected @ right, atol=1e-12)


@each_case
def test_the_order_of_members_does_not_matter(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    tasks = tasks_of(rng, 4, 9, 8)
    weights = np.array([1.0, 0.0, -0.5, 2.0])
    expected = merged(rule, tasks, weights=weights, **params)
    found = merged(rule, tasks[::-1], weights=weights[::-1], **params)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    counted = merged(rule, tasks[weights != 0], weights=weights[weights != 0], **params)
    assert np.array_equal(expected, counted)
    weighted = merged(rule, weights[weights != 0, None, None] * tasks[weights != 0])
    if not params:
        assert np.array_equal(expected, weighted)


@each_case
def test_differences_of_any_size_are_merged(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    tasks = tasks_of(rng, 2, 4, 3)
    expected = merged(rule, tasks, **params)
    for factor in (2.0**-500, 2.0**600):
        found = merged(rule, factor * tasks, **params)
        np.testing.assert_allclose(found / factor, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "params", "values"),
    [
        ("tsv", {}, [4, 2, 1, 0]),
        ("iso_c", {}, [7.5 / 4] * 3 + [0]),
        ("iso_cts", {"common_fraction": 1}, [7 / 4] * 3 + [0]),
        ("iso_cts", {"common_fraction": 0}, [7 / 4] * 3 + [0]),
    ],
)
def test_epsilon_is_a_fraction_of_the_largest_singular_value(
    name: str, params: dict[str, Any], values: list[float]
) -> None:
    task = np.diag([4.0, 2.0, 1.0, 0.5])  # its Frobenius norm is 4.6
    found = merged(RULES[name], task[None], epsilon=0.24, **params)
    np.testing.assert_allclose(found, np.diag(values), atol=1e-14)


@each_case
def test_members_that_equal_the_base_leave_it_unchanged(
    rule: Rule, params: dict[str, Any], rng: np.random.Generator
) -> None:
    base = rng.normal(size=(5, 4)).astype(np.float32)
    found = rule(np.stack([base, base]), base=base, **params)
    assert found.tobytes() == base.tobytes()


@pytest.mark.parametrize("rule", ["wudi", "tsv", "iso_c", "iso_cts"])
def test_empty_matrices_stay_empty(rule: str) -> None:
    for shape in ((0, 3), (3, 0), (2, 0, 3)):
        found = RULES[rule](np.zeros((2, *shape)), base=np.zeros(shape), name="experts")
        assert found.shape == shape


@pytest.fixture
def files(rng: np.random.Generator, tmp_path: Path) -> list[Path]:
    """A base and three members, whose matrices are large enough for BLAS threads."""
    shapes = {
        "a.weight": (130, 170),
        "b.weight": (200, 90),
        "embed": (70, 40),
        "n": (9,),
    }
    shapes |= {"mlp.experts.up_proj": (3, 40, 30)}
    base = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    members = [
        {n: t + np.float32(0.01) * rng.normal(size=t.shape) for n, t in base.items()}
        for _ in range(3)
    ]
    paths = []
    states: list[dict[str, Array]] = [base, *members]
    for index, tensors in enumerate(states):
        paths.append(tmp_path / f"{index}.safetensors")
        save_file({n: t.astype(np.float32) for n, t in tensors.items()}, paths[-1])
    return paths


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_threads_and_any_budget_give_the_same_bytes(
    name: str, files: list[Path], tmp_path: Path
) -> None:
    base, *members = files
    params = {"steps": 3} if name == "wudi" else {}
    contents = set()
    for index, threads in enumerate([1, 2, 4]):
        out = tmp_path / f"out{index}.safetensors"
        with threadpool_limits(2 - index % 2):
            average(
                members,
                out,
                base=base,
                rule=name,
                rule_params=params,
                threads=threads,
                memory=(1 + 7 * index) << 22,
            )
        contents.add(out.read_bytes())
    assert len(contents) == 1
    result, start = load_file(out), load_file(base)
    mean = np.mean([load_file(path)["embed"].astype(np.float64) for path in members], 0)
    np.testing.assert_allclose(result["embed"], mean, atol=1e-6)
    how: dict[str, Any] = {"base": start["a.weight"], "name": "a.weight", **params}
    stack = [load_file(path)["a.weight"] for path in members]
    assert np.array_equal(result["a.weight"], RULES[name](stack, **how))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("wudi", {"solver": "sgd"}, "solver of 'wudi' must be one of 'adam', 'exact'"),
        ("wudi", {"steps": -1}, "steps of 'wudi' must be a non-negative integer"),
        ("wudi", {"steps": 2.5}, "steps of 'wudi' must be a non-negative integer"),
        (
            "wudi",
            {"learning_rate": -1.0},
            "learning_rate of 'wudi' must be .* at least 0",
        ),
        ("wudi", {"transposed": "("}, "transposed must be a regular expression"),
        ("tsv", {"density": 1.5}, "density of 'tsv' must be .* at most 1, found 1.5"),
        ("tsv", {"exclude": "["}, r"exclude must be a regular .*found '\['"),
        ("tsv", {"exclude": 3}, "exclude must be a regular .*found 3"),
        (
            "iso_c",
            {"others": "first"},
            "others of 'iso_c' must be one of 'mean', 'sum'",
        ),
        ("iso_c", {"epsilon": -0.1}, "epsilon of 'iso_c' must be .* at least 0"),
        ("iso_c", {"scale": float("nan")}, "scale of 'iso_c' must be a finite number"),
        (
            "iso_cts",
            {"common_fraction": 2},
            "common_fraction of 'iso_cts' .* at most 1",
        ),
    ],
)
def test_wrong_parameters_are_refused_before_data_is_read(
    name: str, params: dict[str, Any], message: str
) -> None:
    members = [{"w": np.ones((2, 2))}, {"w": np.zeros((2, 2))}]
    with pytest.raises(ValueError, match=message):
        plan(members, base=members[0], rule=name, rule_params=params)


def test_the_plan_notes_which_tensors_are_matrices(files: list[Path]) -> None:
    base, *members = files
    note = "rule 'tsv' combines whole matrices of {}, such as {}, element by element"
    notes = plan(members, base=base, rule="tsv").notes
    assert note.format("3 tensors, and 2 others", "embed") in notes
    params = {"exclude": "weight|experts"}
    notes = plan(members, base=base, rule="tsv", rule_params=params).notes
    assert note.format("1 tensor, and 4 others", "a.weight") in notes
    average_notes = plan(members, rule="mean").notes
    assert not any("matrices" in note for note in average_notes)


def test_memory_is_that_of_the_largest_matrix(tmp_path: Path) -> None:
    def peak(**shapes: tuple[int, ...]) -> int:
        states = [{n: np.zeros(s) for n, s in shapes.items()} for _ in range(4)]
        base, *members = states
        how: dict[str, Any] = {"rule": "tsv", "memory": 1, "threads": 8}
        return plan(members, tmp_path / "x.npz", base=base, **how).peak_bytes

    matrix = peak(w=(300, 400))
    assert matrix > 18 * 300 * 400 * 8
    assert peak(experts=(2, 300, 400)) == peak(experts=(9, 300, 400)) == matrix
    assert peak(w=(300, 400), embed=(9000, 400), conv=(800, 400, 3)) == matrix


def test_a_tied_matrix_is_merged_by_its_first_name(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    import torch

    paths = [tmp_path / f"{index}.pt" for index in range(3)]
    for path in paths:
        tensor = torch.from_numpy(rng.normal(size=(300, 290)))
        torch.save({"embed.weight": tensor, "head.weight": tensor}, path)
    members, base = [torch.load(path) for path in paths[1:]], torch.load(paths[0])
    stack = np.stack([state["embed.weight"].numpy() for state in members])
    expected = iso_c(stack, base=base["embed.weight"].numpy(), name="embed.weight")
    for suffix in (".pt", ".safetensors"):
        out = tmp_path / f"out{suffix}"
        average(paths[1:], out, base=paths[0], rule="iso_c")
        found = torch.load(out) if suffix == ".pt" else load_file(out)
        for result in found.values():
            assert np.array_equal(np.asarray(result), expected)
