"""Quantile forecasts of several models of a hub in several rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.predictions.files.alignment import AlignedPredictions, align
from ensembles.predictions.files.hub.folder import Hub
from ensembles.predictions.files.layouts import normal_label
from ensembles.predictions.files.rows import describe
from ensembles.predictions.forecasts.quantiles import Crossing, first_index

OUTPUT_TYPE = "quantile"
ROUNDING = 1e-12  # relative to a quantile
TARGET_IDS = ("target", "target_variable", "outcome")  # task IDs that name targets


class ModelRounds(NamedTuple):
    """Forecasts of models in several rounds.

    Parameters
    ----------
    names : list of str
        Names of the models.
    ids : polars.DataFrame
        Task IDs of the units, as text.
    rounds : ndarray of datetime64[D], shape (n_units,)
        Date of the round of each unit.
    levels : ndarray of shape (n_levels,)
        Levels of the quantiles.
    stack : ndarray of shape (n_members, n_units, n_levels)
        Quantiles; NaN for units that a model lacks.
    notes : list of str
        Sentences about rows of the last round that are left out.
    """

    names: list[str]
    ids: Any
    rounds: Array
    levels: Float64
    stack: Float64
    notes: list[str]


def choose_models(
    hub: Hub, models: Sequence[str] | None, exclude: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Choose the models to combine.

    Parameters
    ----------
    hub : Hub
        The hub.
    models : sequence of str or None
        Names of models; None takes all that are not ensembles by their metadata.
    exclude : sequence of str
        Models to leave out.

    Returns
    -------
    names : list of str
        Names of the models.
    notes : list of str
        Sentences about ensembles that are left out.

    Raises
    ------
    ValueError
        If a model does not exist, or none is left.
    """
    known, notes = hub.models(), []
    for name in (*(models or ()), *exclude):
        if name not in known:
            raise ValueError(
                f"models must have a folder in {hub.settings.model_output} with "
                f"submissions: {name!r} has none (known: {', '.join(known[:30])})"
            )
    if models is None:
        ensembles = [name for name in known if hub.is_ensemble(name)]
        left_out = [name for name in ensembles if name not in exclude]
        if left_out:
            notes.append(
                f"ensembles of the hub's models left out: {', '.join(left_out)}"
            )
        models = [name for name in known if name not in ensembles]
    names = [name for name in dict.fromkeys(models) if name not in exclude]
    if not names:
        raise ValueError(f"{hub.settings.model_output} has no models to combine")
    return names, notes


def choose_target(
    hub: Hub, round_name: str, where: Mapping[str, Any] | None
) -> dict[str, str]:
    """Task IDs that name a target, with their values.

    Parameters
    ----------
    hub : Hub
        The hub.
    round_name : str
        Name of a round.
    where : mapping of str to value or None
        Values that the caller chose; None takes the only target with quantiles.

    Returns
    -------
    dict of str to str

    Raises
    ------
    ValueError
        If there are several targets, or none has quantiles.
    """
    wanted = {name: normal_label(value) for name, value in (where or {}).items()}
    tasks = list(hub.tasks.round_of(round_name).model_tasks)
    tasks = [task for task in tasks if OUTPUT_TYPE in task.output_types]
    for name, value in wanted.items():
        tasks = [
            task
            for task in tasks
            if name in task.task_ids and value in task.task_ids[name].values
        ]
    if not tasks:
        raise ValueError(
            f"{hub.tasks.path} has no task with quantiles in round {round_name} for "
            f"{wanted or 'any target'}"
        )
    for name in TARGET_IDS:
        values = [t.task_ids[name] for t in tasks if name in t.task_ids]
        targets = dict.fromkeys(v for allowed in values for v in allowed.values)
        if name in wanted or not targets:
            continue
        if len(targets) > 1:
            first = next(iter(targets))
            raise ValueError(
                f"{hub.tasks.path} has several targets with quantiles: "
                f"{', '.join(map(repr, targets))}; pass where={{{name!r}: {first!r}}} "
                f"(--where {name}={first!r}) to choose one"
            )
        wanted[name] = next(iter(targets))
    return wanted


