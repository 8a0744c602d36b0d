"""Members that are no files, lead elsewhere, or change: one clear line each."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan, write
from tests.checkpoints.building import (
    header_of,
    load,
    pair,
    save,
    save_raw,
    save_shards,
)

SUFFIXES = ("safetensors", "pt")
suffixes = pytest.mark.parametrize("suffix", SUFFIXES)


def refusal(*members: Path, kind: type[Exception] = ValueError) -> str:
    """Message of the error, which is one line and names the last member."""
    started = time.perf_counter()
    with pytest.raises(kind, match=re.escape(members[-1].name)) as caught:
        plan(members)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - started < 20
    return str(caught.value)


def sharded(path: Path) -> Path:
    save_shards(path, [{"w": np.ones(3, np.float32)}, {"v": np.ones(3, np.float32)}])
    (path / "config.json").write_text(json.dumps({"model_type": "x"}))
    (path / "vocab.txt").write_text("a\n")
    return path


def torch_file(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@suffixes
@pytest.mark.parametrize("in_directory", [False, True])
def test_a_socket_is_not_a_regular_file(
    tmp_path: Path, suffix: str, in_directory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"safetensors": "model.safetensors", "pt": "pytorch_model.bin"}[suffix]
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(name)
        message = refusal(tmp_path if in_directory else tmp_path / name)
    assert f"{name} is not a regular file" in message


@suffixes
def test_a_link_to_itself_is_no_checkpoint(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.symlink_to(path.name)
    assert "no checkpoint at" in refusal(path, kind=FileNotFoundError)


def test_a_shard_that_links_to_itself_does_not_exist(tmp_path: Path) -> None:
    path = sharded(tmp_path / "a")
    shard = path / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(shard.name)
    assert "which does not exist; download it" in refusal(path)


def test_a_directory_that_contains_itself_is_read_once(tmp_path: Path) -> None:
    path = sharded(tmp_path / "a")
    (path / "again").symlink_to(path)
    (path / "up").symlink_to("..")
    average([path], tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        {*os.listdir(path)} - {"again", "up"}
    )


def test_half_a_million_names_are_refused(tmp_path: Path) -> None:
    entries = ",".join(f'"{number}":1' for number in range(500_001))
    path = save_raw(tmp_path / "a.safetensors", f"{{{entries}}}".encode())
    assert "it names 500001 tensors" in refusal(path)


@pytest.mark.parametrize("size", [100 << 20, 1 << 40])
def test_a_long_header_is_refused_though_the_file_has_it(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + b"{")
    os.truncate(path, 8 + size)  # no bytes on the disk
    assert f"claim a header of {size} bytes" in refusal(path)


def test_a_long_index_is_refused_though_the_file_has_it(tmp_path: Path) -> None:
    path = sharded(tmp_path / "a")
    os.truncate(path / "model.safetensors.index.json", (100 << 20) + 1)
    with pytest.raises(ValueError, match=r"index\.json has more than \d+ bytes"):
        plan([path])


def test_an_empty_tensor_of_dimensions_that_overflow_is_refused(tmp_path: Path) -> None:
    """NumPy and torch cannot have it, though it has no bytes."""
    entry = {"dtype": "F32", "shape": [0, 1 << 62, 1 << 62], "data_offsets": [0, 0]}
    path = save_raw(tmp_path / "a.safetensors", json.dumps({"w": entry}).encode())
    assert "'w'" in refusal(path)


@pytest.mark.parametrize("place", ["safetensors", "pt", "shard", "index"])
def test_a_member_that_is_cut_after_the_plan_is_an_error(
    tmp_path: Path, place: str
) -> None:
    if place in SUFFIXES:
        tensors = {"w": np.ones(1000, np.float32)}
        path = cut = tmp_path / f"a.{place}"
        if place == "pt":
            torch_file(path, {"w": torch.ones(1000)})
        else:
            save(path, tensors)
    else:
        path = sharded(tmp_path / "a")
        name = {"shard": "model-00002-of-00002.safetensors"}.get(place, "vocab.txt")
        cut = path / name
    planned = plan([path], tmp_path / ("out" if path.is_dir() else f"out.{place}"))
    if cut.name == "vocab.txt":
        cut.unlink()
        kind: type[Exception] = FileNotFoundError
    else:
        os.truncate(cut, cut.stat().st_size // 2)
        kind = ValueError
    with pytest.raises(kind, match=re.escape(cut.name)) as caught:
        write(planned)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == [path.name]


def replaced(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [replaced, appended, os.utime])
@pytest.mark.parametrize("number", [1, 2])
def test_a_directory_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, change: Callable[[Path], None], number: int
) -> None:
    members = [sharded(tmp_path / name) for name in "ab"]
    shard = members[1] / f"model-0000{number}-of-00002.safetensors"
    is_changed = False

    def changing(n_bytes: int) -> None:
        nonlocal is_changed
        if not is_changed:
            is_changed = True
            change(shard)

    with pytest.raises(ValueError, match=rf"{shard.name} was (modified|replaced) whi"):
        average(members, tmp_path / "out", progress=changing)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_whole_directory_that_is_replaced_is_an_error(tmp_path: Path) -> None:
    """As by a trainer that writes its last checkpoint again."""
    members = [sharded(tmp_path / name) for name in "ab"]
    planned = plan(members, tmp_path / "out")
    members[0].rename(tmp_path / "old")
    sharded(members[0])
    with pytest.raises(ValueError, match=r"-of-00002\.safetensors was replaced"):
        write(planned)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "old"]


NAMES = ["two\nlines", "\x1b[2Jerased", "tab\t", "\u202eright to left", 'quo"te', "a/b"]


@pytest.mark.parametrize("name", NAMES)
@suffixes
def test_any_name_of_a_tensor_is_kept(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / "a.safetensors"
    save(path, {name: np.ones(3, np.float32)})
    average([path, path], tmp_path / f"out.{suffix}")
    found = average([tmp_path / f"out.{suffix}"])
    assert list(found) == [name]
    assert np.asarray(found[name]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_any_name_of_a_file_is_read_and_written(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / f"{name}.safetensors", {"w": np.ones(3, np.float32)})
    average([path], tmp_path / f"out {name}.safetensors")
    assert load(tmp_path / f"out {name}.safetensors")["w"].tolist() == [1, 1, 1]
    assert "w" in header_of(path)


def test_meta_tensors_are_refused(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "a.pt", {"w": torch.ones(3, device="meta")})
    assert "tensor 'w'" in refusal(path)


def test_an_expanded_tensor_is_refused_if_it_is_larger_than_the_file(
    tmp_path: Path,
) -> None:
    path = torch_file(tmp_path / "a.pt", {"w": torch.ones(1).expand(1 << 30)})
    assert "is an expanded view, larger than the file" in refusal(path)


def test_two_entries_of_one_name_in_an_archive_are_refused(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "a.pt", {"w": torch.ones(3)})
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data/0")]
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr(name, np.zeros(3, np.float32).tobytes())
    assert "occurs twice" in refusal(path)


def test_of_two_damaged_members_each_has_its_line(tmp_path: Path) -> None:
    members = pair(tmp_path)
    for member in members:
        os.truncate(member, 20)
    with pytest.raises(ValueError, match=r"a\.safetensors is not") as caught:
        plan(members)
    assert [line.count(str(tmp_path)) for line in str(caught.value).splitlines()] == [
        1,
        1,
    ]
