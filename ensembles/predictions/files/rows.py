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

    texts = [normal_text(ids[name]) for name in ids.columns]
    return pl.select(pl.concat_str(texts, separator=SEPARATOR).alias("key"))["key"]


def normal_text(values: Any) -> Any:
    """Text of identifiers, the same for all formats of a file.

    Parameters
    ----------
    values : polars.Series of str
        Identifiers.

    Returns
    -------
    polars.Series of str
        ``7`` for ``7.0``, ``2026-01-03`` for ``2026-01-03 00:00:00``, and an empty
        text for null.
    """
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
        self.ids = ids
        self._keys = row_keys(ids)
        self._seed = -1
        collide = True
        while collide:  # for two keys in 10^19: once
            self._seed += 1
            hashes = self._keys.hash(self._seed).to_numpy()
            self._order = np.argsort(hashes)
            self._hashes = hashes[self._order]
            is_equal = self._hashes[1:] == self._hashes[:-1]
            collide = bool(is_equal.any())
            if collide:
                self._check_once(np.flatnonzero(is_equal), owner)

    def _check_once(self, pairs: Counts, owner: str) -> None:
        """Raise if rows with the same hash have the same key."""
        rows = np.sort(np.r_[self._order[pairs], self._order[pairs + 1]])
        is_twice = self._keys.gather(rows).is_duplicated().to_numpy()
        if is_twice.any():
            row = describe(self.ids, int(rows[np.flatnonzero(is_twice)[0]]))
            raise ValueError(f"{owner} must have each row once: {row} occurs twice")

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
        keys = row_keys(ids.select(self.ids.columns))
        expected = self._keys.slice(start, len(keys))
        if len(expected) == len(keys) and (expected == keys).all():
            return np.arange(start, start + len(keys))
        indices = np.searchsorted(self._hashes, keys.hash(self._seed).to_numpy())
        positions = self._order.take(indices, mode="clip")
        # Other keys may have the same hash.
        is_same = (self._keys.gather(positions) == keys).to_numpy()
        return np.where(is_same, positions, -1)


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
