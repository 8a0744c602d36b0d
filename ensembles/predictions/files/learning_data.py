"""Rows that weights are learned from: predictions of all members, and true values."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.files.alignment import AlignedPredictions, release_memory
from ensembles.predictions.files.formats.paths import open_table
from ensembles.predictions.files.judging_splits import as_times
from ensembles.predictions.files.prediction_file import PredictionFile, open_predictions
from ensembles.predictions.files.rows import RowIndex
from ensembles.predictions.files.target import Target, read_target

LEARNING_BYTES = 1 << 26  # predictions in memory that weights are learned from
Path = str | os.PathLike[str]


class LearningData(NamedTuple):
    """Rows that weights are learned from.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_rows, n_columns)
        Predictions of the members.
    y : ndarray of shape (n_rows,)
        True values.
    groups, time : ndarray of shape (n_rows,) or None
        Group and time of each row; None without these columns.
    n_complete : int
        Number of rows with predictions of all members, which may be more.
    notes : list of str
        Sentences about rows that are left out.
    """

    stack: Float64
    y: Any
    groups: Any
    time: Any
    n_complete: int
    notes: list[str]


def open_members(
    files: Sequence[Path | PredictionFile],
    ids: Sequence[Sequence[str] | None],
    **selected: Any,
) -> tuple[PredictionFile, ...]:
    """Open the files of the members.

    Parameters
    ----------
    files : sequence of path or PredictionFile
        Files of the members.
    ids : sequence of (sequence of str or None)
        Columns that identify the rows of each file; None chooses them.
    **selected
        ``columns`` and ``output_type`` of `open_predictions`, for all files.

    Returns
    -------
    tuple of PredictionFile
    """
    pairs = zip(files, ids, strict=True)
    return tuple(
        file
        if isinstance(file, PredictionFile)
        else _open(pathlib.Path(file), names, selected)
        for file, names in pairs
    )


def _open(
    path: pathlib.Path, ids: Sequence[str] | None, selected: Mapping[str, Any]
) -> PredictionFile:
    """Opened file; arrays, whose columns have no names, may lack the identifiers."""
    if ids is not None:
        table = open_table(path)
        if not table.has_header and not set(ids) & set(table.names):
            ids = None
    return open_predictions(path, ids=ids, **selected)


def read_truth(
    path: Path,
    files: Sequence[PredictionFile],
    *,
    column: str | None,
    others: Sequence[str | None],
) -> Target:
    """Read the true values of the rows of prediction files.

    Parameters
    ----------
    path : path
        File with the true values.
    files : sequence of PredictionFile
        Files of the members, whose identifiers are not the true values.
    column : str or None
        Column with the true values; None chooses it.
    others : sequence of (str or None)
        Names of columns that do not have the true values either.

    Returns
    -------
    Target
    """
    if column is not None:
        return read_target(path, column=column)
    known = {*others, *(name for file in files for name in file.ids)}
    names = [name for name in open_table(pathlib.Path(path)).names if name in known]
    return read_target(path, ids=names or None)


def learning_data(
    aligned: AlignedPredictions,
    target: Target,
    *,
    groups: str | None,
    time: str | None,
) -> LearningData:
    """Rows with predictions of all members, or a sample of them that fits in memory.

    Parameters
    ----------
    aligned : AlignedPredictions
        Predictions of the members.
    target : Target
        True values, with other columns.
    groups, time : str or None
        Columns of the target with groups and times; None without these.

    Returns
    -------
    LearningData

    Raises
    ------
    ValueError
        If no row has predictions of all members, or a column does not exist.
    """
    complete = np.flatnonzero(aligned.present.all(axis=0))
    rows, notes = _rows(aligned, complete)
    stack = aligned.stack
    if len(rows) < stack.shape[1]:
        stack = _gathered(stack, rows)
    return LearningData(
        stack,
        np.asarray(aligned.y)[rows],
        None if groups is None else _column(target, groups, aligned, rows),
        None if time is None else as_times(_column(target, time, aligned, rows)),
        len(complete),
        notes,
    )


def _rows(aligned: AlignedPredictions, complete: Counts) -> tuple[Counts, list[str]]:
    n_members, n_rows, n_columns = aligned.stack.shape
    notes = []
    if not len(complete):
        counts = zip(aligned.names, aligned.present.sum(axis=1), strict=True)
        raise ValueError(
            f"no row has predictions of all {n_members} members to learn weights from: "
            f"{', '.join(f'{name} has {n}' for name, n in counts)} of {n_rows} rows; "
            "leave out the files with the fewest rows"
        )
    if len(complete) < n_rows:
        notes.append(
            f"weights are learned and judged on the {len(complete)} of {n_rows} rows "
            "for which all members have predictions"
        )
    most = max(1, LEARNING_BYTES // (8 * n_members * n_columns))
    if len(complete) <= most:
        return complete, notes
    notes.append(
        f"weights are learned and judged on a random sample of {most} of "
        f"{len(complete)} rows, to limit the memory"
    )
    sample = np.random.default_rng(0).choice(complete, most, replace=False)
    return np.sort(sample), notes


def _gathered(stack: Float64, rows: Counts) -> Float64:
    """Rows of a stack, which may be larger than memory."""
    sample = np.empty((len(stack), len(rows), stack.shape[2]))
    for member, plane in zip(stack, sample, strict=True):
        plane[:] = member[rows]
        release_memory(stack)
    return sample


def _column(
    target: Target, name: str, aligned: AlignedPredictions, rows: Counts
) -> Any:
    """Values of another column of the target, as text, for rows of the stack."""
    if name not in target.ids.columns:
        raise ValueError(
            f"{target.path} has no column {name!r} for groups or time, found "
            f"{', '.join(map(repr, target.ids.columns)) or 'no other columns'}"
        )
    shared = [column for column in aligned.ids.columns if column in target.ids.columns]
    if shared:
        index = RowIndex(target.ids.select(shared), str(target.path))
        positions = index.positions(aligned.ids)
    else:  # rows are matched by their positions, which are their identifiers
        positions = aligned.ids["row"].to_numpy().astype(np.int64)
    values = target.ids[name].fill_null("").to_numpy()[positions[rows]]
    if (values == "").any():
        raise ValueError(
            f"column {name!r} of {target.path} must have a value in each row: "
            f"{int((values == '').sum())} of {len(values)} have none"
        )
    return np.asarray(values, str)
