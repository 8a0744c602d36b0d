"""Weights and intercepts of a log-linear pool, by penalized maximum likelihood."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.sample_weight import effective_size
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.selection.choose import SelectionResult
from ensembles.selection.score import Trial

# Ridge penalties, in samples; chosen on other data sets than those reported.
WEIGHT_RIDGE = 2.0  # for up to five members
RIDGE_PER_MEMBER = 0.4  # for more members
INTERCEPT_RIDGE = 5.0
# Floor of the probabilities, divided by the number of classes. Members such as forests
# predict 0 from few votes; with a lower floor, such a vote outweighs all others.
FLOOR = 0.002
# Relative tolerance of the loss in cross-fitting, far below the sampling error of a
# score.
CROSS_FIT_TOLERANCE = 1e-7


class PoolWeights(NamedTuple):
    """Learned weights and intercepts of a log-linear pool.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Weights of the members.
    intercepts : list of ndarrays of shape (n_classes,)
        One array per output, added to the logarithms of the classes.
    """

    weights: Float64
    intercepts: list[Float64]


def with_floor(combiner: FittedCombiner) -> FittedCombiner:
    """Copy with the floor of a learned pool, unless its parameters have a floor.

    Parameters
    ----------
    combiner : FittedCombiner
        Log-linear pool or product.

    Returns
    -------
    FittedCombiner
    """
    outputs: Any = combiner.outputs
    floor = FLOOR / max(len(classes) for classes in outputs.classes)
    return replace(combiner, params={"floor": floor, **combiner.params})


def select_pool_weights(
    combiner: FittedCombiner,
    out_of_fold: OutOfFold,
    score: ScorerScore,
    *,
    signed: bool,
    start: PoolWeights | None = None,
) -> tuple[SelectionResult, FittedCombiner]:
    """Learned weights with intercepts, equal weights, or the best member alone.

    Returns the one with the least log-loss: because of the ridge penalty, the learned
    weights can be worse than the others.

    Parameters
    ----------
    combiner : FittedCombiner
        Log-linear pool without intercepts.
    out_of_fold : OutOfFold
        Predictions to learn from.
    score : ScorerScore
        Score that is reported for the members and the three candidates.
    signed : bool
        Whether weights may be negative.
    start : PoolWeights or None, default=None
        Weights learned from more rows, as the initial point of a cross-fit. The loss is
        then minimized to `CROSS_FIT_TOLERANCE`, the members are compared by log-loss,
        and nothing is scored or recorded. None starts at equal weights.

    Returns
    -------
    selected : SelectionResult
        Weights, with the scores of the members and of the candidates.
    combiner : FittedCombiner
        Copy with the learned intercepts.
    """
    floor = {**combiner.combiner.params, **combiner.params}["floor"]
    loss = PoolLoss(out_of_fold, floor, signed=signed)
    single_members = np.eye(out_of_fold.n_members)
    if start is None:
        scores = np.empty(len(single_members))
        for member, weights in enumerate(single_members):
            scores[member] = score(weights)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"score must be finite: the scores of the members are {scores.tolist()}"
            )
        learned = loss.minimize()
    else:
        scores = -loss.member_losses()
        learned = loss.minimize(start, CROSS_FIT_TOLERANCE)
    best = int(np.argmax(scores))
    equal = np.full(len(single_members), 1 / len(single_members))
    candidates = [
        learned,
        loss.without_intercepts(equal),
        loss.without_intercepts(single_members[best]),
    ]
    index = int(np.argmin(list(map(loss.unpenalized, candidates))))
    combiners = [replace(combiner, intercepts=pool.intercepts) for pool in candidates]
    weights = candidates[index].weights
    if start is not None:
        value = -loss.unpenalized(candidates[index])
        return SelectionResult(weights, scores, best, value), combiners[index]
    history = tuple(
        Trial(weights, score.of_predictions(combine(out_of_fold.stacks, weights)))
        for (weights, _), combine in zip(candidates, combiners, strict=True)
    )
    selected = SelectionResult(weights, scores, best, history[index].score, history)
    return selected, combiners[index]


class PoolLoss:
    """Log-loss of a log-linear pool with a ridge penalty.

    With the logarithms of the members' probabilities as features, shared by all
    classes, the pool is a multinomial logistic regression with one coefficient per
    member and one intercept per class: the problem is convex. The ridge penalty
    shrinks the weights towards equal weights and the intercepts towards zero, so that
    they stay finite if the samples are separable.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Class probabilities, with true labels and sample weights.
    floor : float
        Lower bound of the probabilities; smaller ones are raised to it.
    signed : bool
        Whether weights may be negative.
    """

    def __init__(self, out_of_fold: OutOfFold, floor: float, *, signed: bool) -> None:
        self.signed = signed
        self.logs = [np.log(np.maximum(stack, floor)) for stack in out_of_fold.stacks]
        outputs: Any = out_of_fold.outputs
        self.codes = outputs.encode(out_of_fold.y)
        n_members = out_of_fold.n_members
        # Parameters of the loss: the weights, then the intercepts of each output.
        self.ends = np.cumsum([n_members, *(logs.shape[2] for logs in self.logs)])
        sample_weight = out_of_fold.sample_weight
        if sample_weight is None:
            sample_weight = np.ones(len(out_of_fold.y))
        size = effective_size(sample_weight)
        self.ridge = np.full(self.ends[-1], INTERCEPT_RIDGE / size)
        self.ridge[:n_members] = max(WEIGHT_RIDGE, RIDGE_PER_MEMBER * n_members) / size
        self.center = np.zeros(self.ends[-1])
        self.center[:n_members] = 1 / n_members
        self.row_weights = sample_weight / (sample_weight.sum() * len(self.logs))

    def minimize(
        self, start: PoolWeights | None = None, tolerance: float = 1e-12
    ) -> PoolWeights:
        """Weights and intercepts that minimize the loss.

        Parameters
        ----------
        start : PoolWeights or None, default=None
            Initial point of the optimizer, which only affects the time; None means
            equal weights and zero intercepts.
        tolerance : float, default=1e-12
            Relative decrease of the loss below which the optimizer stops.

        Returns
        -------
        PoolWeights
        """
        from scipy.optimize import minimize

        point = self.center
        if start is not None:
            point = np.concatenate([start.weights, *start.intercepts])
        n_members = len(self.logs[0])
        lower = None if self.signed else 0
        n_intercepts = len(point) - n_members
        result = minimize(
            self.loss,
            point,
            jac=True,
            method="L-BFGS-B",
            bounds=[(lower, None)] * n_members + [(None, None)] * n_intercepts,
            options={"maxiter": 1000, "ftol": tolerance, "gtol": 1e-7},
        )
        return self._split(result.x)

    def _split(self, point: Float64) -> PoolWeights:
        weights, *intercepts = np.split(point, self.ends[:-1])
        return PoolWeights(weights, intercepts)

    def unpenalized(self, pool: PoolWeights) -> float:
        """Log-loss without the ridge penalty.

        Parameters
        ----------
        pool : PoolWeights
            Weights and intercepts to evaluate.

        Returns
        -------
        float
        """
        point = np.concatenate([pool.weights, *pool.intercepts])
        offset = point - self.center
        return self.loss(point)[0] - float(offset @ (self.ridge * offset)) / 2

    def member_losses(self) -> Float64:
        """Log-loss of each member alone.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        rows = np.arange(len(self.row_weights))
        losses = np.zeros(len(self.logs[0]))
        for logs, codes in zip(self.logs, self.codes, strict=True):
            sums = np.exp(logs).sum(axis=2)
            losses += (np.log(sums) - logs[:, rows, codes]) @ self.row_weights
        return losses

    def without_intercepts(self, weights: Float64) -> PoolWeights:
        """Weights with zero intercepts.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weights of the members.

        Returns
        -------
        PoolWeights
        """
        return self._split(np.append(weights, np.zeros(self.ends[-1] - len(weights))))

    def loss(self, point: Float64) -> tuple[float, Float64]:
        """Penalized log-loss and its gradient.

        Parameters
        ----------
        point : ndarray of shape (n_parameters,)
            Weights, then the intercepts of each output.

        Returns
        -------
        loss : float
        gradient : ndarray of shape (n_parameters,)
        """
        offset = point - self.center
        gradient = self.ridge * offset
        loss = float(offset @ gradient) / 2
        weights, intercepts = self._split(point)
        for output, logs in enumerate(self.logs):
            value, by_member, by_class = _log_loss(
                logs, self.codes[output], self.row_weights, weights, intercepts[output]
            )
            loss += value
            gradient[: len(weights)] += by_member
            gradient[self.ends[output] : self.ends[output + 1]] += by_class
        return loss, gradient


def _log_loss(
    logs: Float64,
    codes: Counts,
    row_weights: Float64,
    weights: Float64,
    intercept: Float64,
) -> tuple[float, Float64, Float64]:
    """Log-loss of one output, with its gradients by member and by class."""
    n_members, n_samples, n_classes = logs.shape
    flat = logs.reshape(n_members, -1)
    rows = np.arange(n_samples)
    logits = (weights @ flat).reshape(n_samples, n_classes)
    logits += intercept
    logits -= logits.max(axis=1, keepdims=True)
    true_logits = logits[rows, codes]
    residuals = np.exp(logits, out=logits)
    sums = residuals.sum(axis=1)
    loss = float(row_weights @ (np.log(sums) - true_logits))
    residuals *= (row_weights / sums)[:, None]
    residuals[rows, codes] -= row_weights
    return loss, flat @ residuals.ravel(), residuals.sum(axis=0)
