"""Scores by the parameter ``scoring``, fast for common scorers, and their checks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer

from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold, Split
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    OutputSpec,
    Predictions,
    RegressionOutputs,
)
from ensembles.predictions.metrics.accuracy import Accuracy
from ensembles.predictions.metrics.log_loss import LogLoss
from ensembles.predictions.metrics.roc_auc import RocAuc
from ensembles.predictions.metrics.scorer import (
    BoundedScore,
    NotApplicable,
    ScorerScore,
)
from ensembles.predictions.metrics.squared_error import (
    R2,
    BrierScore,
    RootSquaredError,
    SquaredError,
)

# Errors of scorers for targets or predictions that they do not support.
SCORER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
)
OTHER_SCORING_NAMES = {"mcc": "matthews_corrcoef"}
CLASSIFICATION_SCORES: dict[Any, type[BoundedScore]] = {
    None: LogLoss,
    "neg_log_loss": LogLoss,
    "accuracy": Accuracy,
    "roc_auc": RocAuc,
    "neg_brier_score": BrierScore,
}
REGRESSION_SCORES: dict[Any, type[BoundedScore]] = {
    None: SquaredError,
    "neg_mean_squared_error": SquaredError,
    "neg_root_mean_squared_error": RootSquaredError,
    "r2": R2,
}


def make_score(
    out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
) -> ScorerScore:
    """Score of member weights on held-out predictions.

    For the rule "mean", the scorers in `CLASSIFICATION_SCORES` and `REGRESSION_SCORES`
    have fast gains. Other rules, scorers and formats of predictions run the scorer for
    each candidate, which may take minutes per greedy round (see `ScorerScore`). In both
    cases the score of weights is the value of scikit-learn's scorer, and a greedy
    selection adds the same members in the same order.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions of the members, with the true targets. Given thresholds have no fast
        scores.
    combiner : FittedCombiner
        Rule of the ensemble, with its parameters; only "mean" has fast scores.
    scoring : str, callable or None
        As in scikit-learn; None is the negative log-loss for classifiers and the
        negative mean squared error for regressors.

    Returns
    -------
    ScorerScore
        Callable as ``score(weights)``; a `BoundedScore` if there is a fast score.
    """
    is_classifier = isinstance(out_of_fold.outputs, ClassOutputs)
    scores = CLASSIFICATION_SCORES if is_classifier else REGRESSION_SCORES
    if getattr(out_of_fold.outputs, "thresholds", None) is not None:
        return ScorerScore(out_of_fold, combiner, scoring)
    is_name = scoring is None or isinstance(scoring, str)
    if is_name and scoring in scores and combiner.combiner.name == "mean":
        try:
            fast = scores[scoring](out_of_fold, combiner, scoring)
        except NotApplicable:
            return ScorerScore(out_of_fold, combiner, scoring)
        if fast.matches_scorer():
            return fast
    return ScorerScore(out_of_fold, combiner, scoring)


def resolve_scoring(scoring: Any) -> Any:
    """Validate ``scoring``: None, the name of a scorer or a callable.

    Parameters
    ----------
    scoring : str, callable or None
        Value of the ``scoring`` parameter; None means the default score.

    Returns
    -------
    str, callable or None
        The name in scikit-learn for "mcc", otherwise ``scoring`` itself.

    Raises
    ------
    ValueError
        If scikit-learn has no scorer of this name.
    TypeError
        If ``scoring`` is of another type.
    """
    if scoring is None or callable(scoring):
        return scoring
    if not isinstance(scoring, str):
        raise TypeError(
            "scoring must be the name of one scorer, a callable or None: found "
            f"{scoring!r}"
        )
    scoring = OTHER_SCORING_NAMES.get(scoring, scoring)
    get_scorer(scoring)  # its error says how to list the names
    return scoring


def check_score(
    combiner: FittedCombiner,
    y: Any,
    splits: Sequence[Split],
    sample_weight: Any,
    scoring: Any,
) -> None:
    """Raise if a scorer cannot score predictions of these targets.

    The scorer is run on synthetic predictions. A callable that fails on them, e.g.
    because it requires a minimum quality, is run on better ones.

    Parameters
    ----------
    combiner : FittedCombiner
        Rule, parameters and prediction format of the ensemble.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets of all rows.
    splits : sequence of (train, test)
        Row indices; only the test rows are scored.
    sample_weight : array-like of shape (n_samples,) or None
        Sample weights of the score; None means that the scorer gets none.
    scoring : str, callable or None
        Scorer to check; None passes.

    Raises
    ------
    ValueError or another of `SCORER_ERRORS`
        The type of the scorer's error, ValueError for a KeyError; the message adds a
        hint.
    """
    outputs = combiner.outputs
    is_unknown = isinstance(outputs, RegressionOutputs) and outputs.width is None
    if scoring is None or is_unknown:
        return
    rows = np.unique(np.concatenate([test for _, test in splits]))
    y = np.asarray(y)[rows]
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight)[rows]
    # Predict from the target of the row before, then from that of the row itself.
    shifts = (1, 0) if callable(scoring) else (1,)
    errors = []
    for shift in shifts:
        predictions = _synthetic_predictions(outputs, y, shift)
        stacks = [output[None] for output in predictions]
        out_of_fold = OutOfFold(stacks, y, outputs, sample_weight)
        score = ScorerScore(out_of_fold, combiner, scoring)
        errors.append(_error_of(score, predictions))
    if None in errors:
        return
    error: Any = errors[0]
    messages = "; ".join([str(error), *getattr(error, "__notes__", [])])
    error_type = ValueError if isinstance(error, KeyError) else type(error)
    raise error_type(
        f"scoring {scoring!r} failed on synthetic predictions of these targets, before "
        f"any member was fitted: {messages}{_hint(outputs, scoring, str(error))}"
    ) from error


def _error_of(score: ScorerScore, predictions: Predictions) -> Exception | None:
    """Error of a scorer for these predictions; None if it returns a score."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about synthetic predictions
        try:
            score.evaluate(predictions)
        except SCORER_ERRORS as error:
            return error
    return None


def _synthetic_predictions(outputs: OutputSpec, y: Any, shift: int) -> Predictions:
    """Synthetic predictions, almost all distinct, with every class predicted.

    Blends the mean with the targets of the rows ``shift`` positions before.
    """
    share = np.random.default_rng(0).uniform(0.4, 0.6, (len(y), 1))
    if isinstance(outputs, RegressionOutputs):
        values = np.asarray(y, np.float64).reshape(len(y), -1)
        shifted = np.roll(values, shift, axis=0)
        return [shifted + share * (values.mean(axis=0) - shifted)]
    predictions = []
    for codes, classes in zip(outputs.encode(y), outputs.classes, strict=True):
        one_hot = np.eye(len(classes))[np.roll(codes, shift)]
        predictions.append(one_hot + share * (1 / len(classes) - one_hot))
    return predictions


def _hint(outputs: OutputSpec, scoring: Any, error: str) -> str:
    if isinstance(outputs, ClassOutputs) and "pos_label" in error:
        last = outputs.classes[0][-1:].tolist()[0]
        return (
            "; name the positive class, as in make_scorer(f1_score, "
            f"pos_label={last!r}), or average over the classes, as in 'f1_macro' "
            "(--metric f1_macro)"
        )
    if "multi_class" in error:
        return "; for several classes, use 'roc_auc_ovr' or 'roc_auc_ovo'"
    if callable(scoring):
        return (
            "; a callable is called with (estimator, predictions, y): the combined "
            "predictions replace X, which is not available"
        )
    return ""
