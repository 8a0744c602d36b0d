"""Rules with several passes, with positions, and with whole rows or tensors."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average, plan
from ensembles.rules import Pass, Position, Rule, blockwise
from ensembles.rules.statistics import OrderedTotal
from tests.checkpoints.building import save_shards

SIZE = 1_100_003  # elements: several blocks, and no whole number of them


@blockwise
def sums(block: Float64) -> Float64:
    return np.asarray(block.sum(axis=1))


def means(total: Float64, weights: Float64, *, position: Position) -> Float64:
    size = np.prod(position.shape) if position.shape else 1
    return np.asarray(total / size)


def count_above(
    stack: Float64, *, state: Float64, total: Any = None, margin: float = 0.0
) -> Any:
    """How many entries are above the mean of the member, plus a margin."""
    total = np.zeros(len(stack), np.int64) if total is None else total
    total += (stack > state[:, None] + margin).sum(axis=1)
    return total


def both(total: Any, weights: Float64, *, state: Float64) -> Any:
    return state, total


def spread(stack: Float64, weights: Float64, *, state: Any) -> Float64:
    """First member minus its mean, plus the numbers of entries above the means."""
    return np.asarray(stack[0] - state[0][0] + state[1].sum())


TWO_PASSES = Rule(spread, passes=(Pass(sums, means), Pass(count_above, both)))


def save_members(folder: Path, rng: np.random.Generator) -> list[Path]:
    paths, shared = [], rng.normal(size=(7, 300))
    for name in "ab":
        state = {
            "long": rng.normal(size=SIZE).astype(np.float32),
            "wide": (shared + 0.1 * rng.normal(size=(7, 300))).astype(np.float32),
            "empty": np.zeros((0, 3), np.float32),
        }
        paths.append(folder / f"{name}.safetensors")
        save_file(state, paths[-1])
    return paths


BUDGETS = ((8 << 20, 1), (9 << 20, 2), (64 << 20, 4))


def merged(
    members: list[Path], tmp_path: Path, rule: Rule, **options: Any
) -> dict[str, Array]:
    """The result, which must be the same for all budgets and threads."""
    contents = set()
    for memory, threads in BUDGETS:
        read: list[int] = []
        report = average(
            members,
            tmp_path / "out.safetensors",
            rule=rule,
            memory=memory,
            threads=threads,
            force=True,
            progress=read.append,
            **options,
        )
        assert sum(read) == report.plan.read_bytes
        contents.add(report.out.read_bytes() if report.out else b"")
    assert len(contents) == 1
    return load_file(tmp_path / "out.safetensors")


def test_a_later_pass_receives_the_state_of_the_pass_before(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    members = save_members(tmp_path, rng)
    result = merged(members, tmp_path, TWO_PASSES)
    a, b = (load_file(path) for path in members)
    for name in ("long", "wide"):
        flat = np.stack([a[name].ravel(), b[name].ravel()]).astype(np.float64)
        above = (flat > flat.mean(axis=1, keepdims=True)).sum()
        expected = flat[0] - flat[0].mean() + above
        np.testing.assert_allclose(result[name].ravel(), expected, rtol=1e-6)
        in_memory = TWO_PASSES(np.stack([a[name], b[name]]))
        assert in_memory.tobytes() == result[name].tobytes()


def needs_counts(margin: float = 0.0) -> bool:
    return margin < 10


def rest(stack: Float64, weights: Float64, *, state: Any) -> Float64:
    return np.asarray(stack[0] * (-1 if state is None else 1))


def test_a_pass_that_is_not_needed_is_not_read(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    def finish(total: Any, weights: Float64) -> Any:
        return total

    def count(stack: Float64, *, total: Any = None, margin: float = 0.0) -> Any:
        return count_above(stack, state=np.zeros(2), total=total, margin=margin)

    rule = Rule(rest, passes=(Pass(count, finish, needs_counts),))
    members = save_members(tmp_path, rng)
    once = plan(members, rule=rule, rule_params={"margin": 11.0}).read_bytes
    assert plan(members, rule=rule).read_bytes == 2 * once
    params = {"margin": 11.0}
    result = merged(members, tmp_path, rule, rule_params=params)
    assert result["wide"].tobytes() == (-load_file(members[0])["wide"]).tobytes()


def scaled(
    stack: Float64, weights: Float64, *, state: Float64, scope: str = "tensor"
) -> Float64:
    return np.asarray(stack[0] / state[0])


TOTAL = Rule(scaled, statistics=sums)


def test_scope_model_adds_up_the_statistics_of_all_tensors(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    members = save_members(tmp_path, rng)
    a = load_file(members[0])
    each: list[dict[str, Any]] = [{}, {"scope": "tensor"}]
    for params in each:
        result = merged(members, tmp_path, TOTAL, rule_params=params)
        for name in ("long", "wide"):
            total = a[name].sum(dtype=np.float64)
            np.testing.assert_allclose(result[name], a[name] / total, rtol=1e-5)
    result = merged(members, tmp_path, TOTAL, rule_params={"scope": "model"})
    total = sum(a[name].sum(dtype=np.float64) for name in ("long", "wide"))
    for name in ("long", "wide"):
        np.testing.assert_allclose(result[name], a[name] / total, rtol=1e-5)
    # Neither shards nor the order of names in the files change it.
    states = [load_file(path) for path in members]
    folders = [
        save_shards(
            tmp_path / f"{i}",
            [{"wide": state["wide"], "empty": state["empty"]}, {"long": state["long"]}],
        )
        for i, state in enumerate(states)
    ]
    report = average(
        folders, tmp_path / "out", rule=TOTAL, rule_params={"scope": "model"}
    )
    assert report.out is not None
    sharded = {
        name: tensor
        for part in report.out.glob("*.safetensors")
        for name, tensor in load_file(part).items()
    }
    assert sharded["long"].tobytes() == result["long"].tobytes()
    assert sharded["wide"].tobytes() == result["wide"].tobytes()


def test_scope_model_needs_a_single_process(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    states = [load_file(path) for path in save_members(tmp_path, rng)]
    folders = [
        save_shards(tmp_path / str(i), [{"wide": s["wide"]}, {"long": s["long"]}])
        for i, s in enumerate(states)
    ]
    params = {"scope": "model"}
    with pytest.raises(ValueError, match=r"scope='model' .* in one process"):
        plan(
            folders,
            tmp_path / "o",
            rule=TOTAL,
            rule_params=params,
            rank=0,
            world_size=2,
        )


def numbered(stack: Float64, weights: Float64, *, position: Position) -> Float64:
    """Index of each element in its tensor, plus the length of the tensor's name."""
    first = float(position.start + len(position.name))
    return first + np.arange(stack.shape[1], dtype=np.float64)


