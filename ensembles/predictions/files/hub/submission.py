"""Submissions to a hub: written in its layout, and checked against ``tasks.json``."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.atomic_io import atomic_output
from ensembles.predictions.files.formats.paths import format_of, open_table
from ensembles.predictions.files.hub.folder import ID_COLUMN, Hub
from ensembles.predictions.files.hub.tasks import HubRound, ModelTask, OutputType
from ensembles.predictions.files.layouts import normal_label
from ensembles.predictions.files.rows import describe, row_keys

MODEL = re.compile(r"[A-Za-z0-9_+]+-[A-Za-z0-9_+]+")  # team and model
STRUCTURE = ("output_type", "output_type_id", "value")
SUM_TOLERANCE = 1e-3  # of the probabilities of a pmf
SLACK = 1e-9  # of rounding


def write_submission(
    hub: Hub,
    model: str,
    round_name: str,
    ids: Any,
    output_type: str,
    columns: Any,
    values: Float64,
    *,
    out: Path | None = None,
    force: bool = False,
) -> tuple[Path, tuple[str, ...]]:
    """Write forecasts as a submission, after a check.

    Parameters
    ----------
    hub : Hub
        The hub.
    model : str
        Name of the model, such as ``TEAM-blend``.
    round_name : str
        Name of the round.
    ids : polars.DataFrame
        Task IDs of the units, as text.
    output_type : str
        Output type, such as "quantile".
    columns : ndarray of shape (n_columns,)
        Levels or categories.
    values : ndarray of shape (n_units, n_columns)
        Forecasts.
    out : Path or None, default=None
        File to write; None writes to the folder of the model in the hub, in the first
        format that the hub accepts.
    force : bool, default=False
        Whether an existing file is replaced.

    Returns
    -------
    path : Path
        File that was written.
    notes : tuple of str
        Sentence about values that were rounded to whole numbers.

    Raises
    ------
    ValueError
        If the name of the model is not valid, or the submission does not meet the
        hub's ``tasks.json``.
    FileExistsError
        If the file exists and not ``force``.
    """
    check_model_name(model)
    suffix = hub.settings.formats[0]
    name = f"{round_name}-{model}.{suffix}"
    path = hub.settings.model_output / model / name if out is None else out
    frame, notes = _frame(hub, round_name, ids, output_type, columns, values)
    check_rows(hub, round_name, frame, str(path))
    if path.suffix == ".parquet":  # text has no types
        frame = _typed(frame, hub.tasks.types())
    if out is None:
        path.parent.mkdir(exist_ok=True)
    with atomic_output(path, folder=False, force=force) as temporary:
        writing = format_of(path).write(temporary, [])
        next(writing)(frame)
        next(writing, None)
    return path, notes


def _typed(frame: Any, types: Mapping[str, str]) -> Any:
    """Columns of text with the types of the hub."""
    import polars as pl

    typed = {
        "integer": lambda texts: texts.cast(pl.Int32),
        "double": lambda texts: texts.cast(pl.Float64),
        "Date": lambda texts: texts.str.to_date(),
    }
    return frame.with_columns(
        typed[types[name]](frame[name])
        for name in frame.columns
        if types.get(name) in typed
    )


def check_model_name(model: str) -> None:
    """Raise unless a name is one that hubs accept.

    Parameters
    ----------
    model : str
        Name of a model, such as ``TEAM-blend``.

    Raises
    ------
    ValueError
        If it is not a team and a model of letters, digits and ``_``.
    """
    if not MODEL.fullmatch(model):
        raise ValueError(
            "the name of a model must be a team and a model of letters, digits and _, "
            f"such as TEAM-blend, found {model!r}"
        )


def _frame(
    hub: Hub,
    round_name: str,
    ids: Any,
    output_type: str,
    columns: Any,
    values: Float64,
) -> tuple[Any, tuple[str, ...]]:
    """Rows of a submission in the order of the hub's task IDs, and notes."""
    import polars as pl

    rounds = hub.tasks.round_of(round_name)
    names = list(rounds.model_tasks[0].task_ids)
    missing = [name for name in names if name not in ids.columns]
    if missing:
        raise ValueError(
            f"forecasts must have the task IDs of {hub.tasks.path}: they lack "
            f"{', '.join(missing)}, found {', '.join(ids.columns)}"
        )
    is_whole = np.zeros(len(ids), bool)
    for task in rounds.model_tasks:
        output = task.output_types.get(output_type)
        if output is not None and output.value_type == "integer":
            is_whole |= accepts_units(task, ids)
    notes: tuple[str, ...] = ()
    rounded = np.where(is_whole[:, None], np.round(values), values)
    if not np.array_equal(values, rounded):
        values = rounded
        notes = ("values are rounded to whole numbers, as the hub asks for",)
    n_units, n_columns = values.shape
    rows = np.repeat(np.arange(n_units), n_columns)
    frame = ids.select(names)[rows].with_columns(
        pl.lit(output_type).alias(STRUCTURE[0]),
        pl.Series(STRUCTURE[1], [normal_label(c) for c in columns] * n_units),
        pl.Series(STRUCTURE[2], values.ravel()),
    )
    if is_whole.all():
        frame = frame.with_columns(pl.col(STRUCTURE[2]).cast(pl.Int64))
    return frame, notes


