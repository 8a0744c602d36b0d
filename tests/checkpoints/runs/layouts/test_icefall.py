"""Runs of icefall: epochs, batches, and the mean between two running averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, read_run, window_mean
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.runs.layouts.golden import (
    assert_same,
    averaged,
    mean,
    names_of,
    state,
)

BATCHES = 70  # of an epoch
PERIOD = 20  # the running average is updated after so many batches


def parameters(step: int) -> dict[str, Any]:
    """Parameters after a number of batches."""
    return state(step)


def running_average(step: int) -> dict[str, Any]:
    """Mean of the parameters after each period, as training keeps it in float64."""
    steps = range(PERIOD, step + 1, PERIOD)
    values = [parameters(s) for s in steps]
    names = [name for name, value in values[0].items() if value.is_floating_point()]
    kept = {
        name: (sum(v[name].double() for v in values) / len(values)).float()
        for name in names
    }
    return {**parameters(step), **kept}


def content(step: int, loss: float) -> dict[str, Any]:
    """File as save_checkpoint writes it, with the parameters of training."""
    return {
        "model": parameters(step),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        "scheduler": None,
        "grad_scaler": None,
        "sampler": None,
        "model_avg": running_average(step),
        "batch_idx_train": step,
        "average_period": PERIOD,
        "train_loss": loss,
        "best_valid_loss": 0.1,
        "best_valid_epoch": 1,
        "exp_dir": Path("exp"),
        "device": torch.device("cpu"),
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder after five epochs, with files after batches too."""
    folder = tmp_path / "exp"
    folder.mkdir()
    for epoch in range(1, 6):
        kept = content(epoch * BATCHES, loss=1 / epoch)
        torch.save(kept, folder / f"epoch-{epoch}.pt")
    for step in (200, 250, 300, 350):
        torch.save(content(step, loss=0.01), folder / f"checkpoint-{step}.pt")
    for name in ("best-train-loss", "best-valid-loss"):
        torch.save(content(5 * BATCHES, loss=0.2), folder / f"{name}.pt")
    torch.save({"model": state(0)}, folder / "pretrained.pt")
    return folder


def test_the_last_epochs_are_those_of_its_own_script(run: Path, tmp_path: Path) -> None:
    # decode.py --epoch 4 --avg 3 --use-averaged-model False: model of 2, 3 and 4
    assert names_of(run, epochs="2:4") == ["epoch-2.pt", "epoch-3.pt", "epoch-4.pt"]
    members = [parameters(epoch * BATCHES) for epoch in (2, 3, 4)]
    assert_same(averaged(run, tmp_path / "out.pt", epochs="2:4"), mean(members))


def test_batches_are_those_of_its_own_script(run: Path, tmp_path: Path) -> None:
    # decode.py --iter 300 --avg 2 --use-averaged-model False: the last 2 up to 300
    names = ["checkpoint-250.pt", "checkpoint-300.pt"]
    assert names_of(run, steps=":300", last=2) == names
    result = averaged(run, tmp_path / "out.pt", steps=":300", last=2)
    assert_same(result, mean([parameters(250), parameters(300)]))


def test_epochs_and_batches_are_not_mixed(run: Path) -> None:
    with pytest.raises(ValueError, match=r"steps=.*epochs="):
        choose_checkpoints(run, last=3)


def test_the_training_loss_is_that_of_the_epoch(run: Path) -> None:
    described = read_run(run)
    assert described.layout == "icefall"
    losses = {c.path.name: dict(c.metrics) for c in described.checkpoints if c.metrics}
    assert losses == {f"epoch-{n}.pt": {"train_loss": 1 / n} for n in range(1, 6)}
    best = choose_checkpoints(run, epochs=":", best=2, metric="train_loss")
    assert [Path(p).name for p in best.paths] == ["epoch-4.pt", "epoch-5.pt"]


def test_copies_are_not_members(run: Path) -> None:
    roles = {c.path.name: c.role for c in read_run(run).checkpoints}
    assert {n: r for n, r in roles.items() if r != "checkpoint"} == {
        "best-train-loss.pt": "best",
        "best-valid-loss.pt": "best",
        "pretrained.pt": "other",
    }


