"""Outcomes of forecasts in ``target-data``, as they were known at each date."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.predictions.files.formats.paths import open_table
from ensembles.predictions.files.hub.tasks import HubRound, HubTasks
from ensembles.predictions.files.rows import (
    RowIndex,
    describe,
    normal_text,
    unique_rows,
)

FOLDER = "target-data"
SERIES = ("time-series", "oracle-output")
SUFFIXES = (".csv", ".parquet")
VALUES = ("observation", "oracle_value", "value")
AS_OF = "as_of"
DATES = ("target_end_date", "target_date", "date")
PARTITION = re.compile(r"([A-Za-z_]\w*)=(.*)")  # of a folder, as Arrow names it


class Outcomes:
    """Outcomes of units as they were known at each date.

    Parameters
    ----------
    units : polars.DataFrame
        Task IDs of the units, as text.
    rounds : ndarray of datetime64, shape (n_units,)
        Round of each unit.
    table : polars.DataFrame
        Outcomes: task IDs as text, ``value`` as float64 and, if they are versioned,
        ``as_of``.
    owner : str
        File of the outcomes, for messages.

    Attributes
    ----------
    notes : list of str
        Sentences about the outcomes.

    Raises
    ------
    ValueError
        If units and outcomes have no common task IDs, or an outcome occurs twice.
    """

    def __init__(self, units: Any, rounds: Array, table: Any, owner: str) -> None:
        reserved = {"value", AS_OF}
        shared = [c for c in units.columns if c in table.columns and c not in reserved]
        if not shared:
            raise ValueError(
                f"{owner} must have a task ID of the forecasts: they have "
                f"{', '.join(units.columns)}, it has {', '.join(table.columns)}"
            )
        known = unique_rows([table], shared)
        _check_dates(table, shared, len(known), units.columns, owner)
        index = RowIndex(known, owner)
        self._of_unit = index.positions(units)
        self._rounds = rounds
        self._n_known, self.notes = len(known), list[str]()
        date = next((name for name in DATES if name in shared), None)
        if AS_OF in table.columns:
            table = table.sort(AS_OF, maintain_order=True)
            self._since = as_dates(table[AS_OF], f"{owner}: column {AS_OF!r}")
        elif date is None:
            raise ValueError(
                f"{owner} must have the column {AS_OF!r}, or the dates of outcomes in "
                f"{' or '.join(DATES)}, found {', '.join(table.columns)}"
            )
        else:
            # Known from the day after.
            self._since = as_dates(table[date], f"{owner}: column {date!r}")
            self.notes.append(
                f"{owner} has no column {AS_OF!r}: weights are learned from outcomes "
                "that may have been revised after a round was due"
            )
        earlier = rounds < rounds.max()
        if earlier.any() and (self._of_unit[earlier] < 0).all():
            self.notes.append(
                f"{owner} has no outcome of earlier rounds: they have "
                f"{describe(units.select(shared), 0)}, it has {describe(known, 0)}"
            )
        positions = index.positions(table.select(shared))
        self._check_once(positions, table, owner)
        self._positions, self._values = positions, table["value"].to_numpy()

    def _check_once(self, positions: Array, table: Any, owner: str) -> None:
        pairs = np.stack([positions, self._since.astype(np.int64)])
        if np.unique(pairs, axis=1).shape[1] < len(positions):
            what = f"each {AS_OF}" if AS_OF in table.columns else "all"
            raise ValueError(
                f"{owner} must have each outcome once in {what}, found one twice"
            )

    def before(self, now: Any) -> Float64:
        """Outcomes as they were known before a date.

        Parameters
        ----------
        now : datetime64
            Date of a round.

        Returns
        -------
        ndarray of shape (n_units,)
            NaN for unknown outcomes, and for the units of this and later rounds.
        """
        known = self._since < now
        values = np.full(self._n_known + 1, np.nan)  # the last one for other units
        # The newest values are at the end, and replace older ones.
        values[self._positions[known]] = self._values[known]
        y: Float64 = np.where(self._rounds < now, values[self._of_unit], np.nan)
        return y


def _check_dates(
    table: Any, shared: list[str], n_known: int, names: Sequence[str], owner: str
) -> None:
    """Raise if outcomes of several dates have the same common task IDs."""
    for date in DATES:
        if date not in table.columns or date in shared:
            continue
        if len(unique_rows([table], [*shared, date])) > n_known:
            raise ValueError(
                f"forecasts must have the date of the outcomes, which {owner} has in "
                f"the column {date!r}: found the task IDs {', '.join(names)}"
            )


def cutoff(tasks: HubTasks, date: Any, rounds: HubRound) -> Any:
    """Date before which outcomes must be published to be known to a round.

    Parameters
    ----------
    tasks : HubTasks
        Rounds of the hub.
    date : datetime64[D]
        Date of the round.
    rounds : HubRound
        Rounds whose last day of submissions counts if the hub no longer has the round.

    Returns
    -------
    datetime64[D]
        The date of the round, or the day after the last day of submissions if that is
        earlier.
    """
    due = next((r.due for r in tasks.rounds if r.has_round(str(date))), rounds.due)
    if due is None:
        return date
    last = np.datetime64(due, "D") if isinstance(due, str) else date + due
    return min(date, last + np.timedelta64(1, "D"))


def as_dates(texts: Any, owner: str) -> Array:
    """Dates of a column of text.

    Parameters
    ----------
    texts : polars.Series
        Dates such as ``2024-11-23``, with or without a time.
    owner : str
        Column, for messages.

    Returns
    -------
    ndarray of datetime64[D]

    Raises
    ------
    ValueError
        If a text is not a date.
    """
    try:
        return np.array(texts.str.slice(0, 10).to_list(), "datetime64[D]")
    except ValueError as error:
        raise ValueError(f"{owner} must have dates: {error}") from None


def read_outcomes(
    folder: Path,
    path: Path | None,
    *,
    where: Mapping[str, str],
    output_type: str,
    dates: Sequence[str],
) -> tuple[Any, str]:
    """Read the outcomes of a hub.

    Parameters
    ----------
    folder : Path
        Folder of the hub.
    path : Path or None
        File with outcomes; None takes ``target-data/time-series``, or
        ``target-data/oracle-output``: a file, or a folder of files.
    where : mapping of str to str
        Values of task IDs that rows must have, for the columns that the file has.
    output_type : str
        Output type of the rows of ``oracle-output``.
    dates : sequence of str
        Task IDs of the forecasts; a column with dates is renamed to their target date.

    Returns
    -------
    table : polars.DataFrame
        Columns as text, ``value`` as float64.
    owner : str
        File or folder, for messages.

    Raises
    ------
    FileNotFoundError
        If the hub has no outcomes.
    ValueError
        If a file is damaged, or has no column with values.
    """
    import polars as pl

    owner = find_outcomes(folder) if path is None else path
    files = [owner]
    if owner.is_dir():
        files = sorted(p for p in owner.rglob("*") if p.suffix in SUFFIXES)
    frames = [_read(file, owner, where, output_type) for file in files]
    table = pl.concat(frames, how="diagonal")
    target_date = next((name for name in DATES if name in dates), None)
    published = next((name for name in DATES if name in table.columns), None)
    if target_date and published and target_date not in table.columns:
        table = table.rename({published: target_date})
    if not len(table):
        raise ValueError(f"{owner} must have outcomes for {dict(where)}, found none")
    return table, str(owner)


def _read(path: Path, owner: Path, where: Mapping[str, str], output_type: str) -> Any:
    import polars as pl

    table = open_table(path)
    value = next((name for name in VALUES if name in table.names), None)
    if value is None:
        raise ValueError(
            f"{path} must have a column of numbers {' or '.join(VALUES)}, found "
            f"{', '.join(table.names)}"
        )
    texts = [name for name in table.names if name != value]
    frame = pl.concat(list(table.read(texts, [value]))).rename({value: "value"})
    for part in path.relative_to(owner).parts[:-1]:
        if match := PARTITION.fullmatch(part):
            frame = frame.with_columns(pl.lit(unquote(match[2])).alias(match[1]))
    conditions = dict(where)
    if "output_type" in frame.columns:
        conditions["output_type"] = output_type
    for name, wanted in conditions.items():
        if name in frame.columns:
            frame = frame.filter(normal_text(frame[name]) == wanted)
    return frame.drop("output_type", "output_type_id", strict=False)


def find_outcomes(folder: Path) -> Path:
    """Find the file or folder with the outcomes of a hub.

    Parameters
    ----------
    folder : Path
        Folder of the hub.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    for series in SERIES:
        for name in (*(series + suffix for suffix in SUFFIXES), series):
            path = folder / FOLDER / name
            if path.exists():
                return path
    raise FileNotFoundError(
        f"{folder / FOLDER} must have time-series.csv, time-series.parquet or the same "
        "of oracle-output; pass target=PATH (--target PATH) to read another file"
    )
