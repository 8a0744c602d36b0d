"""What ``ensemble avg`` says of a plan and of what was done."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

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
    assert "note:" not in result.stderr
    assert not Path("out.pt").exists()


def test_a_plan_says_that_the_output_exists(avg: Avg, tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    avg(a, b)
    result = avg(a, "--plan")
    assert result.exit_code == 0
    words = "averaged.safetensors exists; pass force=True (--force) to replace it"
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


def told(result: Result) -> list[str]:
    """Lines on stderr, without that on compiling, which a first run has."""
    lines = result.stderr.splitlines()
    return [line for line in lines if not line.startswith("compiling")]


def run_of(tmp_path: Path, *steps: int) -> Path:
    for step in steps:
        folder = tmp_path / "run" / f"checkpoint-{step}"
        save(folder / "model.safetensors", {"w": np.full(3, float(step))})
    return tmp_path / "run"


def test_members_are_told_with_steps_and_weights(avg: Avg, tmp_path: Path) -> None:
    run_of(tmp_path, 90, 500, 1000)
    result = avg("run", "--last", "2", "--weights", "3,1", "-o", "out")
    assert told(result) == [
        "member run/checkpoint-500 (step 500, weight 3)",
        "member run/checkpoint-1000 (step 1000)",
    ]
    result = avg("run", "--last", "2", "--plan")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines[:3] == [
        ["member", "weight", "step"],
        ["run/checkpoint-500", "1.0", "500"],
        ["run/checkpoint-1000", "1.0", "1000"],
    ]


def test_members_are_objects_in_json(avg: Avg, tmp_path: Path) -> None:
    run_of(tmp_path, 500, 1000)
    for extra in (["--plan"], []):
        result = avg("run", "--last", "2", "-o", "out", "--json", *extra)
        members = json.loads(result.stdout)["members"]
        assert told(result) == []
        assert [m["step"] for m in members] == [500, 1000]
        keys = {"member", "weight", "step", "state_dict", "notes"}
        assert members[0].keys() - {"digest"} == keys
    assert all(m["digest"].startswith("xxh3-128:") for m in members)


def test_many_members_are_shortened(avg: Avg, tmp_path: Path) -> None:
    for i in range(40):
        save(tmp_path / f"s{i}.safetensors", {"w": np.full(1, float(i))})
    lines = told(avg("s*.safetensors"))
    assert len(lines) == 12
    assert lines[0] == "member s0.safetensors"
    assert lines[8] == "and 29 more members"
    assert lines[-1] == "member s39.safetensors"


def test_networks_of_different_seeds_are_noted(avg: Avg, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        shapes = {"a.weight": (32, 32), "b.weight": (32, 32)}
        save(tmp_path / name, {n: rng.normal(size=s) for n, s in shapes.items()})
    for extra in (["--plan"], []):
        note = avg(*NAMES, *extra).stderr.splitlines()[-1]
        assert "may not be fine-tuned from the same initialization: the cos" in note
    notes = json.loads(avg(*NAMES, "--plan", "--json").stdout)["notes"]
    assert any("the cosine similarity of" in note for note in notes)


def test_one_member_alone_is_questioned(avg: Avg, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"w": np.ones(2)})
    result = avg("a.safetensors")
    assert "note: there is only one member: nothing is averaged" in result.stderr
    assert "mean of 1 member, 1 tensor, 16 B" in result.stdout
    assert "/s)" not in result.stdout


def test_a_plan_counts_integers_that_must_be_equal(avg: Avg, tmp_path: Path) -> None:
    for name, n in zip(NAMES, (1, 2), strict=True):
        counts = {"bn.num_batches_tracked": np.array(n), "ids": np.array([n])}
        save(tmp_path / name, {"w": np.ones(2), **counts})
    rows = dict(
        line.split("\t")
        for line in avg(*NAMES, "--plan").stdout.splitlines()
        if line.startswith("integers")
    )
    assert rows["integers"] == "2 tensors, must be equal, such as ids"
    found = json.loads(avg(*NAMES, "--plan", "--json").stdout)
    assert found["integer_tensors"] == 2
    assert "the largest" in avg(*NAMES, "--plan", "--integers", "max").stdout


@pytest.mark.parametrize("key", [None, "ema"])
def test_the_state_dict_that_was_taken_is_reported(
    avg: Avg, tmp_path: Path, key: str | None
) -> None:
    import torch

    state = {"w": torch.ones(2)}
    torch.save({"model": state, "epoch": 1}, "a.pt")
    torch.save({"model": state, "ema": state}, "b.pt")
    arguments = ["a.pt"] if key is None else ["b.pt", "--key", key]
    found = json.loads(avg(*arguments, "--plan", "--json").stdout)["members"][0]
    if found["state_dict"] is not None:  # readers say so
        assert found["state_dict"] == (key or "model")
        assert "state dict" in avg(*arguments, "--force").stderr


def test_one_note_of_many_members_is_told_once(avg: Avg, tmp_path: Path) -> None:
    import torch

    for name in "abcde":
        state = {"w": torch.full((2,), float(ord(name)))}
        average = {"w": torch.zeros(2)}
        torch.save({"state_dict": state, "state_dict_ema": average}, f"{name}.pt")
    lines = told(avg("?.pt", "--plan"))
    taken = [line for line in lines if "kept during training" in line]
    assert len(taken) == 1
    assert taken[0].startswith("note: a.pt, b.pt, c.pt, d.pt, e.pt: took")
