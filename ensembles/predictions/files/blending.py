"""Blends of prediction files: weights learned from a target, and their scores."""

from __future__ import annotations

import copy
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.files.alignment import (
    AlignedPredictions,
    align,
    release_memory,
)
from ensembles.predictions.files.application import apply_ensemble
from ensembles.predictions.files.formats.paths import open_table
from ensembles.predictions.files.judging import BEST, BLEND, EQUAL, BlendScore, judge
from ensembles.predictions.files.judging_splits import as_times, judging_splits
from ensembles.predictions.files.prediction_file import PredictionFile, open_predictions
from ensembles.predictions.files.rows import RowIndex
from ensembles.predictions.files.stack_members import IntervalScore, stack_ensemble
from ensembles.predictions.files.target import Target, read_target

RULES = {
    "probabilities": "log_pool",
    "values": "mean",
    "quantiles": "quantile_mean",
}
LEARNING_BYTES = 1 << 26  # predictions in memory that weights are learned from
# Beginnings of warnings of the estimators that the table of scores replaces.
REPLACED = ("weights and calibration are learned from", "selection ")
Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Blend:
    """Weights of prediction files with their scores, to apply to other files.

    Parameters
    ----------
    files : tuple of PredictionFile
        Files that the weights are learned from.
    target : Target
        True values that the weights are learned from.
    names : tuple of str
        Names of the members.
    kind : {"probabilities", "values", "quantiles"}
        Kind of the predictions.
    columns : ndarray of shape (n_columns,)
        Sorted classes, names of values, or levels of quantiles.
    ensemble : EnsembleClassifier or EnsembleRegressor
        Fitted ensemble, whose members are the files.
    scores_ : tuple of BlendScore
        Scores of each file, of the best file chosen on the other folds, of equal
        weights and of the blend, in this order; greater is better.
    n_rows : int
        Number of rows with a true value and predictions of all members.
    n_learned : int
        Number of rows that the weights are learned from.
    n_judged : int
        Number of rows that the scores are computed on.
    missing : {"error", "drop", "member"}
        How rows are handled that a member lacks.
    notes : tuple of str
        Sentences about choices, and about rows and columns that are left out.
    """

    files: tuple[PredictionFile, ...]
    target: Target
    names: tuple[str, ...]
    kind: str
    columns: Any
    ensemble: Any
    scores_: tuple[BlendScore, ...]
    n_rows: int
    n_learned: int
    n_judged: int
    missing: str
    notes: tuple[str, ...]

    @property
    def weights_(self) -> Float64:
        """Weights of the members, learned from all rows."""
        weights: Float64 = self.ensemble.weights_
        return weights

    @property
    def intercept_(self) -> Any:
        """Intercepts of the classes that a learned pool adds; None without them."""
        return getattr(self.ensemble, "intercept_", None)

    @property
    def thresholds_(self) -> Any:
        """Learned thresholds of the classes; None without them."""
        return getattr(self.ensemble, "thresholds_", None)

    def score(self, name: str) -> BlendScore:
        """Score of a combination.

        Parameters
        ----------
        name : {"blend", "best single file", "equal weights"}
            Combination, or the name of a member.

        Returns
        -------
        BlendScore
        """
        return next(entry for entry in reversed(self.scores_) if entry.name == name)

    def apply(
        self,
        files: Sequence[Path | PredictionFile] | None,
        out: Path,
        *,
        force: bool = False,
    ) -> tuple[str, ...]:
        """Blend other files with the learned weights, and write the result.

        Rows are read and written in blocks, so that files may be larger than memory.

        Parameters
        ----------
        files : sequence of path or PredictionFile, or None
            Files of the same members, in their order; None uses the files that the
            weights were learned from, and the rows of the target.
        out : path
            File to write: ``.csv``, ``.tsv``, ``.parquet``, ``.npy`` or ``.npz``, with
            the identifiers of the rows and a column for each class, value or level.
        force : bool, default=False
            Whether an existing file is replaced.

        Returns
        -------
        tuple of str
            Sentences about choices, and about rows that are left out.

        Raises
        ------
        ValueError
            If the files do not match the members, or cannot be aligned.
        FileExistsError
            If ``out`` exists, without ``force``.
        """
        opened = self.files
        if files is not None:
            if len(files) != len(self.files):
                raise ValueError(
                    "files must have one file for each of the "
                    f"{len(self.files)} members, found {len(files)}"
                )
            opened = _opened(files, [file.ids or None for file in self.files])
        return apply_ensemble(
            self.ensemble,
            opened,
            out,
            target=self.target if files is None else None,
            kind=self.kind,
            columns=self.columns,
            missing=self.missing,
            force=force,
        )


