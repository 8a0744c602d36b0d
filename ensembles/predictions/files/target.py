"""The true values that predictions are compared with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensembles.predictions.files.formats.paths import open_table
from ensembles.predictions.files.formats.table import PredictionTable
from ensembles.predictions.files.formats.text_tables import MISSING
from ensembles.predictions.files.layouts import check_columns, is_id_name
from ensembles.predictions.files.rows import WHOLE

LEADING_ZERO = r"^[-+]?0\d"


@dataclass(frozen=True)
class Target:
    """True values with their identifiers, as `read_target` returns them.

    Parameters
    ----------
    path : Path
        Path of the file.
    name : str
        Name of the column with the true values.
    ids : polars.DataFrame
        The other columns, as text; `align` uses the ones that the prediction files
        have too. No columns if the file has only the true values.
    y : ndarray of shape (n_rows,)
        Class labels or numbers. Whole numbers are int64, text is str.
    notes : tuple of str, default=()
        Sentences about rows that are left out.
    """

    path: Path
    name: str
    ids: Any
    y: Any
    notes: tuple[str, ...] = ()


def read_target(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[str] | None = None,
    column: str | None = None,
) -> Target:
    r"""Read the true values from a file.

    Parameters
    ----------
    path : path
        File in a format of ``PREDICTION_FORMATS``.
    ids : sequence of str or None, default=None
        Columns that identify rows; None takes all other columns: `align` uses
        the ones that the prediction files have too.
    column : str or None, default=None
        Column with the true values. None takes the only column that is not an
        identifier by its name, or the only one of numbers.

    Returns
    -------
    Target
        Rows without a true value are left out; ``notes`` has their number.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the column does not exist or has to be chosen, or no row has a value.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "y.csv")
    >>> _ = path.write_text("id,label\n7,dog\n9,cat\n")
    >>> target = read_target(path)
    >>> target.name, target.y.tolist()
    ('label', ['dog', 'cat'])
    """
    import polars as pl

    path = Path(path)
    table = open_table(path)
    check_columns(path, ids or (), table.names, "ids")
    name = _target_column(table, ids) if column is None else column
    check_columns(path, [name], table.names, "column")
    if ids is None:
        ids = [other for other in table.names if other != name]
    ids = [other for other in ids if other != name]
    frames = list(table.read(list(dict.fromkeys([*ids, name])), ()))
    frame = pl.concat(frames)
    y, known = _typed(frame[name].fill_null("").str.strip_chars())
    notes: tuple[str, ...] = ()
    if not known.all():
        n_unknown = len(known) - int(known.sum())
        notes = (f"{n_unknown} rows of {path} have no {name}, and are left out",)
        frame = frame.filter(known)
    if not len(frame):
        raise ValueError(f"{path} must have values in column {name!r}, found none")
    return Target(path, name, frame.select(ids), y, notes)


def _target_column(table: PredictionTable, ids: Sequence[str] | None) -> str:
    """The only column that is not an identifier, or the only one of numbers."""
    if len(table.names) == 1:
        return table.names[0]
    if ids is not None:
        others = [name for name in table.names if name not in ids]
    else:
        others = [name for name in table.names if not is_id_name(name)]
    numbers = [name for name in others if name in table.numbers]
    for candidates in (others, numbers):
        if len(candidates) == 1:
            return candidates[0]
    raise ValueError(
        f"{table.path} must have one column besides its identifiers, found "
        f"{', '.join(map(repr, others[:20])) or 'none'}; pass column='NAME' "
        "(--target-column NAME) to choose it"
    )


def _typed(texts: Any) -> tuple[Any, Any]:
    """Known values, as whole numbers, numbers, or labels, and the mask of their rows.

    Numbers with leading zeros are labels.
    """
    import polars as pl

    known = ~texts.is_in(MISSING)
    numbers = texts.filter(known).str.replace(WHOLE, "$1")
    if not numbers.str.contains(LEADING_ZERO).any():
        for dtype in (pl.Int64, pl.Float64):
            y = numbers.cast(dtype, strict=False)
            if not y.is_null().any() and y.is_finite().all():
                return y.to_numpy(), known
    known = texts != ""
    return texts.filter(known).to_numpy().astype(str), known
