"""Predictions of several files, with the same rows and columns for each member."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensembles._sklearn import check_bool, check_choice
from ensembles._typing import Array, Float64
from ensembles.atomic_io import explain_disk_full, preallocate
from ensembles.predictions.files.columns import map_columns
from ensembles.predictions.files.layouts import normal_label
from ensembles.predictions.files.member_rows import (
    MemberReport,
    count_samples,
    read_member,
)
from ensembles.predictions.files.prediction_file import PredictionFile
from ensembles.predictions.files.rows import RowIndex, describe, unique_rows
from ensembles.predictions.files.target import Target

POLICIES = ("error", "drop", "member")
LARGEST_IN_MEMORY = 128 << 20  # bytes of a stack
FIX = "set the environment variable TMPDIR to a folder with more space"


@dataclass(frozen=True)
class AlignedPredictions:
    """Predictions of several members for the same rows and columns.

    Parameters
    ----------
    names : list of str
        Names of the members.
    ids : polars.DataFrame
        Identifiers of the rows, as text; the column ``row``, from 0, if the files have
        no identifiers.
    y : ndarray of shape (n_rows,) or None
        True values; None without a target.
    kind : {"probabilities", "values", "quantiles", "samples"}
        Kind of the predictions.
    columns : ndarray of shape (n_columns,)
        Sorted classes with the dtype of ``y``, sorted levels of quantiles, names of
        values, or numbers of samples.
    stack : ndarray of shape (n_members, n_rows, n_columns)
        Predictions as float64; NaN where a member is missing, and after the last
        sample of a member that has fewer. A memory map of a temporary file without a
        name if it is larger than 128 MiB, in the folder that the environment variable
        ``TMPDIR`` names.
    present : ndarray of shape (n_members, n_rows)
        Whether a member has predictions for a row.
    notes : list of str
        Sentences about choices, and about rows and columns that are left out.
    """

    names: list[str]
    ids: Any
    y: Any
    kind: str
    columns: Array
    stack: Float64
    present: Array
    notes: list[str]


def align(
    files: Sequence[PredictionFile],
    target: Target | None = None,
    *,
    missing: str = "error",
    missing_class: str = "error",
    normalize: bool = False,
    classes: Any = None,
    kind: str | None = None,
) -> AlignedPredictions:
    """Align the predictions of several files by rows and columns.

    Rows are matched by their identifiers, in any order, and classes by name. If the
    target has all identifiers of the files, its rows are aligned; if it has a part of
    them, as the truth of a forecast, the rows of all files with a true value are
    aligned. A file without identifiers has its rows in the order
    of the target. Only the identifiers of all rows are kept in memory.

    Parameters
    ----------
    files : sequence of PredictionFile
        Files of the members.
    target : Target or None, default=None
        True values; None aligns the rows of all files, without ``y``.
    missing : {"error", "drop", "member"}, default="error"
        How to handle rows that a member lacks, or that contain NaN: "drop" leaves them
        out for all members, "member" for this member only.
    missing_class : {"error", "zero"}, default="error"
        How to handle a file that lacks a class: "zero" gives it the probability 0.
    normalize : bool, default=False
        Whether probabilities are divided by their sum in each row. False raises if a
        sum differs from 1 by more than 0.01.
    classes : array-like of shape (n_classes,) or None, default=None
        Sorted classes; None takes those of the target and of the files.
    kind : str or None, default=None
        Kind of the predictions; None infers it from the files and the target: a single
        column of values for a target with two classes is the probability of the second
        class, or of the class that the column is named after.

    Returns
    -------
    AlignedPredictions

    Raises
    ------
    ValueError
        If rows occur twice, are missing, contain NaN or are not probabilities, or if
        classes or levels differ.
    """
    check_choice("missing", missing, POLICIES)
    check_choice("missing_class", missing_class, ("error", "zero"))
    check_bool("normalize", normalize)
    names = _member_names(files)
    index, y, notes = _rows(files, target)
    if classes is not None and y is not None:
        y = _typed_as_classes(y, classes)
    mapping = map_columns(
        files, target, missing_class=missing_class, classes=classes, kind=kind
    )
    columns = mapping.columns
    if mapping.kind == "samples":
        columns = np.arange(max(count_samples(file, index) for file in files))
    stack = _empty_stack((len(files), len(index), len(columns)))
    present = np.zeros(stack.shape[:2], bool)
    notes += mapping.notes
    for member, file in enumerate(files):
        report = read_member(
            file, mapping.members[member], index, stack[member], normalize=normalize
        )
        release_memory(stack)
        present[member] = report.present
        notes += [f"{names[member]}: {note}" for note in (*file.notes, *report.notes)]
        if missing == "error" and not report.present.all():
            raise _missing_error(file, index, report)
    aligned = AlignedPredictions(
        names, index.ids, y, mapping.kind, columns, stack, present, notes
    )
    combine = np.all if missing == "drop" else np.any
    kept = np.asarray(combine(present, axis=0))
    return aligned if kept.all() else _without_rows(aligned, kept, missing)


def _typed_as_classes(y: Any, classes: Any) -> Any:
    """Labels with the type of the classes, which may be text such as ``"10"``."""
    by_text = {normal_label(label): label for label in np.asarray(classes).tolist()}
    for label in np.unique(y):
        if normal_label(label) not in by_text:
            raise ValueError(
                f"the target must contain the classes {', '.join(by_text)}, found "
                f"{normal_label(label)!r}"
            )
    return np.array([by_text[normal_label(label)] for label in y.tolist()])


def _member_names(files: Sequence[PredictionFile]) -> list[str]:
    """Names of the files, or their paths if names are the same."""
    if not files:
        raise ValueError("files must have at least one prediction file, found none")
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        names = [str(file.path) for file in files]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"files must be different, found {twice} twice")
    return names


def _rows(
    files: Sequence[PredictionFile], target: Target | None
) -> tuple[RowIndex, Any, list[str]]:
    """Rows to align with their true values, and notes."""
    named = [file for file in files if file.ids]
    notes = list(() if target is None else target.notes)
    if not named:
        return _rows_by_position(files, target, notes)
    common = [name for name in named[0].ids if all(name in f.ids for f in named)]
    if target is not None:
        common = [name for name in common if name != target.name]
    if not common:
        lines = "; ".join(f"{f.path} has {', '.join(f.ids)}" for f in named)
        raise ValueError(
            f"files must have the same identifiers: {lines}; pass ids= (--id) to name "
            "the columns that identify rows"
        )
    if target is None:
        return RowIndex(_units(named, common), "files"), None, notes
    shared = [name for name in common if name in target.ids.columns]
    if not shared:
        found = ", ".join(target.ids.columns) or "no other columns"
        raise ValueError(
            f"{target.path} must have the identifiers {', '.join(common)} of "
            f"{named[0].path}, found {found}; rename its columns, or pass ids= (--id)"
        )
    truth = RowIndex(target.ids.select(shared), str(target.path))
    if len(shared) == len(common):
        return truth, target.y, notes
    units = _units(named, common)
    positions = truth.positions(units)
    known = positions >= 0
    if not known.any():
        raise ValueError(
            f"{target.path} must have the true values of the files: no {shared} of "
            f"{named[0].path} is among its own, such as {describe(truth.ids, 0)}"
        )
    if not known.all():
        notes.append(f"{int((~known).sum())} rows of the files have no true value")
    index = RowIndex(units.filter(known.tolist()), "files")
    return index, target.y[positions[known]], notes


def _rows_by_position(
    files: Sequence[PredictionFile], target: Target | None, notes: list[str]
) -> tuple[RowIndex, Any, list[str]]:
    import polars as pl

    y = None if target is None else target.y
    n_rows = files[0].n_rows if y is None else len(y)
    for file in files:
        if file.layout == "long":
            raise ValueError(
                f"{file.path} must have columns that identify rows besides its levels "
                "and values, found none"
            )
        if file.n_rows != n_rows:
            owner = files[0].path if target is None else target.path
            raise ValueError(
                f"files without identifiers must have the same rows in the same order: "
                f"{owner} has {n_rows} rows, {file.path} has {file.n_rows}"
            )
    notes.append("rows are matched by their positions, because files have no ids")
    return RowIndex(pl.DataFrame({"row": range(n_rows)}).cast(pl.String), ""), y, notes


def _units(files: Sequence[PredictionFile], names: Sequence[str]) -> Any:
    """Rows of all files, each once, with these identifiers."""
    rows: list[Any] = []
    for file in files:
        for block in file.blocks():
            rows.append(unique_rows([block.ids], names))
        rows = [unique_rows(rows, names)]
    return rows[0]


def _missing_error(
    file: PredictionFile, index: RowIndex, report: MemberReport
) -> ValueError:
    row = int(np.flatnonzero(~report.present)[0])
    n_missing = int((~report.present).sum())
    first = describe(index.ids, row)
    return ValueError(
        f"{file.path} lacks {n_missing} of {len(index)} rows, the first is {first}"
        f"{report.reason}; pass missing='drop' "
        "(--missing drop) to leave these rows out, or missing='member' "
        "(--missing member) to combine the other members there"
    )


def missing_counts(names: Sequence[str], present: Array) -> str:
    """Number of missing rows of each member that lacks some.

    Parameters
    ----------
    names : sequence of str
        Names of the members.
    present : ndarray of shape (n_members, n_rows)
        Whether the member has the row.

    Returns
    -------
    str
        Such as ``forest 3, bayes 1``.
    """
    n_missing = (~present).sum(axis=1)
    pairs = [f"{name} {n}" for name, n in zip(names, n_missing, strict=True) if n]
    return ", ".join(pairs[:10]) + (", …" if len(pairs) > 10 else "")


def _empty_stack(shape: tuple[int, int, int]) -> Float64:
    """Array in memory, or in a temporary file without a name if it is large."""
    n_bytes = math.prod(shape) * 8
    if n_bytes <= LARGEST_IN_MEMORY:
        return np.empty(shape)
    with (
        tempfile.TemporaryFile() as file,
        explain_disk_full(tempfile.gettempdir(), FIX),
    ):
        preallocate(file.fileno(), n_bytes)
        mapped = mmap.mmap(file.fileno(), n_bytes)
    return np.frombuffer(mapped, np.float64).reshape(shape)


def release_memory(stack: Float64) -> None:
    """Release the memory of a mapped file; its content is kept.

    Parameters
    ----------
    stack : ndarray
        Stack of `AlignedPredictions`, which may be in memory.
    """
    base: Any = stack
    while isinstance(base, np.ndarray):
        base = base.base
    base = getattr(base, "obj", base)  # NumPy keeps a memoryview of the map
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _without_rows(
    aligned: AlignedPredictions, kept: Array, missing: str
) -> AlignedPredictions:
    """Leave out rows that members lack, with a note."""
    counts = missing_counts(aligned.names, aligned.present)
    if not kept.any():
        raise ValueError(
            f"no row has predictions of {'all' if missing == 'drop' else 'any'} "
            f"members: {counts}; pass missing='member' (--missing member) to use the "
            "rows that a part of them has"
        )
    note = (
        f"{int((~kept).sum())} of {len(kept)} rows are left out, because members lack "
        f"them: {counts}"
    )
    stack = aligned.stack
    smaller = _empty_stack((len(stack), int(kept.sum()), stack.shape[2]))
    for plane, source in zip(smaller, stack, strict=True):
        np.compress(kept, source, axis=0, out=plane)
        release_memory(stack)
        release_memory(smaller)
    return replace(
        aligned,
        ids=aligned.ids.filter(kept.tolist()),
        y=None if aligned.y is None else aligned.y[kept],
        stack=smaller,
        present=aligned.present[:, kept],
        notes=[*aligned.notes, note],
    )
