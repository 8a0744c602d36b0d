"""Runs of WeNet before and since version 3, as average_model.py reads them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import read_run
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.runs.layouts.golden import (
    assert_same,
    averaged,
    counters,
    mean,
    names_of,
    state,
)

LOSSES = {0: 9.0, 1: 3.0, 2: 5.0, 3: 2.0, 4: 4.0}
# As PyYAML writes it: sorted keys, a block for each mapping, the configuration too.
NEW = """accum_grad: 4
cmvn: global_cmvn
dataset_conf:
  batch_conf:
    batch_size: 16
    loss: 0.0
  speed_perturb: true
encoder: conformer
epoch: {epoch}
init_infos: {{}}
loss_dict:
  acc: {acc}
  loss: {loss}
  loss_att: {att}
  loss_ctc: 1.0e-05
lrs:
- 0.0001
model_dir: exp/conformer
save_time: 12/03/2024 10:00:00
step: {step}
tag: {tag}
"""
OLD = "cv_loss: {loss}\nepoch: {epoch}\nlr: 1.5e-05\nstep: {step}\n"


def save(folder: Path, tag: str, epoch: int, step: int, loss: Any, text: str) -> None:
    """Checkpoint with its YAML file."""
    values = {"epoch": epoch, "step": step, "loss": loss, "tag": tag}
    torch.save(state(step), folder / f"{tag}.pt")
    described = text.format(**values, acc=0.25, att=-1.5)
    (folder / f"{tag}.yaml").write_text(described)


def folder_of(tmp_path: Path) -> Path:
    """Folder with what each training has, and an average of before."""
    folder = tmp_path / "exp"
    folder.mkdir()
    (folder / "train.yaml").write_text("encoder: conformer\nmax_epoch: 5\n")
    torch.save(state(0), folder / "init.pt")
    (folder / "init.yaml").write_text("save_time: 12/03/2024 09:00:00\ntag: init\n")
    torch.save(state(0), folder / "avg_5.pt")
    return folder


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Run of version 3, with checkpoints after steps and after epochs."""
    folder = folder_of(tmp_path)
    for epoch, loss in LOSSES.items():
        last = 100 * (epoch + 1)
        save(folder, f"epoch_{epoch}", epoch, last, loss, NEW)
        save(folder, f"step_{last - 51}", epoch, last - 51, loss + 0.5, NEW)
    (folder / "final.pt").symlink_to("4.pt")  # does not exist: it is epoch_4.pt
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Run of version 1 or 2."""
    folder = folder_of(tmp_path)
    for epoch, loss in LOSSES.items():
        save(folder, f"{epoch}", epoch, 100 * (epoch + 1), loss, OLD)
    (folder / "final.pt").symlink_to("4.pt")
    return folder


def best_of_script(
    folder: Path, n: int, lowest: int = 0, highest: int = sys.maxsize
) -> list[str]:
    """Tags that the script averages with --val_best, in the mode "hybrid"."""
    scores = []
    for path in folder.glob("*.yaml"):
        if not path.name.startswith(("train", "init")):
            lines = dict(
                line.strip().split(": ")
                for line in path.read_text().splitlines()
                if line.count(": ") == 1 and "loss: 0.0" not in line
            )
            epoch = int(lines["epoch"])
            if lowest <= epoch <= highest:
                loss = float(lines["cv_loss" if "cv_loss" in lines else "loss"])
                scores.append((loss, int(lines["step"]), path.stem))
    return [tag for _, _, tag in sorted(sorted(scores)[:n], key=lambda s: s[1])]


@pytest.mark.parametrize("kind", ["new", "old"])
@pytest.mark.parametrize(
    ("n", "window"), [(3, {}), (2, {"epochs": "2:4"}), (4, {"epochs": "1:"})]
)
def test_the_best_are_those_of_its_own_script(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    n: int,
    window: dict[str, str],
) -> None:
    folder = request.getfixturevalue(kind)
    low, _, high = window.get("epochs", ":").partition(":")
    tags = best_of_script(folder, n, int(low or 0), int(high or sys.maxsize))
    assert names_of(folder, best=n, **window) == [f"{tag}.pt" for tag in tags]
    members = [torch.load(folder / f"{tag}.pt") for tag in tags]
    assert_same(averaged(folder, tmp_path / "out.pt", best=n, **window), mean(members))


def test_losses_epochs_and_steps_are_in_the_yaml_file(new: Path) -> None:
    run = read_run(new)
    assert run.layout == "wenet"
    assert run.monitor == "loss"
    assert run.lower_is_better == {
        "acc": False,
        **dict.fromkeys(["loss", "loss_att", "loss_ctc"], True),
    }
    described = {c.path.name: (*counters(c), c.metrics) for c in run.checkpoints}
    losses = {"acc": 0.25, "loss_att": -1.5, "loss_ctc": 1e-5}
    assert described["epoch_1.pt"] == (200, 1, {"loss": 3.0, **losses})
    assert described["step_149.pt"] == (149, 1, {"loss": 3.5, **losses})


def test_the_last_are_those_with_most_steps(new: Path) -> None:
    assert names_of(new, last=3) == ["epoch_3.pt", "step_449.pt", "epoch_4.pt"]
    assert names_of(new, steps="150:300") == ["epoch_1.pt", "step_249.pt", "epoch_2.pt"]


def test_initial_final_and_averaged_files_are_not_members(old: Path) -> None:
    roles = {c.path.name: c.role for c in read_run(old).checkpoints}
    assert {n: r for n, r in roles.items() if r != "checkpoint"} == {
        "init.pt": "other",
        "final.pt": "copy",
        "avg_5.pt": "average",
    }


def test_a_link_to_a_file_that_does_not_exist_is_left_out(new: Path) -> None:
    assert "final.pt" not in names_of(new, last=10)


@pytest.mark.parametrize(
    "block",
    [
        "loss_dict: {acc: 0.25, loss: 3.5, loss_att: -1.5, loss_ctc: 1.0e-05}\n",
        "loss_dict: {acc: 0.25, loss: 3.5, loss_att: -1.5,\n  loss_ctc: 1.0e-05}\n",
        "loss_dict:\n    acc: 0.25\n    loss: 3.5\n    loss_att: -1.5\n"
        "    loss_ctc: 1.0e-05\n",
    ],
)
def test_losses_are_read_as_each_version_of_yaml_writes_them(
    new: Path, block: str
) -> None:
    text = f"epoch: 1\n{block}step: 200\ntag: epoch_1\n"
    (new / "epoch_1.yaml").write_text(text)
    (found,) = [c for c in read_run(new).checkpoints if c.path.name == "epoch_1.pt"]
    assert found.metrics == {
        "acc": 0.25,
        "loss": 3.5,
        "loss_att": -1.5,
        "loss_ctc": 1e-5,
    }


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("epoch: 3\nstep: 400\nsave_time: 1\n", "has no loss_dict or cv_loss"),
        ("cv_loss: high\nepoch: 3\nstep: 400\n", "has no loss_dict or cv_loss"),
        ("cv_loss: 1.0\nepoch: 2\nstep: 400\n", "is of epoch 2"),
        ("\udcff", "epoch_3.pt|3.pt"),
        (None, "3.pt"),
    ],
)
def test_a_checkpoint_without_loss_is_not_the_best(
    old: Path, text: str | None, note: str
) -> None:
    path = old / "3.yaml"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert names_of(old, best=1) == ["1.pt"]
    chosen = choose_checkpoints(old, best=1)
    assert any(note.split("|")[-1] in text for text in chosen.notes)
    assert names_of(old, last=2) == ["3.pt", "4.pt"]


def test_a_yaml_file_with_the_loss_alone_keeps_the_counters_of_the_name(
    old: Path,
) -> None:
    (old / "3.yaml").write_text("cv_loss: 1.5\n")
    assert names_of(old, epochs="3", best=1) == ["3.pt"]
    save(old, "step_450", 4, 450, 1.0, "cv_loss: {loss}\n")
    assert names_of(old, steps="450", best=1) == ["step_450.pt"]


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_a_loss_that_is_not_finite_is_not_the_best(old: Path, value: str) -> None:
    save(old, "3", 3, 400, value, OLD)
    assert names_of(old, best=1) == ["1.pt"]
    (found,) = [c for c in read_run(old).checkpoints if c.path.name == "3.pt"]
    assert "cv_loss" in found.metrics
