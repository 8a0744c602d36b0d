"""A file with the predictions of one member, read in blocks of rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Counts, Float64
from ensembles.predictions.files.formats.paths import open_table
from ensembles.predictions.files.formats.table import PredictionTable
from ensembles.predictions.files.layouts import (
    OUTPUT_KINDS,
    LongColumns,
    check_columns,
    find_long_columns,
    normal_label,
    parse_level,
    wide_layout,
)

MOST_SAMPLES = 1_000_000  # names of samples of a file


class Block(NamedTuple):
    """Consecutive rows of a prediction file.

    Parameters
    ----------
    ids : polars.DataFrame
        Identifiers of the rows, as text.
    rows : ndarray of shape (n_rows,)
        Row numbers in the file, from 1, without the header.
    labels : ndarray of shape (n_rows,) or None
        Long layout: text of the level, class or sample of each value; None for the
        wide layout.
    values : ndarray of shape (n_rows,) or (n_rows, n_columns)
        Predictions, NaN where they are missing: a number for each row in the long
        layout, a column for each of ``PredictionFile.columns`` in the wide layout.
    """

    ids: Any
    rows: Counts
    labels: Any
    values: Float64


@dataclass(frozen=True)
class PredictionFile:
    """Predictions of a member in a file, as `open_predictions` returns them.

    Parameters
    ----------
    path : Path
        Path of the file.
    name : str
        Name of the member.
    ids : tuple of str
        Columns that identify rows; empty if rows are identified by their positions.
    kind : {"probabilities", "values", "quantiles", "samples"}
        Kind of the predictions.
    columns : tuple
        Labels of the predictions: names of classes or targets, levels of quantiles, or
        names of samples.
    layout : {"wide", "long"}
        "wide" has a column for each prediction, "long" a row.
    notes : tuple of str
        Sentences about the layout, and about columns and rows that are left out.
    table : PredictionTable
        Columns of the file.
    value_names : tuple of str
        Columns with numbers: one for each of ``columns`` in the wide layout, one in
        all in the long layout.
    long : LongColumns or None, default=None
        Columns of the long layout.
    output_type : str or None, default=None
        Output type that is read in the long layout; None for a file without types.
    where : dict of str to str, default={}
        Rows are left out unless these columns have these values.
    """

    path: Path
    name: str
    ids: tuple[str, ...]
    kind: str
    columns: tuple[Any, ...]
    layout: str
    notes: tuple[str, ...]
    table: PredictionTable = field(repr=False)
    value_names: tuple[str, ...]
    long: LongColumns | None = None
    output_type: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_names(self) -> bool:
        """Whether the file names its columns; arrays do not."""
        return self.table.has_header

    @cached_property
    def n_rows(self) -> int:
        """Number of rows that are read, counted once."""
        if self.table.n_rows is not None and not self.where and self.long is None:
            return self.table.n_rows
        return sum(len(block.rows) for block in self.blocks())

    def blocks(self) -> Iterator[Block]:
        """Read the file in blocks of rows.

        Yields
        ------
        Block

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        texts, n_read = [*self.ids], 0
        if self.long is not None:
            texts += [self.long.output_type_id, *filter(None, [self.long.output_type])]
        texts = list(dict.fromkeys([*texts, *self.where]))
        for frame in self.table.read(texts, self.value_names):
            rows = np.arange(n_read + 1, n_read + 1 + len(frame))
            n_read += len(frame)
            kept = self._kept(frame)
            if kept is not None:
                frame, rows = frame.filter(kept), rows[kept.to_numpy()]
            values = frame.select(self.value_names).fill_null(np.nan).to_numpy()
            ids, labels = frame.select(self.ids), None
            if self.long is not None:
                labels, values = frame[self.long.output_type_id], values[:, 0]
            yield Block(ids, rows, labels, np.ascontiguousarray(values, np.float64))

    def _kept(self, frame: Any) -> Any:
        """Mask of the rows to read; None keeps all."""
        conditions = dict(self.where)
        if self.long is not None and self.long.output_type is not None:
            conditions[self.long.output_type] = str(self.output_type)
        kept = None
        for name, value in conditions.items():
            mask = frame[name].str.strip_chars() == value
            kept = mask if kept is None else kept & mask
        return kept


