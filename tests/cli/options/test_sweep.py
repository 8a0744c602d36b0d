"""``ensemble soup --sweep``: the table, the picture, and options that contradict."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli
from ensembles_cli.options.schedule import ScheduleType
from ensembles_cli.options.sweep import default_schedules
from tests.checkpoints.building import load, save

Sweep = Callable[..., Result]
# The score is minus the distance of the parameter from 4.
VALUES = {100: 10.0, 200: 1.0, 300: 2.0, 400: 7.0}
EVAL = """
import struct, sys
content = open(sys.argv[1], "rb").read()
print(-abs(struct.unpack("<f", content[-4:])[0] - 4))
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Run the command on four checkpoints, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("eval.py").write_text(EVAL)
    for step, value in VALUES.items():
        save(
            Path("run") / f"step_{step}.safetensors",
            {"w": np.array([value], np.float32)},
        )
    score = f"{shlex.quote(sys.executable)} -I -S eval.py {{}}"

    def run(*arguments: object) -> Result:
        words = ["soup", "run/", "--score", score, "-o", "out.safetensors"]
        return CliRunner().invoke(cli, [*words, *map(str, arguments)])

    return run


def rows(result: Result, n_rows: int) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()[:n_rows]]


def test_windows_are_a_table_with_the_best_marked(sweep: Sweep) -> None:
    result = sweep("--sweep", "windows", "--plot", "curve.svg")
    assert rows(result, 5) == [
        ["best", "first step", "last step", "members", "score"],
        ["", "400", "400", "1", "-3"],
        ["*", "300", "400", "2", "-0.5"],
        ["", "200", "400", "3", "-0.666667"],
        ["", "100", "400", "4", "-1"],
    ]
    assert load(Path("out.safetensors"))["w"].tolist() == [4.5]
    picture = Path("curve.svg").read_text()
    assert picture.startswith("<?xml")
    assert "number of averaged checkpoints, back from step 400" in picture
    assert "last checkpoint alone" in picture


def test_windows_of_one_length_slide_over_the_run(sweep: Sweep) -> None:
    result = sweep("--sweep", "windows", "--select-param", "length=3", "--last", 4)
    assert [row[1:] for row in rows(result, 3)[1:]] == [
        ["100", "300", "3", "-0.333333"],
        ["200", "400", "3", "-0.666667"],
    ]


def test_schedules_are_compared(sweep: Sweep) -> None:
    choices = ("uniform:3", "ema:half-life=100", "wsm:cosine")
    options = [word for choice in choices for word in ("--schedule", choice)]
    result = sweep(
        "--sweep", "schedules", *options, "--plot", "schedules.png", "--json"
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    points = facts["sweep"]
    assert [point["schedule"] for point in points] == list(choices)
    assert [point["is_best"] for point in points] == [False, False, True]
    assert points[0]["score"] == pytest.approx(-2 / 3, abs=1e-6)
    # (10 + 1) / 8 + 2 / 4 + 7 / 2 = 5.375
    assert points[1]["score"] == pytest.approx(-1.375)
    assert facts["soup"]["score"] == points[2]["score"]
    assert Path("schedules.png").read_bytes().startswith(b"\x89PNG")


def test_scores_that_are_lower_if_better(sweep: Sweep) -> None:
    result = sweep("--sweep", "windows", "--lower-is-better", "--plot", "curve.svg")
    assert [row[0] for row in rows(result, 5)[1:]] == ["*", "", "", ""]
    assert "score (lower is better)" in Path("curve.svg").read_text()


def test_without_a_schedule_several_are_compared(sweep: Sweep) -> None:
    table = rows(sweep("--sweep", "schedules"), 12)
    assert table[0] == ["best", "schedule", "members", "score"]
    assert [row[1] for row in table[1:]] == default_schedules([*VALUES])


@pytest.mark.parametrize("steps", [[100], [0, 1], [0.5, 1.5, 2.5], list(range(1, 200))])
def test_default_schedules_are_valid_for_any_run(steps: list[float]) -> None:
    texts = default_schedules(steps)
    assert len(texts) == len(set(texts))
    for text in texts:
        weights = ScheduleType().convert(text, None, None).weights(steps)
        assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedule", "uniform"], "--schedule and --plot need --sweep"),
        (["--plot", "a.png"], "--schedule and --plot need --sweep"),
        (["--sweep", "windows", "--select", "best"], "pass --sweep or --select, not b"),
        (["--sweep", "windows", "--schedule", "lawa"], "--schedule needs --sweep sch"),
        (
            ["--sweep", "schedules", "--on-error", "drop"],
            "--sweep schedules needs a score of each member",
        ),
        (
            ["--sweep", "windows", "--plot", "a.jpg"],
            "an image must have the suffix .png",
        ),
        (
            ["--sweep", "schedules", "--schedule", "uniform:9"],
            "n must be from 1 to the number of checkpoints, 4, found 9",
        ),
        (
            ["--sweep", "windows", "--select-param", "length=9"],
            "length must be from 1 to the number of members, 4, found 9",
        ),
    ],
    ids=str,
)
def test_options_that_contradict_are_an_error_before_the_first_score(
    sweep: Sweep, options: list[str], message: str
) -> None:
    result = sweep(*options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert not Path("out.safetensors.journal.jsonl").exists()


def test_a_picture_that_exists_is_kept(sweep: Sweep) -> None:
    Path("a.png").write_text("mine")
    result = sweep("--sweep", "windows", "--plot", "a.png")
    assert result.exit_code == 1
    assert "a.png exists" in result.stderr
    assert Path("a.png").read_text() == "mine"
