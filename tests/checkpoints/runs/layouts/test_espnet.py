"""Runs of ESPnet: the best by each criterion, as average_nbest_models.py takes them."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import read_run
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.runs.layouts.golden import (
    assert_same,
    averaged,
    mean,
    names_of,
    state,
)

ACCURACY = {1: 0.5, 2: 0.7, 3: 0.9, 4: 0.8, 5: 0.9, 6: 0.6}
LOSS = {1: 9.0, 2: 4.0, 3: 5.0, 4: 3.0, 5: 2.0, 6: 6.0}
CONFIG = """batch_type: numel
best_model_criterion:
-   - valid
    - acc
    - max
keep_nbest_models: 3
"""


def results(epoch: int) -> dict[str, Any]:
    """Results of an epoch in the reporter; NumPy makes the means of some of them."""
    shared = {"time": datetime.timedelta(seconds=5), "total_count": 10 * epoch}
    return {
        "train": {"loss": np.float64(LOSS[epoch] / 2), **shared},
        "valid": {"loss": LOSS[epoch], "acc": ACCURACY[epoch], "cer": None, **shared},
        "att_plot": shared,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder after six epochs, of which the third and more are kept."""
    folder = tmp_path / "exp"
    folder.mkdir()
    for epoch in (2, 3, 4, 5, 6):
        torch.save(state(epoch), folder / f"{epoch}epoch.pth")
    reporter = {"stats": {e: results(e) for e in ACCURACY}, "epoch": 6}
    content = {"model": state(6), "reporter": reporter, "optimizers": [{}]}
    torch.save(content, folder / "checkpoint.pth")
    torch.save(state(0), folder / "valid.acc.ave_3best.pth")
    torch.save(state(0), folder / "valid.acc.ave_3best.till4epoch.pth")
    links = {
        "latest.pth": "6epoch.pth",
        "valid.acc.best.pth": "3epoch.pth",
        "valid.acc.ave_1best.pth": "3epoch.pth",
        "valid.acc.ave.pth": "valid.acc.ave_3best.pth",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def nbest(criterion: str, mode: str, n: int) -> list[int]:
    """Epochs that the script averages: sorted by value, equal ones by epoch."""
    phase, name = criterion.split(".")
    values = [(epoch, results(epoch)[phase][name]) for epoch in ACCURACY]
    sign = 1 if mode == "min" else -1
    return [epoch for epoch, _ in sorted(values, key=lambda pair: sign * pair[1])][:n]


@pytest.mark.parametrize(
    ("criterion", "mode", "n"),
    [
        ("valid.acc", "max", 3),
        ("valid.loss", "min", 3),
        ("train.loss", "min", 2),
        ("valid.acc", "max", 1),
    ],
)
def test_the_best_are_those_of_its_own_script(
    run: Path, tmp_path: Path, criterion: str, mode: str, n: int
) -> None:
    epochs = nbest(criterion, mode, n)
    choice = {"best": n, "metric": criterion}
    assert names_of(run, **choice) == [f"{epoch}epoch.pth" for epoch in sorted(epochs)]
    if n > 1:
        result = averaged(run, tmp_path / "out.pth", **choice)
        assert_same(result, mean([state(epoch) for epoch in sorted(epochs)]))


def test_the_only_criterion_chooses_the_best(run: Path) -> None:
    described = read_run(run)
    assert described.layout == "espnet"
    assert described.monitor == "valid.acc"
    assert described.lower_is_better == {"valid.acc": False}
    assert names_of(run, best=3) == ["3epoch.pth", "4epoch.pth", "5epoch.pth"]


def test_metrics_have_the_names_of_its_files(run: Path) -> None:
    (epoch,) = [c for c in read_run(run).checkpoints if c.epoch == 4]
    assert epoch.metrics == {"train.loss": 1.5, "valid.loss": 3.0, "valid.acc": 0.8}


def test_links_averages_and_training_states_are_not_members(run: Path) -> None:
    roles = {c.path.name: c.role for c in read_run(run).checkpoints}
    assert roles == {
        **{f"{epoch}epoch.pth": "checkpoint" for epoch in range(2, 7)},
        "valid.acc.best.pth": "best",
        **dict.fromkeys(["latest.pth", "checkpoint.pth"], "copy"),
        "valid.acc.ave.pth": "average",
        "valid.acc.ave_1best.pth": "average",
        "valid.acc.ave_3best.pth": "average",
        "valid.acc.ave_3best.till4epoch.pth": "average",
    }
    assert names_of(run, last=2) == ["5epoch.pth", "6epoch.pth"]
    assert names_of(run, epochs="2:3") == ["2epoch.pth", "3epoch.pth"]


def test_several_criteria_need_a_choice(run: Path) -> None:
    more = "-   - valid\n    - loss\n    - min\nkeep_nbest_models: 3\n"
    (run / "config.yaml").write_text(CONFIG.replace("keep_nbest_models: 3\n", more))
    with pytest.raises(ValueError, match=r"metric.*valid\.loss, valid\.acc"):
        choose_checkpoints(run, best=3)
    assert names_of(run, best=1, metric="valid.loss") == ["5epoch.pth"]


def test_a_damaged_reporter_leaves_the_epochs(run: Path) -> None:
    state_file = run / "checkpoint.pth"
    state_file.write_bytes(state_file.read_bytes()[:1000])
    described = read_run(run)
    assert any("checkpoint.pth" in note for note in described.notes)
    assert names_of(run, last=1) == ["6epoch.pth"]
    with pytest.raises(ValueError, match="needs metrics"):
        choose_checkpoints(run, best=1)


def test_a_model_in_the_place_of_the_reporter_has_no_metrics(run: Path) -> None:
    torch.save({"model": state(6)}, run / "checkpoint.pth")
    assert {c.epoch for c in read_run(run).checkpoints if c.metrics} == set()


def test_an_epoch_without_a_finite_metric_is_not_the_best(run: Path) -> None:
    stats = {e: results(e) for e in ACCURACY}
    stats[5]["valid"]["acc"] = math.nan
    del stats[4]
    content = {"reporter": {"stats": stats, "epoch": 6}, "model": state(6)}
    torch.save(content, run / "checkpoint.pth")
    assert names_of(run, best=2) == ["2epoch.pth", "3epoch.pth"]
    notes = choose_checkpoints(run, best=2).notes
    assert any("4epoch.pth, 5epoch.pth" in note for note in notes)


def test_an_epoch_that_is_still_written_is_left_out(run: Path) -> None:
    whole = (run / "6epoch.pth").read_bytes()
    (run / "6epoch.pth").write_bytes(whole[: len(whole) // 2])
    assert names_of(run, last=2) == ["4epoch.pth", "5epoch.pth"]
    assert any("6epoch.pth" in note for note in read_run(run).notes)