def open_predictions(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[str] | None = None,
    columns: Sequence[Any] | None = None,
    output_type: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> PredictionFile:
    r"""Open a file with the predictions of a member.

    Reads names, types and the first rows. In the long layout, levels and classes are
    collected in a first pass.

    Parameters
    ----------
    path : path
        File in a format of ``PREDICTION_FORMATS``: ``.csv``, ``.tsv``, ``.parquet``,
        ``.npy`` or ``.npz``. Its layout is wide (a column for each class, quantile or
        target) or long (a row for each, with the columns ``output_type``,
        ``output_type_id`` and ``value`` of hubverse).
    ids : sequence of str or None, default=None
        Columns that identify rows. None takes, in the wide layout, columns with text or
        dates, and those of whole numbers with a name such as ``id`` or ``row_id``; in
        the long layout all columns but those three. Rows of a file without such
        columns are identified by their positions.
    columns : sequence of str or float, or None, default=None
        Predictions to read: names of columns, classes, or levels; None takes all.
    output_type : str or None, default=None
        Output type to read from a file with several, such as "quantile"; None takes the
        only one.
    where : mapping of str to value, or None, default=None
        Only rows with these values in these columns are read, such as
        ``{"target": "wk inc flu hosp"}``; None takes all.

    Returns
    -------
    PredictionFile

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the format is unknown, the file is damaged, or a column is missing.
    ImportError
        If polars or pyarrow is not installed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "forest.csv")
    >>> _ = path.write_text("id,cat,dog\n7,0.25,0.75\n9,0.5,0.5\n")
    >>> file = open_predictions(path)
    >>> file.name, file.ids, file.kind, file.columns, file.n_rows
    ('forest', ('id',), 'probabilities', ('cat', 'dog'), 2)
    """
    for parameter, names in (("ids", ids), ("columns", columns)):
        if isinstance(names, str):
            raise TypeError(f"{parameter} must be a list of names, found {names!r}")
    table = open_table(Path(path))
    return predictions_of(table, ids, columns, output_type=output_type, where=where)


def predictions_of(
    table: PredictionTable,
    ids: Sequence[str] | None = None,
    columns: Sequence[Any] | None = None,
    *,
    output_type: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> PredictionFile:
    """Predictions in a table.

    Parameters
    ----------
    table : PredictionTable
        Columns of a file.
    ids, columns, output_type, where
        As in `open_predictions`.

    Returns
    -------
    PredictionFile

    Raises
    ------
    ValueError
        If a column is missing.
    """
    path = table.path
    texts = {name: normal_label(value) for name, value in (where or {}).items()}
    check_columns(path, list(texts), table.names, "where")
    long = find_long_columns(table.names)
    if long is not None:
        return _open_long(table, long, ids, columns, output_type, texts)
    if output_type is not None:
        raise ValueError(
            f"output_type={output_type!r} needs the columns output_type, "
            f"output_type_id and value: {path} has {', '.join(table.names[:20])}"
        )
    layout = wide_layout(table, ids, columns)
    chosen_ids = tuple(name for name in layout.ids if name not in texts)
    return PredictionFile(
        path,
        path.stem,
        chosen_ids,
        layout.kind,
        layout.columns,
        "wide",
        layout.notes,
        table,
        layout.names,
        where=texts,
    )


def _open_long(
    table: PredictionTable,
    long: LongColumns,
    ids: Sequence[str] | None,
    columns: Sequence[Any] | None,
    output_type: str | None,
    where: Mapping[str, str],
) -> PredictionFile:
    path, structure = table.path, {long.output_type, long.output_type_id, long.value}
    if long.value not in table.numbers:
        raise ValueError(
            f"{path}: column {long.value!r} must contain numbers, found text such as "
            f"{table.head[long.value][0]!r}"
        )
    if ids is None:
        ids = [n for n in table.names if n not in structure and n not in where]
    check_columns(path, ids, table.names, "ids")
    by_type = _output_types(table, long, where)
    if not by_type:
        raise ValueError(f"{path} must have rows with {dict(where)}, found none")
    output_type, notes = _choose_type(path, by_type, output_type)
    kind = OUTPUT_KINDS[output_type]
    labels = by_type[output_type]
    if kind == "quantiles":
        labels = _levels(path, labels)
    elif kind == "values":
        labels = [output_type]
    if columns is not None:
        wanted = [normal_label(column) for column in columns]
        texts = {normal_label(label): label for label in labels}
        check_columns(path, wanted, list(texts), "columns")
        labels = [texts[text] for text in wanted]
    return PredictionFile(
        path,
        path.stem,
        tuple(ids),
        kind,
        tuple(labels),
        "long",
        notes,
        table,
        (long.value,),
        long,
        output_type if long.output_type is not None else None,
        where,
    )


def _output_types(
    table: PredictionTable, long: LongColumns, where: Mapping[str, str]
) -> dict[str, list[Any]]:
    """Output types with their levels, classes or samples, in order of appearance."""
    by_type: dict[str, dict[str, None]] = {}
    texts = [long.output_type_id, *filter(None, [long.output_type]), *where]
    for frame in table.read(list(dict.fromkeys(texts)), ()):
        for name, value in where.items():
            frame = frame.filter(frame[name].str.strip_chars() == value)
        distinct = frame.unique(maintain_order=True)
        types = (
            [long.default] * len(distinct)
            if long.output_type is None
            else distinct[long.output_type].to_list()
        )
        for kind, label in zip(types, distinct[long.output_type_id], strict=True):
            labels = by_type.setdefault((kind or "").strip(), {})
            labels[normal_label("" if label is None else label)] = None
            if len(labels) > MOST_SAMPLES:
                raise ValueError(
                    f"{table.path}: column {long.output_type_id!r} must name at most "
                    f"{MOST_SAMPLES} levels, classes or samples, found more"
                )
    return {kind: list(labels) for kind, labels in by_type.items()}


def _choose_type(
    path: Path, by_type: Mapping[str, Any], output_type: str | None
) -> tuple[str, tuple[str, ...]]:
    """Output type to read, and a note about the others."""
    names = ", ".join(map(repr, by_type))
    if output_type is None:
        if len(by_type) > 1:
            first = next((name for name in by_type if name in OUTPUT_KINDS), "quantile")
            raise ValueError(
                f"{path} has the output types {names}; pass output_type={first!r} "
                f"(--output-type {first}) to choose one"
            )
        output_type = next(iter(by_type))
    if output_type not in by_type:
        raise ValueError(f"{path} has no output type {output_type!r}, found {names}")
    if output_type not in OUTPUT_KINDS:
        raise ValueError(
            f"{path}: output type {output_type!r} cannot be combined (known: "
            f"{', '.join(OUTPUT_KINDS)})"
        )
    others = [name for name in by_type if name != output_type]
    notes = (f"output types left out: {', '.join(others)}",) if others else ()
    return output_type, notes


def _levels(path: Path, labels: Sequence[str]) -> list[float]:
    """Sorted levels of quantiles."""
    levels = set()
    for label in labels:
        try:
            levels.add(parse_level(label))
        except ValueError:
            raise ValueError(
                f"{path}: levels of quantiles must be numbers between 0 and 1, found "
                f"{label!r}"
            ) from None
    return sorted(levels)


def column_codes(file: PredictionFile, labels: Any, columns: Sequence[str]) -> Array:
    """Indices of the columns that rows of the long layout belong to.

    Parameters
    ----------
    file : PredictionFile
        File in the long layout, of any kind but samples.
    labels : polars.Series
        Levels or classes of the rows, as text.
    columns : sequence of str
        Normal labels of the columns.

    Returns
    -------
    ndarray of shape (n_rows,)
        -1 for a label that is not among ``columns``.
    """
    if file.kind == "values":
        return np.zeros(len(labels), np.int64)
    indices = {label: index for index, label in enumerate(columns)}
    codes = {}
    for text in labels.unique().to_list():
        label = normal_label(text)
        if file.kind == "quantiles":
            label = normal_label(parse_level(text))
        codes[text] = indices.get(label, -1)
    mapped = labels.replace_strict(list(codes), list(codes.values()))
    return np.asarray(mapped.to_numpy(), np.int64)
