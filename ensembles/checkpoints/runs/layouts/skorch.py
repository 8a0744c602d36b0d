"""Runs of skorch.

Source: ``Checkpoint`` and ``TrainEndCheckpoint`` in skorch. By default each new best
network overwrites ``params.pt``; a template such as ``params_{last_epoch[epoch]}.pt``
keeps all of them. ``history.json`` lists the epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ensembles.checkpoints.runs.beside import json_beside, noted
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run
from ensembles.registry import register

BEST = "_best"  # end of the names that mark a new best value
MONITOR = "valid_loss"  # of Checkpoint, unless another one is passed


@register(
    LAYOUTS,
    trainer="skorch",
    names=[r"([^/]*_)?params_(?P<epoch>\d+)([-_][^/]*)?\.(pt|safetensors)"],
    roles={
        "copy": r"([^/]*_)?train_end_params\.(pt|safetensors)",
        "best": r"([^/]*_)?params\.(pt|safetensors)",
    },
    markers=["*history.json"],
)
def skorch(run: Run) -> Run:
    """Metrics are in ``history.json``, by epoch."""
    notes = list(run.notes)
    epochs: dict[int, dict[str, Any]] = {}
    for path in sorted(run.folder.glob("*history.json")):
        rows = json_beside(path, notes)
        with noted(path, notes):
            epochs |= {int(row["epoch"]): dict(row) for row in rows or []}
    checkpoints = [
        replace(c, metrics=_metrics(epochs.get(int(c.epoch), {})))
        if c.epoch is not None
        else c
        for c in run.checkpoints
    ]
    lower_is_better = _directions(list(epochs.values()))
    return replace(
        run,
        checkpoints=tuple(checkpoints),
        notes=tuple(notes),
        monitor=MONITOR if MONITOR in lower_is_better else None,
        lower_is_better=lower_is_better,
    )


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of an epoch, without its counters."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, float) and name != "dur"
    }


def _directions(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether lower values are better, from the epochs that were marked as the best."""
    directions = {}
    for marked in {name for row in rows for name in row if name.endswith(BEST)}:
        name = marked.removesuffix(BEST)
        valued = [row for row in rows if isinstance(row.get(name), float)]
        values = [row[name] for row in valued]
        best = [row[name] for row in valued if row.get(marked) is True]
        if best and min(values) != max(values):
            directions[name] = best[-1] == min(values)
    return directions
