"""Several processes write one output: the bytes, restarts, and what they refuse."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles import atomic_io
from ensembles._typing import Float64
from ensembles.checkpoints import MergeReport, average, plan, write
from ensembles.checkpoints.merging import work_folder
from ensembles.rules.rule import Rule
from tests.checkpoints.building import save, save_shards
from tests.checkpoints.merging.torchrun import tree


def add_differences(stack: Float64, weights: Float64, *, base: Float64) -> Float64:
    return np.asarray(base + (stack - base).sum(0))


@pytest.fixture
def members(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    """Two directories of five shards, the second in other files."""
    paths = []
    for name in "ab":
        tensors = [
            {f"t{i}": rng.normal(size=100 * (i + 1)).astype(np.float32)}
            for i in range(5)
        ]
        path = save_shards(tmp_path / name, tensors if name == "a" else tensors[::-1])
        (path / "config.json").write_text(json.dumps({"from": name}))
        (path / "README.md").write_text("---\nlicense: mit\n---\n")
        paths.append(path)
    return paths


def work_folders(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.parts-*"))


def write_all(members: Any, out: Path, order: Any, **options: Any) -> MergeReport:
    """Write an output by ranks, one after the other."""
    for rank in order:
        report = average(members, out, rank=rank, world_size=len(order), **options)
    return report


@pytest.mark.parametrize("rule", ["mean", "slerp"])
@pytest.mark.parametrize(
    "order", [[0], [0, 1], [2, 0, 1], [6, 5, 4, 3, 2, 1, 0]], ids=str
)
def test_any_number_of_ranks_writes_the_bytes_of_one_process(
    members: list[Path], tmp_path: Path, rule: str, order: list[int]
) -> None:
    alone = average(members, tmp_path / "alone", rule=rule)
    report = write_all(members, tmp_path / "out", order, rule=rule)
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    assert report.digest == alone.digest
    assert report.member_digests == alone.member_digests
    assert report.missing == ()
    assert len(work_folders(tmp_path)) == (len(order) > 1)


def test_options_modules_and_a_base_are_the_same_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "base"):
        path = tmp_path / name
        for module in ("0_Transformer", "2_Dense"):
            tensors = {"w": rng.normal(size=50), "n": np.arange(3)}
            save(path / module / "model.safetensors", tensors)
            (path / module / "config.json").write_text("{}")
        modules = [
            {"idx": i, "name": str(i), "path": module, "type": "x.Y"}
            for i, module in enumerate(("0_Transformer", "2_Dense"))
        ]
        (path / "modules.json").write_text(json.dumps(modules))
    paths = [tmp_path / "a", tmp_path / "b"]
    options = {
        "rule": Rule(add_differences, needs_base=True),
        "base": tmp_path / "base",
        "dtype": "float16",
        "shard_size": 60,
    }
    alone = average(paths, tmp_path / "alone", **options)  # type: ignore[call-overload]
    report = write_all(paths, tmp_path / "out", [0, 1, 2], **options)
    assert len(report.files) == 4
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    assert report.base_digest == alone.base_digest is not None


def test_a_rank_reports_the_files_that_are_missing(
    members: list[Path], tmp_path: Path
) -> None:
    report = average(members, tmp_path / "out", rank=0, world_size=2, sha256=True)
    assert not (tmp_path / "out").exists()
    assert {*report.missing, *report.plan.assigned} == {*report.files}
    assert (report.digest, report.member_digests, report.sha256) == ("", [], {})
    assert report.base_digest is None


def test_complete_files_are_not_read_again(members: list[Path], tmp_path: Path) -> None:
    first = average(members, tmp_path / "out", rank=0, world_size=2)
    n_read: list[int] = []
    report = average(members, tmp_path / "out", world_size=1, progress=n_read.append)
    assert sum(n_read) == report.plan.read_bytes - first.plan.read_bytes > 0
    assert report.notes == (
        f"{len(first.plan.assigned)} of the 5 weight files of this process are "
        "complete from an earlier run, and are not written again",
    )
    average(members, tmp_path / "alone")
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    assert work_folders(tmp_path) == []


def test_a_truncated_file_is_written_again(members: list[Path], tmp_path: Path) -> None:
    report = average(members, tmp_path / "out", rank=0, world_size=2)
    (folder,) = work_folders(tmp_path)
    os.truncate(folder / "output" / report.plan.assigned[0], 20)
    average(members, tmp_path / "out", world_size=1)
    average(members, tmp_path / "alone")
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")


def test_a_member_that_changed_starts_anew(members: list[Path], tmp_path: Path) -> None:
    average(members, tmp_path / "out", rank=0, world_size=2)
    (old,) = work_folders(tmp_path)
    shard = members[0] / "model-00001-of-00005.safetensors"
    save(shard, {"t0": np.zeros(100, np.float32)})
    os.utime(shard, ns=(1, 1))  # as if the clock had not moved, but for the past
    report = write_all(members, tmp_path / "out", [0, 1])
    average(members, tmp_path / "alone")
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    assert f"{old} belongs to a run with other members or options" in report.notes[0]
    assert old in work_folders(tmp_path)


def test_a_rank_of_a_complete_output_changes_nothing(
    members: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = write_all(members, out, [0, 1])
    before = out.stat().st_ino
    n_read: list[int] = []
    for force in (False, True):
        report = write(
            plan(members, out, rank=0, world_size=2, force=force),
            progress=n_read.append,
        )
        assert n_read == []
        assert (report.digest, report.missing) == (done.digest, ())
        assert f"{out} is complete" in report.notes[0]
        assert out.stat().st_ino == before
    (out / "config.json").write_text("edited")
    with pytest.raises(FileExistsError, match="exists; pass force=True"):
        average(members, out, rank=0, world_size=2)


def test_an_output_of_another_run_is_replaced_only_by_force(
    members: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    average(members[:1], out)
    out.chmod(0o750)
    with pytest.raises(FileExistsError, match="exists; pass force=True"):
        average(members, out, rank=0, world_size=2)
    assert work_folders(tmp_path) == []
    write_all(members, out, [0, 1], force=True)
    average(members, tmp_path / "alone")
    assert tree(out) == tree(tmp_path / "alone")
    assert out.stat().st_mode & 0o777 == 0o750


def test_a_file_of_a_live_process_is_left_to_it(
    members: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    average(members, out, rank=1, world_size=2)
    (folder,) = work_folders(tmp_path)
    name = plan(members, out, rank=0, world_size=2).assigned[0]
    number = list(plan(members, out).parts).index(name) + 1
    with (folder / f"{number:05}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = average(members, out, rank=0, world_size=2)
    assert report.missing == (name,)
    assert report.notes == (f"{name} is being written by another process",)
    assert average(members, out, rank=0, world_size=2).missing == ()
    average(members, tmp_path / "alone")
    assert tree(out) == tree(tmp_path / "alone")


def test_a_process_notices_that_another_has_just_published(
    members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    done = write_all(members, tmp_path / "alone", [0])
    average(members, out, rank=1, world_size=2)
    usual = atomic_io.check_absent

    def check_late(path: Path, *, force: bool) -> None:
        monkeypatch.setattr(work_folder, "check_absent", usual)
        average(members, out, rank=0, world_size=2)
        usual(path, force=force)

    monkeypatch.setattr(work_folder, "check_absent", check_late)
    report = average(members, out, rank=0, world_size=2)
    assert (report.digest, report.missing) == (done.digest, ())


def test_a_process_that_waited_does_not_bring_the_old_output_back(
    members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    average(members, tmp_path / "alone")
    average(members, tmp_path / "old", weights=[1, 2])
    average(members, out, weights=[1, 2])
    usual = work_folder._lock

    @contextmanager
    def lock_late(path: Path, *, wait: bool = False) -> Iterator[bool]:
        if path.name == "publish.lock":
            monkeypatch.setattr(work_folder, "_lock", usual)
            average(members, out, rank=1, world_size=2, force=True)
            # As if it had been killed before it removed the replaced directory.
            shutil.copytree(tmp_path / "old", path.parent / "output")
        with usual(path, wait=wait) as is_free:
            yield is_free

    average(members, out, rank=0, world_size=2, force=True)
    monkeypatch.setattr(work_folder, "_lock", lock_late)
    average(members, out, rank=1, world_size=2, force=True)
    assert tree(out) == tree(tmp_path / "alone")
    (folder,) = work_folders(tmp_path)
    assert not (folder / "output").exists()


def test_each_rank_verifies_the_checksums_of_its_tensors(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((1000,), float(i)) for i in range(4)}
    for name in "ab":
        (tmp_path / name).mkdir()
        torch.save(tensors, tmp_path / name / "pytorch_model.bin")
    members = [tmp_path / "a", tmp_path / "b"]
    out = tmp_path / "out"
    average(members, tmp_path / "alone", shard_size=4000)
    n_read: list[int] = []
    options: dict[str, Any] = {"shard_size": 4000, "progress": n_read.append}
    write_all(members, out, [0, 1], **options)
    assert tree(out) == tree(tmp_path / "alone")
    assert sum(n_read) <= 2 * 2 * 4 * 4000
    path = tmp_path / "b" / "pytorch_model.bin"
    content = path.read_bytes()
    start = content.index(np.full(1000, 3, np.float32).tobytes())
    path.write_bytes(content[:start] + b"\1" + content[start + 1 :])
    average(members, tmp_path / "again", rank=0, world_size=2, shard_size=4000)
    with pytest.raises(ValueError, match=r"b/pytorch_model\.bin is damaged"):
        average(members, tmp_path / "again", rank=1, world_size=2, shard_size=4000)
    assert not (tmp_path / "again").exists()


def test_not_a_number_in_any_file_is_reported(tmp_path: Path) -> None:
    tensors = [{"a": np.array([np.nan])}, {"b": np.ones(1)}, {"c": np.array([np.inf])}]
    member = save_shards(tmp_path / "a", tensors)
    for rank in (0, 1):
        average([member], tmp_path / "out", rank=rank, world_size=3)
    with pytest.warns(UserWarning, match="2 tensors of the result contain NaN"):
        report = average([member], tmp_path / "out", rank=2, world_size=3)
    assert report.nonfinite_tensors == ["a", "c"]


def test_single_files_and_members_in_memory_are_refused(
    members: list[Path], tmp_path: Path
) -> None:
    message = "2 processes can only write a directory together, found the output"
    for out in (tmp_path / "x.safetensors", tmp_path / "x.pt", None):
        with pytest.raises(ValueError, match=message):
            average(members, out, world_size=2)
    average(members, tmp_path / "x.safetensors", world_size=1)
    assert work_folders(tmp_path) == []
    with pytest.raises(ValueError, match=r"found members\[0\] in memory"):
        average([{"w": np.ones(1)}], tmp_path / "out", world_size=2)
