"""Runs of WeNet: ``N.pt``, ``epoch_N.pt`` and ``step_N.pt``, each with a YAML file.

Sources: ``save_model`` in wenet/utils/train_utils.py, ``save_checkpoint`` in
wenet/utils/checkpoint.py, and wenet/bin/average_model.py, of versions 1 to 3.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace

from ensembles.checkpoints.runs.beside import as_decimal
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run, RunCheckpoint
from ensembles.registry import register
from ensembles.regular_files import read_regular

LARGEST = 1 << 20  # bytes of a YAML file, which contains the whole configuration
MONITORS = ("loss", "cv_loss")  # of versions 3 and later, and of those before
# The cross-validation losses of version 3: a block, or {...} of PyYAML before 5.1.
LOSSES = re.compile(r"^loss_dict:(.*(?:\n .*)*)", re.MULTILINE)
ITEM = re.compile(r"(\w+): ([^\s,{}]+)")
TOP = re.compile(r"^(\w+): (\S+)$", re.MULTILINE)


@register(
    LAYOUTS,
    trainer="WeNet",
    names=[r"(?:epoch_)?(?P<epoch>\d+)\.pt", r"step_(?P<step>\d+)\.pt"],
    roles={"copy": r"final\.pt", "average": r"avg.*\.pt", "other": r"init\.pt"},
    markers=["[0-9]*.yaml", "epoch_*.yaml", "step_*.yaml"],
)
def wenet(run: Run) -> Run:
    """Cross-validation losses, epoch and step are in the YAML file of a checkpoint."""
    notes: list[str] = []
    checkpoints = tuple(
        _with_losses(c, notes) if c.role == "checkpoint" else c for c in run.checkpoints
    )
    names = {name for checkpoint in checkpoints for name in checkpoint.metrics}
    return replace(
        run,
        checkpoints=checkpoints,
        notes=(*run.notes, *notes),
        monitor=next((name for name in MONITORS if name in names), None),
        lower_is_better={name: name != "acc" for name in names},
    )


def _with_losses(checkpoint: RunCheckpoint, notes: list[str]) -> RunCheckpoint:
    """Checkpoint with the counters and losses of its YAML file."""
    name, path = checkpoint.path.name, checkpoint.path.with_suffix(".yaml")
    try:
        text = read_regular(path, largest=LARGEST).decode()
    except (OSError, ValueError) as error:
        notes.append(f"{name} has no losses: {error}")
        return checkpoint
    values = _numbers(TOP.findall(text))
    step, epoch = (as_decimal(values.get(name)) for name in ("step", "epoch"))
    pairs = ((checkpoint.step, step), (checkpoint.epoch, epoch))
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        notes.append(f"{name} has no losses: {path} is of epoch {epoch}, step {step}")
        return checkpoint
    losses = LOSSES.search(text)
    metrics = _numbers(ITEM.findall(losses[1])) if losses else {}
    if "cv_loss" in values:
        metrics["cv_loss"] = values["cv_loss"]
    if not metrics:
        notes.append(f"{name} has no losses: {path} has no loss_dict or cv_loss")
    return replace(
        checkpoint,
        step=checkpoint.step if step is None else step,
        epoch=checkpoint.epoch if epoch is None else epoch,
        metrics=metrics,
    )


def _numbers(items: list[tuple[str, str]]) -> dict[str, float]:
    """Numbers of YAML by name; other values are left out."""
    numbers: dict[str, float] = {}
    for name, text in items:
        with suppress(ValueError):
            numbers[name] = float(re.sub(r"^([-+]?)\.(?=nan|inf)", r"\1", text))
    return numbers
