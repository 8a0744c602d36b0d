"""All that headers can tell, before a tensor is read."""

from __future__ import annotations

import inspect
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ensembles.checkpoints import MergeOptions, average, plan, write
from ensembles.checkpoints.formats.checkpoint import FileSource
from tests.checkpoints.building import pair, save, save_shards


def test_a_plan_counts_bytes_threads_and_files(tmp_path: Path) -> None:
    members = pair(tmp_path, v=np.ones(5, np.float16), n=np.arange(2))
    planned = plan(members, tmp_path / "out.safetensors", weights=[1, 3], threads=2)
    assert planned.read_bytes == 2 * (12 + 10 + 16)
    assert planned.write_bytes == 12 + 10 + 16
    assert planned.free_bytes > planned.write_bytes
    assert planned.format == "safetensors"
    assert list(planned.parts) == ["out.safetensors"]
    assert planned.weights.tolist() == [1, 3]
    assert planned.threads <= 2
    assert {t.name: t.action for t in planned.targets} == {
        "w": "combine",
        "v": "combine",
        "n": "resolve_integers",
    }


def test_a_plan_reads_headers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    usual = FileSource.read_into

    def counted(self: FileSource, buffer: memoryview, offset: int) -> None:
        read.append(offset + len(buffer))
        usual(self, buffer, offset)

    monkeypatch.setattr(FileSource, "read_into", counted)
    path = save(tmp_path / "a.safetensors", {"w": np.ones(10**6)})
    plan([path, path], tmp_path / "out.safetensors")
    assert max(read) == path.stat().st_size - 8 * 10**6
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors"]


@pytest.mark.parametrize("out", [None, "out.pt", "out.safetensors", "out"])
def test_memory_grows_with_the_model_only_where_it_must(
    tmp_path: Path, out: str | None
) -> None:
    path = save(tmp_path / "a.safetensors", {"w": np.ones(3 * 10**6)})
    planned = plan([path], None if out is None else tmp_path / out, memory=8 << 20)
    needs_all = out is None
    assert (planned.peak_bytes > 8 * 3 * 10**6) == needs_all
    assert planned.peak_bytes <= (8 << 20) + planned.write_bytes * needs_all
    assert not any("in memory until" in note for note in planned.notes)


def test_many_small_members_fit_into_the_usual_memory() -> None:
    found = average([{"w": np.ones(3)}] * 2000)
    np.testing.assert_allclose(found["w"], 1)


def test_memory_does_not_grow_with_the_number_of_members() -> None:
    state = {"w": np.ones(10**6, np.float32)}
    peaks = [plan([state] * n).peak_bytes - 4 * 10**6 for n in (1, 2, 8, 32)]
    assert max(peaks) <= 64 << 20


