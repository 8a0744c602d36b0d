"""``ensemble blend --hub``: blend a round of a forecast hub, and print the scores."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import printable, table
from ensembles_cli.options.hub import HubOptions
from ensembles_cli.reports.soup_progress import format_score, print_notes

if TYPE_CHECKING:
    from ensembles.predictions.files.hub.blending import HubBlend, HubScore
    from ensembles.predictions.forecasts.quantiles import Crossing

DEFAULT = "convex"  # of the command for files
EQUAL = ("equal", "uniform", "none")
METRIC = "weighted_interval_score"


def blend_in_hub(
    hub: HubOptions,
    models: Sequence[str],
    *,
    target: str | None,
    rule: str | None,
    rule_params: dict[str, Any],
    weights: str,
    weights_params: dict[str, Any],
    crossing: Crossing,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Blend a round, write the submission, and print the scores in earlier rounds.

    Parameters
    ----------
    hub : HubOptions
        Folder of the hub, round and target.
    models : sequence of str
        Names of the models; empty for all.
    target : str or None
        File with the outcomes; None for the hub's own.
    rule : str or None
        Name of the rule, or several with commas; None is the default.
    rule_params : dict
        Parameters of the rule.
    weights : str
        "skill", or "equal" for equal weights.
    weights_params : dict
        Parameters of the weights.
    crossing : {"raise", "sort"}
        If quantiles of a model decrease with the level: raise, or sort them.
    out : Path or None
        File to write; None is the file of the submission in the hub.
    force : bool
        Whether an existing file is replaced.
    as_json : bool
        Whether to print JSON instead of the table.
    """
    from ensembles.predictions.files.hub.blending import blend_round
    from ensembles.predictions.files.hub.folder import open_hub
    from ensembles.predictions.files.hub.submission import check_model_name

    if hub.model_id is not None:  # before weights are learned
        check_model_name(hub.model_id)
    if out is not None and hub.model_id is None:
        raise click.UsageError("-o requires --model-id with --hub")
    if weights not in ("skill", DEFAULT, *EQUAL):
        raise click.UsageError(f"--weights must be skill or equal, found {weights!r}")
    for name, value in weights_params.items():
        if isinstance(value, str):
            raise click.UsageError(
                f"--weights-param {name} must be a number, found {value!r}"
            )
    opened = open_hub(hub.path)
    exclude = [*hub.exclude]
    if hub.model_id in opened.models():  # an earlier blend is not a member
        exclude.append(str(hub.model_id))
    rules = None if rule is None else tuple(rule.split(","))
    blended = blend_round(
        opened,
        hub.round_name,
        models=models or None,
        exclude=exclude,
        where=hub.where,
        target=None if target is None else Path(target),
        rule=rules[0] if rules is not None and len(rules) == 1 else rules,
        rule_params=rule_params or None,
        weights=None if weights in EQUAL else "skill",
        weights_params=weights_params or None,
        crossing=crossing,
        n_rounds=hub.n_rounds,
    )
    notes, path = blended.notes, None
    if hub.model_id is not None:
        path, more = blended.write(hub.model_id, out, force=force)
        notes += more
    print_notes(list(notes))
    if as_json:
        click.echo(json.dumps(_to_dict(blended, path, notes), indent=2))
        return
    _print(blended, path)


def _print(blended: HubBlend, path: Path | None) -> None:
    scores = {entry.name: entry for entry in blended.scores}
    combined = [entry for entry in blended.scores if entry.weight is None]
    weights = dict(zip(blended.names, blended.weights, strict=True))
    rows = []
    for name in sorted(weights, key=lambda name: -weights[name]):
        rows.append([name, *_cells(scores.get(name)), f"{weights[name]:.4g}"])
    rows += [[entry.name, *_cells(entry), ""] for entry in combined]
    table(["model", METRIC, "against equal weights", "units", "weight"], rows)
    n_units, n_levels = blended.quantiles.shape
    click.echo(
        printable(
            f"Round {blended.round_name}: {n_units} units of {n_levels} quantiles. "
            f"{_learned(blended)}"
        )
    )
    if path is not None:
        click.echo(printable(f"wrote {path}"))


def _learned(blended: HubBlend) -> str:
    if not blended.scores:
        return "No outcome of an earlier round is known: weights are equal."
    return (
        f"Scores are of the known outcomes of {blended.n_earlier} earlier rounds, each "
        "blended with weights from the rounds before it; lower is better."
    )


def _cells(entry: HubScore | None) -> list[str]:
    if entry is None:
        return ["", "", "0"]
    return [format_score(entry.score), f"{entry.relative:.3f}", str(entry.n_units)]


def _to_dict(
    blended: HubBlend, path: Path | None, notes: Sequence[str]
) -> dict[str, Any]:
    """Return the blend as JSON values."""
    entries = {entry.name: _entry(entry) for entry in blended.scores}
    members = [
        {"name": name, "score": None, "relative": None, "units": 0}
        | entries.pop(name, {})
        | {"weight": float(weight)}
        for name, weight in zip(blended.names, blended.weights, strict=True)
    ]
    return {
        "hub": str(blended.hub.path),
        "round": blended.round_name,
        "metric": METRIC,
        "members": members,
        "combinations": list(entries.values()),
        "units": len(blended.ids),
        "levels": blended.levels.tolist(),
        "earlier_rounds": blended.n_earlier,
        "out": None if path is None else str(path),
        "notes": list(notes),
    }


def _entry(entry: HubScore) -> dict[str, Any]:
    numbers = {"score": entry.score, "relative": entry.relative}
    finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    return {"name": entry.name, **finite, "units": entry.n_units}
