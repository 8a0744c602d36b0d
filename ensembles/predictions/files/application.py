"""Application of a fitted ensemble to prediction files, in blocks of rows."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from ensembles._typing import Counts, Float64
from ensembles.atomic_io import check_absent
from ensembles.predictions.files.alignment import (
    AlignedPredictions,
    align,
    missing_counts,
    release_memory,
)
from ensembles.predictions.files.columns import map_columns
from ensembles.predictions.files.formats.paths import (
    format_of,
    open_prediction_writer,
)
from ensembles.predictions.files.prediction_file import PredictionFile
from ensembles.predictions.files.rows import RowIndex
from ensembles.predictions.files.stack_members import with_stack
from ensembles.predictions.files.target import Target

BLOCK_BYTES = 1 << 24  # predictions that are combined at once


def apply_ensemble(
    ensemble: Any,
    files: Sequence[PredictionFile],
    out: str | os.PathLike[str],
    *,
    target: Target | None,
    kind: str,
    columns: Any,
    missing: str,
    normalize: bool,
    labels: str | None,
    force: bool,
) -> tuple[str, ...]:
    """Combine prediction files by a fitted ensemble, and write the result.

    Parameters
    ----------
    ensemble : EnsembleClassifier or EnsembleRegressor
        Fitted ensemble of `make_ensemble`.
    files : sequence of PredictionFile
        Files of the members.
    out : path
        File to write.
    target : Target or None
        Rows to combine; None combines the rows of all files.
    kind : str
        Kind of the predictions.
    columns : ndarray of shape (n_columns,)
        Sorted classes, names of values, or levels of quantiles.
    missing : {"error", "drop", "member"}
        How to handle rows that a member lacks.
    normalize : bool
        Whether probabilities are divided by their sum in each row.
    labels : str or None
        Name of a column with predicted labels, which is written instead of the
        predictions; None writes the predictions.
    force : bool
        Whether an existing file is replaced.

    Returns
    -------
    tuple of str
        Sentences about choices, and about rows that are left out.
    """
    path = Path(out)
    check_absent(path, force=force, folder=False)
    if format_of(path).name in ("npy", "npz") and labels and columns.dtype.kind in "US":
        raise ValueError(
            f"{path} must be a csv, tsv or parquet file to have text labels"
        )
    aligned = align(
        files,
        target,
        missing=missing,
        missing_class="zero",  # the target may have had the class
        normalize=normalize,
        classes=columns if kind == "probabilities" else None,
        kind=kind,
    )
    if not np.array_equal(aligned.columns, columns):
        raise ValueError(
            f"files must have the columns {list(columns)} of the files that the "
            f"weights were learned from, found {list(aligned.columns)}"
        )
    if target is None:
        _check_order(files, aligned.ids)
    written = _output_columns(files[0], kind, columns)
    ids = _typed_ids(files, aligned.ids)
    names = list(written) if labels is None else [labels]
    n_equal = 0
    with open_prediction_writer(path, ids.columns, names, force=force) as add:
        for rows in _blocks(aligned):
            predictions, n_of_block = _combine(ensemble, aligned, rows)
            values = predictions[:, list(written.values())]
            if labels is not None:
                outputs = ensemble._fitted_combiner.outputs
                values = outputs.to_targets([predictions])[:, None]
            add(ids.slice(rows[0], len(rows)), values)
            release_memory(aligned.stack)
            n_equal += n_of_block
    notes = list(aligned.notes)
    n_partial = int((~aligned.present.all(axis=0)).sum())
    if n_partial:
        notes.append(
            f"{n_partial} rows are blended without the members that lack them: "
            f"{missing_counts(aligned.names, aligned.present)}"
        )
    if n_equal:
        notes.append(
            f"{n_equal} rows have only members with weight 0, which are weighted "
            "equally there"
        )
    return tuple(notes)


def _check_order(files: Sequence[PredictionFile], ids: Any) -> None:
    """Raise if rows have to be matched by position, and files differ in their order."""
    unnamed = [file for file in files if not file.ids]
    named = [file for file in files if file.ids]
    if not (unnamed and named):
        return
    index = RowIndex(ids, str(named[0].path))
    for file in named:
        start = 0
        for block in file.blocks():
            if file.layout == "long":
                block = block._replace(ids=block.ids.unique(maintain_order=True))
            positions = index.positions(block.ids, start=start)
            expected = np.arange(start, start + len(positions))
            start += len(positions)
            if not np.array_equal(positions, expected):
                raise ValueError(
                    f"{unnamed[0].path} has no identifiers, and {file.path} has its "
                    f"rows in another order than {named[0].path}: save all predictions "
                    "with identifiers, arrays in npz files"
                )


def _blocks(aligned: AlignedPredictions) -> Iterator[Counts]:
    n_members, n_rows, n_columns = aligned.stack.shape
    step = max(1, BLOCK_BYTES // (8 * n_members * n_columns))
    for start in range(0, n_rows, step):
        yield np.arange(start, min(start + step, n_rows))


def _combine(
    ensemble: Any, aligned: AlignedPredictions, rows: Counts
) -> tuple[Float64, int]:
    """Predictions of the ensemble for consecutive rows.

    Also returns the number of rows whose members all have weight 0.
    """
    block = slice(rows[0], rows[-1] + 1)
    stack, present = aligned.stack[:, block], aligned.present[:, block]
    fitted = with_stack(ensemble, stack)
    patterns, codes = np.unique(present, axis=1, return_inverse=True)
    predictions = np.empty(stack.shape[1:])
    n_equal = 0
    for code, pattern in enumerate(patterns.T):
        of_pattern = np.flatnonzero(codes.reshape(-1) == code)
        combiner = fitted
        if not (ensemble.weights_[pattern] != 0).any():
            combiner = copy.copy(fitted)
            combiner.weights_ = pattern / pattern.sum()
            n_equal += len(of_pattern)
        predictions[of_pattern] = _predict(combiner, of_pattern[:, None])
    return predictions, n_equal


def _predict(ensemble: Any, X: Any) -> Any:
    with warnings.catch_warnings():
        # Members without these rows are left out with a warning each.
        warnings.filterwarnings("ignore", "member .* failed and is left out")
        if is_classifier(ensemble):
            return ensemble.predict_proba(X)
        return np.asarray(ensemble.predict(X)).reshape(len(X), -1)


def _output_columns(file: PredictionFile, kind: str, columns: Any) -> dict[str, int]:
    """Names of the columns of the output, and their indices in the predictions.

    If the file has a single column, so has the output, with the same name.
    """
    if kind == "values" and len(columns) == 1 and file.has_names:
        return {str(file.columns[0]): 0}
    if kind == "probabilities" and len(file.columns) == 1:
        mapping = map_columns(
            [file], None, missing_class="zero", classes=columns, kind=kind
        )
        (member,) = mapping.members
        if member.positive is not None:
            return {str(file.columns[0]): member.positive}
    return {str(column): index for index, column in enumerate(columns.tolist())}


def _typed_ids(files: Sequence[PredictionFile], ids: Any) -> Any:
    """Identifiers with the type that they have in the file, if all are whole."""
    import polars as pl

    owners = [file for file in files if set(ids.columns) <= set(file.ids)]
    if not owners:
        return ids.select([])  # rows are matched by their positions
    numbers = [name for name in ids.columns if name in owners[0].table.numbers]
    try:
        return ids.with_columns(
            pl.col(name).cast(pl.Float64).cast(pl.Int64) for name in numbers
        )
    except pl.exceptions.InvalidOperationError:
        return ids
