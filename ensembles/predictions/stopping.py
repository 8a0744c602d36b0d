"""Members evaluated one after the other, until the class of a row is decided."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.combiners.combiner import Terms
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner, as_float32
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    Predictions,
    over_thresholds,
)

# Of sums of terms, relative: larger than the rounding of float32 predictions, which can
# make probabilities equal that differ in float64, and than the excess of their sums.
SLACK = 4e-6
# (member, row indices) -> predictions of the member for these rows
Predict = Callable[[int, Counts], Predictions]


class CascadeRun(NamedTuple):
    """Result of a cascade for each row.

    Parameters
    ----------
    scores : list of n_outputs ndarrays of shape (n_samples, n_classes)
        With a margin, combined probabilities of the members that were evaluated.
        Otherwise sums or probabilities whose largest entry is that of the predicted
        class, over its threshold already.
    n_members : ndarray of shape (n_samples,)
        Number of members that were evaluated.
    """

    scores: Predictions
    n_members: Counts


@dataclass(frozen=True)
class Cascade:
    """Members in a fixed order, with a criterion to stop.

    Parameters
    ----------
    combiner : FittedCombiner
        Rule of the ensemble, with its parameters.
    weights : ndarray of shape (n_members,)
        Weights of the members.
    order : list of int
        Members in the order of evaluation; members with weight 0 are left out.
    margin : float or None
        Value at which a row stops: the difference of the two largest combined
        probabilities, times the share of the weight that was evaluated. None stops if
        the members that are left cannot change the predicted class.
    """

    combiner: FittedCombiner
    weights: Float64
    order: list[int]
    margin: float | None

    def run(self, predict: Predict, n_samples: int) -> CascadeRun:
        """Evaluate the members, each on the rows that have not stopped.

        Parameters
        ----------
        predict : callable
            ``(member, rows) -> list of n_outputs ndarrays``.
        n_samples : int
            Number of rows.

        Returns
        -------
        CascadeRun
        """
        rows, n_members = np.arange(n_samples), np.zeros(n_samples, np.int64)
        scores = [np.empty((n_samples, len(k))) for k in self._outputs.classes]
        sums = self._empty_sums(n_samples)
        evaluated: dict[int, Predictions] = {}
        dtypes = set[np.dtype[Any]]()
        for step, member in enumerate(self.order, 1):
            evaluated[member] = predict(member, rows)
            dtypes.update(output.dtype for output in evaluated[member])
            if step == len(self.order):
                current, stops = self.combine(evaluated), np.ones(len(rows), bool)
                if self.margin is None:
                    current = self.adjusted(current)
            elif self.margin is None:
                self._add(sums, member, evaluated[member])
                current, stops = sums, self._is_decided(sums, step)
            else:
                current = self.combine(evaluated)
                stops = self.reached_margin(current, step) >= self.margin
            if not stops.any():
                continue
            n_members[rows[stops]] = step
            for score, output in zip(scores, current, strict=True):
                score[rows[stops]] = output[stops]
            rows, sums = rows[~stops], [output[~stops] for output in sums]
            evaluated = {
                index: [output[~stops] for output in outputs]
                for index, outputs in evaluated.items()
            }
            if not len(rows):
                break
        if self.margin is not None:  # probabilities; otherwise sums, which must not tie
            scores = as_float32(scores, dtypes)
        return CascadeRun(scores, n_members)

    def combine(self, evaluated: dict[int, Predictions]) -> Predictions:
        """Combined predictions of the members that were evaluated.

        Parameters
        ----------
        evaluated : dict of int to list of n_outputs ndarrays
            Predictions by index of the member.

        Returns
        -------
        list of n_outputs ndarrays of shape (n_rows, n_classes)
        """
        members = sorted(evaluated)  # sums of the ensemble are in this order
        combiner, weights = self.combiner.subset(members, self.weights)
        predictions = [evaluated[member] for member in members]
        combined = combiner(list(zip(*predictions, strict=True)), weights)
        return as_float32(combined, {o.dtype for p in predictions for o in p})

    def adjusted(self, predictions: Predictions) -> Predictions:
        """Probabilities divided by the thresholds of the classes, if there are any.

        Parameters
        ----------
        predictions : list of n_outputs ndarrays of shape (n_rows, n_classes)
            Combined probabilities.

        Returns
        -------
        list of n_outputs ndarrays of shape (n_rows, n_classes)
        """
        thresholds = self._outputs.thresholds
        return over_thresholds(predictions, thresholds) if thresholds else predictions

    def reached_margin(self, predictions: Predictions, step: int) -> Float64:
        """Largest margin at which the rows stop after a step.

        Parameters
        ----------
        predictions : list of n_outputs ndarrays of shape (n_rows, n_classes)
            Combined probabilities of the members evaluated so far.
        step : int
            Number of these members.

        Returns
        -------
        ndarray of shape (n_rows,)
        """
        adjusted = self.adjusted(predictions)
        if self._outputs.thresholds:
            adjusted = [rows / rows.sum(axis=1, keepdims=True) for rows in adjusted]
        return np.asarray(smallest_gap(adjusted) * self.shares[step - 1])

    def labels(self, run: CascadeRun) -> Any:
        """Labels that a run predicts.

        Parameters
        ----------
        run : CascadeRun
            Result of `run`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        is_adjusted = self.margin is None
        outputs = (
            self._outputs._replace(thresholds=None) if is_adjusted else self._outputs
        )
        return outputs.to_targets(run.scores)

    @property
    def _outputs(self) -> ClassOutputs:
        return cast(ClassOutputs, self.combiner.outputs)

    @property
    def shares(self) -> Float64:
        """Share of the weight that is evaluated after each step."""
        sums = np.cumsum(np.abs(self.weights[self.order]))
        return np.asarray(sums / sums[-1]) if sums[-1] > 0 else np.ones(len(sums))

    @property
    def _scaled_weights(self) -> Float64:
        if self.combiner.combiner.weight_sum_matters:
            return self.weights
        return np.asarray(self.weights / np.abs(self.weights).sum())

    def _thresholds(self) -> list[Float64]:
        """Thresholds of the classes of each output; 1 without thresholds."""
        classes = self._outputs.classes
        return self._outputs.thresholds or [np.ones(len(labels)) for labels in classes]

    def _constants(self) -> list[Float64]:
        """What sums of logarithms start from: intercepts, over the thresholds."""
        if not terms_of(self.combiner).is_logarithmic:
            return [np.zeros(len(labels)) for labels in self._outputs.classes]
        shifts = [-np.log(thresholds) for thresholds in self._thresholds()]
        intercepts = self.combiner.intercepts or [np.zeros(1)] * len(shifts)
        return [i + shift for i, shift in zip(intercepts, shifts, strict=True)]

    def _empty_sums(self, n_samples: int) -> Predictions:
        """Sums of no terms."""
        return [np.tile(constant, (n_samples, 1)) for constant in self._constants()]

    def _add(self, sums: Predictions, member: int, predictions: Predictions) -> None:
        """Add the terms of a member to the sums, in place."""
        transform, _, is_logarithmic = terms_of(self.combiner)
        weight = self._scaled_weights[member]
        triples = zip(sums, predictions, self._thresholds(), strict=True)
        for output, rows, thresholds in triples:
            largest = rows.max(initial=0)
            if largest > 1 + SLACK / 2:
                raise ValueError(
                    "probabilities must be at most 1 for a cascade that stops when the "
                    f"class cannot change: member {member} predicts {largest}; use "
                    "EnsembleClassifier, or wrap the member so that its rows sum to 1"
                )
            terms = rows if transform is None else transform(rows, member)
            factors = weight if is_logarithmic else weight / thresholds
            output += np.multiply(terms, factors, dtype=np.float64)

    def _is_decided(self, sums: Predictions, step: int) -> Any:
        """Mask of the rows whose class the members after ``step`` cannot change."""
        _, span, is_logarithmic = terms_of(self.combiner)
        if not is_logarithmic:  # the terms were divided by the thresholds
            span = span / min(t.min(initial=1) for t in self._thresholds())
        weights = np.abs(self._scaled_weights)
        constants = [np.abs(constant).max(initial=0) for constant in self._constants()]
        slack = SLACK * (1 + weights.sum() * span + max(constants))
        left = math.fsum(weights[self.order[step:]]) * span
        return smallest_gap(sums) > left + slack


def terms_of(combiner: FittedCombiner) -> Terms:
    """Terms of a combiner; those of a mean of probabilities if it has none.

    Parameters
    ----------
    combiner : FittedCombiner
        Rule with its parameters.

    Returns
    -------
    Terms
    """
    terms = combiner.combiner.terms
    return Terms(None, 1.0) if terms is None else terms(**combiner.params)


def smallest_gap(predictions: Predictions) -> Float64:
    """Difference of the two largest entries of each row, the least over the outputs.

    Parameters
    ----------
    predictions : list of n_outputs ndarrays of shape (n_rows, n_classes)
        Sums or probabilities.

    Returns
    -------
    ndarray of shape (n_rows,)
        Infinite for a single class.
    """
    gaps = np.full(len(predictions[0]), np.inf)
    for output in predictions:
        if output.shape[1] > 1:
            largest = np.partition(output, -2, axis=1)
            gaps = np.minimum(gaps, largest[:, -1] - largest[:, -2])
    return gaps
