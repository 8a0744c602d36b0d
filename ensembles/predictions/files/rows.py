"""Identifiers of rows: the same text for each file format, and positions by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensembles._typing import Counts

SEPARATOR = "\x1f"  # ASCII's separator of units, which identifiers do not contain
# Numbers that a format stores as floats, and dates with a time of midnight.
WHOLE = r"^(-?\d+)\.0+$"
MIDNIGHT = r"^(\d{4}-\d{2}-\d{2})[ T]00:00(:00(\.0+)?)?(Z|\+00:00)?$"


def row_keys(ids: Any) -> Any:
    """Keys of rows from their identifiers.

    Parameters
    ----------
    ids : polars.DataFrame
        Identifiers as text.

    Returns
    -------
    polars.Series of str
        The same key for ``7`` and ``7.0``, and for ``2026-01-03`` and
        ``2026-01-03 00:00:00``.
    """
    import polars as pl

    texts = [_normal(ids[name]).alias(name) for name in ids.columns]
    return pl.select(pl.concat_str(texts, separator=SEPARATOR).alias("key"))["key"]


def _normal(values: Any) -> Any:
    values = values.fill_null("").str.strip_chars()
    # Two passes over most columns would take longer than all other steps.
    for part, pattern in ((".0", WHOLE), ("00:00", MIDNIGHT)):
        if values.str.contains(part, literal=True).any():
            values = values.str.replace(pattern, "$1")
    return values


def describe(ids: Any, row: int) -> str:
    """Identifiers of a row for messages.

    Parameters
    ----------
    ids : polars.DataFrame
        Identifiers of rows.
    row : int
        Index of the row.

    Returns
    -------
    str
        Such as ``id=7, fold=2``.
    """
    pairs = zip(ids.columns, ids.row(row), strict=True)
    return ", ".join(f"{name}={value}" for name, value in pairs)


class RowIndex:
    """Positions of rows by their identifiers.

    Parameters
    ----------
    ids : polars.DataFrame
        Identifiers of the rows, as text.
    owner : str
        File that they are from, for messages.

    Attributes
    ----------
    ids : polars.DataFrame
        Identifiers of the rows.

    Raises
    ------
    ValueError
        If two rows have the same identifiers.
    """

    def __init__(self, ids: Any, owner: str) -> None:
        import polars as pl

        self.ids = ids
        self._keys = row_keys(ids)
        if self._keys.n_unique() < len(ids):
            row = int(np.flatnonzero(self._keys.is_duplicated().to_numpy())[0])
            raise ValueError(
                f"{owner} must have each row once: {describe(ids, row)} occurs twice"
            )
        positions = np.arange(len(ids))
        self._table = pl.DataFrame({"key": self._keys, "position": positions})

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, ids: Any, *, start: int = 0) -> Counts:
        """Positions of rows.

        Parameters
        ----------
        ids : polars.DataFrame
            Identifiers as text, with the same columns in any order.
        start : int, default=0
            Position that the first row is expected at. If the rows are in the order of
            the index from there on, they are not looked up.

        Returns
        -------
        ndarray of shape (n_rows,)
            -1 for rows that the index does not have.
        """
        import polars as pl

        keys = row_keys(ids.select(self.ids.columns))
        expected = self._keys.slice(start, len(keys))
        if len(expected) == len(keys) and (expected == keys).all():
            return np.arange(start, start + len(keys))
        wanted = pl.DataFrame({"key": keys, "row": np.arange(len(keys))})
        joined = wanted.join(self._table, on="key", how="inner")
        positions = np.full(len(keys), -1)
        positions[joined["row"].to_numpy()] = joined["position"].to_numpy()
        return positions


def unique_rows(frames: Sequence[Any], names: Sequence[str]) -> Any:
    """Rows of several frames, each once, in order of appearance.

    Parameters
    ----------
    frames : sequence of polars.DataFrame
        Identifiers as text, with the columns ``names``.
    names : sequence of str
        Columns that identify rows.

    Returns
    -------
    polars.DataFrame
    """
    import polars as pl

    rows = pl.concat([frame.select(names) for frame in frames])
    return rows.filter(row_keys(rows).is_first_distinct())
