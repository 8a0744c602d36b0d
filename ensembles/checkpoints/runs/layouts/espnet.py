"""Runs of ESPnet: ``Nepoch.pth``, with the results of all epochs in ``checkpoint.pth``.

Sources: ``Trainer.run`` in espnet2/train/trainer.py, ``Reporter`` in
espnet2/train/reporter.py, and espnet2/main_funcs/average_nbest_models.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ensembles.checkpoints.formats.pytorch_files.modules import contents
from ensembles.checkpoints.runs.beside import PytorchContents, noted, pytorch_beside
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run
from ensembles.registry import register
from ensembles.regular_files import read_regular

STATE = "checkpoint.pth"
CONFIG = "config.yaml"
COUNTS = {"time", "total_count"}  # values of an epoch that are not metrics
CRITERIA = re.compile(r"^best_model_criterion:\n((?:[- ].*\n)+)", re.MULTILINE)
CRITERION = re.compile(r"- +(\S+)\n +- +(\S+)\n +- +(min|max)\n")


@register(
    LAYOUTS,
    trainer="ESPnet",
    names=[r"(?P<epoch>\d+)epoch\.pth"],
    roles={
        "best": r".+\.best\.pth",
        "average": r".+\.ave(_\d+best)?(\.till\d+epoch)?\.pth",
        "copy": r"latest\.pth|checkpoint\.pth",
    },
)
def espnet(run: Run) -> Run:
    """Metrics are in ``checkpoint.pth``, criteria of the best model in a YAML file."""
    folder = run.checkpoints[0].path.parent
    notes: list[str] = []
    state = pytorch_beside(folder / STATE, notes)
    criteria = _criteria(folder / CONFIG, notes)
    checkpoints = tuple(
        replace(c, metrics={} if state is None else _metrics(state, int(c.epoch)))
        if c.role == "checkpoint" and c.epoch is not None
        else c
        for c in run.checkpoints
    )
    return replace(
        run,
        checkpoints=checkpoints,
        notes=(*run.notes, *notes),
        monitor=next(iter(criteria)) if len(criteria) == 1 else None,
        lower_is_better=criteria,
    )


def _metrics(state: PytorchContents, epoch: int) -> dict[str, float]:
    """Metrics of an epoch, such as "valid.acc"."""
    metrics = {}
    for phase, values in contents(state.get("reporter", "stats", epoch)).items():
        for name, value in contents(values).items():
            number = state.number(value)
            if number is not None and name not in COUNTS:
                metrics[f"{phase}.{name}"] = number
    return metrics


def _criteria(path: Path, notes: list[str]) -> dict[str, bool]:
    """Whether lower is better, for each metric by which the best model is chosen."""
    with noted(path, notes):
        found = CRITERIA.search(read_regular(path).decode() + "\n")
        criteria = CRITERION.findall(found[1]) if found else []
        return {f"{phase}.{name}": mode == "min" for phase, name, mode in criteria}
    return {}