def check_submission(hub: Hub, path: str | os.PathLike[str]) -> None:
    """Check a submission against the hub's ``tasks.json``.

    Parameters
    ----------
    hub : Hub
        The hub.
    path : path
        File in the folder of a model, named after its round and the model.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not named after its folder; if a column or a required row is
        missing, a row occurs twice, a task, level or value is not accepted, or
        quantiles decrease.

    References
    ----------
    https://docs.hubverse.io, "Model output" and "Hub configuration files".
    """
    import polars as pl

    path = Path(path)
    model = path.parent.name
    round_name = path.stem.removesuffix(f"-{model}")
    if round_name == path.stem:
        raise ValueError(
            f"{path} must be named after its round and its folder: ROUND-{model}.csv"
        )
    table = open_table(path)
    if STRUCTURE[2] not in table.names:
        raise ValueError(
            f"{path} must have the column 'value', found {', '.join(table.names)}"
        )
    texts = [name for name in table.names if name != STRUCTURE[2]]
    frame = pl.concat(list(table.read(texts, [STRUCTURE[2]])))
    check_rows(hub, round_name, frame, str(path))


def check_rows(hub: Hub, round_name: str, frame: Any, owner: str) -> None:
    """Check the rows of a submission against the hub's ``tasks.json``.

    Parameters
    ----------
    hub : Hub
        The hub.
    round_name : str
        Name of the round.
    frame : polars.DataFrame
        Rows with task IDs, output types and values.
    owner : str
        File, for messages.

    Raises
    ------
    ValueError
        As in `check_submission`.
    """
    import polars as pl

    rounds = hub.tasks.round_of(round_name)
    _check_columns(rounds, frame, owner)
    names = [name for name in frame.columns if name not in (*STRUCTURE, ID_COLUMN)]
    texts = frame.select(
        *(
            pl.col(n).cast(pl.String).str.strip_chars()
            for n in (*names, *STRUCTURE[:2])
        ),
        pl.col(STRUCTURE[2]).cast(pl.Float64),
    )
    if rounds.from_variable:
        others = texts.filter(texts[rounds.round_id] != round_name)
        if len(others):
            raise ValueError(
                f"{owner} must be of round {round_name}, found "
                f"{describe(others.select(names), 0)}"
            )
    keys = row_keys(texts.select(*names, *STRUCTURE[:2]))
    if keys.n_unique() < len(keys):
        row = int(np.flatnonzero(keys.is_duplicated().to_numpy())[0])
        raise ValueError(
            f"{owner} must have each row once: {_row(texts, row)} is twice"
        )
    of_tasks = [_of_task(task, texts) for task in rounds.model_tasks]
    is_accepted = np.any(of_tasks, axis=0)
    if not is_accepted.all():
        row = int(np.flatnonzero(~is_accepted)[0])
        raise ValueError(
            f"{owner} must have tasks, output types and levels of {hub.tasks.path}: "
            f"{_row(texts, row)} is none"
        )
    for task, of_task in zip(rounds.model_tasks, of_tasks, strict=True):
        rows = texts.filter(of_task.tolist())
        _check_required(task, rows, owner)
        for name, output in task.output_types.items():
            _check_values(rows.filter(rows[STRUCTURE[0]] == name), name, output, owner)


def _row(texts: Any, row: int) -> str:
    return describe(texts.drop(STRUCTURE[2]), row)


def _check_columns(rounds: HubRound, frame: Any, owner: str) -> None:
    expected = [*rounds.model_tasks[0].task_ids, *STRUCTURE]
    found = [name for name in frame.columns if name != ID_COLUMN]
    if set(found) != set(expected):
        raise ValueError(
            f"{owner} must have the columns {', '.join(expected)}, found "
            f"{', '.join(found)}"
        )
    if (
        frame[STRUCTURE[2]].cast(float).is_nan().any()
        or frame[STRUCTURE[2]].has_nulls()
    ):
        raise ValueError(f"{owner} must have no missing values")


def accepts_units(task: ModelTask, ids: Any) -> Array:
    """Whether a group of tasks accepts units.

    Parameters
    ----------
    task : ModelTask
        Group of tasks.
    ids : polars.DataFrame
        Task IDs of the units, as text.

    Returns
    -------
    ndarray of bool, shape (n_units,)
    """
    accepted = np.ones(len(ids), bool)
    for name, allowed in task.task_ids.items():
        if name not in task.derived or allowed.values:
            accepted &= _is_in(ids[name], allowed.values)
    return accepted


