"""``ensemble avg`` as users type it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ensembles.checkpoints import average
from tests.checkpoints.building import load, pair, save, save_shards
from tests.cli.conftest import Avg

ROOT = Path(__file__).parents[2]


def averaged(path: str = "averaged.safetensors") -> list[float]:
    values = load(Path(path))["w"].tolist()
    assert isinstance(values, list)
    return values


def steps(folder: Path, *numbers: int) -> Path:
    for number in numbers:
        tensors = {"w": np.full(1, number, np.float64)}
        save_shards(folder / f"checkpoint-{number}", [tensors, {"v": np.ones(1)}])
    return folder


def test_no_option_is_needed(avg: Avg, tmp_path: Path) -> None:
    pair(tmp_path)
    result = avg("a.safetensors", "b.safetensors")
    assert result.exit_code == 0
    members = [li for li in result.stderr.splitlines() if not li.startswith("compil")]
    assert members == ["member a.safetensors", "member b.safetensors"]
    wrote, digest = result.stdout.splitlines()
    assert wrote.startswith("wrote averaged.safetensors: mean of 2 members, 1 tensor, ")
    assert digest.startswith("digest xxh3-128:")
    assert averaged() == [2, 3, 5.5]
    assert sorted(os.listdir()) == [
        "a.safetensors",
        "averaged.safetensors",
        "b.safetensors",
    ]


def test_directories_become_a_directory(avg: Avg, tmp_path: Path) -> None:
    run = steps(tmp_path, 1, 3)
    result = avg(run / "checkpoint-1", run / "checkpoint-3")
    assert result.stdout.startswith("wrote averaged/: mean of 2 members, 2 tensors")
    assert average(["averaged"])["w"].tolist() == [2.0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.safetensors:.75", "b.safetensors:.25"),
        ("a.safetensors:3", "b.safetensors:1"),
        ("a.safetensors", "b.safetensors", "--weights", ".75,.25"),
        ("a.safetensors", "b.safetensors", "--weights", "3, 1"),
        ("[ab].safetensors", "--weights", "3,1"),
    ],
    ids=str,
)
def test_weights_are_written_in_any_way(
    avg: Avg, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    pair(tmp_path)
    assert avg(*arguments).exit_code == 0
    assert averaged() == [1.5, 2.5, 4.25]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["a.safetensors:1", "b.safetensors"],
            2,
            "all members must have a weight, or none",
        ),
        (["a.safetensors:1", "b.safetensors:1", "--weights", "1,1"], 2, "given twice"),
        (["a.safetensors", "b.safetensors", "--weights", "1"], 1, "found 1 for 2 memb"),
        (["a.safetensors:1", "b.safetensors:-1"], 1, "must not sum to zero"),
        (["a.safetensors:nan", "b.safetensors:1"], 1, "must be finite: weights[0] is"),
        (
            ["a.safetensors:1", "b.safetensors:1", "--last", "2"],
            2,
            "sort members by step",
        ),
        (["a.safetensors", "--rule", "maen"], 1, "did you mean 'mean'?"),
        (["a.safetensors", "--rule", "slerp"], 1, "needs 2 members, found 1"),
        (["a.safetensors", "--param", "p=2"], 1, "'mean' has no parameter 'p'"),
        (["a.safetensors", "--dtype", "int8"], 1, "dtype must be one of"),
        (["a.safetensors", "--memory", "8"], 1, "memory must be at least"),
        (["a.safetensors", "--memory", "much"], 2, "must be a size such as"),
        (["a.safetensors", "--threads", "0"], 2, "0 is not in the range"),
        (["a.safetensors", "--shard-size", "1GB"], 1, "needs a directory as output"),
        (["a.safetensors", "-o", "a.safetensors"], 1, "is or contains the member"),
        (
            ["a.safetensors", "-o", "no/out.pt"],
            1,
            "the folder of the output must exist: create no",
        ),
        (["*.pt"], 1, "no checkpoint matches '*.pt'"),
        (["c.safetensors"], 1, "no checkpoint at c.safetensors"),
    ],
    ids=str,
)
def test_wrong_input_is_told_and_nothing_written(
    avg: Avg, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    pair(tmp_path)
    result = avg(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert code == 2 or len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors"]


def test_the_last_of_a_training_directory_are_averaged(
    avg: Avg, tmp_path: Path
) -> None:
    steps(tmp_path / "run", 90, 500, 1000, 2000)
    result = avg("run", "--last", "2", "-o", "out.safetensors")
    assert result.exit_code == 0
    assert averaged("out.safetensors") == [1500.0]
    # Weights go by step.
    result = avg("run", "--last", "2", "--weights", "3,1", "-o", "o.safetensors")
    assert averaged("o.safetensors") == [1250.0]


def test_the_last_of_a_pattern_are_averaged(avg: Avg, tmp_path: Path) -> None:
    for step in (500, 1000, 2000):
        save(tmp_path / f"s{step}.safetensors", {"w": np.array([float(step)])})
    assert avg("s*.safetensors", "--last", "2").exit_code == 0
    assert averaged() == [1500.0]


def test_a_training_directory_without_last_says_what_to_do(
    avg: Avg, tmp_path: Path
) -> None:
    steps(tmp_path / "run", 90)
    result = avg("run")
    assert result.exit_code == 1
    assert (
        "the last N of them with choose_checkpoints(..., last=N) (--last N)"
        in result.stderr
    )


def test_an_output_is_replaced_only_by_force(avg: Avg, tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    assert avg(a, b).exit_code == 0
    result = avg(a)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: averaged.safetensors exists; pass force=True (--force) to replace it, "
        "or choose another path\n"
    )
    assert averaged() == [2, 3, 5.5]
    assert avg(a, "--force").exit_code == 0
    assert averaged() == [1, 2, 3]


def test_what_the_library_says_of_parameters_is_said_of_options(
    avg: Avg, tmp_path: Path
) -> None:
    a, b = pair(tmp_path)
    save(tmp_path / "n.safetensors", {"w": load(a)["w"], "n": np.array([1])})
    save(tmp_path / "m.safetensors", {"w": load(a)["w"], "n": np.array([2])})
    torch.save({"a": {"w": torch.ones(1)}, "b": {"w": torch.zeros(1)}}, "a.pt")
    cases: list[tuple[list[object], str]] = [
        (["n.safetensors", "m.safetensors"], "pass integers='first' (--integers first"),
        ([a, "n.safetensors"], "pass missing='skip' (--missing skip) to leave such te"),
        (["a.pt"], "pass key=NAME (--key NAME) to choose one, or"),
        (
            [a, b, "--last", 1],
            "; name the checkpoints to average, without last=N, or",
        ),
    ]
    for arguments, words in cases:
        assert words in avg(*arguments).stderr


@pytest.mark.filterwarnings("default")
def test_a_result_that_is_no_number_is_warned_of(avg: Avg, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"w": np.array([np.nan])})
    result = avg("a.safetensors")
    assert result.exit_code == 0
    warning = result.stderr.splitlines()[-1]
    assert warning.startswith("warning: 1 tensor of the result contains NaN")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--rule", "maximum"], {"w": [3, 4, 8], "n": [2]}),
        (["--integers", "first"], {"w": [2, 3, 5.5], "n": [1]}),
        (["--exclude", "w"], {"n": [2]}),
        (["--include", "n", "--include", "x"], {"n": [2]}),
        (["--dtype", "bf16", "--exclude", "n"], {"w": [2, 3, 5.5]}),
        (["--threads", "1", "--memory", "8MiB"], {"w": [2, 3, 5.5], "n": [2]}),
    ],
    ids=str,
)
def test_options_reach_the_library(
    avg: Avg, tmp_path: Path, options: list[str], expected: dict[str, Any]
) -> None:
    for path, n in zip(pair(tmp_path), (1, 2), strict=True):
        save(path, {**load(path), "n": np.array([n])})
    result = avg("a.safetensors", "b.safetensors", "--integers", "max", *options)
    assert result.exit_code == 0, result.stderr
    found = load(Path("averaged.safetensors"))
    assert {name: value.astype(float).tolist() for name, value in found.items()} == (
        expected
    )


def test_a_file_of_torch_may_need_a_key(avg: Avg, tmp_path: Path) -> None:
    torch.save({"a": {"w": torch.ones(1)}, "b": {"w": torch.zeros(1)}}, "a.pt")
    assert "pass key=NAME (--key NAME) to choose one" in avg("a.pt").stderr
    assert avg("a.pt", "--key", "b").exit_code == 0
    assert averaged() == [0.0]


def test_a_shard_size_cuts_the_output(avg: Avg, tmp_path: Path) -> None:
    steps(tmp_path, 1)
    result = avg("checkpoint-1", "--shard-size", "8B", "--json")
    assert json.loads(result.stdout)["files"] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_from_outside_clears_up(
    tmp_path: Path, sent: signal.Signals
) -> None:
    for name in "ab":
        zeros = np.zeros(1 << 25, np.float32)
        save_file({"w": zeros}, tmp_path / f"{name}.safetensors")
    typed = [sys.executable, "-m", "ensembles_cli", "avg", "a.safetensors"]
    run = subprocess.Popen(
        [*typed, "b.safetensors", "--dtype", "float16"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"},
        stderr=subprocess.PIPE,
        # What runs in the background of a shell is deaf to it, and so are its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while run.poll() is None and len(list(tmp_path.iterdir())) == 2:
        time.sleep(0.001)
    run.send_signal(sent)
    _, words = run.communicate()
    assert b"Traceback" not in words
    assert run.returncode == 128 + sent
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.safetensors", "-o", "-"], 1, "the output must be a path, found -"),
        (["a.safetensors:0,7", "b.safetensors:0,3"], 2, "found '0,7'"),
        (
            ["a.safetensors", "b.safetensors", "--weights", ".7", ".3"],
            2,
            "write --weights 0.7,0.3",
        ),
        (
            ["a.safetensors:.7", "b.safetensors", "--weights", ".7,.3"],
            2,
            "weights are given twice",
        ),
        (["a.safetensors", "--rule", "ties"], 1, "pass it as base=PATH (--base PATH)"),
        (["a.safetensors", "--rule", "linear"], 1, "it is the rule 'mean', with weigh"),
        (
            [
                "a.safetensors",
                "b.safetensors",
                "--rule",
                "slerp",
                "--param",
                "t=.3",
            ],
            1,
            "weights of both members: 1 - t, t (a:.7 b:.3)",
        ),
    ],
    ids=str,
)
def test_habits_of_other_tools_are_told_the_way(
    avg: Avg, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    pair(tmp_path)
    result = avg(*arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    "weights",
    [
        ["a.safetensors:75%", "b.safetensors:25%"],
        ["a.safetensors:3/4", "b.safetensors:1/4"],
        ["a.safetensors", "b.safetensors", "--weights", "75%, 25%"],
        ["a.safetensors", "b.safetensors", "--weights", ".75 .25"],
    ],
    ids=str,
)
def test_weights_may_be_shares(avg: Avg, tmp_path: Path, weights: list[str]) -> None:
    pair(tmp_path)
    assert avg(*weights).exit_code == 0
    assert averaged() == [1.5, 2.5, 4.25]


def test_task_arithmetic_by_signed_weights(avg: Avg, tmp_path: Path) -> None:
    for name, value in (("base", 1.0), ("x", 2.0), ("y", 4.0)):
        save(tmp_path / f"{name}.safetensors", {"w": np.array([value])})
    members = ["base.safetensors:-1", "x.safetensors:1", "y.safetensors:1"]
    assert avg(*members).exit_code == 0
    assert averaged() == [5.0]


def test_an_output_inside_a_member_is_refused(avg: Avg, tmp_path: Path) -> None:
    steps(tmp_path, 1, 2)
    result = avg("checkpoint-1", "checkpoint-2", "-o", "checkpoint-1/out")
    assert result.exit_code == 1
    assert "is inside the member checkpoint-1" in result.stderr
    assert sorted(os.listdir("checkpoint-1")) == sorted(os.listdir("checkpoint-2"))
