"""``ensemble blend --hub`` blends a round of a hub, and writes a submission."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles.predictions.files.hub import check_submission, open_hub
from ensembles_cli.main import cli
from tests.predictions.files.hub.conftest import ROUNDS, write_hub


@pytest.fixture
def hub(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_hub(tmp_path / "hub", rng)


def run(hub: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["blend", "--hub", str(hub), *options])


def test_the_table_has_scores_and_weights(hub: Path) -> None:
    result = run(hub)
    assert result.exit_code == 0, result.output
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines[0] == [
        *(
            "model",
            "weighted_interval_score",
            "against equal weights",
            "units",
            "weight",
        )
    ]
    assert {line[0] for line in lines[1:5]} == {
        *("a-near", "c-far", "blend", "equal weights")
    }
    assert f"Round {ROUNDS[-1]}: 4 units of 3 quantiles" in result.stdout
    assert not (hub / "model-output" / "x-blend").exists()


def test_a_submission_is_written_and_never_a_member(hub: Path) -> None:
    path = hub / "model-output" / "x-blend" / f"{ROUNDS[-1]}-x-blend.csv"
    result = run(hub, "--model-id", "x-blend", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["out"] == str(path)
    assert [member["name"] for member in report["members"]] == ["a-near", "c-far"]
    assert sum(member["weight"] for member in report["members"]) == pytest.approx(1)
    assert [part["name"] for part in report["combinations"]] == [
        *("blend", "equal weights")
    ]
    check_submission(open_hub(hub), path)
    result = run(hub, "--model-id", "x-blend")
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert run(hub, "--model-id", "x-blend", "--force").exit_code == 0


def test_models_round_rule_and_weights_are_chosen(hub: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = run(
        hub,
        *("a-near", "c-far", "--round", ROUNDS[2], "--rule", "quantile_median"),
        *("--weights", "equal", "--model-id", "x-b", "-o", str(out), "--json"),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["round"], report["out"]) == (ROUNDS[2], str(out))
    assert [member["weight"] for member in report["members"]] == [0.5, 0.5]
    assert out.exists()


def test_crossing_quantiles_are_sorted_on_request(hub: Path) -> None:
    (path,) = (hub / "model-output" / "a-near").glob(f"{ROUNDS[-1]}*")
    text = path.read_text().replace("0.5", "x").replace("0.1", "0.5")
    path.write_text(text.replace("x", "0.1"))
    result = run(hub)
    assert result.exit_code == 1
    assert "--crossing sort" in result.stderr
    assert run(hub, "--crossing", "sort").exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hub", "HUB", "--metric", "auc"], "--metric does not apply with --hub"),
        (["--hub", "HUB", "--weights", "greedy"], "--weights must be skill or equal"),
        (["--hub", "HUB", "--weights-param", "n=3"], "must be among power, prior"),
        (["--hub", "HUB", "--weights-param", "power=x"], "power must be a number"),
        (
            ["--hub", "HUB", "--weights", "equal", "--weights-param", "power=3"],
            "among none",
        ),
        (["--hub", "HUB", "-o", "x.csv"], "-o requires --model-id"),
        (["--hub", "HUB", "--model-id", "blend"], "must be a team and a model"),
        (["--hub", "HUB", "z"], "models must have a folder"),
        (["a.csv", "--round", "3", "-t", "y.csv"], "--round requires --hub"),
        (["a.csv"], "requires -o"),
        ([], "missing argument FILE..."),
    ],
)
def test_a_wrong_option_is_named(options: list[str], message: str, hub: Path) -> None:
    arguments = [str(hub) if option == "HUB" else option for option in options]
    result = CliRunner().invoke(cli, ["blend", *arguments])
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.output
