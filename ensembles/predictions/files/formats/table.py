"""The table of formats of prediction files: how they are read and written.

To add a format, write a module in this folder that registers it, and import it in
`builtin`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensembles.registry import Table

INSTALL = "pip install 'ensemble-avg[files]'"
BLOCK = 4 << 20  # bytes of a block of rows, about; parsed text takes 20 times as much
HEAD = 200  # rows that are examined to recognize a layout
MOST_COLUMNS = 5000
# Function that appends rows, as a polars DataFrame with all columns of the file.
AddRows = Callable[[Any], None]


@dataclass(frozen=True)
class PredictionTable:
    """Columns of a prediction file, read in blocks of rows.

    Parameters
    ----------
    path : Path
        Path of the file.
    names : sequence of str
        Names of the columns; numbers from 0 for an array, whose columns have no names.
    numbers : frozenset of str
        Names of the columns with numbers; the others contain text or dates.
    head : polars.DataFrame
        First rows: numbers as float64, the other columns as text.
    read : callable (texts, numbers) -> iterator of polars.DataFrame
        Reads the columns named in ``texts`` as text and those in ``numbers`` as float64
        with null or NaN for missing values, in blocks of rows; raises `ValueError` for
        a damaged file.
    n_rows : int or None, default=None
        Number of rows; None if the file does not store it.
    has_header : bool, default=True
        Whether the file names its columns.
    """

    path: Path
    names: Sequence[str]
    numbers: frozenset[str]
    head: Any
    read: Callable[[Sequence[str], Sequence[str]], Iterator[Any]]
    n_rows: int | None = None
    has_header: bool = True


@dataclass(frozen=True)
class PredictionFormat:
    """A format of prediction files, with its reader and writer.

    Parameters
    ----------
    read : callable (path) -> PredictionTable
        Reads the names and first rows of a file; raises `ValueError` if the file is
        damaged. The function's name is the name of the format.
    write : callable (path, ids) -> iterator of AddRows
        Generator that writes the file. It yields once: a function that appends rows,
        whose columns named in ``ids`` are identifiers. It neither creates temporary
        files beside the output nor renames.
    suffixes : tuple of str
        File name extensions in lowercase, such as ``(".csv",)``.

    Examples
    --------
    >>> from ensembles.predictions.files.formats.builtin import PREDICTION_FORMATS
    >>> PREDICTION_FORMATS["csv"].suffixes
    ('.csv', '.txt')
    """

    read: Callable[[Path], PredictionTable]
    write: Callable[[Path, Sequence[str]], Iterator[AddRows]]
    suffixes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Public name of the format."""
        return self.read.__name__


PREDICTION_FORMATS: Table[PredictionFormat] = Table(
    "prediction format", PredictionFormat
)


def import_polars(path: Path) -> Any:
    """Import polars.

    Parameters
    ----------
    path : Path
        File that needs it, for the message.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If polars or pyarrow is not installed.
    """
    try:
        import polars
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path} needs the package {error.name}: {INSTALL}") from None
    return polars


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise if columns have the same name, or are too many.

    Parameters
    ----------
    path : Path
        Path of the file, for messages.
    names : sequence of str
        Names of the columns.

    Raises
    ------
    ValueError
        If there are no columns, more than 5,000, or two of the same name.
    """
    if not names:
        raise ValueError(f"{path} must have columns, found none")
    if len(names) > MOST_COLUMNS:
        raise ValueError(
            f"{path} must have at most {MOST_COLUMNS} columns, found {len(names)}; "
            "a row must be a sample, and a column a class, a quantile or a target"
        )
    seen = set[str]()
    for name in names:
        if name in seen:
            raise ValueError(
                f"{path} must have columns of different names: {name!r} occurs twice"
            )
        seen.add(name)
