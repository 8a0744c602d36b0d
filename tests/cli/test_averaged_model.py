"""``ensemble avg --use-averaged-model``: the mean between two running averages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoints.runs.layouts.golden import assert_same
from tests.checkpoints.runs.layouts.test_icefall import BATCHES, content, mean_of_window
from tests.cli.conftest import Avg


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of icefall with five epochs."""
    folder = tmp_path_factory.mktemp("exp")
    for epoch in range(1, 6):
        torch.save(content(epoch * BATCHES, 1 / epoch), folder / f"epoch-{epoch}.pt")
    return folder


@pytest.mark.parametrize(
    "chosen", [["--epochs", "2:5"], ["--epochs", ":", "--last", "4"], None]
)
def test_the_ends_of_the_window_are_combined(
    avg: Avg, run: Path, tmp_path: Path, chosen: list[str] | None
) -> None:
    start, end, out = run / "epoch-2.pt", run / "epoch-5.pt", tmp_path / "out.pt"
    members = [str(start), str(end)] if chosen is None else [str(run), *chosen]
    result = avg(*members, "--use-averaged-model", "-o", str(out))
    assert result.exit_code == 0, result.output
    note = (
        "mean of the parameters from step 140 (excluded) to 340, from 'model_avg' of "
        "epoch-2.pt and epoch-5.pt"
    )
    assert note in result.stderr
    assert ("the 2 checkpoints between are not read" in result.stderr) == bool(chosen)
    saved = torch.load(out, weights_only=True)
    assert_same(saved, mean_of_window(start, end))
    assert not {"model", "model_avg", "optimizer"} & saved.keys()


def test_the_plan_has_the_weights_of_both_ends(avg: Avg, run: Path) -> None:
    arguments = [str(run), "--epochs", "2:5", "--use-averaged-model"]
    result = avg(*arguments, "--plan", "--json")
    members = json.loads(result.stdout)["members"]
    assert [(m["weight"], m["state_dict"]) for m in members] == [
        (340.0, "model_avg"),
        (-140.0, "model_avg"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--epochs", "2:5", "--rule", "median"],
            "leave out weights, --rule and --key",
        ),
        (["--epochs", "2:5", "--key", "model"], "leave out weights, --rule and --key"),
        (["--epochs", "5"], "needs checkpoints at the start and the end"),
        (["--last", "1"], "needs checkpoints at the start and the end"),
    ],
)
def test_what_has_no_meaning_is_refused(
    avg: Avg, run: Path, arguments: list[str], message: str
) -> None:
    result = avg(str(run), *arguments, "--use-averaged-model")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", "").split())
