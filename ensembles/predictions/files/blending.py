"""Blends of prediction files: weights learned from a target, and their scores."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.predictions.files.alignment import AlignedPredictions, align
from ensembles.predictions.files.application import apply_ensemble
from ensembles.predictions.files.columns import ColumnMap, map_columns
from ensembles.predictions.files.judging import (
    BlendScore,
    comparisons,
    explain_errors,
    judge,
)
from ensembles.predictions.files.judging_splits import judging_splits
from ensembles.predictions.files.learning_data import (
    LearningData,
    Path,
    learning_data,
    open_members,
    read_truth,
)
from ensembles.predictions.files.prediction_file import PredictionFile
from ensembles.predictions.files.stack_members import make_ensemble
from ensembles.predictions.files.target import Target

# Beginnings of warnings of the estimators that the table of scores replaces.
REPLACED = ("weights and calibration are learned from", "selection ")


@dataclass(frozen=True)
class Blend:
    """Weights of prediction files with their scores, to apply to other files.

    Parameters
    ----------
    files : tuple of PredictionFile
        Files that the weights are learned from.
    target : Target or None
        True values that the weights are learned from; None if they are given.
    names : tuple of str
        Names of the members.
    kind : {"probabilities", "values", "quantiles"}
        Kind of the predictions.
    columns : ndarray of shape (n_columns,)
        Sorted classes, names of values, or levels of quantiles.
    ensemble : EnsembleClassifier, EnsembleRegressor or QuantileEnsemble
        Fitted ensemble, whose members are the files.
    scores_ : tuple of BlendScore
        Scores of each file, of the best file chosen on the other folds (and of the
        best calibrated one, with ``calibrate``), of equal weights and of the blend, in
        this order; greater is better. Empty without a target.
    n_rows : int
        Number of rows with a true value and predictions of all members.
    n_learned : int
        Number of rows that the weights are learned from.
    n_judged : int
        Number of rows that the scores are computed on.
    missing : {"error", "drop", "member"}
        How to handle rows that a member lacks.
    normalize : bool
        Whether probabilities are divided by their sum in each row.
    selected : mapping of str to value
        The parameters ``columns`` and ``output_type``, also for other files.
    notes : tuple of str
        Sentences about choices, and about rows and columns that are left out.
    """

    files: tuple[PredictionFile, ...]
    target: Target | None
    names: tuple[str, ...]
    kind: str
    columns: Any
    ensemble: Any
    scores_: tuple[BlendScore, ...]
    n_rows: int
    n_learned: int
    n_judged: int
    missing: str
    normalize: bool
    selected: Mapping[str, Any]
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
        name : {"blend", "best single file", "best file, calibrated", "equal weights"}
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
        labels: bool = False,
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
        labels : bool, default=False
            Whether to write the predicted labels in a single column instead, with
            learned thresholds if there are any.
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
        if labels and self.kind != "probabilities":
            raise ValueError(f"labels need class probabilities, found {self.kind}")
        name = "label" if self.target is None else self.target.name
        opened = self.files
        if files is not None:
            if len(files) != len(self.files):
                raise ValueError(
                    "files must have one file for each of the "
                    f"{len(self.files)} members, found {len(files)}"
                )
            ids = [file.ids or None for file in self.files]
            opened = open_members(files, ids, **self.selected)
            names = [file.name for file in opened]
            if sorted(names) == sorted(self.names) and names != list(self.names):
                raise ValueError(
                    f"files must be in the order of the members, {self.names}: found "
                    f"{tuple(names)}"
                )
        return apply_ensemble(
            self.ensemble,
            opened,
            out,
            target=self.target if files is None else None,
            kind=self.kind,
            columns=self.columns,
            missing=self.missing,
            normalize=self.normalize,
            labels=name if labels else None,
            force=force,
        )


def blend(
    files: Sequence[Path | PredictionFile],
    target: Path | Target | None = None,
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
    columns: Sequence[Any] | None = None,
    output_type: str | None = None,
    groups: str | None = None,
    time: str | None = None,
    cv: Any = 5,
    missing: str = "error",
    missing_class: str = "error",
    kind: str | None = None,
    normalize: bool = False,
    crossing: str = "raise",
    random_state: Any = None,
) -> Blend:
    r"""Learn weights of prediction files, and judge them by cross-validation.

    The predictions must be out-of-fold or held-out. The weights are those of
    `EnsembleClassifier` for class probabilities, of `EnsembleRegressor` for values and
    of `QuantileEnsemble` for quantiles, on the rows of the files. They are learned once
    more without each fold, to score the blend on rows that it was not learned from.

    Parameters
    ----------
    files : sequence of path or PredictionFile
        Files of at least two members.
    target : path, Target or None, default=None
        True values; None learns and scores nothing, and needs given or equal weights.
    target_column : str or None, default=None
        Column with the true values, if ``target`` is a path; None takes the only one
        besides the identifiers of the files, ``groups`` and ``time``.
    scoring : str, callable or None, default=None
        Score, as in `EnsembleClassifier`. None means the negative log-loss of
        probabilities, the negative mean squared error of values, and the negative
        weighted interval score of quantiles.
    rule : str, Combiner, Rule or None, default=None
        Rule that combines the members; None means ``"log_pool"`` for probabilities,
        ``"mean"`` for values and ``"quantile_mean"`` for quantiles, whose rules are the
        ones in `POOLS`.
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
    columns, output_type
        Predictions to read from each file, as in `open_predictions`; None takes all
        columns, and the only output type.
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
    kind : {"probabilities", "values", "quantiles"} or None, default=None
        Kind of the predictions; None infers it from the files and the target. "values"
        blends columns that are not probabilities of exclusive classes.
    normalize : bool, default=False
        Whether probabilities are divided by their sum in each row; otherwise sums that
        differ from 1 are an error.
    crossing : {"raise", "sort"}, default="raise"
        How to handle quantiles of a member that decrease from one level to the next:
        raise, or sort them.
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
    if isinstance(files, str | os.PathLike):
        raise TypeError(f"files must be a list of paths, found {files!r}")
    selected = {"columns": columns, "output_type": output_type}
    members = open_members(files, [ids] * len(files), **selected)
    if len(members) < 2:
        raise ValueError(
            f"files must be at least two, found {len(members)}; save a table with a "
            "column for each model as a file for each model"
        )
    params = {
        "scoring": scoring,
        "rule": rule,
        "weights": weights,
        "rule_params": rule_params,
        "weights_params": weights_params,
        "calibrate": calibrate,
        "thresholds": thresholds,
        "crossing": crossing,
        "random_state": random_state,
    }
    if target is None:
        if groups is not None or time is not None:
            raise ValueError("groups and time are columns of the target (--target)")
        mapping = map_columns(
            members, None, missing_class=missing_class, classes=None, kind=kind
        )
        return _unscored(members, mapping, params, missing, normalize, selected)
    if not isinstance(target, Target):
        others = (groups, time)
        target = read_truth(target, members, column=target_column, others=others)
    aligned = align(
        members,
        target,
        missing="member" if missing == "drop" else missing,
        missing_class=missing_class,
        normalize=normalize,
        kind=kind,
    )
    data = learning_data(aligned, target, groups=groups, time=time)
    is_classifier = aligned.kind == "probabilities"
    with _noting(data.notes):
        splits = judging_splits(
            data.y, cv=cv, groups=data.groups, time=data.time, classifier=is_classifier
        )
    ensemble = _fitted(aligned, data, params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first fit has issued them
        combined = comparisons(ensemble)
        scores = judge(combined, aligned.names, data.y, splits, ensemble.scoring)
    return Blend(
        files=members,
        target=target,
        names=tuple(aligned.names),
        kind=aligned.kind,
        columns=aligned.columns,
        ensemble=ensemble,
        scores_=tuple(scores),
        n_rows=data.n_complete,
        n_learned=len(data.y),
        n_judged=sum(len(test) for _, test in splits),
        missing=missing,
        normalize=normalize,
        selected=selected,
        notes=tuple(dict.fromkeys([*aligned.notes, *data.notes])),
    )


def _fitted(
    aligned: AlignedPredictions, data: LearningData, params: Mapping[str, Any]
) -> Any:
    """Ensemble with weights learned from all rows; adds its warnings to the notes."""
    ensemble = make_ensemble(
        data.stack, aligned.kind, aligned.columns, names=aligned.names, **params
    )
    fix = ""
    if aligned.kind == "values" and len(np.unique(data.y)) == 2:
        fix = "probabilities of two classes must be between 0 and 1"
    with _noting(data.notes), explain_errors("", fix):
        ensemble.fit(np.arange(len(data.y))[:, None], data.y)
    return ensemble


def _unscored(
    files: tuple[PredictionFile, ...],
    mapping: ColumnMap,
    params: Mapping[str, Any],
    missing: str,
    normalize: bool,
    selected: Mapping[str, Any],
) -> Blend:
    """Blend with equal or given weights, without true values."""
    if params["scoring"] is not None:
        raise ValueError("target must be given to score a blend (--target)")
    if isinstance(params["weights"], str) or params["calibrate"] is not None:
        raise ValueError(
            "target must be given to learn weights or calibration: pass the true "
            "values (--target), or weights=None (--weights equal), or one number for "
            "each file"
        )
    kind, columns = mapping.kind, mapping.columns
    names = tuple(file.name for file in files)
    y = columns[:1] if kind == "probabilities" else np.zeros((1, len(columns)))
    if kind == "quantiles":
        y = np.zeros(1)
    # Given weights are only validated by fit, on a row of any predictions.
    row = np.full((len(files), 1, len(columns)), 1 / len(columns))
    ensemble = make_ensemble(row, kind, columns, names=names, **params)
    with _noting([]):
        ensemble.fit(np.zeros((1, 1), np.int64), y)
    return Blend(
        files=files,
        target=None,
        names=names,
        kind=kind,
        columns=columns,
        ensemble=ensemble,
        scores_=(),
        n_rows=0,
        n_learned=0,
        n_judged=0,
        missing=missing,
        normalize=normalize,
        selected=selected,
        notes=tuple(mapping.notes),
    )


@contextmanager
def _noting(notes: list[str]) -> Iterator[None]:
    """Keep warnings of the estimators as notes, except the `REPLACED` ones."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    messages = [str(warning.message) for warning in caught]
    notes += [text for text in messages if not text.startswith(REPLACED)]
