"""Which column of each file predicts which class, level or value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Counts
from ensembles.predictions.files.layouts import KINDS, normal_label, strip_prefix
from ensembles.predictions.files.prediction_file import PredictionFile
from ensembles.predictions.files.target import Target

VALUE = "value"  # name of the only column of values


class MemberColumns(NamedTuple):
    """Columns of a file for the columns of all members.

    Parameters
    ----------
    kind : str
        Kind of the predictions.
    order : ndarray of shape (n_columns,)
        Index of the column in ``PredictionFile.columns``; -1 for a class that the file
        lacks.
    positive : int or None, default=None
        Index of the class that a single column has the probability of; None if there
        is a column for each class.
    """

    kind: str
    order: Counts
    positive: int | None = None


class ColumnMap(NamedTuple):
    """Columns of all members.

    Parameters
    ----------
    kind : str
        Kind of the predictions.
    columns : ndarray of shape (n_columns,)
        Labels of the columns; empty for samples.
    members : list of MemberColumns
        Columns of each file.
    notes : list of str
        Sentences about choices.
    """

    kind: str
    columns: Array
    members: list[MemberColumns]
    notes: list[str]


def map_columns(
    files: Sequence[PredictionFile],
    target: Target | None,
    *,
    missing_class: str,
    classes: Any,
    kind: str | None,
) -> ColumnMap:
    """Match the columns of files.

    Parameters
    ----------
    files : sequence of PredictionFile
        Files of the members.
    target : Target or None
        True values, for the classes.
    missing_class : {"error", "zero"}
        How to handle a file that lacks a class.
    classes : array-like of shape (n_classes,) or None
        Sorted classes; None takes those of the target and of the files.
    kind : str or None
        Kind of the predictions; None infers it, as in `align`.

    Returns
    -------
    ColumnMap

    Raises
    ------
    ValueError
        If kinds, classes, levels or names differ.
    """
    if target is not None:
        _check_no_target(files, target)
    kind = _common_kind(files, target, classes) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {kind!r}")
    if kind == "samples":
        order = [np.arange(len(file.columns)) for file in files]
        return ColumnMap(
            kind, np.arange(0), [MemberColumns(kind, o) for o in order], []
        )
    if kind == "quantiles":
        return _match_levels(files)
    if kind == "values":
        return _match_names(files, target)
    labels = None if target is None else np.unique(target.y)
    if classes is not None:
        labels = np.unique(classes)
    return _match_classes(files, labels, missing_class, extend=classes is None)


def _check_no_target(files: Sequence[PredictionFile], target: Target) -> None:
    """Raise if a file has true values or identifiers among its predictions."""
    for file in files:
        shared = [n for n in target.ids.columns if n in file.value_names]
        if shared and file.has_names and file.layout == "wide":
            raise ValueError(
                f"{file.path} has {shared[0]!r}, which {target.path} has too, among "
                f"its predictions; pass ids=[{shared[0]!r}] (--id {shared[0]}) if it "
                "identifies rows, or columns= (--columns) to choose the columns with "
                "predictions"
            )
        if target.name in file.value_names and len(file.value_names) > 1:
            raise ValueError(
                f"{file.path} has {target.name!r}, the column of the true values, "
                "among its predictions; pass columns= (--columns) to choose the "
                "columns with predictions"
            )


def _common_kind(
    files: Sequence[PredictionFile], target: Target | None, classes: Any
) -> str:
    """Kind of all files; values of a two-class target are probabilities."""
    kinds = {file.kind for file in files}
    labels = None if target is None else np.unique(target.y)
    labels = labels if classes is None else np.asarray(classes)
    if labels is not None and labels.dtype.kind == "f":
        kinds = {"values" if kind == "probabilities" else kind for kind in kinds}
    if labels is not None and kinds <= {"probabilities", "values"}:
        is_class = labels.dtype.kind not in "f"
        is_binary = len(labels) == 2 and all(map(_is_probability, files))
        if labels.dtype.kind in "US" or (
            is_class and ("probabilities" in kinds or is_binary)
        ):
            return "probabilities"
    if len(kinds) == 1:
        return kinds.pop()
    lines = ", ".join(f"{file.path} has {file.kind}" for file in files)
    raise ValueError(f"files must have the same kind of predictions: {lines}")


def _is_probability(file: PredictionFile) -> bool:
    """Whether the first values of the only column are within [0, 1]."""
    if len(file.columns) != 1 or file.long is not None:
        return file.kind == "probabilities"
    values = file.table.head[file.value_names[0]].drop_nulls().drop_nans().to_numpy()
    return bool(((values >= 0) & (values <= 1)).all())


def _match_levels(files: Sequence[PredictionFile]) -> ColumnMap:
    levels = sorted({level for file in files for level in file.columns})
    members = []
    for file in files:
        if not all(isinstance(level, float) for level in file.columns):
            raise ValueError(
                f"columns of {file.path} must be levels of quantiles, found "
                f"{', '.join(map(str, file.columns[:4]))}"
            )
        missing = [level for level in levels if level not in file.columns]
        if missing:
            raise ValueError(
                f"files must have the same levels of quantiles: {file.path} lacks "
                f"{', '.join(map(str, missing[:4]))}; pass columns= (--columns) to "
                "read the common levels of each file"
            )
        members.append(
            MemberColumns(
                "quantiles", np.array([file.columns.index(q) for q in levels])
            )
        )
    return ColumnMap("quantiles", np.array(levels), members, [])


def _match_names(files: Sequence[PredictionFile], target: Target | None) -> ColumnMap:
    """Match columns of values by name, those of arrays and single ones by position."""
    counts = {len(file.columns) for file in files}
    if len(counts) > 1:
        lines = ", ".join(f"{file.path} has {len(file.columns)}" for file in files)
        raise ValueError(
            f"files must have the same number of columns of values: {lines}; pass "
            "columns= (--columns) to choose them"
        )
    n_columns = counts.pop()
    if n_columns > 1 and target is not None:
        raise ValueError(
            f"{files[0].path} must have one column of values for {target.name!r} of "
            f"{target.path}, found {', '.join(map(str, files[0].columns[:6]))}; pass "
            "columns= (--columns) to choose it"
        )
    named = next((file for file in files if file.has_names), files[0])
    names = [VALUE] if n_columns == 1 else list(map(str, named.columns))
    members = []
    for file in files:
        order = list(range(n_columns))
        if n_columns > 1 and file.has_names:
            absent = [name for name in names if name not in file.columns]
            if absent:
                raise ValueError(
                    f"files must have the same columns of values: {file.path} lacks "
                    f"{absent[0]!r}, which {named.path} has; pass columns= (--columns) "
                    "to choose them"
                )
            order = [file.columns.index(name) for name in names]
        members.append(MemberColumns("values", np.array(order)))
    return ColumnMap("values", np.array(names), members, [])


def _match_classes(
    files: Sequence[PredictionFile], labels: Any, missing_class: str, *, extend: bool
) -> ColumnMap:
    """Match classes by name, and columns of arrays by position."""
    by_name = [f for f in files if f.has_names and len(f.columns) > 1]
    notes: list[str] = []
    texts = [] if labels is None else [normal_label(label) for label in labels]
    target_texts = texts
    names = {f.path: strip_prefix(list(map(str, f.columns)), texts) for f in by_name}
    if labels is None:
        labels = np.unique([name for file in by_name for name in names[file.path]])
        if not len(labels):
            labels = np.arange(max(2, *(len(file.columns) for file in files)))
    elif extend:
        extra = [
            _as_label(name, labels, file)
            for file in by_name
            for name in names[file.path]
            if name not in texts
        ]
        labels = np.unique(np.array([*labels.tolist(), *extra]))
        if extra:
            names_extra = ", ".join(map(str, dict.fromkeys(extra)))
            notes.append(
                f"columns that are classes without a row of the target: {names_extra}; "
                "pass columns= (--columns) to leave them out"
            )
    texts = [normal_label(label) for label in labels]
    if missing_class == "error" and target_texts:
        _check_further_classes(by_name, names, target_texts)
    members = []
    for file in files:
        _check_text_columns(file, texts)
        if len(file.columns) == 1:
            member, note = _single_column(file, labels, texts)
            notes.append(note)
        elif file.path in names:
            member = _named_columns(file, names[file.path], texts, missing_class)
            n_missing = int((member.order < 0).sum())
            if n_missing:
                notes.append(
                    f"{file.name}: {n_missing} missing classes have the probability 0"
                )
        else:
            member = _columns_by_position(file, texts)
            notes.append(f"{file.name}: columns without names are the sorted classes")
        members.append(member)
    return ColumnMap("probabilities", labels, members, notes)


def _check_further_classes(
    files: Sequence[PredictionFile],
    names: Mapping[Any, Sequence[str]],
    texts: Sequence[str],
) -> None:
    """Raise if a class without a row of the target is only in a part of the files."""
    for file in files:
        for name in names[file.path]:
            lacking = [f for f in files if name not in names[f.path]]
            if name not in texts and lacking:
                raise ValueError(
                    f"{file.path} has the column {name!r}, which is not a class of "
                    f"the target ({', '.join(texts[:6])}), and {lacking[0].path} "
                    "lacks it; pass columns= (--columns) to leave it out or, if it is "
                    "a class, missing_class='zero' (--missing-class zero)"
                )


def _check_text_columns(file: PredictionFile, texts: list[str]) -> None:
    """Raise if a column that is named after a class contains text."""
    for name in file.ids if file.layout == "wide" else ():
        if normal_label(name) in texts and name not in file.table.numbers:
            raise ValueError(
                f"{file.path}: column {name!r} must contain probabilities of this "
                f"class, found text such as {_first_text(file, name)!r}"
            )


def _first_text(file: PredictionFile, name: str) -> str:
    """First value of a column that is not a number."""
    for text in file.table.head[name].to_list():
        try:
            float(text)
        except ValueError:
            return str(text)
    return str(file.table.head[name][0])


def _as_label(name: str, labels: Any, file: PredictionFile) -> Any:
    """Label with the type of the target's."""
    if labels.dtype.kind in "US":
        return name
    try:
        return int(name)
    except ValueError:
        raise ValueError(
            f"columns of {file.path} must be classes of the target, such as "
            f"{', '.join(map(str, labels[:4]))}: found {name!r}; pass columns= "
            "(--columns) to choose them, or ids= (--id) if it identifies rows"
        ) from None


