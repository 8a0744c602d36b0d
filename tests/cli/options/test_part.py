"""``--part``, and the environment variables of launchers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ensembles_cli.options.part import Part, part_of_launcher
from tests.checkpoints.building import load, save_shards
from tests.cli.conftest import Avg

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for variable in TORCHRUN:
        monkeypatch.delenv(variable, raising=False)
    save_shards(tmp_path / "a", [{"v": np.ones(2)}, {"w": np.ones(1)}])
    return "a"


def test_parts_write_a_directory_together(avg: Avg, member: str) -> None:
    result = avg(member, "-o", "out", "--part", "1/2")
    assert result.exit_code == 0
    assert result.stdout == (
        "part 1/2 of out/: 1 of 2 weight files missing yet; the process that completes "
        "the last one writes the directory\n"
    )
    assert not Path("out").exists()
    result = avg(member, "-o", "out", "--part", "2/2")
    assert result.stdout.startswith("wrote out/: mean of 1 member, 2 tensors")
    assert load(Path("out/model-00002-of-00002.safetensors"))["w"].tolist() == [1]
    result = avg(member, "-o", "out", "--part", "1/2")
    assert result.exit_code == 0
    assert "note: out is complete, written from the same members" in result.stderr


def test_the_plan_lists_the_files_of_the_part(avg: Avg, member: str) -> None:
    result = avg(member, "-o", "out", "--part", "2/2", "--plan")
    lines = dict(line.split("\t") for line in result.stdout.splitlines())
    assert lines["files of part 2/2"] == "model-00002-of-00002.safetensors"
    assert lines["to read"] == "8 B"
    assert "files of part" not in avg(member, "-o", "out", "--plan").stdout
    result = avg(member, "-o", "out", "--part", "3/3", "--plan")
    assert "files of part 3/3\tnone\n" in result.stdout


def test_json_has_the_part_and_the_missing_files(avg: Avg, member: str) -> None:
    facts = json.loads(avg(member, "-o", "out", "--part", "2/2", "--json").stdout)
    assert facts["part"] == "2/2"
    assert facts["assigned"] == ["model-00002-of-00002.safetensors"]
    assert facts["missing"] == ["model-00001-of-00002.safetensors"]
    assert facts["digest"] is None
    facts = json.loads(avg(member, "-o", "alone", "--json").stdout)
    assert (facts["part"], facts["missing"]) == (None, [])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/2/3", "-1/2", "a/b", "1.5/2"])
def test_other_parts_are_refused(avg: Avg, member: str, text: str) -> None:
    result = avg(member, "-o", "out", f"--part={text}")
    assert result.exit_code == 2
    assert "must be between 1/n and n/n, such as 2/4, found" in result.stderr


def test_torchrun_sets_the_part_and_a_note_says_so(
    avg: Avg, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in TORCHRUN.items():
        monkeypatch.setenv(variable, value)
    result = avg(member, "-o", "out")
    assert result.stdout.startswith("part 2/2 of out/: 1 of 2 weight files missing")
    assert (
        "note: RANK=1 and WORLD_SIZE=2 are set by torchrun: this process writes part "
        "2/2; pass --part 1/1 to write everything in one process\n"
    ) in result.stderr
    result = avg(member, "-o", "x.safetensors")
    assert result.exit_code == 1
    assert "or pass world_size=1 (--part 1/1) to write it in one" in result.stderr
    result = avg(member, "-o", "x.safetensors", "--part", "1/1")
    assert result.stdout.startswith("wrote x.safetensors")
    assert "RANK" not in result.stderr


@pytest.mark.parametrize(
    ("environment", "part", "words"),
    [
        ({}, Part(), None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Part(), "have no effect; pass --part 2/2"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Part(), None),
        ({**TORCHRUN, "RANK": "0"}, Part(0, 2), "this process writes part 1/2"),
        ({**TORCHRUN, "RANK": "2"}, Part(), None),
        ({**TORCHRUN, "RANK": ""}, Part(), None),
        ({**TORCHRUN, "WORLD_SIZE": "all"}, Part(), None),
    ],
    ids=str,
)
def test_only_the_ranks_of_torchrun_are_used(
    environment: dict[str, str], part: Part, words: str | None
) -> None:
    found, notes = part_of_launcher(environment)
    assert found == part
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]
