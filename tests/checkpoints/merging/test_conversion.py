"""Conversions: the same bytes in another format, or rounded once."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, convert, plan
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.merging.conversion import as_conversion
from ensembles.checkpoints.merging.relations import averages_among
from ensembles.checkpoints.runs.choose import choose_checkpoints
from ensembles.dtypes import FLOATS, round_to_dtype
from tests.checkpoints.building import (
    FLOATS as DTYPES,
)
from tests.checkpoints.building import (
    Tensors,
    floats,
    load,
    same_bytes,
    save,
    save_shards,
)

BITS = np.arange(1 << 16, dtype=np.uint16)
ONE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.arange(3)}


def recipe_of(path: Path) -> Any:
    return json.loads(open_checkpoint(path, 0).metadata["ensembles"])


@pytest.mark.filterwarnings("ignore:.*contain.* NaN")
def test_every_bit_is_kept_through_all_formats(tmp_path: Path) -> None:
    state: Tensors = {str(np.dtype(d)): BITS.view(d) for d in DTYPES}
    state["float32"] = np.repeat(BITS, 2).view(np.float32)
    state |= {"bool": np.array([True, False]), "int8": BITS[:256].view(np.int8)}
    state["scalar"] = np.array(-0.0, np.float16)
    path = save(tmp_path / "0.safetensors", state)
    for index, suffix in enumerate([".pt", ".safetensors"], 1):
        convert(path, tmp_path / f"{index}{suffix}", memory=8 << 20)
        path = tmp_path / f"{index}{suffix}"
    assert same_bytes(load(path), state)
    plain = {
        name: value
        for name, value in state.items()
        if name in ("float16", "float32", "float64", "bool", "int8", "scalar")
    }
    path = save(tmp_path / "plain.safetensors", plain)
    convert(path, tmp_path / "plain.npz")
    report = convert(tmp_path / "plain.npz", tmp_path / "back.safetensors")
    assert same_bytes(load(tmp_path / "back.safetensors"), plain)
    assert report.digest == report.member_digests[0]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_another_dtype_is_rounded_once(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    state = {str(np.dtype(d)): floats(rng, (300,), d, wide=False) for d in DTYPES}
    convert(state, tmp_path / "out.safetensors", dtype=dtype)
    (target,) = [d for d in FLOATS if str(d) == dtype]
    expected = {
        name: round_to_dtype(value.astype(np.float64), target)
        for name, value in state.items()
    }
    assert same_bytes(load(tmp_path / "out.safetensors"), expected)


def test_a_file_becomes_a_directory_of_shards_and_back(tmp_path: Path) -> None:
    state = {f"layer.{i}.w": np.full((4, 4), i, np.float32) for i in range(5)}
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, tmp_path / "a.pt")
    report = convert(tmp_path / "a.pt", tmp_path / "dir", shard_size=130)
    assert report.files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = json.loads((tmp_path / "dir/model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == state.keys()
    convert(tmp_path / "dir", tmp_path / "one.safetensors")
    assert same_bytes(load(tmp_path / "one.safetensors"), state)


def test_the_other_files_of_a_directory_are_kept_with_its_card(tmp_path: Path) -> None:
    source = save_shards(tmp_path / "a", [ONE])
    (source / "README.md").write_text("a card")
    (source / "config.json").write_text('{"torch_dtype": "float32"}')
    report = convert(source, tmp_path / "out", dtype="float16")
    assert (tmp_path / "out/README.md").read_text() == "a card"
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config == {"torch_dtype": "float16"}
    assert not report.plan.notes
    assert report.plan.is_conversion


def test_the_metadata_of_the_source_are_kept(tmp_path: Path) -> None:
    metadata = {"modelspec.title": "t", "format": "pt", "alias": "w"}
    path = save(tmp_path / "a.safetensors", ONE, metadata)
    out = tmp_path / "out.safetensors"
    convert(path, out)
    found = open_checkpoint(out, 0)
    assert found.metadata["modelspec.title"] == "t"
    assert found.aliases == {"alias": "w"}
    average([path, path], tmp_path / "mean.safetensors")
    mean = open_checkpoint(tmp_path / "mean.safetensors", 0)
    assert "modelspec.title" not in mean.metadata


def test_metadata_that_name_a_tensor_make_no_alias(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ONE)  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.comment = json.dumps({"x": "w", "author": "a"}).encode()
    convert(tmp_path / "a.npz", tmp_path / "out.safetensors")
    found = open_checkpoint(tmp_path / "out.safetensors", 0)
    assert found.metadata["author"] == "a"
    assert set(found.names) == ONE.keys()


def test_a_conversion_is_no_average_and_that_of_an_average_is_one(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        state = {"w": np.full((2, 3), step, np.float32)}
        member = save(tmp_path / f"{step}.safetensors", state)
        run.mkdir(exist_ok=True)
        convert(member, run / f"step_{step}.safetensors")
        convert(run / f"step_{step}.safetensors", run / f"step_{step}0.npz")
    members = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    report = average(members, tmp_path / "mean.safetensors")
    convert(tmp_path / "mean.safetensors", run / "step_3.npz")
    convert(run / "step_3.npz", run / "step_30.safetensors")
    found = choose_checkpoints([str(run)], last=4)
    assert [Path(p).name for p in found.paths] == [
        *("step_1.safetensors", "step_2.safetensors", "step_10.npz", "step_20.npz")
    ]
    assert "step_3.npz, step_30.safetensors: their metadata" in found.notes[0]
    digests = [f"xxh3-128:{digest}" for digest in report.member_digests]
    for name in ("step_3.npz", "step_30.safetensors"):
        recipe = recipe_of(run / name)
        assert recipe["members"] == [f"xxh3-128:{report.digest}"]
        assert recipe["conversion"]["members"] == digests
        (note,) = averages_among(plan([run / name]))
        assert "itself an average (mean of 2)" in note
    assert recipe_of(run / "step_10.npz")["conversion"] is None
    assert not list(averages_among(plan([run / "step_10.npz"])))


def test_members_that_an_average_contains_are_noted_after_a_conversion(
    tmp_path: Path,
) -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        save(tmp_path / f"{name}.safetensors", {"w": np.full(3, value)})
    members = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    average(members, tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "m.npz")
    report = average([tmp_path / "m.npz", *members], tmp_path / "out.npz")
    assert "is an average of" in report.notes[0]
    convert(members[0], tmp_path / "a.npz")
    report = average([tmp_path / "a.npz", *members], tmp_path / "o.npz")
    (note,) = report.notes
    assert "hold the same tensors, which count twice" in note


def test_a_state_dict_is_chosen_by_its_key(tmp_path: Path) -> None:
    content = {"model": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(2)}}
    torch.save(content, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "out.npz", key="ema")
    assert np.load(tmp_path / "out.npz")["w"].tolist() == [0, 0]


def test_the_source_is_not_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", ONE)
    with pytest.raises(ValueError, match="is or contains the member"):
        convert(path, path, force=True)
    save(tmp_path / "b.safetensors", ONE)
    with pytest.raises(FileExistsError, match=r"b\.safetensors exists"):
        convert(path, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="needs a directory as output"):
        convert(path, tmp_path / "c.npz", shard_size=10)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        convert(tmp_path / "none.pt", tmp_path / "c.npz")
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_a_plan_of_a_conversion_copies_every_tensor(tmp_path: Path) -> None:
    planned = as_conversion(plan([ONE], tmp_path / "out.safetensors"))
    assert planned.is_conversion
    assert {target.action for target in planned.targets} == {"copy"}
    assert not plan([ONE]).is_conversion
