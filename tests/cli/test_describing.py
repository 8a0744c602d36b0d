"""What ``ensemble avg`` says of a plan and of what was done."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.building import pair, save
from tests.cli.conftest import Avg

NAMES = ("a.safetensors", "b.safetensors")


def test_a_plan_is_printed_and_nothing_written(avg: Avg, tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    result = avg(a, b, "--plan", "--weights", "2,1", "-o", "out.pt")
    assert result.exit_code == 0
    lines = dict(line.split("\t") for line in result.stdout.splitlines())
    assert lines[str(a)] == "2.0"
    assert lines["rule"] == "mean"
    assert lines["output"] == "out.pt"
    assert lines["to read"] == "24 B"
    assert "from memory" in result.stderr
    assert not Path("out.pt").exists()


def test_a_plan_says_that_the_output_exists(avg: Avg, tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    avg(a, b)
    result = avg(a, "--plan")
    assert result.exit_code == 0
    words = "averaged.safetensors exists; --force replaces it"
    assert f"note: {words}\n" in result.stderr
    assert words in json.loads(avg(a, "--plan", "--json").stdout)["notes"]
    assert "exists" not in avg(a, "--plan", "--force").stderr


@pytest.mark.parametrize("only_plan", [True, False])
def test_json_goes_to_stdout_alone(avg: Avg, tmp_path: Path, only_plan: bool) -> None:
    a, b = pair(tmp_path)
    result = avg(a, b, "--json", "-o", "out.pt", *["--plan"] * only_plan)
    found = json.loads(result.stdout)
    assert [member["member"] for member in found["members"]] == [str(a), str(b)]
    assert [member["weight"] for member in found["members"]] == [1.0, 1.0]
    assert found["read_bytes"] == 24
    assert found["out"] == "out.pt"
    assert ("digest" in found) == (not only_plan)
    assert Path("out.pt").exists() == (not only_plan)


def test_sha256_is_that_of_hashlib(avg: Avg, tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    result = avg(a, b, "--sha256")
    lines = [line.split() for line in result.stdout.splitlines()[2:]]
    assert [line[2] for line in lines] == ["averaged.safetensors", str(a), str(b)]
    for _, found, path in lines:
        assert found == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_many_notes_are_cut(avg: Avg, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"w": np.ones(1)})
    unmatched = [word for i in range(15) for word in ("--exclude", f"x{i}")]
    result = avg("a.safetensors", *unmatched, "--plan")
    assert len(result.stderr.splitlines()) == 11
    assert result.stderr.splitlines()[-1] == "note: and 6 more"
    assert (
        len(json.loads(avg("a.safetensors", *unmatched, "--json").stdout)["notes"]) > 15
    )


def test_many_tensors_that_are_left_out_are_one_note(avg: Avg, tmp_path: Path) -> None:
    many = {f"t{i}": np.ones(1) for i in range(15)}
    save(tmp_path / "a.safetensors", {"w": np.ones(1), **many})
    save(tmp_path / "b.safetensors", {"w": np.ones(1)})
    result = avg(*NAMES, "--missing", "skip", "--plan")
    words = "15 tensors left out, such as t0, t1, t2: b.safetensors lacks them"
    assert words in result.stderr
    found = json.loads(avg(*NAMES, "--missing", "skip", "--plan", "--json").stdout)
    assert found["left_out"] == list(many)