def read_rounds(
    hub: Hub,
    submissions: Mapping[str, Mapping[str, Path]],
    round_names: Iterable[str],
    round_id: str,
    where: Mapping[str, str],
    *,
    crossing: Crossing = "raise",
) -> ModelRounds:
    """Read the quantiles of models in several rounds.

    Parameters
    ----------
    hub : Hub
        The hub.
    submissions : mapping of str to mapping of str to Path
        Submissions of each model by the name of the round.
    round_names : iterable of str
        Rounds to read.
    round_id : str
        Task ID that names rounds.
    where : mapping of str to str
        Values of task IDs that rows must have.
    crossing : {"raise", "sort"}, default="raise"
        If quantiles of a model decrease from one level to the next: raise, or sort
        them.

    Returns
    -------
    ModelRounds
        Models without such forecasts are left out.

    Raises
    ------
    ValueError
        If a submission is damaged, levels differ, quantiles cross, or no model has
        forecasts.
    """
    import polars as pl

    parts = []
    for round_name in round_names:
        files = [
            hub.open_submission(
                model, paths[round_name], where=where, output_type=OUTPUT_TYPE
            )
            for model, paths in submissions.items()
            if round_name in paths
        ]
        present = [file for file in files if file is not None]
        if present:
            part = align(present, missing="member")
            _check_round(part, round_name, round_id)
            if crossing == "raise":
                _check_crossing(part, round_name)
            parts.append((round_name, part))
    if not parts:
        raise ValueError(f"{hub.path} has no quantiles for {dict(where)}")
    levels = parts[0][1].columns
    names = [n for n in submissions if any(n in part.names for _, part in parts)]
    n_units = [len(part.ids) for _, part in parts]
    stack = np.full((len(names), sum(n_units), len(levels)), np.nan)
    stops = np.cumsum(n_units)
    for stop, n, (round_name, part) in zip(stops, n_units, parts, strict=True):
        if not np.array_equal(part.columns, levels):
            raise ValueError(
                f"all rounds must have the same levels of quantiles: {parts[0][0]} has "
                f"{levels.tolist()}, {round_name} has {part.columns.tolist()}"
            )
        members = [names.index(name) for name in part.names]
        stack[members, stop - n : stop] = np.sort(part.stack, axis=-1)
    columns = list(parts[0][1].ids.columns)
    rounds = np.repeat(np.array([name for name, _ in parts], "datetime64[D]"), n_units)
    ids = pl.concat([part.ids.select(columns) for _, part in parts])
    return ModelRounds(names, ids, rounds, levels, stack, parts[-1][1].notes)


def _check_crossing(part: AlignedPredictions, round_name: str) -> None:
    """Raise if quantiles of a model decrease by more than rounding errors."""
    tolerance = ROUNDING * np.abs(part.stack[..., 1:])
    crosses = (np.diff(part.stack, axis=-1) < -tolerance).any(-1)
    if crosses.any():
        member, row = first_index(crosses)
        quantiles = part.stack[member, row].tolist()
        raise ValueError(
            f"quantiles must not cross: in round {round_name}, {part.names[member]} "
            f"has {quantiles!s:.100} for {describe(part.ids, row)}; "
            "pass crossing='sort' (--crossing sort) to sort them, or leave it out"
        )


def _check_round(part: AlignedPredictions, round_name: str, round_id: str) -> None:
    """Raise if a file has forecasts of another round than its name says."""
    if round_id not in part.ids.columns:
        raise ValueError(
            f"submissions of round {round_name} must have the column {round_id!r}, "
            f"found {', '.join(part.ids.columns)}"
        )
    for row, name in enumerate(part.ids[round_id]):
        if name.strip() != round_name:
            members = np.flatnonzero(part.present[:, row])
            raise ValueError(
                f"submissions must be named after their round: of {round_name}, "
                f"{part.names[members[0]]} has {describe(part.ids, row)}"
            )