def test_an_exported_model_is_not_an_epoch(run: Path) -> None:
    # As the recipes tell users to do, to decode with a downloaded model.
    (run / "epoch-99.pt").symlink_to("pretrained.pt")
    assert names_of(run, epochs=":", last=1) == ["epoch-5.pt"]
    assert any("epoch-99.pt was not saved" in note for note in read_run(run).notes)


def mean_of_window(start: Path, end: Path) -> dict[str, torch.Tensor]:
    """Rule of average_checkpoints_with_averaged_model, in float64, rounded once."""
    first, last = (torch.load(path, weights_only=False) for path in (start, end))
    period = first["average_period"]
    n1, n2 = (f["batch_idx_train"] // period * period for f in (first, last))
    a1, a2 = first["model_avg"], last["model_avg"]
    return {
        name: ((n2 * a2[name].double() - n1 * a1[name].double()) / (n2 - n1)).float()
        for name, value in a2.items()
        if value.is_floating_point()
    }


@pytest.mark.parametrize(
    ("first", "last"),
    [("epoch-1", "epoch-4"), ("epoch-4", "epoch-5"), ("checkpoint-200", "epoch-5")],
)
def test_the_mean_of_a_window_equals_the_formula_in_float64(
    run: Path, first: str, last: str
) -> None:
    start, end = run / f"{first}.pt", run / f"{last}.pt"
    window = window_mean(start, end)
    result = average(window.members, weights=window.weights, key=window.key)
    assert_same(result, mean_of_window(start, end))


def test_the_mean_of_a_window_is_that_of_the_parameters_in_it(run: Path) -> None:
    window = window_mean(run / "epoch-2.pt", run / "epoch-4.pt")
    assert window.weights == [280, -140]
    result = average(window.members, weights=window.weights, key=window.key)
    inside = mean([parameters(step) for step in range(160, 281, PERIOD)])
    for name, expected in inside.items():
        # The averages are float32: their rounding grows by 280 / 140 and 140 / 140.
        np.testing.assert_allclose(result[name], expected, rtol=0, atol=1e-6)


def test_steps_are_rounded_by_the_period_of_each_file(run: Path) -> None:
    later = content(350, 0.1) | {"average_period": 30}
    torch.save(later, run / "epoch-5.pt")
    assert window_mean(run / "epoch-1.pt", run / "epoch-5.pt").weights == [330, -60]


@pytest.mark.parametrize("name", ["model_avg", "batch_idx_train", "average_period"])
def test_a_file_without_running_average_is_refused(run: Path, name: str) -> None:
    broken = {k: v for k, v in content(140, 0.1).items() if k != name}
    torch.save(broken, run / "epoch-2.pt")
    with pytest.raises(
        ValueError, match=rf"epoch-2\.pt must have .*: {name} not found"
    ):
        window_mean(run / "epoch-2.pt", run / "epoch-4.pt")


@pytest.mark.parametrize("value", [0, -20, 2.5, "20", None])
def test_a_count_that_is_not_positive_is_refused(run: Path, value: Any) -> None:
    torch.save(content(140, 0.1) | {"average_period": value}, run / "epoch-2.pt")
    with pytest.raises(ValueError, match=r"epoch-2\.pt.*average_period"):
        window_mean(run / "epoch-2.pt", run / "epoch-4.pt")


def test_a_window_that_ends_before_it_starts_is_refused(run: Path) -> None:
    for start, end in (("4", "2"), ("2", "2")):
        with pytest.raises(ValueError, match="must have more steps than its start"):
            window_mean(run / f"epoch-{start}.pt", run / f"epoch-{end}.pt")


def test_a_file_before_the_first_average_is_refused(run: Path) -> None:
    torch.save(content(20, 0.1) | {"batch_idx_train": 19}, run / "epoch-1.pt")
    with pytest.raises(ValueError, match="no running average yet"):
        window_mean(run / "epoch-1.pt", run / "epoch-4.pt")


def test_averages_of_different_models_are_refused(run: Path) -> None:
    other = content(140, 0.1)
    other["model_avg"]["more.weight"] = torch.zeros(3)
    torch.save(other, run / "epoch-2.pt")
    window = window_mean(run / "epoch-2.pt", run / "epoch-4.pt")
    with pytest.raises(ValueError, match=r"more\.weight.*epoch-2\.pt|epoch-4\.pt"):
        average(window.members, weights=window.weights, key=window.key)
