"""Runs of Lightning.

Source: ``ModelCheckpoint`` in lightning. Each file has the state of this callback, with
the monitored metric and its values in the best checkpoints, by path. A file is added to
them before it is written. Lightning counts epochs from zero.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple

from ensembles.checkpoints.formats.pytorch_files.modules import contents
from ensembles.checkpoints.runs.beside import (
    PytorchContents,
    has_key,
    noted,
    pytorch_beside,
)
from ensembles.checkpoints.runs.layouts.table import LAYOUTS, with_last
from ensembles.checkpoints.runs.run import Run, RunCheckpoint, common_counter
from ensembles.registry import register

CALLBACK = "ModelCheckpoint"
# Values that ModelCheckpoint writes into names, such as val_loss=0.12.
VALUE = re.compile(r"([^-=]+)=(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")
COUNTERS = ("epoch", "step")
ANY = r"[^/]*\.ckpt"  # names of one's own, such as best.ckpt and best-v1.ckpt
VERSION = "pytorch-lightning_version"  # key of every file


class _Monitored(NamedTuple):
    """Metric of a ModelCheckpoint callback, with its value in one file."""

    metric: str
    value: float | None
    lower_is_better: bool | None


@register(
    LAYOUTS,
    trainer="Lightning",
    names=[
        r"([^/]*-)?epoch=(?P<epoch>\d+)(-[^/]*)?-step=(?P<step>\d+)(-[^/]*)?\.ckpt",
        r"([^/]*-)?epoch=(?P<epoch>\d+)(-[^/]*)?\.ckpt",
        r"([^/]*-)?step=(?P<step>\d+)(-[^/]*)?\.ckpt",
        # A metric such as val/loss makes a folder.
        r"([^/]*-)?epoch=(?P<epoch>\d+)(-[^/]*)?/[^/]*=[^/]*\.ckpt",
        ANY,
    ],
    roles={
        "copy": (
            r"(([^/]*-)?epoch=(?P<epoch>\d+)(-[^/]*)?-|[^/]*[-_])?last(-v\d+)?\.ckpt"
        ),
        "average": r"[^/]*-averaged\.ckpt",
    },
    subfolders=["checkpoints"],
)
def lightning(run: Run) -> Run | None:
    """Steps and metrics are in the files, in the state of ``ModelCheckpoint``."""
    has_counters = any(common_counter([c]) for c in run.checkpoints)
    if not has_counters and not has_key(run, VERSION):
        return None
    notes = list(run.notes)
    checkpoints = []
    monitored: list[_Monitored] = []
    for checkpoint in run.checkpoints:
        saved = pytorch_beside(checkpoint.path, notes)
        with noted(checkpoint.path, notes):
            in_file = list(_monitored(saved, checkpoint)) if saved else []
            checkpoint = _described(checkpoint, saved, in_file)
            monitored += in_file
        if checkpoint.role == "checkpoint" and common_counter([checkpoint]) is None:
            checkpoint = replace(checkpoint, role="other")
        checkpoints.append(checkpoint)
    # Callbacks with another folder have no value of these files.
    metrics = {m.metric for m in monitored if m.value is not None}
    return replace(
        run,
        checkpoints=tuple(with_last(checkpoints)),
        notes=tuple(notes),
        monitor=metrics.pop() if len(metrics) == 1 else None,
        lower_is_better={
            m.metric: m.lower_is_better
            for m in monitored
            if m.lower_is_better is not None
        },
    )


def _described(
    checkpoint: RunCheckpoint, saved: PytorchContents | None, in_file: list[_Monitored]
) -> RunCheckpoint:
    exact = {m.metric: m.value for m in in_file if m.value is not None}
    folder = checkpoint.path.parent.name
    name = (
        f"{folder}/{checkpoint.path.stem}"
        if "epoch=" in folder
        else checkpoint.path.stem
    )
    rounded = {
        metric: float(value)
        for metric, value in VALUE.findall(name)
        if not metric.endswith(COUNTERS) and not any(m.endswith(metric) for m in exact)
    }
    checkpoint = replace(checkpoint, metrics={**rounded, **exact})
    if saved is None:
        return checkpoint
    # A logged value named "step" replaces the number of steps in the name.
    step, epoch = saved.decimal("global_step"), saved.decimal("epoch")
    return replace(
        checkpoint,
        step=checkpoint.step if step is None else step,
        epoch=checkpoint.epoch if epoch is None else epoch,
    )


def _monitored(
    saved: PytorchContents, checkpoint: RunCheckpoint
) -> Iterator[_Monitored]:
    """Monitored metrics in the state of the callbacks."""
    for key, state in contents(saved.get("callbacks")).items():
        name, brace, settings = str(key).partition("{")
        metric = contents(state).get("monitor")
        if CALLBACK not in name or not isinstance(metric, str):
            continue
        values = {
            PurePath(path).name: saved.number(value)
            for path, value in contents(contents(state).get("best_k_models")).items()
        }
        mode = None
        with suppress(ValueError, SyntaxError):
            mode = ast.literal_eval(brace + settings)["mode"]
        lower_is_better = None if mode is None else mode == "min"
        yield _Monitored(metric, values.get(checkpoint.path.name), lower_is_better)
