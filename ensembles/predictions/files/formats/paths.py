"""Opening of prediction files by their suffix, and atomic writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ensembles._typing import Float64
from ensembles.atomic_io import atomic_output, explain_disk_full
from ensembles.predictions.files.formats.builtin import PREDICTION_FORMATS
from ensembles.predictions.files.formats.table import (
    PredictionFormat,
    PredictionTable,
    check_names,
    import_polars,
)

COMPRESSION_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")
# Function that appends rows: their identifiers, and their predictions of shape
# (n_rows, n_columns).
AddPredictions = Callable[[Any, Float64], None]


def open_table(path: Path) -> PredictionTable:
    """Open a file in the format of its suffix.

    Parameters
    ----------
    path : Path
        Path of the file.

    Returns
    -------
    PredictionTable

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If no format has the suffix, or the file is damaged.
    """
    table: PredictionTable = format_of(path).read(path)
    return table


def format_of(path: Path) -> PredictionFormat:
    """Format of a path by its suffix.

    Parameters
    ----------
    path : Path
        Path of a file that need not exist.

    Returns
    -------
    PredictionFormat

    Raises
    ------
    ValueError
        If no format has the suffix.
    """
    suffix = path.suffix.lower()
    for entry in PREDICTION_FORMATS.values():
        if suffix in entry.suffixes:
            return entry
    known = ", ".join(
        s for entry in PREDICTION_FORMATS.values() for s in entry.suffixes
    )
    hint = ""
    if suffix in COMPRESSION_SUFFIXES:
        hint = "; decompress it first"
    elif suffix in PICKLE_SUFFIXES:
        hint = "; pickles could run code when they are read, save the array as .npy"
    raise ValueError(f"{path} must end in one of {known}, found {suffix!r}{hint}")


@contextmanager
def open_prediction_writer(
    path: Path, ids: Sequence[str], columns: Sequence[str], *, force: bool = False
) -> Iterator[AddPredictions]:
    """Open a prediction file for appending blocks of rows; it is written atomically.

    Parameters
    ----------
    path : Path
        Output with the suffix of a format. ``.npy`` stores the predictions alone.
    ids : sequence of str
        Names of the columns that identify rows.
    columns : sequence of str
        Names of the columns with predictions.
    force : bool, default=False
        Whether an existing file is replaced.

    Yields
    ------
    callable (ids, values)
        Appends rows: their identifiers as a polars.DataFrame, and their predictions as
        an ndarray of shape (n_rows, n_columns).

    Raises
    ------
    ValueError
        If no format has the suffix, or columns have the same name.
    FileExistsError
        If ``path`` exists and not ``force``, or is a directory.
    """
    entry = format_of(path)
    polars = import_polars(path)
    check_names(path, [*ids, *columns])
    with (
        explain_disk_full(path),
        atomic_output(path, folder=False, force=force) as temporary,
        closing(entry.write(temporary, ids)) as writing,  # type: ignore[type-var]
    ):
        add_rows = next(writing)

        def add(frame: Any, values: Float64) -> None:
            # polars would guess the orientation of a square array.
            predictions = polars.DataFrame(values, schema=list(columns), orient="row")
            add_rows(polars.concat([frame.select(ids), predictions], how="horizontal"))

        yield add
        next(writing, None)
