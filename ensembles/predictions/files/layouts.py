"""How a prediction file is organized: which columns identify rows, which predict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.predictions.files.formats.table import PredictionTable

KINDS = ("probabilities", "values", "quantiles", "samples")
# Kind of each output type of hubverse, and of older names for it.
OUTPUT_KINDS = {
    "quantile": "quantiles",
    "sample": "samples",
    "pmf": "probabilities",
    "mean": "values",
    "median": "values",
    "point": "values",
}
ID_NAME = re.compile(
    r"(.*[_\W])?(index|idx|key|row|rows|uuid|guid|ids?([_\W].*)?)"
    r"|unnamed: 0|__index_level_\d+__|",
    re.IGNORECASE,
)
CAMEL_ID = re.compile(r".*[a-z]I[dD]s?")
# As pandas writes its index.
INDEX = re.compile(r"|unnamed: 0|index|__index_level_\d+__", re.IGNORECASE)
SEPARATORS = "_-.: ("
FEWEST_IDS = 3  # rows that are examined for identifiers
LEVEL_DIGITS = 6  # levels are stored as float32 too


class LongColumns(NamedTuple):
    """Names of the columns of a file with a row for each value.

    Parameters
    ----------
    output_type : str or None
        Column with the output type; None if all values are of ``default``.
    output_type_id : str
        Column with the level, class or sample.
    value : str
        Column with the predicted number.
    default : str
        Output type of a file without a column for it.
    """

    output_type: str | None
    output_type_id: str
    value: str
    default: str


# Names of hubverse first, then of other tools; one of several names of the value.
_PREDICTED = ("value", "predicted", "prediction")
_PROBABILITY = ("probability", "prob", "proba", "value", "predicted")
LONG_NAMES: tuple[tuple[str | None, str, Sequence[str], str], ...] = (
    ("output_type", "output_type_id", ("value",), ""),
    ("type", "quantile", ("value",), ""),
    (None, "quantile_level", _PREDICTED, "quantile"),
    (None, "quantile", _PREDICTED, "quantile"),
    (None, "sample_id", _PREDICTED, "sample"),
    (None, "class", _PROBABILITY, "pmf"),
    (None, "label", _PROBABILITY, "pmf"),
)


class WideLayout(NamedTuple):
    """Layout of a file with a row for each sample and a column for each prediction.

    Parameters
    ----------
    ids : tuple of str
        Columns that identify rows.
    kind : str
        One of `KINDS`.
    columns : tuple
        Labels of the predictions: levels for quantiles, otherwise names of columns.
    names : tuple of str
        Columns with the predictions, in the order of ``columns``.
    notes : tuple of str
        Sentences about columns that are left out.
    """

    ids: tuple[str, ...]
    kind: str
    columns: tuple[Any, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def find_long_columns(names: Sequence[str]) -> LongColumns | None:
    """Find the columns of the long layout.

    Parameters
    ----------
    names : sequence of str
        Names of all columns of a file.

    Returns
    -------
    LongColumns or None
        None if the file has the wide layout.
    """
    for output_type, output_type_id, values, default in LONG_NAMES:
        if output_type_id in names and (output_type is None or output_type in names):
            for value in values:
                if value in names:
                    return LongColumns(output_type, output_type_id, value, default)
    return None


def is_id_name(name: str) -> bool:
    """Whether a column with this name usually identifies rows.

    Parameters
    ----------
    name : str
        Name of a column.

    Returns
    -------
    bool
    """
    return bool(ID_NAME.fullmatch(name) or CAMEL_ID.fullmatch(name))


def choose_ids(table: PredictionTable, others: Sequence[str]) -> list[str]:
    """Choose the columns that identify rows by their names and types.

    Parameters
    ----------
    table : PredictionTable
        Table with names, types and first rows.
    others : sequence of str
        Candidates, in the order of the file.

    Returns
    -------
    list of str
        Columns of text or dates, and columns of numbers with names such as ``row_id``.
        A column without a name, which pandas writes for its index, is only used if
        there is no other one.
    """
    ids = [n for n in others if n not in table.numbers or _is_number_id(table, n)]
    named = [name for name in ids if not INDEX.fullmatch(name)]
    return named or ids


def _is_number_id(table: PredictionTable, name: str) -> bool:
    if not table.has_header or not is_id_name(name):
        return False
    values = table.head[name].to_numpy()
    return bool((values == np.round(values)).all())


def wide_layout(
    table: PredictionTable, ids: Sequence[str] | None, columns: Sequence[Any] | None
) -> WideLayout:
    """Layout of a file with a column for each class, quantile or target.

    Parameters
    ----------
    table : PredictionTable
        Table with names, types and first rows.
    ids : sequence of str or None
        Columns that identify rows; None chooses them with `choose_ids`.
    columns : sequence of str or float, or None
        Names of the columns with predictions, or their levels; None takes all columns
        with numbers that are not identifiers.

    Returns
    -------
    WideLayout

    Raises
    ------
    ValueError
        If a column does not exist, or there are no predictions.
    """
    path, notes = table.path, []
    if ids is None:
        wanted = () if columns is None else tuple(map(str, columns))
        ids = choose_ids(table, [n for n in table.names if n not in wanted])
    else:
        check_columns(path, ids, table.names, "ids")
    names = [n for n in table.names if n in table.numbers and n not in ids]
    if columns is None:
        names = [name for name in names if not INDEX.fullmatch(name)] or names
        if not ids:
            _check_identifiers(table, names)
    for name in ids:
        if name not in table.numbers and quantile_levels([name]) is not None:
            raise ValueError(
                f"{path}: column {name!r} must contain the quantile of this level, "
                f"found text such as {table.head[name][0]!r}"
            )
    if not names:
        raise ValueError(
            f"{path} must have columns of numbers besides its identifiers "
            f"{', '.join(map(repr, ids)) or '(none)'}; pass ids=['NAME'] (--id NAME) "
            "to choose the columns that identify rows"
        )
    labels: list[Any] = names
    levels = quantile_levels(names)
    if levels is not None and len(names) > 1:
        labels = levels
    if columns is not None:
        labels, names = _selected(path, labels, names, columns)
        levels = labels if levels is not None else None
    ignored = [n for n in table.names if n not in ids and n not in names]
    if ignored:
        notes.append(f"columns left out: {', '.join(ignored)}")
    if levels is not None and len(labels) > 1:
        order = np.argsort(np.array(labels, float))
        labels, names = [labels[i] for i in order], [names[i] for i in order]
        kind = "quantiles"
    else:
        kind = _kind_of_values(table.head.select(names).to_numpy())
    return WideLayout(tuple(ids), kind, tuple(labels), tuple(names), tuple(notes))


def _check_identifiers(table: PredictionTable, names: Sequence[str]) -> None:
    """Raise if one of several columns has a different whole number in each row.

    Averages of such identifiers, of rows matched by position, would be wrong unseen.
    """
    values = {name: table.head[name].to_numpy() for name in names}
    counts = [
        name
        for name, column in values.items()
        if len(column) >= FEWEST_IDS
        and (column == np.round(column)).all()
        and len(np.unique(column)) == len(column)
    ]
    if table.has_header and 0 < len(counts) < len(names):
        raise ValueError(
            f"{table.path}: column {counts[0]!r} has a different whole number in each "
            f"row; pass ids=[{counts[0]!r}] (--id {counts[0]}) if it identifies rows, "
            "or columns= (--columns) to choose the columns with predictions"
        )


def _kind_of_values(values: Float64) -> str:
    """Probabilities if there are several columns within [0, 1], otherwise values."""
    known = values[np.isfinite(values).all(axis=1)]
    is_unit = values.shape[1] > 1 and ((known >= 0) & (known <= 1)).all()
    return "probabilities" if is_unit and len(known) else "values"


def _selected(
    path: Path, labels: list[Any], names: list[str], columns: Sequence[Any]
) -> tuple[list[Any], list[str]]:
    """Labels and names of the columns that the caller chose."""
    pairs = dict(
        zip(map(normal_label, labels), zip(labels, names, strict=True), strict=True)
    )
    pairs = {**dict(zip(names, pairs.values(), strict=True)), **pairs}
    keys = [key if (key := normal_label(c)) in pairs else str(c) for c in columns]
    check_columns(path, keys, list(pairs), "columns")
    chosen = [pairs[key] for key in keys]
    return [label for label, _ in chosen], [name for _, name in chosen]


def check_columns(
    path: Path, wanted: Sequence[str], names: Sequence[str], parameter: str
) -> None:
    """Raise if a file lacks a column.

    Parameters
    ----------
    path : Path
        Path of the file, for messages.
    wanted : sequence of str
        Columns that it must have.
    names : sequence of str
        Columns that it has.
    parameter : str
        Parameter with the wanted columns, for messages.

    Raises
    ------
    ValueError
        If one is missing, or ``wanted`` has a name twice.
    """
    for name in wanted:
        if name not in names:
            raise ValueError(
                f"{parameter} must be columns of {path}: it has no column {name!r}, "
                f"found {', '.join(map(repr, list(names)[:20]))}"
            )
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"{parameter} must be different columns, found {list(wanted)}")


def quantile_levels(names: Sequence[str]) -> list[float] | None:
    """Levels of quantiles that names of columns stand for.

    Parameters
    ----------
    names : sequence of str
        Names such as ``0.05``, ``q0.05`` or ``quantile_0.05``.

    Returns
    -------
    list of float or None
        None unless all names are different numbers between 0 and 1, after the same
        prefix.
    """
    prefix = _common_prefix(names).rstrip("0123456789.") if len(names) > 1 else ""
    try:
        levels = [parse_level(name.removeprefix(prefix)) for name in names]
    except ValueError:
        return None
    return levels if len(set(levels)) == len(levels) else None


def _common_prefix(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # all others are between them
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[:length]


def parse_level(text: str) -> float:
    """Level of a quantile, rounded to 6 digits.

    Parameters
    ----------
    text : str
        Number between 0 and 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it is not such a number.
    """
    level = round(float(text), LEVEL_DIGITS)
    if not 0 < level < 1 or "_" in text:
        raise ValueError(f"levels must be between 0 and 1, found {text!r}")
    return level


def normal_label(label: Any) -> str:
    """Text of a label or identifier, the same for all types that it is stored as.

    Parameters
    ----------
    label : object
        Class label, level or name.

    Returns
    -------
    str
        ``"1"`` for 1, 1.0, True and ``"1.0"``.
    """
    if isinstance(label, bool | np.bool_):
        label = int(label)
    text = str(label).strip()
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text


def strip_prefix(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Class labels that names of columns stand for.

    Parameters
    ----------
    names : sequence of str
        Names such as ``cat`` or ``proba_cat``.
    labels : sequence of str
        Class labels of the target.

    Returns
    -------
    list of str
        Names without their common prefix, if only then they contain a label.
    """
    texts = [normal_label(name) for name in names]
    if set(texts) & set(labels) or len(texts) < 2:
        return texts
    prefix = _common_prefix(texts)
    for end in range(len(prefix), 0, -1):
        if prefix[end - 1] in SEPARATORS or not prefix[end - 1].isdigit():
            stripped = [normal_label(text[end:].rstrip(")")) for text in texts]
            if set(stripped) & set(labels):
                return stripped
    return texts