def test_all_that_is_wrong_with_members_comes_at_once(tmp_path: Path) -> None:
    a, _ = pair(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    with pytest.raises(ValueError, match="no checkpoint at") as caught:
        plan([a, tmp_path / "no.safetensors", tmp_path / "cut.safetensors"])
    first, second = str(caught.value).splitlines()
    assert first == f"no checkpoint at {tmp_path / 'no.safetensors'}"
    assert second.startswith(f"{tmp_path / 'cut.safetensors'} is not a complete")


def test_members_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    paths = [tmp_path / "x.safetensors", tmp_path / "y"]
    with pytest.raises(FileNotFoundError, match=r"at .*x\.safetensors\n.* at .*y$"):
        plan(paths)


def test_all_that_stands_in_the_way_comes_at_once(tmp_path: Path) -> None:
    a = save(
        tmp_path / "a.safetensors",
        {"w": np.ones(3), "v": np.ones(2), "n": np.ones(1, np.int64), "x": np.ones(1)},
    )
    b = save(
        tmp_path / "b.safetensors",
        {"w": np.ones(4), "v": np.ones(2, np.int64), "n": np.ones(1), "y": np.ones(1)},
    )
    with pytest.raises(ValueError, match="differ at tensor 'w'") as caught:
        plan([a, b], tmp_path / "out.safetensors", shard_size=3)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    for line, name in zip(lines, "wvnxy", strict=False):
        assert f"differ at tensor '{name}'" in line
        assert str(a) in line
        assert str(b) in line
    assert "a shard size needs a directory" in lines[5]


def test_a_long_list_of_errors_is_cut(tmp_path: Path) -> None:
    a = {f"t{i}": np.ones(1) for i in range(50)}
    b = {f"t{i}": np.ones(2) for i in range(50)}
    with pytest.raises(ValueError, match=r"and 30 more problems$") as caught:
        plan([a, b])
    assert len(str(caught.value).splitlines()) == 21


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1], ValueError, "one number for each member: found 1 for 2 members"),
        ([math.nan, 1], ValueError, r"must be finite: weights\[0\] is nan"),
        ([1, math.inf], ValueError, r"must be finite: weights\[1\] is inf"),
        ([1, -1], ValueError, r"must not sum to zero"),
        ([0, 0], ValueError, r"must not sum to zero"),
        (["a", "b"], TypeError, r"must be real numbers"),
    ],
)
def test_wrong_weights_write_nothing(
    tmp_path: Path, weights: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"weights of 'mean' .*{message}"):
        average(pair(tmp_path), tmp_path / "out.safetensors", weights=weights)
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rule": "maen"}, ValueError, r"unknown rule 'maen'; did you mean 'mean'\?"),
        ({"rule": "median", "weights": [1, -0.5]}, ValueError, "must not be negative"),
        (
            {"rule_params": {"p": 2}},
            ValueError,
            r"'mean' has no parameter 'p' \(known: none",
        ),
        ({"dtype": "int8"}, ValueError, "dtype must be one of float64, .*'int8'"),
        ({"integers": "mean"}, ValueError, "integers must be one of error, first, max"),
        ({"missing": "zero"}, ValueError, "missing must be one of error, skip, first"),
        (
            {"memory": 10},
            ValueError,
            r"memory must be at least \d+ bytes.*found 10$",
        ),
        ({"threads": 0}, ValueError, "threads must be at least 1, found 0"),
        ({"shard_size": 0}, ValueError, "shard size must be positive, found 0"),
        ({"wieghts": [1]}, TypeError, r"unexpected keyword argument 'wieghts'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_options_are_told(
    tmp_path: Path, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan(pair(tmp_path), tmp_path / "out.safetensors", **options)


def test_a_rule_for_two_members_refuses_three() -> None:
    state = {"w": np.ones(2)}
    with pytest.raises(ValueError, match="'slerp' needs 2 members, found 3"):
        plan([state] * 3, rule="slerp")


def test_average_and_plan_show_the_same_options_with_the_same_defaults() -> None:
    planned, averaged = (inspect.signature(f).parameters for f in (plan, average))
    own = {"progress", "sha256"}
    assert averaged.keys() - planned.keys() == own
    assert planned.keys() - averaged.keys() == {"base_may_be_member"}
    for name in planned.keys() & averaged.keys():
        assert planned[name] == averaged[name]
    options = inspect.signature(MergeOptions).parameters
    for name, parameter in options.items():
        assert parameter.default == planned[name].default
        assert parameter.annotation == planned[name].annotation


def test_options_are_kept_as_they_were_validated() -> None:
    options = plan([{"w": np.ones(1)}], dtype="bf16", include=["w"]).options
    assert options == MergeOptions(dtype="bfloat16", include=["w"])


def test_no_member_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one member, found none"):
        plan([])


def test_a_disk_that_is_full_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"out\.safetensors needs 12 bytes.* 5 left"):
        plan(pair(tmp_path), tmp_path / "out.safetensors")


