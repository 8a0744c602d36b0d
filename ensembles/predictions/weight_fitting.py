"""Weights and calibration, learned and scored on out-of-fold predictions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from ensembles._sklearn import warn_caller
from ensembles._typing import Counts, Float64
from ensembles.predictions.calibration.calibrator import Calibrator, cross_calibrate
from ensembles.predictions.fitted_combiner import FittedCombiner
from ensembles.predictions.log_pool_weights import PoolWeights, select_pool_weights
from ensembles.predictions.members.out_of_fold import OutOfFold, Split
from ensembles.predictions.members.outputs import ClassOutputs, Predictions
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.metrics.table import SCORER_ERRORS, make_score
from ensembles.predictions.preconditions import FREE, learns_pool
from ensembles.predictions.thresholds.learning import (
    cross_fit_thresholds,
    learn_thresholds,
)
from ensembles.predictions.thresholds.threshold_score import ThresholdScore
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import SelectionResult, resolve_weights, run_selection
from ensembles.selection.score import ROUNDING

LOG_LOSS = (None, "neg_log_loss")
SLACK = 0.01  # relative difference of scores within the noise of most data
N_FOLDS = 5  # at most: more folds are merged, so that weights are learned 6 times
MAX_ROWS = 5000  # to learn from, for a score: with more, weights hardly differ
# (out-of-fold predictions of some rows, indices of these rows)
# -> combiner, its weights, index of the best member
Learn = Callable[[OutOfFold, Counts], tuple[FittedCombiner, Float64, int]]


class WeightSettings(NamedTuple):
    """How weights and calibration are learned.

    Parameters
    ----------
    weights : ndarray of shape (n_members,), str or None
        Weights, the name of a selection, or None for equal weights.
    weights_params : dict
        Parameters of the selection.
    scoring : str, callable or None
        Scorer of the ensemble; None means the negative log-loss for classifiers, the
        negative mean squared error for regressors.
    calibrate : str or None, default=None
        Calibration method, as in `Calibrator`; None means no calibration.
    learn_thresholds : bool, default=False
        Whether to learn thresholds of the classes that maximize ``scoring``, for a
        score that `supports_thresholds`.
    cross_fit : bool, default=True
        Whether learned weights are cross-fitted to score the ensemble. Calibration and
        thresholds need it, and are cross-fitted in any case.
    """

    weights: Any
    weights_params: dict[str, Any]
    scoring: Any
    calibrate: str | None = None
    learn_thresholds: bool = False
    cross_fit: bool = True


class WeightFit(NamedTuple):
    """Weights with their scores, the combiner that uses them, and calibrators.

    Parameters
    ----------
    combiner : FittedCombiner
        Rule with its parameters and learned intercepts. Its outputs have the
        thresholds, learned or given.
    selected : SelectionResult
        Weights, with scores on the rows that they were learned from.
    score : float or None
        Score of the ensemble on held-out rows, with cross-fitted weights and thresholds
        if they are learned; None if nothing is held out or cross-fitted.
    calibrators : sequence of Calibrator or None
        Calibrator of each member; None leaves its predictions unchanged.
    calibrator : Calibrator or None, default=None
        Calibrator of the combined predictions; None leaves them unchanged.
    """

    combiner: FittedCombiner
    selected: SelectionResult
    score: float | None
    calibrators: Sequence[Calibrator | None]
    calibrator: Calibrator | None = None


def fit_weights(
    settings: WeightSettings,
    combiner: FittedCombiner,
    out_of_fold: OutOfFold,
    score_weight: Float64 | None,
    names: Sequence[str],
) -> WeightFit:
    """Learn weights, calibration and thresholds from out-of-fold predictions.

    Parameters
    ----------
    settings : WeightSettings
        Weights or their selection, scorer, calibration; whether to learn thresholds.
    combiner : FittedCombiner
        Rule with its parameters.
    out_of_fold : OutOfFold
        Predictions of the members, with the sample weights to learn with. Samples that
        no split holds out are ignored.
    score_weight : ndarray of shape (n_samples,) or None
        Sample weights of the score; None weights all samples equally.
    names : sequence of str
        Names of the members, for the warning.

    Returns
    -------
    WeightFit

    Warns
    -----
    UserWarning
        If the weights do not beat the best member, or the score is computed on rows
        that weights or thresholds were learned from.
    """
    weights, calibrate = settings.weights, settings.calibrate
    held_out = out_of_fold.was_held_out
    out_of_fold = out_of_fold.subset(held_out)
    if score_weight is not None:
        score_weight = np.asarray(score_weight)[held_out]
    calibrators: Sequence[Calibrator | None] = [None] * out_of_fold.n_members
    if calibrate and combiner.combiner.input != "labels":
        calibrators, out_of_fold = cross_calibrate(out_of_fold, calibrate)
    prepared = combiner.with_training_predictions(out_of_fold)
    weighted = out_of_fold._replace(sample_weight=score_weight)
    score = _make_score(settings, weighted, prepared)
    selected, combiner = select_weights(settings, prepared, out_of_fold, score)
    cross_fitted = None
    needs_predictions = calibrate or settings.learn_thresholds
    if isinstance(weights, str) and (settings.cross_fit or needs_predictions):
        start = None
        if combiner.intercepts is not None:
            start = PoolWeights(selected.weights, combiner.intercepts)
        cross_fitted = _try_cross_fit(
            settings, prepared, out_of_fold, score_weight, start
        )
    if cross_fitted is None:
        value = selected.score if settings.cross_fit else None
        if needs_predictions:
            predictions = combiner(out_of_fold.stacks, selected.weights)
    else:
        predictions = cross_fitted[0]
        value, best_score = (_evaluate(settings, score, part) for part in cross_fitted)
        if len(names) > 1 and _has_relevant_score(settings, combiner):
            best_member = names[int(selected.best_index or 0)]
            warn_if_no_gain(weights, value, best_score, best_member)
    calibrator = None
    if calibrate:
        stacks = [y_proba[None] for y_proba in predictions]
        (calibrator,), combined = cross_calibrate(
            out_of_fold._replace(stacks=stacks), calibrate
        )
        predictions = [stack[0] for stack in combined.stacks]
        value = score.evaluate(predictions)
    if settings.learn_thresholds:
        value = _evaluate(settings, score, predictions)
        thresholds = learn_thresholds(predictions, weighted, settings.scoring)
        outputs: Any = combiner.outputs
        combiner = replace(combiner, outputs=outputs._replace(thresholds=thresholds))
    return WeightFit(combiner, selected, value, calibrators, calibrator)


def _has_relevant_score(settings: WeightSettings, combiner: FittedCombiner) -> bool:
    """Whether weights or thresholds are learned to maximize the score.

    A learned pool minimizes the log-loss; ``fit`` has warned of other scorings.
    """
    return (
        settings.learn_thresholds
        or settings.scoring in LOG_LOSS
        or not learns_pool(settings.weights, combiner.combiner)
    )


def _make_score(
    settings: WeightSettings, out_of_fold: OutOfFold, combiner: FittedCombiner
) -> ScorerScore:
    """Score of weights; with learned thresholds, at the best ones for the weights."""
    # Weights for the accuracy are selected at equal thresholds, which is much faster
    # and hardly differs.
    if settings.learn_thresholds and settings.scoring != "accuracy":
        return ThresholdScore(out_of_fold, combiner, settings.scoring)
    return make_score(out_of_fold, combiner, settings.scoring)


def _evaluate(
    settings: WeightSettings, score: ScorerScore, predictions: Predictions
) -> float:
    """Score of predictions, with thresholds that are learned on other folds."""
    if not settings.learn_thresholds:
        return score.evaluate(predictions)
    splits = weight_folds(score.out_of_fold) or _stratified_folds(score.out_of_fold)
    if not splits:
        rows = np.arange(len(score.out_of_fold.y))
        splits = [(rows, rows)]
        warn_caller(
            "oof_score_ is computed on the rows that the thresholds were learned from, "
            f"because {len(rows)} rows cannot be divided into folds"
        )
    return score.evaluate(
        cross_fit_thresholds(predictions, score.out_of_fold, settings.scoring, splits)
    )


def select_weights(
    settings: WeightSettings,
    combiner: FittedCombiner,
    out_of_fold: OutOfFold,
    score: ScorerScore,
    start: PoolWeights | None = None,
) -> tuple[SelectionResult, FittedCombiner]:
    """Choose weights by their name, or score given weights.

    Parameters
    ----------
    settings : WeightSettings
        Weights, or the name and the parameters of their selection.
    combiner : FittedCombiner
        Rule with its parameters.
    out_of_fold : OutOfFold
        Predictions to learn from.
    score : ScorerScore
        Score of weights for these predictions.
    start : PoolWeights or None, default=None
        Initial point of a learned pool in a cross-fit, as in `select_pool_weights`.

    Returns
    -------
    selected : SelectionResult
        Weights, with their score and those of the members.
    combiner : FittedCombiner
        Copy with the intercepts of a learned pool, otherwise unchanged.
    """
    weights, params = settings.weights, settings.weights_params
    n_members, rule = out_of_fold.n_members, combiner.combiner
    if learns_pool(weights, rule):
        signed = weights == FREE
        return select_pool_weights(
            combiner, out_of_fold, score, signed=signed, start=start
        )
    if isinstance(weights, str):
        selected = run_selection(SELECTIONS[weights], n_members, score, **params)
    else:
        selected = resolve_weights(
            rule.equal_weights(n_members) if weights is None else weights,
            n_members,
            score,
            signed=rule.signed,
            weight_sum_matters=rule.weight_sum_matters,
            rule=rule.name,
        )
    return selected, combiner


def _try_cross_fit(
    settings: WeightSettings,
    combiner: FittedCombiner,
    out_of_fold: OutOfFold,
    score_weight: Float64 | None,
    start: PoolWeights | None,
) -> tuple[Predictions, Predictions] | None:
    """Predictions as in `cross_fit`; None, with a warning, if the scorer fails."""

    def learn(part: OutOfFold, rows: Counts) -> tuple[FittedCombiner, Float64, int]:
        weight = None if score_weight is None else score_weight[rows]
        weighted = part._replace(sample_weight=weight)
        score = _make_score(settings, weighted, combiner)
        selected, fitted = select_weights(settings, combiner, part, score, start)
        return fitted, selected.weights, int(selected.best_index or 0)

    try:
        return cross_fit(out_of_fold, learn)
    except SCORER_ERRORS as error:
        if settings.scoring is None:
            raise
        warn_caller(
            "oof_score_ is computed on the rows that the weights were learned from, "
            f"because scoring {settings.scoring!r} failed on part of the rows "
            f"({type(error).__name__}: {error}); use a scorer that accepts any number "
            "of rows to get a cross-fitted score"
        )
        return None


def warn_if_no_gain(
    weights: str, score: float, best_score: float, best_member: str
) -> None:
    """Warn if the best member scores the same, or better by more than `SLACK`.

    Parameters
    ----------
    weights : str
        Name of the selection; no warning if it selects a single member.
    score : float
        Cross-fitted score of the ensemble.
    best_score : float
        Score of the member that is best on the other folds.
    best_member : str
        Name of the best member on all rows.

    Warns
    -----
    UserWarning
    """
    selection = SELECTIONS.get(weights)
    if selection is not None and selection.single_member:
        return
    is_same = math.isclose(score, best_score, rel_tol=ROUNDING)
    if is_same or score < best_score - SLACK * abs(best_score):
        warn_caller(
            f"selection {weights!r} did not beat the best member: learned on the other "
            f"folds, its weights score {score:.6g}, the best member chosen there "
            f"{best_score:.6g} (member {best_member!r} on all data); use "
            "weights='best', or add more diverse members"
        )


def cross_fit(
    out_of_fold: OutOfFold, learn: Learn
) -> tuple[Predictions, Predictions] | None:
    """Combined predictions of each row, with weights learned from the other folds.

    The members are not fitted again. A score of weights on the rows that they were
    learned from is too optimistic, in particular with many members or few rows.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions of the members.
    learn : callable
        ``(out_of_fold, rows) -> (combiner, weights, best_index)``: learns from the rows
        of a fold's training part, which it gets as predictions and as indices.

    Returns
    -------
    combined, best : list of ndarrays of shape (n_samples, n_columns), or None
        One array per output: predictions of the ensemble, and of the single member
        that is best on the other folds. None if the rows cannot be divided.

    References
    ----------
    Stone (1974), "Cross-validatory choice and assessment of statistical predictions",
    Journal of the Royal Statistical Society B 36.
    """
    folds = weight_folds(out_of_fold)
    if folds is None:
        return None
    combined, best = (
        [np.empty(stack.shape[1:]) for stack in out_of_fold.stacks] for _ in range(2)
    )
    for train, test in folds:
        combiner, weights, best_index = learn(out_of_fold.subset(train), train)
        stacks = [stack[:, test] for stack in out_of_fold.stacks]
        ensemble_predictions = combiner(stacks, weights)
        without_intercepts = replace(combiner, intercepts=None)
        best_predictions = without_intercepts(
            stacks, np.eye(out_of_fold.n_members)[best_index]
        )
        for output in range(len(stacks)):
            combined[output][test] = ensemble_predictions[output]
            best[output][test] = best_predictions[output]
    return combined, best


def weight_folds(out_of_fold: OutOfFold) -> list[Split] | None:
    """Splits of the held-out rows into training and test rows of the weights.

    Uses the folds in which the rows were held out from the members, merged to at most
    `N_FOLDS`. If there is only one fold, or a training part lacks a class, stratified
    folds are used. A training part is reduced to a random sample of `MAX_ROWS` rows, to
    limit the time of a slow scorer.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions, with folds and sample weights.

    Returns
    -------
    list of (train, test), or None
        Row indices; None if a class has too few rows.
    """
    rows = np.arange(len(out_of_fold.y))
    folds = rows * 0 if out_of_fold.folds is None else out_of_fold.folds
    folds = np.unique(folds, return_inverse=True)[1]
    n_folds = min(folds.max(initial=0) + 1, N_FOLDS)
    folds = folds * n_folds // (folds.max(initial=0) + 1)
    by_fold = [(rows[folds != fold], rows[folds == fold]) for fold in range(n_folds)]
    for splits in (by_fold, _stratified_folds(out_of_fold)):
        if len(splits) > 1 and all(_has_classes(out_of_fold, t) for t, _ in splits):
            return [(_sample(out_of_fold, train), test) for train, test in splits]
    return None


def _sample(out_of_fold: OutOfFold, train: Counts) -> Counts:
    """Random sample of at most `MAX_ROWS` rows; all rows if a class would be lost."""
    if len(train) <= MAX_ROWS:
        return train
    sample_rows = np.random.default_rng(0).choice(train, MAX_ROWS, replace=False)
    sample = np.sort(sample_rows)
    return sample if _has_classes(out_of_fold, sample) else train


def _stratified_folds(out_of_fold: OutOfFold) -> list[Split]:
    """Folds stratified by class and positive weight; plain folds for regression."""
    rows, weight = np.arange(len(out_of_fold.y)), out_of_fold.sample_weight
    groups = rows * 0 if weight is None else (weight > 0).astype(np.int64)
    outputs = out_of_fold.outputs
    if isinstance(outputs, ClassOutputs) and outputs.n_outputs == 1:
        groups = groups + 2 * outputs.encode(out_of_fold.y)[0]
        n_folds = min(N_FOLDS, int(np.bincount(groups).max(initial=0)))
    else:
        n_folds = min(N_FOLDS, len(rows))
    if n_folds < 2:
        return []
    if not isinstance(outputs, ClassOutputs):
        return list(KFold(n_folds).split(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with fewer rows than folds
        return list(StratifiedKFold(n_folds).split(rows, groups))


def _has_classes(out_of_fold: OutOfFold, train: Counts) -> bool:
    """Whether the training rows with positive weight have every class to learn."""
    weight = out_of_fold.sample_weight
    weight = np.ones(len(out_of_fold.y)) if weight is None else weight
    weighted = train[weight[train] > 0]
    if len(weighted) < 2:
        return False
    if not isinstance(out_of_fold.outputs, ClassOutputs):
        return True
    return all(
        np.isin(codes[weight > 0], codes[weighted]).all()
        for codes in out_of_fold.outputs.encode(out_of_fold.y)
    )
