"""Thresholds of classes, learned from out-of-fold predictions of an ensemble."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._sklearn import check_choice, warn_caller
from ensembles._typing import Counts, Float64
from ensembles.predictions.combiners.accumulation import softmax
from ensembles.predictions.combiners.builtin import FLOOR
from ensembles.predictions.fitting.cross_fitting import (
    stratified_folds,
    weight_folds,
)
from ensembles.predictions.fitting.log_pool_weights import PoolLoss
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    OutputSpec,
    Predictions,
    over_thresholds,
)
from ensembles.predictions.members.sample_weight import scale_to_effective_size
from ensembles.predictions.thresholds.sweep import LabelScore, best_factors
from ensembles.predictions.thresholds.sweep_loops import (
    ACCURACY,
    BALANCED_ACCURACY,
    F1,
    F1_MACRO,
    MCC,
)

METRICS = {
    "accuracy": ACCURACY,
    "balanced_accuracy": BALANCED_ACCURACY,
    "f1": F1,
    "f1_macro": F1_MACRO,
    "matthews_corrcoef": MCC,
}
# Rows of the rarest class at which its labels count as much as its predicted
# probabilities; chosen on other data sets than those reported.
SMALL_CLASS = 30
# The same for the accuracy, whose best thresholds hardly differ from equal ones: with
# fewer rows, labels add only noise.
SMALL_CLASS_OF_ACCURACY = 10_000


def supports_thresholds(scoring: Any, outputs: OutputSpec) -> bool:
    """Whether thresholds can be learned for a score.

    Parameters
    ----------
    scoring : str, callable or None
        Score of the ensemble; thresholds are learned for the names in `METRICS`.
    outputs : ClassOutputs or RegressionOutputs
        Format of the predictions; several targets must be multilabel, with the score
        "f1_macro", the mean over the labels.

    Returns
    -------
    bool
    """
    if not isinstance(outputs, ClassOutputs):
        return False
    if outputs.multioutput:
        return outputs.multilabel and scoring == "f1_macro"
    return isinstance(scoring, str) and scoring in METRICS


def check_thresholds(thresholds: Any, outputs: ClassOutputs) -> list[Float64] | None:
    """Validate thresholds, and scale them to sum 1.

    Parameters
    ----------
    thresholds : array-like of shape (n_classes,), list of such, "auto" or None
        Value of the ``thresholds`` parameter, a list for several targets.
    outputs : ClassOutputs
        Classes of each output.

    Returns
    -------
    list of n_outputs ndarrays of shape (n_classes,), or None
        None for "auto" and None.

    Raises
    ------
    ValueError
        If there is not one finite, positive threshold for each class.
    """
    if isinstance(thresholds, str):
        check_choice("thresholds", thresholds, ("auto",))
    if thresholds is None or isinstance(thresholds, str):
        return None
    parts = [thresholds]
    if outputs.multioutput and np.iterable(thresholds):
        parts = list(thresholds)
    if len(parts) != outputs.n_outputs:
        raise ValueError(
            f"thresholds must be a list of {outputs.n_outputs} arrays, one for each "
            f"target: found {thresholds!r}"
        )
    checked = []
    for part, classes in zip(parts, outputs.classes, strict=True):
        shape = (len(classes),)
        try:
            values = np.asarray(part, np.float64)
        except (TypeError, ValueError):  # not numbers, or lists of several lengths
            values = np.full(shape, np.nan)
        if values.shape != shape or not ((values > 0) & (values < np.inf)).all():
            fix = ""
            if values.ndim == 0 and len(classes) == 2:
                fix = f"; pass [1 - {part}, {part}]"
            raise ValueError(
                "thresholds must be one positive number for each of the classes "
                f"{classes.tolist()}, found {part!r}{fix}"
            )
        checked.append(values / values.sum())
    return checked


def label_scores(out_of_fold: OutOfFold, scoring: str) -> list[LabelScore]:
    """Score of the predicted labels of each output; their mean is the score.

    Parameters
    ----------
    out_of_fold : OutOfFold
        True labels, with the sample weights of the score.
    scoring : str
        Score that `supports_thresholds`.

    Returns
    -------
    list of n_outputs LabelScore
    """
    outputs: Any = out_of_fold.outputs
    weight = scale_to_effective_size(out_of_fold.sample_weight)
    row_weights = np.ones(len(out_of_fold.y)) if weight is None else weight
    metric = F1 if outputs.multilabel else METRICS[scoring]
    scores = []
    codes_per_output = outputs.encode(out_of_fold.y)
    for codes, classes in zip(codes_per_output, outputs.classes, strict=True):
        label_weights = _one_hot(codes, len(classes), row_weights)
        # scikit-learn's F1 is of the class 1.
        positive = int(np.argmax(classes == 1)) if metric == F1 else 0
        scores.append(LabelScore(metric, label_weights, row_weights, positive))
    return scores


def _one_hot(codes: Counts, n_classes: int, row_weights: Float64) -> Float64:
    label_weights = np.zeros((len(codes), n_classes))
    label_weights[np.arange(len(codes)), codes] = row_weights
    return label_weights


def learn_thresholds(
    predictions: Predictions, out_of_fold: OutOfFold, scoring: str
) -> list[Float64]:
    """Thresholds of the classes that maximize a score of the predicted labels.

    The true labels are smoothed: with ``n`` rows in the rarest class, their share is
    ``n / (n + 30)``, for the accuracy ``n / (n + 10000)``, and the rest is the
    recalibrated probability of each class. With many rows the thresholds maximize the
    score itself; with few rows, the score that the probabilities predict, which has
    less noise.

    Parameters
    ----------
    predictions : list of n_outputs ndarrays of shape (n_samples, n_classes)
        Combined probabilities of held-out rows.
    out_of_fold : OutOfFold
        True labels of these rows, with the sample weights of the score.
    scoring : str
        Score that `supports_thresholds`.

    Returns
    -------
    list of n_outputs ndarrays of shape (n_classes,)
        Positive, with sum 1.
    """
    thresholds = []
    scores = label_scores(out_of_fold, scoring)
    for output, (y_proba, score) in enumerate(zip(predictions, scores, strict=True)):
        class_sizes = score.label_weights.sum(axis=0)
        smallest = class_sizes[class_sizes > 0].min()
        is_accuracy = score.metric == ACCURACY
        size = SMALL_CLASS_OF_ACCURACY if is_accuracy else SMALL_CLASS
        share = smallest / (smallest + size)
        expected = _recalibrated(y_proba, out_of_fold, output)
        expected *= score.row_weights[:, None]
        smoothed = share * score.label_weights + (1 - share) * expected
        factors, _ = best_factors(y_proba, score._replace(label_weights=smoothed))
        thresholds.append(1 / factors / (1 / factors).sum())
    return thresholds


def _recalibrated(y_proba: Float64, out_of_fold: OutOfFold, output: int) -> Float64:
    """Probabilities with a temperature and an intercept a class, by maximum likelihood.

    Some rules return shares of votes or of ranks; a mean is not sharp enough.
    """
    outputs: Any = out_of_fold.outputs
    y = np.asarray(out_of_fold.y).reshape(len(y_proba), -1)[:, output]
    single = ClassOutputs([outputs.classes[output]], False, False, False, "error")
    part = OutOfFold([y_proba[None]], y, single, out_of_fold.sample_weight)
    pool = PoolLoss(part, FLOOR, signed=False).minimize(tolerance=1e-9)
    logits = pool.weights[0] * np.log(np.maximum(y_proba, FLOOR))
    return softmax(logits, pool.intercepts[0])


def cross_fit_thresholds(
    predictions: Predictions,
    out_of_fold: OutOfFold,
    scoring: str,
) -> Predictions:
    """Probabilities divided by thresholds that were learned from other rows.

    Parameters
    ----------
    predictions : list of n_outputs ndarrays of shape (n_samples, n_classes)
        Combined probabilities of held-out rows.
    out_of_fold : OutOfFold
        True labels of these rows, with the sample weights of the score.
    scoring : str
        Score that `supports_thresholds`.

    Returns
    -------
    list of n_outputs ndarrays of shape (n_samples, n_classes)
        Rows are scaled to sum 1; the largest entry is at the predicted label.

    Warns
    -----
    UserWarning
        If the rows cannot be divided into folds, so that thresholds are learned from
        the rows themselves.
    """
    outputs: Any = out_of_fold.outputs
    splits = weight_folds(out_of_fold) or stratified_folds(out_of_fold)
    if not splits:
        rows = np.arange(len(out_of_fold.y))
        splits = [(rows, rows)]
        warn_caller(
            "oof_score_ is computed on the rows that the thresholds were learned from: "
            f"{len(rows)} rows cannot be divided into folds; pass more rows, or "
            "thresholds=None"
        )
    divided = list(map(np.empty_like, predictions))
    for train, test in splits:
        part = out_of_fold.subset(train)
        thresholds = learn_thresholds([p[train] for p in predictions], part, scoring)
        at_test = over_thresholds([p[test] for p in predictions], thresholds)
        for output, y_proba in enumerate(at_test):
            divided[output][test] = outputs.finalize(y_proba)
    return divided