def _of_task(task: ModelTask, texts: Any) -> Any:
    """Rows whose task IDs, output type and level a group of tasks accepts."""
    of_type = np.zeros(len(texts), bool)
    for name, output in task.output_types.items():
        rows = (texts[STRUCTURE[0]] == name).to_numpy()
        if output.ids is not None:
            levels = output.ids.values or ("NA", "")
            rows = rows & _is_in(texts[STRUCTURE[1]], levels)
        of_type |= rows
    return accepts_units(task, texts) & of_type


def _is_in(texts: Any, accepted: Sequence[str]) -> Any:
    """Mask of the texts that stand for an accepted value."""
    distinct = texts.unique().to_list()
    wanted = set(accepted)
    known = [text for text in distinct if normal_label(text or "") in wanted]
    return texts.fill_null("").is_in([text or "" for text in known]).to_numpy()


def _check_required(task: ModelTask, rows: Any, owner: str) -> None:
    """Raise unless each task has all required levels, and all required tasks exist."""
    ids = [name for name in task.task_ids if name not in task.derived]
    required = {n: task.task_ids[n].required for n in ids if task.task_ids[n].required}
    for name, output in task.output_types.items():
        part = rows.filter(rows[STRUCTURE[0]] == name)
        if output.is_required and (len(rows) or len(required) == len(ids)):
            _check_tasks(required, ids, part, name, owner)
        elif not len(part):
            continue
        if output.ids is None:
            continue
        for key, group in _by_unit(part):
            labels = {normal_label(label) for label in group[STRUCTURE[1]]}
            missing = [label for label in output.ids.required if label not in labels]
            if missing:
                raise ValueError(
                    f"{owner} must have all required levels of {name}: {key} lacks "
                    f"{', '.join(missing[:4])}"
                )


def _check_tasks(
    required: dict[str, tuple[str, ...]],
    ids: list[str],
    rows: Any,
    output_type: str,
    owner: str,
) -> None:
    """Raise unless each combination of optional task IDs has all required ones."""
    optional = [name for name in ids if name not in required]
    groups: dict[Any, set[Any]] = {} if optional else {(): set()}
    for unit in rows.select(ids).unique().iter_rows(named=True):
        key = tuple(unit[name] for name in optional)
        values = tuple(normal_label(unit[name]) for name in required)
        groups.setdefault(key, set()).add(values)
    for key, found in groups.items():
        for values in itertools.product(*required.values()):
            if values not in found:
                pairs = [*zip(required, values, strict=True)]
                pairs += zip(optional, key, strict=True)
                where = ", ".join(f"{name}={value}" for name, value in pairs)
                raise ValueError(
                    f"{owner} must have all required tasks of output type "
                    f"{output_type}: it lacks {where}"
                )


def _by_unit(rows: Any) -> Iterator[tuple[str, Any]]:
    names = [name for name in rows.columns if name not in STRUCTURE]
    for _, group in rows.group_by(names, maintain_order=True):
        yield describe(group.select(names), 0), group


def _check_values(rows: Any, name: str, output: OutputType, owner: str) -> None:
    """Raise unless values have the hub's type and limits, and fit each other."""
    values = rows[STRUCTURE[2]].to_numpy()
    invalid = ~((values >= output.minimum) & (values <= output.maximum))
    if output.value_type == "integer":
        invalid |= values != np.round(values)
    if invalid.any():
        row = int(np.flatnonzero(invalid)[0])
        raise ValueError(
            f"{owner} must have values of type {output.value_type} from "
            f"{output.minimum} to {output.maximum}: {_row(rows, row)} has {values[row]}"
        )
    for key, group in _by_unit(rows) if len(rows) else ():
        numbers, labels = group[STRUCTURE[2]].to_numpy(), group[STRUCTURE[1]]
        if name in ("quantile", "cdf"):
            ordered = numbers[np.argsort(labels.cast(float).to_numpy())]
            if (np.diff(ordered) < -SLACK).any():
                raise ValueError(
                    f"{owner} must have increasing values of {name}: {key}"
                )
        if name == "pmf" and abs(numbers.sum() - 1) > SUM_TOLERANCE:
            raise ValueError(
                f"{owner} must have probabilities with the sum 1: {key} has "
                f"{numbers.sum():.6g}"
            )
        if output.n_samples is not None and not (
            output.n_samples[0] <= len(numbers) <= output.n_samples[1]
        ):
            raise ValueError(
                f"{owner} must have {output.n_samples[0]} to {output.n_samples[1]} "
                f"samples of each task, {key} has {len(numbers)}"
            )
