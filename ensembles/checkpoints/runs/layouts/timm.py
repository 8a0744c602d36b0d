"""Runs of timm: ``checkpoint-N.pth.tar``, with a metric in each file.

Sources: timm/utils/checkpoint_saver.py, timm/utils/summary.py, train.py and
avg_checkpoints.py.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ensembles.checkpoints.runs.beside import noted, pytorch_beside
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run
from ensembles.registry import register
from ensembles.regular_files import read_regular

METRIC = "metric"
AVERAGE = "state_dict_ema"
SUMMARY = "summary.csv"


@register(
    LAYOUTS,
    trainer="timm",
    names=[r"checkpoint-(?P<epoch>\d+)\.pth\.tar"],
    roles={
        "best": r"model_best\.pth\.tar",
        "copy": r"last\.pth\.tar",
        "average": r"averaged\.pth",
        "unfinished": r"(recovery_)?tmp\.pth\.tar",
        "other": r"recovery-\d+-\d+\.pth\.tar",
    },
)
def timm(run: Run) -> Run:
    """The metric is in the file, the others in ``summary.csv``; averages are preferred.

    The value of ``args.eval_metric`` says whether lower is better, as in ``train.py``.
    """
    notes: list[str] = []
    summary = _summary(run.checkpoints[0].path.parent / SUMMARY, notes)
    files = {
        c.path: _file(c.path, notes) for c in run.checkpoints if c.role == "checkpoint"
    }
    with_average = [path for path, file in files.items() if file.has_average]
    if 0 < len(with_average) < len(files):
        notes.append(
            f"{len(with_average)} of {len(files)} checkpoints have {AVERAGE}, such as "
            f"{with_average[0].name}: state_dict is taken from all"
        )
    key = (AVERAGE,) if len(with_average) == len(files) else ()
    checkpoints = tuple(
        replace(
            c, key=key, metrics=files[c.path].metrics | summary.get(int(c.epoch), {})
        )
        if c.path in files and c.epoch is not None
        else c
        for c in run.checkpoints
    )
    lower = {METRIC: any(file.lower_is_better for file in files.values())}
    has_metric = any(METRIC in file.metrics for file in files.values())
    return replace(
        run,
        checkpoints=checkpoints,
        notes=(*run.notes, *notes),
        monitor=METRIC if has_metric else None,
        lower_is_better=lower if has_metric else {},
    )


class _File(NamedTuple):
    """What a file says: its metric, its direction, and whether it has an average."""

    metrics: dict[str, float]
    lower_is_better: bool
    has_average: bool


def _file(path: Path, notes: list[str]) -> _File:
    content = pytorch_beside(path, notes)
    if content is None:
        return _File({}, False, False)
    metric = content.number(content.get(METRIC))
    return _File(
        {} if metric is None else {METRIC: metric},
        content.get("args", "eval_metric") == "loss",
        content.get(AVERAGE) is not None,
    )


def _summary(path: Path, notes: list[str]) -> Mapping[int, dict[str, float]]:
    """Metrics by epoch; an epoch that was trained twice has its last row."""
    rows: dict[int, dict[str, float]] = {}
    with noted(path, notes):
        for row in csv.DictReader(read_regular(path).decode().splitlines()):
            metrics: dict[str, float] = {}
            for name, value in row.items():
                with suppress(TypeError, ValueError):  # a second header, or too short
                    metrics[name] = float(value)
            metrics.pop("lr", None)
            epoch = metrics.pop("epoch", None)
            if epoch is not None and epoch.is_integer():
                rows[int(epoch)] = metrics
    return rows