def blend(
    files: Sequence[Path | PredictionFile],
    target: Path | Target,
    *,
    target_column: str | None = None,
    scoring: Any = None,
    rule: Any = None,
    weights: Any = "convex",
    rule_params: Mapping[str, Any] | None = None,
    weights_params: Mapping[str, Any] | None = None,
    calibrate: str | None = None,
    thresholds: Any = "auto",
    ids: Sequence[str] | None = None,
    groups: str | None = None,
    time: str | None = None,
    cv: Any = 5,
    missing: str = "error",
    missing_class: str = "error",
    random_state: Any = None,
) -> Blend:
    r"""Learn weights of prediction files, and judge them by cross-validation.

    The predictions must be out-of-fold or held-out. The weights are those of
    `EnsembleClassifier` for class probabilities and of `EnsembleRegressor` for values
    and quantiles, on the rows of the files. They are learned once more without each
    fold, to score the blend on rows that it was not learned from.

    Parameters
    ----------
    files : sequence of path or PredictionFile
        Files of at least two members.
    target : path or Target
        True values.
    target_column : str or None, default=None
        Column with the true values, if ``target`` is a path; None takes the only one
        besides the identifiers of the files, ``groups`` and ``time``.
    scoring : str, callable or None, default=None
        Score, as in `EnsembleClassifier`. None means the negative log-loss of
        probabilities, the negative mean squared error of values, and the negative
        weighted interval score of quantiles.
    rule : str, Combiner, Rule or None, default=None
        Rule that combines the members; None means ``"log_pool"`` for probabilities,
        ``"mean"`` for values and ``"quantile_mean"`` for quantiles.
    weights : array-like of shape (n_members,), str or None, default="convex"
        Weights of the members, or the name of their selection, as in
        `EnsembleClassifier`; None weights all members equally.
    rule_params, weights_params : mapping of str to value, or None, default=None
        Parameters of the rule, and of the selection; None means the defaults.
    calibrate : {None, "temperature", "matrix", "isotonic", "sigmoid"}, default=None
        Calibration of the probabilities of each member and of the blend; None means no
        calibration.
    thresholds : {"auto"}, array-like of shape (n_classes,) or None, default="auto"
        Thresholds of the classes for scores of labels, as in `EnsembleClassifier`:
        "auto" learns them, None predicts the most probable labels. The scores of single
        files are without thresholds, and that of the best file is with its own ones.
    ids : sequence of str or None, default=None
        Columns that identify rows; None chooses them by name and type.
    groups : str or None, default=None
        Column of the target with groups; all rows of a group are in the same fold. None
        means that each row is a group.
    time : str or None, default=None
        Column of the target with numbers or dates: each fold is judged with weights
        learned from earlier rows only. None means that rows have no order in time.
    cv : int, splitter or iterable of splits, default=5
        Folds of the rows of the target; a number of folds with ``groups`` or ``time``.
    missing : {"error", "drop", "member"}, default="error"
        How to handle rows that a member lacks: raise, leave the rows out, or blend the
        members that have them.
    missing_class : {"error", "zero"}, default="error"
        How to handle a file that lacks a class: raise, or give it the probability 0.
    random_state : int, Generator, RandomState or None, default=None
        Seed or generator of the selection, as in `EnsembleClassifier`.

    Returns
    -------
    Blend

    Raises
    ------
    ValueError
        If a file or a parameter is invalid, or rows do not match.
    ImportError
        If polars or pyarrow is not installed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> labels = ["cat", "dog"] * 10
    >>> rows = "".join(f"{row},{label}\n" for row, label in enumerate(labels))
    >>> _ = (folder / "y.csv").write_text("id,animal\n" + rows)
    >>> for name, share in {"sure": 0.9, "unsure": 0.6}.items():
    ...     shares = [share if label == "cat" else 1 - share for label in labels]
    ...     rows = "".join(f"{row},{p},{1 - p}\n" for row, p in enumerate(shares))
    ...     _ = (folder / f"{name}.csv").write_text("id,cat,dog\n" + rows)
    >>> blended = blend(
    ...     [folder / "sure.csv", folder / "unsure.csv"], folder / "y.csv"
    ... )
    >>> blended.names, blended.score("blend").score > blended.score("sure").score
    (('sure', 'unsure'), True)
    """
    members = _opened(files, [ids] * len(files))
    if len(members) < 2:
        raise ValueError(f"files must be at least two, found {len(members)}")
    if not isinstance(target, Target):
        target = _read_target(target, target_column, members, (groups, time))
    aligned = align(
        members,
        target,
        missing="member" if missing == "drop" else missing,
        missing_class=missing_class,
    )
    if aligned.kind not in RULES:
        raise ValueError(
            "files must have probabilities, values or quantiles to learn weights, "
            f"found {aligned.kind}"
        )
    is_classifier = aligned.kind == "probabilities"
    rows, notes = _rows_to_learn_from(aligned)
    n_rows = int(aligned.present.all(axis=0).sum())
    y, stack = np.asarray(aligned.y)[rows], aligned.stack
    if len(rows) < stack.shape[1]:
        stack = _gathered(stack, rows)
    splits = judging_splits(
        y,
        cv=cv,
        groups=None if groups is None else _column(target, groups, aligned, rows),
        time=None if time is None else as_times(_column(target, time, aligned, rows)),
        classifier=is_classifier,
    )
    if scoring is None and aligned.kind == "quantiles":
        scoring = IntervalScore(tuple(aligned.columns.tolist()))
    ensemble = stack_ensemble(
        stack,
        aligned.names,
        aligned.columns if is_classifier else None,
        scoring=scoring,
        rule=RULES[aligned.kind] if rule is None else rule,
        weights=weights,
        rule_params=rule_params,
        weights_params=weights_params,
        random_state=random_state,
        calibrate=calibrate,
        thresholds=thresholds,
    )
    with _noting(notes):
        ensemble.fit(np.arange(len(y))[:, None], y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first fit has issued them
        scores = judge(_combinations(ensemble), aligned.names, y, splits, scoring)
    return Blend(
        files=members,
        target=target,
        names=tuple(aligned.names),
        kind=aligned.kind,
        columns=aligned.columns,
        ensemble=ensemble,
        scores_=tuple(scores),
        n_rows=n_rows,
        n_learned=len(y),
        n_judged=sum(len(test) for _, test in splits),
        missing=missing,
        notes=tuple(dict.fromkeys([*aligned.notes, *notes])),
    )


def _opened(
    files: Sequence[Path | PredictionFile], ids: Sequence[Sequence[str] | None]
) -> tuple[PredictionFile, ...]:
    """Opened files; ``ids`` has the columns that identify the rows of each file."""
    if isinstance(files, str | os.PathLike):
        raise TypeError(f"files must be a list of paths, found {files!r}")
    pairs = zip(files, ids, strict=True)
    return tuple(
        file if isinstance(file, PredictionFile) else _open(pathlib.Path(file), names)
        for file, names in pairs
    )


def _open(path: pathlib.Path, ids: Sequence[str] | None) -> PredictionFile:
    """Opened file; arrays, whose columns have no names, may lack the identifiers."""
    if ids is not None:
        table = open_table(path)
        if not table.has_header and not set(ids) & set(table.names):
            ids = None
    return open_predictions(path, ids=ids)


def _read_target(
    path: Path,
    column: str | None,
    files: Sequence[PredictionFile],
    others: Sequence[str | None],
) -> Target:
    """True values; identifiers of the files and ``others`` are not their column."""
    if column is not None:
        return read_target(path, column=column)
    known = {*others, *(name for file in files for name in file.ids)}
    names = [name for name in open_table(pathlib.Path(path)).names if name in known]
    return read_target(path, ids=names or None)


def _rows_to_learn_from(aligned: AlignedPredictions) -> tuple[Counts, list[str]]:
    """Rows with predictions of all members, or a sample of them that fits in memory."""
    rows = np.flatnonzero(aligned.present.all(axis=0))
    n_members, n_rows, n_columns = aligned.stack.shape
    notes = []
    if not len(rows):
        counts = zip(aligned.names, aligned.present.sum(axis=1), strict=True)
        raise ValueError(
            f"no row has predictions of all {n_members} members to learn weights from: "
            f"{', '.join(f'{name} has {n}' for name, n in counts)} of {n_rows} rows; "
            "leave out the files with the fewest rows"
        )
    if len(rows) < n_rows:
        notes.append(
            f"weights are learned and judged on the {len(rows)} of {n_rows} rows for "
            "which all members have predictions"
        )
    most = max(1, LEARNING_BYTES // (8 * n_members * n_columns))
    if len(rows) > most:
        notes.append(
            f"weights are learned and judged on a random sample of {most} of "
            f"{len(rows)} rows, to limit the memory"
        )
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    return rows, notes


def _gathered(stack: Float64, rows: Counts) -> Float64:
    """Rows of a stack, which may be larger than memory."""
    sample = np.empty((len(stack), len(rows), stack.shape[2]))
    for member, plane in zip(stack, sample, strict=True):
        plane[:] = member[rows]
        release_memory(stack)
    return sample


def _column(
    target: Target, name: str, aligned: AlignedPredictions, rows: Counts
) -> Any:
    """Values of another column of the target, as text, for rows of the stack."""
    if name not in target.ids.columns:
        raise ValueError(
            f"{target.path} has no column {name!r} for groups or time, found "
            f"{', '.join(map(repr, target.ids.columns)) or 'no other columns'}"
        )
    shared = [column for column in aligned.ids.columns if column in target.ids.columns]
    positions = np.arange(len(target.ids))
    if shared:
        index = RowIndex(target.ids.select(shared), str(target.path))
        positions = index.positions(aligned.ids)
    return target.ids[name].to_numpy()[positions[rows]]


def _combinations(ensemble: Any) -> dict[str, Any]:
    """The blend, and the same ensemble with the best member and with equal weights."""
    combinations = {}
    for name, weights in ((BEST, "best"), (EQUAL, None)):
        combinations[name] = copy.copy(ensemble)
        combinations[name].set_params(weights=weights, weights_params=None)
    return {**combinations, BLEND: ensemble}


@contextmanager
def _noting(notes: list[str]) -> Iterator[None]:
    """Keep warnings of the estimators as notes, except the `REPLACED` ones."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    messages = [str(warning.message) for warning in caught]
    notes += [text for text in messages if not text.startswith(REPLACED)]
