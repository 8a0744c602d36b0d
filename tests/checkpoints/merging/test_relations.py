"""Members that were trained apart, are averages, or count twice."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.merging import relations
from ensembles.checkpoints.merging.relations import (
    averages_among,
    different_initializations,
)
from tests.checkpoints.building import Tensors, save


def network(rng: np.random.Generator) -> Tensors:
    shapes = {"a.weight": (64, 32), "b.weight": (32, 64), "a.bias": (64,)}
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def near(rng: np.random.Generator, state: Tensors, step: float = 0.3) -> Tensors:
    return {
        name: (value + step * rng.normal(size=value.shape)).astype(np.float32)
        for name, value in state.items()
    }


def test_members_of_different_initializations_are_told_with_the_cosine(
    rng: np.random.Generator,
) -> None:
    words = different_initializations(plan([network(rng), network(rng)]))
    assert words is not None
    assert words.startswith("members[1] and members[0] may not be fine-tuned from the")
    assert "cosine" in words
    assert "0.0" in words


def test_members_of_one_initialization_are_not_told(rng: np.random.Generator) -> None:
    start = network(rng)
    members = [near(rng, start), near(rng, start)]
    assert different_initializations(plan(members)) is None
    assert different_initializations(plan(members, weights=[-1, 2])) is None


@pytest.mark.parametrize("options", [{}, {"weights": [1, 0]}])
def test_one_member_that_counts_is_related_to_itself(
    rng: np.random.Generator, options: Any
) -> None:
    members = [network(rng)] if not options else [network(rng), network(rng)]
    assert different_initializations(plan(members, **options)) is None


def test_few_numbers_tell_nothing() -> None:
    members = [{"w": np.eye(3)}, {"w": -np.eye(3)}]
    assert different_initializations(plan(members)) is None


def test_tensors_that_are_left_out_tell_nothing(rng: np.random.Generator) -> None:
    start = network(rng)
    members = [{**near(rng, start), "head": network(rng)["a.weight"]} for _ in "ab"]
    for member in members:
        member["head.1"] = network(rng)["b.weight"]
    assert different_initializations(plan(members)) is not None
    assert different_initializations(plan(members, exclude=["head*"])) is None


def test_a_report_notes_different_initializations(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="the same initialization: the cosine simi"):
        report = average([network(rng), network(rng)], tmp_path / "out.safetensors")
    assert any("the same initialization" in note for note in report.notes)


def test_an_average_of_different_initializations_warns_at_the_users_line(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    members = [network(rng), network(rng)]
    paths = [
        save(tmp_path / f"{name}.safetensors", state)
        for name, state in zip("ab", members, strict=True)
    ]
    for given in (members, paths):
        with pytest.warns(UserWarning, match="may not be fine-tuned from") as caught:
            average(given)
        assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* the same initialization")
        average(members)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float64"])
def test_fine_tunes_are_recognized_by_a_few_elements(
    rng: np.random.Generator, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = network(rng)
    members = [
        {n: v.astype(np.dtype(dtype)) for n, v in near(rng, start, 0.1).items()}
        for _ in range(3)
    ]
    monkeypatch.setattr(relations, "find_unrelated_member", None)
    average(members)


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e200, 0.0])
def test_elements_that_tell_nothing_are_looked_at_in_full(
    rng: np.random.Generator, odd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {name: value.astype(float) for name, value in network(rng).items()}
    other = {name: value.copy() for name, value in start.items()}
    start["a.weight"][:], other["a.weight"][:] = odd, odd
    looked = []
    monkeypatch.setattr(
        relations, "find_unrelated_member", lambda members: looked.append(members)
    )
    different_initializations(plan([start, other]))
    assert looked


def test_a_file_under_two_names_is_noted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"w": np.ones(2)})
    (tmp_path / "link.safetensors").symlink_to(path)
    os.link(path, tmp_path / "hard.safetensors")
    for other in ("link", "hard"):
        (note,) = plan([path, tmp_path / f"{other}.safetensors"]).notes
        assert "are the same file, which counts twice" in note
    assert plan([path, path]).notes == (
        f"{path} is passed 2 times, and counts 2 times",
    )


def test_a_directory_under_two_names_is_noted(tmp_path: Path) -> None:
    save(tmp_path / "a" / "model.safetensors", {"w": np.ones(2)})
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (note,) = plan([tmp_path / "a", tmp_path / "b"]).notes
    assert "are the same directory, which counts twice" in note


def test_copies_are_noted_when_their_digests_are_known(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.safetensors", {"w": np.ones(2)}) for n in "ab"]
    report = average(paths, tmp_path / "out.safetensors")
    (note,) = report.notes
    assert note == f"{paths[0]} and {paths[1]} hold the same tensors, which count twice"


def test_a_member_that_is_an_average_of_others_is_noted(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / f"{i}.safetensors", {"w": np.full(2, float(i))})
        for i in range(3)
    ]
    average(paths[:2], tmp_path / "soup.safetensors")
    members = [*paths, tmp_path / "soup.safetensors"]
    (note,) = averages_among(plan(members))
    assert note.endswith(
        "soup.safetensors: itself an average (mean of 2), by its metadata"
    )
    report = average(members, tmp_path / "out.safetensors")
    (note,) = report.notes
    assert f"is an average of {paths[0]}, {paths[1]}: their tensors count" in note


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"rule": 1}', '{"rule": "mean", "members": 3}']
)
def test_metadata_of_others_are_no_recipe(tmp_path: Path, text: str) -> None:
    path = save(tmp_path / "a.safetensors", {"w": np.ones(2)}, {"ensembles": text})
    assert list(averages_among(plan([path]))) == []


def test_an_averaged_directory_is_told_by_its_shards(tmp_path: Path) -> None:
    save(tmp_path / "a" / "model.safetensors", {"w": np.ones(2), "v": np.ones(2)})
    average([tmp_path / "a"], tmp_path / "out", shard_size=16)
    (note,) = averages_among(plan([tmp_path / "out"]))
    assert "itself an average (mean of 1)" in note