def test_a_function_receives_the_position_of_its_block(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    result = merged(save_members(tmp_path, rng), tmp_path, Rule(numbered))
    for name in ("long", "wide"):
        expected = np.arange(result[name].size) + 4.0
        assert result[name].ravel().tolist() == expected.tolist()
    rule = Rule(numbered)
    assert rule(np.zeros((1, 2, 2)), name="abc").tolist() == [[3, 4], [5, 6]]
    assert not rule.is_elementwise


def test_tied_tensors_have_the_position_of_the_first(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    shared = torch.zeros(3)
    torch.save({"a": shared, "tied.a": shared, "c": torch.zeros(2)}, tmp_path / "a.pt")
    average([tmp_path / "a.pt"], tmp_path / "b.pt", rule=Rule(numbered))
    result = torch.load(tmp_path / "b.pt")
    assert result["a"].tolist() == result["tied.a"].tolist() == [1, 2, 3]
    assert result["c"].tolist() == [1, 2]


def test_tensors_that_one_member_ties_have_statistics_and_positions_of_their_own(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    a, b, c = rng.normal(size=(3, 5))
    save_file({"w": a}, tmp_path / "tied.safetensors", metadata={"tied.w": "w"})
    save_file({"w": b, "tied.w": c}, tmp_path / "untied.safetensors")
    members = [tmp_path / "untied.safetensors", tmp_path / "tied.safetensors"]
    for order in (1, -1):
        paths = members[::order]
        result = merged(paths, tmp_path, TOTAL)
        stacks = {"w": [b, a][::order], "tied.w": [c, a][::order]}
        for name, stack in stacks.items():
            assert result[name].tobytes() == TOTAL(np.stack(stack)).tobytes()
        assert merged(paths, tmp_path, Rule(numbered))["tied.w"].tolist()[0] == 6


def centered(stack: Float64, weights: Float64, *, position: Position) -> Float64:
    """Entries minus the mean of their row."""
    rows = stack[0].reshape(-1, position.row_size)
    return np.asarray(rows - rows.mean(axis=1, keepdims=True)).ravel()


@pytest.mark.parametrize("shape", [(5, 70_000), (300_000, 3), (11,), (), (0, 4)])
def test_unit_row_gives_whole_rows(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    state = {"w": np.asarray(rng.normal(size=shape)), "one": np.ones(2)}
    save_file(state, tmp_path / "a.safetensors")
    result = merged([tmp_path / "a.safetensors"], tmp_path, Rule(centered, unit="row"))
    mean = state["w"].mean(axis=-1, keepdims=True) if shape else state["w"]
    expected = state["w"] - mean
    np.testing.assert_allclose(result["w"], expected, atol=1e-12)


def transposed(stack: Float64, weights: Float64, *, position: Position) -> Float64:
    return np.asarray(stack[0].reshape(position.shape).T.ravel())


def test_unit_tensor_gives_the_whole_tensor_and_says_how_much_memory_it_needs(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    state = {"w": rng.normal(size=(2_000, 1_001)), "v": np.ones(2)}
    save_file(state, tmp_path / "a.safetensors")
    rule = Rule(transposed, unit="tensor", workspace=2)
    result = merged([tmp_path / "a.safetensors"], tmp_path, rule)
    assert result["w"].tobytes() == state["w"].T.tobytes()
    planned = plan([tmp_path / "a.safetensors"], rule=rule, memory=8 << 20)
    # As stored, in float64, the result twice, and the workspace.
    assert planned.peak_bytes >= 6 * state["w"].nbytes
    assert any("reads whole tensors" in note for note in planned.notes)


def test_statistics_beside_passes_are_refused() -> None:
    with pytest.raises(TypeError, match="statistics or passes, not both"):
        Rule(spread, statistics=sums, passes=(Pass(sums),))
    with pytest.raises(TypeError, match="must have statistics, because it has finish"):
        Rule(spread, finish=both)


def test_a_fused_pass_takes_members_of_one_format_as_they_are_stored() -> None:
    formats = []

    def counted(stack: Array, *, total: Any = None) -> Any:
        formats.append(stack.dtype)
        return np.zeros(1, np.int64) if total is None else total

    def first(stack: Float64, weights: Float64, *, state: Any) -> Float64:
        formats.append(stack.dtype)
        return np.asarray(stack[0])

    rule = Rule(first, passes=[Pass(counted, fused=True)])
    rule(np.ones((2, 3), np.float16))
    assert formats == [np.float16, np.float64]
    formats.clear()
    rows: list[Array] = [np.ones(3, np.float16), np.ones(3, np.float32)]
    rule.state_of(rows, np.ones(2), None, {}, position=Position("", (3,)))
    assert formats == [np.float64]


def histograms(stack: Float64, *, total: Any = None) -> Any:
    return np.zeros((len(stack), 1 << 20), np.int64) if total is None else total


def first_member(stack: Float64, weights: Float64, *, state: Any) -> Float64:
    return np.asarray(stack[0])


def test_the_planned_memory_includes_statistics(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    members = save_members(tmp_path, rng)
    rule = Rule(first_member, statistics=histograms)
    n_bytes = rule.statistics_bytes(2, {})
    assert n_bytes == 2 * 8 << 20
    for memory, threads, has_note in ((16 << 20, 1, True), (128 << 20, 3, False)):
        out = tmp_path / "out.safetensors"
        how: dict[str, Any] = {"rule": rule, "memory": memory, "threads": 8}
        average(members, out, force=True, **how)
        tracemalloc.start()
        report = average(members, out, force=True, **how)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.plan.threads == threads
        assert 2 * threads * n_bytes < report.plan.peak_bytes
        assert n_bytes < peak < report.plan.peak_bytes
        notes = [note for note in report.plan.notes if "keeps statistics" in note]
        assert len(notes) == has_note == (report.plan.peak_bytes > memory)


def test_counts_are_added_in_any_order_without_waiting() -> None:
    counts, sums = OrderedTotal(3), OrderedTotal(3)
    for start, value in ((2, 5), (1, 7)):
        assert counts.add(start, start + 1, np.array([[value]])) is None
        assert sums.add(start, start + 1, np.array([[float(value)]])) is None
    assert (len(counts._waiting), len(sums._waiting)) == (0, 2)
    assert counts.add(0, 1, np.array([[1]])) == sums.add(0, 1, np.array([[1.0]])) == 13
