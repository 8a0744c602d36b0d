"""Output of ``ensemble runs``: the checkpoints of training runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import printable, size, table
from ensembles_cli.reports.average import as_number, counted, print_notes

if TYPE_CHECKING:
    from ensembles.checkpoints import ChosenCheckpoints, Run
    from ensembles.checkpoints.runs.run import Counter

COUNTERS: tuple[Counter, ...] = ("step", "epoch", "tokens")


class ListedRun:
    """A training run, with the checkpoints that would be averaged.

    Parameters
    ----------
    run : Run
        The run.
    chosen : ChosenCheckpoints or None
        Checkpoints that the options choose; None without such options.
    """

    def __init__(self, run: Run, chosen: ChosenCheckpoints | None) -> None:
        from ensembles.checkpoints.runs.layouts.builtin import LAYOUTS

        self.run = run
        self.chosen = chosen
        self.is_known = run.layout in LAYOUTS
        self.trainer = LAYOUTS[run.layout].trainer if self.is_known else None
        self.notes = list(run.notes if chosen is None else chosen.notes)
        self.state_dict = self._state_dict()

    def _state_dict(self) -> str | None:
        """Key of the state dict in the last checkpoint; None without a key."""
        from ensembles.checkpoints.directories.open import open_checkpoint

        own = [c for c in self.run.checkpoints if c.role == "checkpoint"]
        if not own:
            return None
        try:
            last = open_checkpoint(own[-1].path, 0, key=own[-1].key or None)
        except (OSError, ValueError) as error:
            self.notes.append(f"the last checkpoint cannot be averaged: {error}")
            return None
        return last.state_dict

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the checkpoints as JSON values."""
        chosen = [] if self.chosen is None else self.chosen.checkpoints
        return [
            {
                "path": str(c.path),
                "name": self.run.name_of(c),
                **{name: as_number(c.counter(name)) for name in COUNTERS},
                # JSON has no NaN and no infinity.
                "metrics": {
                    name: value if math.isfinite(value) else None
                    for name, value in c.metrics.items()
                },
                "bytes": n_bytes(c.path),
                "role": c.role,
                **({} if self.chosen is None else {"averaged": c in chosen}),
            }
            for c in self.run.checkpoints
        ]

    def described(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {
            "folder": str(self.run.folder),
            "layout": self.run.layout,
            "trainer": self.trainer,
            "state_dict": self.state_dict,
            "monitor": self.run.monitor,
            "lower_is_better": dict(self.run.lower_is_better),
            "checkpoints": self.checkpoints(),
            "notes": self.notes,
        }


def n_bytes(path: Path) -> int:
    """Total size of a file, or of the files in a directory."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def print_runs(runs: Sequence[ListedRun], as_json: bool) -> None:
    """Print runs as tables with notes on stderr, or as JSON."""
    if as_json:
        click.echo(json.dumps([run.described() for run in runs], indent=2))
        return
    for run in runs:
        facts = run.described()
        click.echo(printable(_summary(facts)), err=True)
        _print_table(facts["checkpoints"])
        print_notes(run.notes)


def _summary(facts: dict[str, Any]) -> str:
    """Line with the layout of a run and its state dict."""
    n_own = sum(c["role"] == "checkpoint" for c in facts["checkpoints"])
    layout = f"run of {facts['trainer']}" if facts["trainer"] else "numbers in names"
    parts = [f"{facts['folder']}: {layout}", counted(n_own, "checkpoint")]
    if facts["state_dict"] is not None:
        parts.append(f"state dict {facts['state_dict']}")
    if facts["monitor"] is not None:
        direction = {True: ", lower is better", False: ", higher is better"}
        known = direction.get(facts["lower_is_better"].get(facts["monitor"]), "")
        parts.append(f"metric of the best {facts['monitor']}{known}")
    return "; ".join(parts)


def _print_table(checkpoints: list[dict[str, Any]]) -> None:
    """Table with a column for each counter and metric that is known."""
    counters = [n for n in COUNTERS if any(c[n] is not None for c in checkpoints)]
    metrics = dict.fromkeys(name for c in checkpoints for name in c["metrics"])
    rows = []
    for c in checkpoints:
        row = [c["name"]]
        row += ["" if c[name] is None else str(c[name]) for name in counters]
        row += [_cell(c["metrics"], name) for name in metrics]
        row += [size(c["bytes"]), c["role"]]
        row += ["yes" if c["averaged"] else ""] if "averaged" in c else []
        rows.append(row)
    averaged = ["averaged"] if any("averaged" in c for c in checkpoints) else []
    table(["checkpoint", *counters, *metrics, "size", "role", *averaged], rows)


def _cell(metrics: dict[str, float | None], name: str) -> str:
    """Value of a metric; empty if the checkpoint does not have it."""
    if name not in metrics:
        return ""
    value = metrics[name]
    return "not finite" if value is None else f"{value:g}"