def test_a_small_budget_takes_fewer_threads() -> None:
    state = {"w": np.ones(10**6)}
    assert plan([state], threads=4, memory=2 << 20).threads == 1
    assert plan([state], threads=4, memory=64 << 20).threads == 4


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"include": ["enc.*"]}, {"enc.w", "enc.b"}),
        ({"include": ["*.w", "dec.b"]}, {"enc.w", "dec.w", "dec.b"}),
        ({"exclude": ["*.b"]}, {"enc.w", "dec.w"}),
        ({"include": ["enc.*"], "exclude": ["*.b"]}, {"enc.w"}),
    ],
)
def test_patterns_choose_tensors(options: Any, names: set[str]) -> None:
    state = {name: np.ones(1) for name in ("enc.w", "enc.b", "dec.w", "dec.b")}
    assert average([state, state], **options).keys() == names


def test_patterns_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"no tensor of members\[0\] is left to average"
    ):
        plan([{"w": np.ones(1)}], include=["x"])


def test_tensors_that_differ_do_not_matter_where_they_are_excluded() -> None:
    a = {"w": np.ones(1), "head": np.ones(3)}
    b = {"w": np.ones(1), "head": np.ones(4)}
    assert average([a, b], exclude=["head"]).keys() == {"w"}


def test_a_tied_tensor_outlives_the_one_it_is_tied_to() -> None:
    shared = np.ones(2)
    state = {"embedding": shared, "head": shared}
    assert average([state, state], exclude=["embedding"]).keys() == {"head"}
    assert average([state, state], exclude=["head"]).keys() == {"embedding"}


def test_directories_plan_each_of_their_files(tmp_path: Path) -> None:
    folder = save_shards(tmp_path / "a", [{"w": np.ones(2)}, {"v": np.ones(3)}])
    planned = plan([folder], tmp_path / "out")
    assert [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)] == list(planned.parts)


def test_a_hundred_members_fit_the_default_budget() -> None:
    state = {"w": np.ones(10**5, np.float32)}
    assert plan([state] * 100).threads >= 1


def test_one_member_alone_is_no_sequence() -> None:
    with pytest.raises(TypeError, match=r"found a single one: 'a.safetensors'"):
        plan("a.safetensors")
    with pytest.raises(TypeError, match=r"include must be a sequence of patterns"):
        plan([{"w": np.ones(1)}], include="w*")


def test_a_rule_and_weights_are_told_with_all_else() -> None:
    members = [{"w": np.ones(1)}, {"w": np.ones(2)}]
    with pytest.raises(ValueError, match=r"'maen'(.|\n)*found 3(.|\n)*tensor 'w'"):
        plan(members, rule="maen", weights=[1, 2, 3])


@pytest.mark.parametrize("force", [True, False])
def test_a_plan_notes_that_its_output_exists(tmp_path: Path, force: bool) -> None:
    out = tmp_path / "out.safetensors"
    members = pair(tmp_path)
    assert plan(members, out, force=force).notes == ()
    out.write_text("old")
    note = f"{out} exists; pass force=True (--force) to replace it"
    assert plan(members, out, force=force).notes == ((note,) if not force else ())


def test_writing_a_plan_without_an_output_is_an_error() -> None:
    planned = plan([{"w": np.ones(1)}])
    with pytest.raises(ValueError, match="the plan must have an out"):
        write(planned)


def test_a_suffix_that_names_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"soup\.txt has an unknown suffix"):
        plan([{"w": np.ones(1)}], tmp_path / "soup.txt")


def test_configs_that_differ_are_noted(tmp_path: Path) -> None:
    for name, heads in (("a", 2), ("b", 4)):
        (tmp_path / name).mkdir()
        save_file({"w": np.ones(2)}, tmp_path / name / "model.safetensors")
        config = {"num_attention_heads": heads, "_name_or_path": name}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    notes = plan([tmp_path / "a", tmp_path / "b"]).notes
    assert any("in num_attention_heads" in note for note in notes)