def _single_column(
    file: PredictionFile, labels: Any, texts: list[str]
) -> tuple[MemberColumns, str]:
    """A column with the probability of the second class, or of its name."""
    if len(labels) != 2:
        raise ValueError(
            f"{file.path} must have a column for each of the {len(labels)} classes "
            f"{', '.join(texts[:6])}, found one column, {str(file.columns[0])!r}"
        )
    name = normal_label(file.columns[0]) if file.has_names else ""
    named = [i for i, text in enumerate(texts) if name in (text, f"proba_{text}")]
    positive = named[0] if named else 1
    note = f"{file.name}: its column is the probability of class {texts[positive]}"
    return MemberColumns("probabilities", np.array([0]), positive), note


def _named_columns(
    file: PredictionFile, names: list[str], texts: list[str], missing_class: str
) -> MemberColumns:
    order = np.array([names.index(t) if t in names else -1 for t in texts])
    missing = [text for text, index in zip(texts, order, strict=True) if index < 0]
    if missing and missing_class == "error":
        raise ValueError(
            f"{file.path} must have a column for each class: it lacks "
            f"{', '.join(map(repr, missing[:6]))}; its columns are "
            f"{', '.join(names[:20])}; pass missing_class='zero' "
            "(--missing-class zero) to give missing classes the probability 0"
        )
    return MemberColumns("probabilities", order)


def _columns_by_position(file: PredictionFile, texts: list[str]) -> MemberColumns:
    if len(file.columns) != len(texts):
        raise ValueError(
            f"{file.path} must have a column for each of the {len(texts)} classes "
            f"{', '.join(texts[:6])}, found {len(file.columns)} columns without names"
        )
    return MemberColumns("probabilities", np.arange(len(texts)))
