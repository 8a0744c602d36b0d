"""Weights and calibration, learned and scored on out-of-fold predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles._typing import Counts, Float64
from ensembles.predictions.calibration.calibrator import Calibrator, cross_calibrate
from ensembles.predictions.fitting.cross_fitting import Learn, cross_fit
from ensembles.predictions.fitting.final_estimator import fit_final_estimator
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.fitting.log_pool_weights import (
    PoolWeights,
    select_pool_weights,
    with_floor,
)
from ensembles.predictions.fitting.preconditions import FREE, LOG_LOSS, learns_pool
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import Predictions
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.metrics.table import SCORER_ERRORS, make_score
from ensembles.predictions.thresholds.learning import (
    cross_fit_thresholds,
    learn_thresholds,
)
from ensembles.predictions.thresholds.threshold_score import (
    MeanThresholdScore,
    ThresholdScore,
)
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import SelectionResult, resolve_weights, run_selection
from ensembles.selection.score import ROUNDING

SLACK = 0.01  # relative difference of scores within the noise of most data


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
    final_estimator : estimator or None, default=None
        Second layer to compare with the weights; None compares none.
    learn_thresholds : bool, default=False
        Whether to learn thresholds of the classes that maximize ``scoring``, for a
        score that `supports_thresholds`.
    cross_fit : bool, default=True
        Whether learned weights are cross-fitted to score the ensemble. Calibration of
        the ensemble needs it, and is cross-fitted in any case.
    """

    weights: Any
    weights_params: dict[str, Any]
    scoring: Any
    calibrate: str | None = None
    final_estimator: Any = None
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
        if they are learned; None if nothing is held out or
        cross-fitted.
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
    if learns_pool(weights, combiner.combiner):
        combiner = with_floor(combiner)
    prepared = combiner.with_training_predictions(out_of_fold)
    rows = np.arange(len(out_of_fold.y))
    score = _score_of(settings, prepared, out_of_fold, score_weight, rows)
    selected, combiner = select_weights(settings, prepared, out_of_fold, score)
    cross_fitted = None
    needs_folds = settings.cross_fit or calibrate or settings.learn_thresholds
    is_learned = isinstance(weights, str) and needs_folds
    if is_learned or settings.final_estimator is not None:
        start = None
        if combiner.intercepts is not None:
            start = PoolWeights(selected.weights, combiner.intercepts)
        learn = _learner(settings, prepared, score_weight, start)
        if settings.final_estimator is not None:
            learn = _with_final_estimator(settings, learn, score_weight)
            combiner = replace(combiner, final=learn(out_of_fold, rows)[0].final)
            _warn_if_unused(settings, combiner)
        cross_fitted = _try_cross_fit(settings, out_of_fold, learn)
    if cross_fitted is None:
        is_scored = needs_folds or not isinstance(weights, str)
        value = selected.score if is_scored else None
        predictions = combiner(out_of_fold.stacks, selected.weights)
    else:
        predictions = cross_fitted[0]
        value, best_score = (_evaluate(settings, score, part) for part in cross_fitted)
        if len(names) > 1 and _maximizes_score(settings, combiner):
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
        thresholds = learn_thresholds(predictions, score.out_of_fold, settings.scoring)
        outputs: Any = combiner.outputs
        combiner = replace(combiner, outputs=outputs._replace(thresholds=thresholds))
    return WeightFit(combiner, selected, value, calibrators, calibrator)


def _maximizes_score(settings: WeightSettings, combiner: FittedCombiner) -> bool:
    """Whether weights are selected by the score, or thresholds learned for it.

    A learned pool minimizes the log-loss; ``fit`` has warned of other scorings.
    """
    weights, scoring = settings.weights, settings.scoring
    if not isinstance(weights, str) or combiner.final is not None:
        return False
    is_own_score = settings.learn_thresholds or scoring in LOG_LOSS
    return is_own_score or not learns_pool(weights, combiner.combiner)


def _evaluate(
    settings: WeightSettings, score: ScorerScore, predictions: Predictions
) -> float:
    """Score of predictions, with thresholds that are learned on other folds."""
    if settings.learn_thresholds:
        held_out = score.out_of_fold
        predictions = cross_fit_thresholds(predictions, held_out, settings.scoring)
    return score.evaluate(predictions)


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


def _learner(
    settings: WeightSettings,
    combiner: FittedCombiner,
    score_weight: Float64 | None,
    start: PoolWeights | None,
) -> Learn:
    """Function that learns the weights from part of the rows."""

    def learn(part: OutOfFold, rows: Counts) -> tuple[FittedCombiner, Float64, int]:
        score = _score_of(settings, combiner, part, score_weight, rows)
        selected, fitted = select_weights(settings, combiner, part, score, start)
        return fitted, selected.weights, int(selected.best_index or 0)

    return learn


def _score_of(
    settings: WeightSettings,
    combiner: FittedCombiner,
    part: OutOfFold,
    score_weight: Float64 | None,
    rows: Any,
) -> ScorerScore:
    """Score of weights on part of the rows; at the best thresholds, if learned."""
    weight = None if score_weight is None else score_weight[rows]
    part = part._replace(sample_weight=weight)
    # Weights are selected by the accuracy at equal thresholds: this is much faster,
    # and the best thresholds for the accuracy are nearly equal.
    if settings.learn_thresholds and settings.scoring != "accuracy":
        is_mean = combiner.combiner.name == "mean"
        kind = MeanThresholdScore if is_mean else ThresholdScore
        return kind(part, combiner, settings.scoring)
    return make_score(part, combiner, settings.scoring)


def _with_final_estimator(
    settings: WeightSettings, learn: Learn, score_weight: Float64 | None
) -> Learn:
    """Function that learns weights and a final estimator, and returns the better one.

    Both are cross-fitted on the rows to learn from, and compared on rows that neither
    has learned from. The final estimator is used if its score is higher.
    """

    def choose(part: OutOfFold, rows: Counts) -> tuple[FittedCombiner, Float64, int]:
        combiner, weights, best_index = learn(part, rows)

        def learn_pool(
            inner: OutOfFold, inner_rows: Counts
        ) -> tuple[FittedCombiner, Float64, int]:
            return learn(inner, rows[inner_rows])

        def fit_final(
            inner: OutOfFold, _: Counts
        ) -> tuple[FittedCombiner, Float64, int]:
            final = fit_final_estimator(settings.final_estimator, inner)
            return replace(combiner, final=final), weights, best_index

        score = _score_of(settings, combiner, part, score_weight, rows)
        values = []
        for layer in (learn_pool, fit_final):
            cross_fitted = cross_fit(part, layer)
            if cross_fitted is None:  # too few rows to compare
                return combiner, weights, best_index
            values.append(_evaluate(settings, score, cross_fitted[0]))
        if values[1] > values[0]:
            return fit_final(part, rows)
        return combiner, weights, best_index

    return choose


def _try_cross_fit(
    settings: WeightSettings, out_of_fold: OutOfFold, learn: Learn
) -> tuple[Predictions, Predictions] | None:
    """Predictions as in `cross_fit`; None, with a warning, if the scorer fails."""
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


def _warn_if_unused(settings: WeightSettings, combiner: FittedCombiner) -> None:
    """Warn if the weights score higher than the final estimator."""
    if combiner.final is None:
        warn_caller(
            f"final_estimator {settings.final_estimator!r} is not used: learned on "
            "the other folds, it does not score higher than the weights"
        )


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
