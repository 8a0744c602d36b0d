"""``--schedule``: how it is written, and the weights of ``ensemble avg``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ensembles.checkpoints import SCHEDULES, average, schedule_weights
from ensembles_cli.main import cli
from ensembles_cli.options.schedule import ScheduleType
from tests.checkpoints.building import load, save
from tests.cli.conftest import Avg

STEPS = (100, 200, 300, 500, 1000)


@pytest.fixture
def run(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A run of five checkpoints at different distances, and a copy of the last."""
    folder = tmp_path / "run"
    for step in STEPS:
        values = rng.normal(size=3).astype(np.float32)
        save(folder / f"step_{step}.safetensors", {"w": values})
    save(folder / "last.safetensors", {"w": values})
    return folder


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("uniform", "uniform", {}),
        ("uniform:5", "uniform", {"n": 5}),
        ("lawa:5,interval=1e3", "lawa", {"k": 5, "interval": 1000.0}),
        ("ema:.999", "ema", {"decay": 0.999}),
        ("ema:half-life=1000", "ema", {"half_life": 1000}),
        ("ema:0.2,per=checkpoint", "ema", {"decay": 0.2, "per": "checkpoint"}),
        ("wsm:minus-sqrt", "wsm", {"shape": "minus-sqrt"}),
        ("power:sigma-rel=0.1", "power", {"sigma_rel": 0.1}),
    ],
)
def test_a_schedule_is_a_name_and_parameters(
    text: str, name: str, params: dict[str, Any]
) -> None:
    choice = ScheduleType().convert(text, None, None)
    assert choice == (text, name, params)
    assert ScheduleType().convert(choice, None, None) is choice
    assert len(choice.weights([10, 20, 3000, 4000, 5000, 6000, 7000])) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("swa", "unknown schedule 'swa' (known: ema, lawa, power, uniform, wsm)"),
        ("ema:x=1", "schedule 'ema' has no parameter 'x'"),
        ("ema:.9,.8", "must be name=value, found '.8'"),
        ("ema:.9,decay=.8", "decay must be given once, found 'ema:.9,decay=.8'"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_an_error(
    avg: Avg, text: str, message: str
) -> None:
    result = avg("run/", "--schedule", text)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("pattern", ["", "step_*"])
def test_members_are_sorted_by_step_and_have_the_weights_of_the_schedule(
    avg: Avg, run: Path, tmp_path: Path, pattern: str
) -> None:
    out = tmp_path / "out.safetensors"
    members = run / pattern if pattern else run
    result = avg(members, "--schedule", "wsm:minus-sqrt", "-o", out, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)["members"]
    weights = schedule_weights(STEPS, "wsm", shape="minus_sqrt")
    assert [row["step"] for row in shown] == list(STEPS)
    assert [row["weight"] for row in shown] == weights.tolist()
    paths = [run / f"step_{step}.safetensors" for step in STEPS]
    average(paths, tmp_path / "again.safetensors", weights=weights)
    assert out.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_paths_in_any_order_and_the_last_n_have_weights(avg: Avg, run: Path) -> None:
    paths = [run / f"step_{step}.safetensors" for step in (500, 100)]
    result = avg(*paths, "--schedule", "ema:half-life=200", "--plan")
    rows = [line.split("\t")[1:] for line in result.stdout.splitlines()[1:3]]
    assert rows == [["0.25", "100"], ["0.75", "500"]]
    result = avg(run, "--last", 2, "--schedule", "power:1", "--plan")
    rows = [line.split("\t")[1:] for line in result.stdout.splitlines()[1:3]]
    assert rows == [["0.25", "500"], ["0.75", "1000"]]


def test_members_of_weight_zero_are_left_out_and_a_note_says_so(
    avg: Avg, run: Path, tmp_path: Path
) -> None:
    by_schedule, by_last = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    result = avg(run, "--schedule", "uniform:3", "-o", by_schedule)
    assert result.exit_code == 0, result.output
    assert "note: schedule uniform:3 averages 3 of 5 members" in result.stderr
    assert avg(run, "--last", 3, "-o", by_last).exit_code == 0
    assert by_schedule.read_bytes() == by_last.read_bytes()


@pytest.mark.parametrize("weights", [("--weights", ".5,.5"), ()])
def test_weights_and_a_schedule_are_an_error(
    avg: Avg, run: Path, weights: tuple[str]
) -> None:
    paths = [f"{run}/step_{step}.safetensors" for step in (100, 200)]
    members = paths if weights else [f"{path}:.5" for path in paths]
    result = avg(*members, *weights, "--schedule", "uniform")
    assert result.exit_code == 2
    assert "--schedule sets the weights: leave out --weights, wei" in result.stderr
    result = avg(run, "--schedule", "uniform", "--use-averaged-model")
    assert "--schedule sets the weights: leave out --weights, wei" in result.stderr


def test_members_without_a_step_are_an_error(
    avg: Avg, run: Path, tmp_path: Path
) -> None:
    result = avg(run / "last.safetensors", "--schedule", "uniform")
    assert result.exit_code == 2
    assert "needs the training step of each member, found " in result.stderr
    members = [run / "last.safetensors", run / "step_100.safetensors"]
    result = avg(*members, "--schedule", "uniform")
    assert result.exit_code == 1
    assert "checkpoints must have different steps, found " in result.stderr


def test_a_parameter_out_of_range_is_an_error(avg: Avg, run: Path) -> None:
    result = avg(run, "--schedule", "uniform:9")
    assert result.exit_code == 1
    assert "n must be from 1 to the number of checkpoints, 5, found 9" in result.stderr


def test_the_average_of_a_schedule_is_weighted(
    avg: Avg, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    assert not avg(run, "--schedule", "ema:half-life=300", "-o", out).exit_code
    weights = schedule_weights(STEPS, "ema", half_life=300)
    stack = [load(run / f"step_{step}.safetensors")["w"] for step in STEPS]
    expected = (weights @ np.array(stack, np.float64)).astype(np.float32)
    np.testing.assert_allclose(load(out)["w"], expected, rtol=1e-6)


def test_every_schedule_has_a_row_with_its_source() -> None:
    result = CliRunner().invoke(cli, ["schedules"])
    assert result.exit_code == 0
    header, *table = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[0] for row in table] == sorted(SCHEDULES)
    for row in table:
        assert len(row) == len(header)
        assert all(cell.strip() for cell in row), row
    assert "half_life=None" in table[0][2]
