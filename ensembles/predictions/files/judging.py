"""Cross-validated scores of a blend, of the best file and of equal weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.metrics import get_scorer

from ensembles._typing import Float64
from ensembles.predictions.combiners.builtin import COMBINERS
from ensembles.predictions.files.stack_members import StackQuantileEnsemble
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.fitting.preconditions import LOG_LOSS
from ensembles.predictions.members.out_of_fold import OutOfFold, Split
from ensembles.predictions.members.outputs import OutputSpec, RegressionOutputs
from ensembles.predictions.members.precomputed import (
    PrecomputedClassifier,
    PrecomputedRegressor,
)
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.metrics.table import SCORER_ERRORS, resolve_scoring

BLEND, BEST, EQUAL = "blend", "best single file", "equal weights"
CALIBRATED = "best file, calibrated"


class BlendScore(NamedTuple):
    """A blend or a single file, scored on rows that chose none of its weights.

    Parameters
    ----------
    name : str
        Name of the file; or "blend", "best single file" (chosen on the other folds),
        "best file, calibrated" or "equal weights".
    score : float
        Score on all judged rows; greater is better.
    fold_scores : tuple of float
        Score on each fold; NaN if it is undefined there, e.g. because a class is
        missing.
    weight : float or None, default=None
        Weight of the file in the blend; None for a combination.
    """

    name: str
    score: float
    fold_scores: tuple[float, ...]
    weight: float | None = None


def comparisons(ensemble: Any) -> dict[str, Any]:
    """The ensemble, and copies with the best member and with equal weights.

    The best member is as its file has it, without calibration; if the ensemble has
    calibration, there is another copy with the calibrated best member.

    Parameters
    ----------
    ensemble : EnsembleClassifier, EnsembleRegressor or StackQuantileEnsemble
        Blend; left unchanged.

    Returns
    -------
    dict of str to estimator
        The blend is the last one.
    """
    params: dict[str, dict[str, Any]] = {BEST: {"weights": "best"}}
    if getattr(ensemble, "calibrate", None) is not None:
        params[CALIBRATED] = dict(params[BEST])
        params[BEST]["calibrate"] = None
    params[EQUAL] = {"weights": None}
    combinations = {name: copy.copy(ensemble) for name in params}
    for name, combination in combinations.items():
        combination.set_params(weights_params=None, **params[name])
    return {**combinations, BLEND: ensemble}


def judge(
    ensembles: Mapping[str, Any],
    names: Sequence[str],
    y: Any,
    splits: Sequence[Split],
    scoring: Any,
) -> list[BlendScore]:
    """Fit ensembles on the training rows of each split, and score their predictions.

    Parameters
    ----------
    ensembles : mapping of str to estimator
        Fitted ensembles of the same members, whose ``X`` is a column of row indices;
        left unchanged. The last one is the blend.
    names : sequence of str
        Names of the members.
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        True targets.
    splits : sequence of (train, test)
        Row indices; all that an ensemble learns is learned from the training rows.
    scoring : str, callable or None
        As in `EnsembleClassifier`.

    Returns
    -------
    list of BlendScore
        The members, then the ensembles.
    """
    rows = np.arange(len(y))[:, None]
    tests = [test for _, test in splits]
    parts: dict[str, list[_Predicted]] = {name: [] for name in ensembles}
    fitted: Any = None
    for fold, (train, test) in enumerate(splits, 1):
        for name, ensemble in ensembles.items():
            fitted = copy.copy(ensemble)  # clone would copy the predictions
            where = f"for the {len(train)} rows outside of fold {fold}: "
            with explain_errors(where, "use fewer folds (--cv), or another --metric"):
                fitted.fit(rows[train], y[train])
            parts[name].append(_predict(fitted, rows[test]))
    outputs: Any = RegressionOutputs(multioutput=True, width=None)
    if not isinstance(fitted, StackQuantileEnsemble):
        outputs = fitted._fitted_combiner.outputs
    if is_classifier(fitted):  # thresholds are those of the blend in the last fold
        outputs = outputs._replace(thresholds=None)
    scored = partial(_scored, y=y, tests=tests, outputs=outputs, scoring=scoring)
    weights = list(ensembles.values())[-1].weights_
    scores = []
    for name, member, weight in zip(names, fitted.estimators_, weights, strict=True):
        of_member = [_of_member(outputs, name, member, rows[test]) for test in tests]
        scores.append(scored(name, of_member)._replace(weight=float(weight)))
    return scores + [scored(name, of_fold) for name, of_fold in parts.items()]


@contextmanager
def explain_errors(where: str, fix: str) -> Iterator[None]:
    """Raise errors of scorers as `ValueError`.

    Parameters
    ----------
    where : str
        Beginning of the message, with a colon.
    fix : str
        Instruction at the end of the message; empty for none.
    """
    try:
        yield
    except SCORER_ERRORS as error:
        notes = "; ".join([str(error), *getattr(error, "__notes__", [])])
        raise ValueError(f"{where}{notes}{fix and '; ' + fix}") from error


class _Predicted(NamedTuple):
    """Probabilities and labels, or values twice."""

    columns: Float64
    targets: Any


class _JudgedClassifier(PrecomputedClassifier):
    """Classifier that returns given labels too, which thresholds may have changed."""

    def __init__(self, outputs: Any, labels: Any) -> None:
        super().__init__(outputs)
        self.labels = labels

    def predict(self, X: Any) -> Any:
        return self.labels


def _predict(ensemble: Any, X: Any) -> _Predicted:
    targets = ensemble.predict(X)
    if is_classifier(ensemble):
        return _Predicted(ensemble.predict_proba(X), targets)
    return _Predicted(targets.reshape(len(X), -1), targets)


def _of_member(outputs: OutputSpec, name: str, member: Any, X: Any) -> _Predicted:
    predictions = outputs.predict(name, member, X)[0]
    columns = outputs.finalize(np.array(predictions, np.float64))
    return _Predicted(columns, outputs.to_targets([columns]))


def _scored(
    name: str,
    parts: Sequence[_Predicted],
    *,
    y: Any,
    tests: Sequence[Any],
    outputs: OutputSpec,
    scoring: Any,
) -> BlendScore:
    together = _Predicted(*map(np.concatenate, zip(*parts, strict=True)))
    with explain_errors(f"score of {name}: ", ""):
        score = _score(together, y[np.concatenate(tests)], outputs, scoring)
    fold_scores = []
    for part, test in zip(parts, tests, strict=True):
        try:
            fold_scores.append(_score(part, y[test], outputs, scoring))
        except SCORER_ERRORS:
            fold_scores.append(np.nan)
    return BlendScore(name, score, tuple(fold_scores))


def _score(predicted: _Predicted, y: Any, outputs: OutputSpec, scoring: Any) -> float:
    """Value of the scorer; its default is that of the estimators."""
    columns, targets = predicted
    if scoring in LOG_LOSS:
        combiner = FittedCombiner(COMBINERS["mean"], {}, outputs)
        default = ScorerScore(OutOfFold([], y, outputs, None), combiner, scoring)
        return default.evaluate([columns])
    if isinstance(outputs, RegressionOutputs):
        estimator: Any = PrecomputedRegressor(outputs.multioutput)
    else:
        estimator = _JudgedClassifier(outputs, targets)
    return float(get_scorer(resolve_scoring(scoring))(estimator, columns, y))
