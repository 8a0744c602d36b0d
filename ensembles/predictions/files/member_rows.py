"""Reading of a member's predictions into the rows and columns of all members."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ensembles._typing import Array, Counts, Float64
from ensembles.predictions.files.columns import MemberColumns
from ensembles.predictions.files.layouts import normal_label
from ensembles.predictions.files.prediction_file import (
    Block,
    PredictionFile,
    column_codes,
)
from ensembles.predictions.files.rows import RowIndex, describe

SUM_TOLERANCE = 0.01  # probabilities of ten classes with three digits
UNIT_TOLERANCE = 1e-6  # of single probabilities


class MemberReport(NamedTuple):
    """Rows that a member has.

    Parameters
    ----------
    present : ndarray of shape (n_rows,)
        Whether the member has all predictions of a row.
    reason : str
        End of the message about missing rows, if a row in the file is incomplete.
    notes : list of str
        Sentences about rows that are left out.
    """

    present: Array
    reason: str
    notes: list[str]


def read_member(
    file: PredictionFile,
    columns: MemberColumns,
    index: RowIndex,
    plane: Float64,
    *,
    normalize: bool,
) -> MemberReport:
    """Read the predictions of a member.

    Parameters
    ----------
    file : PredictionFile
        File of the member.
    columns : MemberColumns
        Columns of the file for those of ``plane``.
    index : RowIndex
        Rows of all members.
    plane : ndarray of shape (n_rows, n_columns)
        Receives the predictions, and NaN in rows that the member lacks.
    normalize : bool
        Whether probabilities are divided by their sum in each row.

    Returns
    -------
    MemberReport

    Raises
    ------
    ValueError
        If a row occurs twice, or contains infinity or invalid probabilities; if a file
        without identifiers has another number of rows.
    """
    plane[:] = np.nan
    reader = _long if file.layout == "long" else _wide
    present, n_extra = reader(file, columns, index, plane)
    notes, reason = [], ""
    if n_extra:
        notes.append(f"{n_extra} rows of the file are not among the rows to align")
    incomplete = _incomplete(plane, present, columns)
    if incomplete.any():
        row = int(np.flatnonzero(incomplete)[0])
        reason = f", {describe(index.ids, row)} has missing values in it"
        notes.append(f"{int(incomplete.sum())} rows with missing values are left out")
        plane[incomplete] = np.nan
        present &= ~incomplete
    if columns.kind == "probabilities":
        _check_probabilities(file, index, plane, present, normalize=normalize)
    return MemberReport(present, reason, notes)


def _wide(
    file: PredictionFile, columns: MemberColumns, index: RowIndex, plane: Float64
) -> tuple[Array, int]:
    present, n_extra, n_read = np.zeros(len(index), bool), 0, 0
    has_column = columns.order >= 0
    n_columns = len(columns.order)
    for block in file.blocks():
        positions = _positions(file, index, block, n_read)
        n_read += len(block.values)
        kept = positions >= 0
        n_extra += len(kept) - int(kept.sum())
        positions, values = positions[kept], block.values[kept]
        _check_once(file, present, positions, block, kept)
        _check_finite(file, block, values, kept)
        if columns.positive is not None:
            plane[positions, columns.positive] = values[:, 0]
            plane[positions, 1 - columns.positive] = 1 - values[:, 0]
        else:
            aligned = np.zeros((len(values), n_columns))
            aligned[:, has_column] = values[:, columns.order[has_column]]
            plane[positions, :n_columns] = aligned
    if not file.ids and n_read != len(index):
        raise _length_error(file, len(index))
    return present, n_extra


def _long(
    file: PredictionFile, columns: MemberColumns, index: RowIndex, plane: Float64
) -> tuple[Array, int]:
    n_columns = plane.shape[1]
    filled, n_extra, n_read = np.zeros(plane.size, bool), 0, 0
    labels = [normal_label(file.columns[i]) if i >= 0 else None for i in columns.order]
    flat = plane.reshape(-1)
    samples = _SampleNumbers(file, len(index)) if file.kind == "samples" else None
    for block in file.blocks():
        positions = _positions(file, index, block, n_read)
        n_read += len(block.values)
        if samples is None:
            codes = column_codes(file, block.labels, labels)  # type: ignore[arg-type]
        else:
            codes = samples(positions, block)
        n_extra += int((positions < 0).sum())
        kept = (positions >= 0) & (codes >= 0)
        cells = positions[kept] * n_columns + codes[kept]
        _check_once(file, filled, cells, block, kept)
        _check_finite(file, block, block.values[kept], kept)
        flat[cells] = block.values[kept]
    rows = filled.reshape(plane.shape)
    if file.kind == "probabilities":  # also classes that the file lacks
        plane[:, columns.order < 0] = np.where(rows.any(axis=1), 0.0, np.nan)[:, None]
    present = np.asarray(rows.any(axis=1))
    return present, n_extra


class _SampleNumbers:
    """Numbers of samples in their row, from 0, in the order of the file."""

    def __init__(self, file: PredictionFile, n_rows: int) -> None:
        self._file = file
        self._counts = np.zeros(n_rows, np.int64)
        self._codes = {label: code for code, label in enumerate(file.columns)}
        self._seen: list[Counts] = []

    def __call__(self, positions: Counts, block: Block) -> Counts:
        texts = block.labels.unique().to_list()
        codes = [self._codes.get(normal_label(text), -1) for text in texts]
        samples = block.labels.replace_strict(texts, codes).to_numpy()
        kept = positions >= 0
        cells = positions[kept] * len(self._codes) + samples[kept]
        self._seen.append(cells)
        ordered = np.argsort(positions, kind="stable")
        sorted_positions = positions[ordered]
        is_first = np.r_[True, sorted_positions[1:] != sorted_positions[:-1]]
        starts = np.maximum.accumulate(np.where(is_first, np.arange(len(ordered)), 0))
        numbers = np.empty(len(positions), np.int64)
        numbers[ordered] = np.arange(len(ordered)) - starts
        numbers[kept] += self._counts[positions[kept]]
        np.add.at(self._counts, positions[kept], 1)
        return np.where(kept, numbers, -1)

    def check(self) -> None:
        """Raise if a row has a sample twice."""
        cells = np.concatenate([np.arange(0), *self._seen])
        if len(np.unique(cells)) < len(cells):
            raise ValueError(
                f"{self._file.path} must have each sample of a row once, found a "
                "sample twice"
            )


def count_samples(file: PredictionFile, index: RowIndex) -> int:
    """Largest number of samples of a row.

    Parameters
    ----------
    file : PredictionFile
        File with samples.
    index : RowIndex
        Rows of all members.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If a row has a sample twice.
    """
    if file.layout == "wide":
        return len(file.columns)
    numbers, n_read = _SampleNumbers(file, len(index)), 0
    largest = 0
    for block in file.blocks():
        positions = _positions(file, index, block, n_read)
        n_read += len(block.values)
        largest = max(largest, int(numbers(positions, block).max(initial=-1)) + 1)
    numbers.check()
    return largest


def _positions(
    file: PredictionFile, index: RowIndex, block: Block, n_read: int
) -> Counts:
    """Positions of the rows of a block; by their order without identifiers."""
    if file.ids:
        return index.positions(block.ids, start=n_read)
    stop = n_read + len(block.values)
    if stop > len(index):
        raise _length_error(file, len(index))
    return np.arange(n_read, stop)


def _length_error(file: PredictionFile, n_rows: int) -> ValueError:
    return ValueError(
        f"{file.path} has no identifiers, so it must have the same rows as the target "
        f"in the same order: {n_rows} rows, found {file.n_rows}"
    )


def _check_once(
    file: PredictionFile, seen: Array, cells: Counts, block: Block, kept: Array
) -> None:
    """Mark cells as seen; raise if one was seen before, or occurs twice."""
    twice = seen[cells]
    if not twice.any():
        n_before = np.count_nonzero(seen)
        seen[cells] = True
        if np.count_nonzero(seen) == n_before + len(cells):
            return
        twice = np.ones(len(cells), bool)
        twice[np.unique(cells, return_index=True)[1]] = False
    row = np.flatnonzero(kept)[np.flatnonzero(twice)[0]]
    what = "row" if block.labels is None else f"{block.labels[int(row)]!r} of each row"
    raise ValueError(
        f"{file.path} must have each {what} once: {_block_row(block, row)} occurs twice"
    )


def _check_finite(
    file: PredictionFile, block: Block, values: Float64, kept: Array
) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        row = np.flatnonzero(kept)[np.argwhere(infinite)[0, 0]]
        raise ValueError(
            f"{file.path} must contain finite numbers: {_block_row(block, row)} "
            "contains infinity"
        )


def _block_row(block: Block, row: int) -> str:
    """Row of a block for messages."""
    text = f"row {block.rows[row]}"
    return f"{text} ({describe(block.ids, int(row))})" if block.ids.columns else text


def _where(file: PredictionFile, index: RowIndex, row: int) -> str:
    """File and row of the index for messages."""
    return f"{file.path}: {describe(index.ids, row)}"


def _steps(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of rows, so that temporary arrays are small."""
    size = max(1, (1 << 20) // max(1, n_columns))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def _incomplete(plane: Float64, present: Array, columns: MemberColumns) -> Array:
    """Rows that the file has, with missing values."""
    missing = np.zeros(len(plane), bool)
    for rows in _steps(*plane.shape):
        is_nan = np.isnan(plane[rows])
        # A row may have fewer samples than others, at the end.
        missing[rows] = (
            is_nan[:, 0] if columns.kind == "samples" else is_nan.any(axis=1)
        )
        if columns.kind == "samples":
            missing[rows] |= (is_nan[:, :-1] & ~is_nan[:, 1:]).any(axis=1)
    return missing & present


def _check_probabilities(
    file: PredictionFile,
    index: RowIndex,
    plane: Float64,
    present: Array,
    *,
    normalize: bool,
) -> None:
    """Raise unless rows are probabilities with the sum 1; or divide by the sum."""
    for rows in _steps(*plane.shape):
        part = plane[rows]
        invalid = (part < -UNIT_TOLERANCE) | (part > 1 + UNIT_TOLERANCE)
        if normalize:
            invalid = part < 0
        if invalid.any():
            row, column = np.argwhere(invalid)[0]
            raise ValueError(
                f"{_where(file, index, rows.start + int(row))} must have probabilities "
                f"between 0 and 1, found {part[row, column]:.6g}; predictions that are "
                "not probabilities need a softmax first; pass columns= (--columns) to "
                "leave out other columns"
            )
        sums = np.where(present[rows], part.sum(axis=1), 1.0)
        wrong = np.abs(sums - 1) > SUM_TOLERANCE
        if normalize:
            wrong = sums <= 0
            part /= np.where(wrong, 1, sums)[:, None]
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{_where(file, index, rows.start + row)} must have probabilities with "
                f"the sum 1, found {sums[row]:.6g}; pass normalize=True (--normalize) "
                "to divide by the sum, or kind='values' (--kind values) if they are "
                "not exclusive classes"
            )
