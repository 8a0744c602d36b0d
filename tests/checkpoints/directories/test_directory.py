"""Directories of weights and what lies around them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan
from tests.checkpoints.building import (
    header_of,
    load,
    same_bytes,
    save,
    save_index,
    save_shards,
)

A = {"w": np.ones(3, np.float32), "v": np.zeros(2, np.float32)}
B = {name: value + 2 for name, value in A.items()}
MEAN = {name: value + 1 for name, value in A.items()}


def single(path: Path, tensors: Any = A, **files: str) -> Path:
    save(path / "model.safetensors", tensors)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content)
    return path


def shards(path: Path, tensors: Any = A) -> Path:
    return save_shards(path, [{name: value} for name, value in tensors.items()])


def binary(path: Path, tensors: Any = A) -> Path:
    path.mkdir()
    torch.save(
        {name: torch.from_numpy(value) for name, value in tensors.items()},
        path / "pytorch_model.bin",
    )
    return path


def binary_shards(path: Path, tensors: Any = A) -> Path:
    path.mkdir()
    names = [f"pytorch_model-{i:05}-of-00002.bin" for i in (1, 2)]
    for name, (key, value) in zip(names, tensors.items(), strict=True):
        torch.save({key: torch.from_numpy(value)}, path / name)
    index = {"weight_map": dict(zip(tensors, names, strict=True))}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return path


KINDS = {f.__name__: f for f in (single, shards, binary, binary_shards)}


def tensors_of(folder: Path) -> dict[str, Any]:
    return {
        name: value
        for path in folder.glob("*.safetensors")
        for name, value in load(path).items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_directories_of_any_two_kinds_average(
    tmp_path: Path, kind: str, other: str
) -> None:
    members = [KINDS[kind](tmp_path / "a", A), KINDS[other](tmp_path / "b", B)]
    average(members, tmp_path / "out")
    assert same_bytes(tensors_of(tmp_path / "out"), MEAN)
    again = average([tmp_path / "out"])
    assert same_bytes({name: np.asarray(v) for name, v in again.items()}, MEAN)
    assert not list((tmp_path / "out").glob("*.bin*"))


@pytest.mark.parametrize("kind", ["shards", "binary_shards"])
def test_shards_keep_their_layout_and_their_index(tmp_path: Path, kind: str) -> None:
    average([KINDS[kind](tmp_path / "a")], tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    names = [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)]
    assert index["weight_map"] == {"w": names[0], "v": names[1]}
    assert index["metadata"]["total_size"] == 20
    assert sorted(os.listdir(tmp_path / "out")) == [
        *names,
        "model.safetensors.index.json",
    ]


def test_shards_of_any_names_stay_readable(tmp_path: Path) -> None:
    for name, tensor in A.items():
        save(tmp_path / f"a/layer-{name}.safetensors", {name: tensor})
    save_index(tmp_path / "a", {name: f"layer-{name}.safetensors" for name in A})
    average([tmp_path / "a"], tmp_path / "out")
    assert average([tmp_path / "out"]).keys() == A.keys()


def test_a_shard_size_cuts_anew(tmp_path: Path) -> None:
    many = {f"t{i}": np.full(4, i, np.float32) for i in range(6)} | A
    average([single(tmp_path / "a", many)], tmp_path / "out", shard_size=40)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    sizes = [sum(value.nbytes for value in load(file).values()) for file in files]
    assert len(files) == 4
    assert files[0].name == "model-00001-of-00004.safetensors"
    assert max(sizes) <= 40
    assert same_bytes(tensors_of(tmp_path / "out"), many)
    average([tmp_path / "out"], tmp_path / "one", shard_size=10**6)
    assert os.listdir(tmp_path / "one") == ["model.safetensors"]
    with pytest.raises(ValueError, match=r"a shard size needs a directory"):
        plan([tmp_path / "a"], tmp_path / "o.safetensors", shard_size=40)


@pytest.mark.parametrize(
    ("shard_size", "n_files"), [(12, 2), (11, 2), (20, 1), (19, 2)]
)
def test_a_shard_may_have_as_many_bytes_as_asked_for(
    tmp_path: Path, shard_size: int, n_files: int
) -> None:
    average([single(tmp_path / "a")], tmp_path / "out", shard_size=shard_size)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == n_files


def test_the_files_around_the_first_member_are_carried_over(tmp_path: Path) -> None:
    around = {
        "config__json": "{}",
        "tokenizer__json": "[1]",
        "README__md": "words",
        "modeling_own__py": "x = 1",
    }
    trainer = {"optimizer__pt": "", "trainer_state__json": "", "training_args__bin": ""}
    a = single(tmp_path / "a", A, **around, **trainer, __hidden="")
    (a / "runs").mkdir()
    (a / "runs/events").write_text("log")
    b = single(tmp_path / "b", B, config__json='{"b": 1}')
    average([a, b], tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        [name.replace("__", ".") for name in around] + ["model.safetensors"]
    )
    assert (tmp_path / "out/config.json").read_text() == "{}"


def test_tokenizers_that_differ_are_noted(tmp_path: Path) -> None:
    a = single(tmp_path / "a", A, tokenizer__json='{"a": 0}', vocab__txt="a")
    b = single(tmp_path / "b", B, tokenizer__json='{"b": 0}', vocab__txt="a")
    (note,) = plan([a, b], tmp_path / "out").notes
    assert "tokenizers differ: tokenizer.json of" in note
    (note,) = plan([a, a], tmp_path / "out").notes
    assert "differ: tokenizer" not in note


def test_a_directory_becomes_one_file_and_a_file_a_directory(tmp_path: Path) -> None:
    a = shards(tmp_path / "a")
    average([a], tmp_path / "out.safetensors")
    assert same_bytes(load(tmp_path / "out.safetensors"), A)
    average([tmp_path / "out.safetensors", a], tmp_path / "folder")
    assert os.listdir(tmp_path / "folder") == ["model.safetensors"]
    average([a], tmp_path / "out.pt")
    state = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(state["w"], torch.ones(3))


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", 3]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_index_that_leaves_its_directory_is_refused(
    tmp_path: Path, shard: Any, suffix: str
) -> None:
    save(tmp_path / "other.safetensors", A)
    (tmp_path / "a").mkdir()
    index = tmp_path / f"a/model{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(
        ValueError, match=r"must name shards by file name, without a folder: tensor 'w'"
    ):
        plan([tmp_path / "a"])


def test_modules_that_leave_their_directory_are_refused(tmp_path: Path) -> None:
    a = single(tmp_path / "a", A, modules__json='[{"path": "../b"}]')
    single(tmp_path / "b", B)
    with pytest.raises(
        ValueError,
        match=r"modules\.json must name folders of its own directory, found '\.\./b'",
    ):
        plan([a])


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"w": 1, "v": 1}, r"'v': it is in .*00001.*, and in no file by the shards"),
        ({"w": 1, "v": 2, "ghost": 2}, r"'ghost': it is in .*in no file by the shards"),
        ({"w": 1}, r"'v'|not there"),
        ({"w": 1, "v": 3}, r"names the shard '.*00003.*', which does not exist"),
        ({}, r"must have an object weight_map"),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(
    tmp_path: Path, weight_map: dict[str, int], message: str
) -> None:
    a = shards(tmp_path / "a")
    file = "model-{:05}-of-00002.safetensors"
    save_index(a, {name: file.format(number) for name, number in weight_map.items()})
    if weight_map == {"w": 1}:
        save(a / file.format(1), A)
    with pytest.raises(ValueError, match=message):
        plan([a])


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    a = shards(tmp_path / "a")
    save(a / "model-00002-of-00002.safetensors", A)
    with pytest.raises(ValueError, match=r"tensor 'w' is in two shards"):
        plan([a])


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"weight_map": []}', "[" * 100_000]
)
def test_an_index_that_is_no_index_is_refused(tmp_path: Path, content: str) -> None:
    a = shards(tmp_path / "a")
    (a / "model.safetensors.index.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"index\.json (is not JSON|must have an object weight_map)"
    ):
        plan([a])


def test_shards_may_be_links_as_in_a_hub_cache(tmp_path: Path) -> None:
    real = save(tmp_path / "blobs/123", A)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/model.safetensors").symlink_to(real)
    average([tmp_path / "a"], tmp_path / "out")
    assert not (tmp_path / "out/model.safetensors").is_symlink()
    assert same_bytes(tensors_of(tmp_path / "out"), A)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(
        ValueError, match=r"a contains no readable weights.*: it is empty"
    ):
        plan([tmp_path / "a"])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "model.safetensors.index.json"]
)
def test_a_pipe_in_a_directory_does_not_hang(tmp_path: Path, name: str) -> None:
    a = single(tmp_path / "a")
    (a / name).unlink(missing_ok=True)
    os.mkfifo(a / name)
    with pytest.raises(ValueError, match=rf"{name} is not a regular file"):
        plan([a])


def test_a_pipe_among_the_small_files_is_passed_over(tmp_path: Path) -> None:
    a = single(tmp_path / "a")
    os.mkfifo(a / "tokenizer.json")
    average([a], tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]


def test_every_module_of_a_directory_is_averaged(tmp_path: Path) -> None:
    members = []
    for name, tensors in (("a", A), ("b", B)):
        modules = json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}])
        folder = single(tmp_path / name, tensors, modules__json=modules)
        save(folder / "2_Dense/model.safetensors", tensors, {"tie": "w"})
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text("{}")
        members.append(folder)
    average(members, tmp_path / "out")
    for path in ("model.safetensors", "2_Dense/model.safetensors"):
        assert same_bytes(load(tmp_path / "out" / path), MEAN)
    dense = header_of(tmp_path / "out/2_Dense/model.safetensors")["__metadata__"]
    assert dense["tie"] == "w"
    assert "tie" not in header_of(tmp_path / "out/model.safetensors")["__metadata__"]
    assert (tmp_path / "out/1_Pooling/config.json").exists()
    found = average([tmp_path / "out"])
    assert set(found) == {"w", "v", "2_Dense/w", "2_Dense/v", "2_Dense/tie"}
    shutil.rmtree(tmp_path / "out/2_Dense")
    with pytest.raises(ValueError, match=r"differ at tensor '2_Dense/w': .*a has it"):
        plan([members[0], tmp_path / "out"])
