"""Members evaluated one after the other, until the class of a row is decided."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.base import as_float32
from ensembles.predictions.combiners.combiner import Terms
from ensembles.predictions.fitting.cross_fitting import weight_folds
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import Predictions

# Of sums of terms, relative: larger than the rounding of float32 predictions, which can
# make probabilities equal that differ in float64, and than the excess of their sums.
SLACK = 4e-6
MAX_ROWS = 10_000  # out-of-fold rows to learn the order and the margin from
MARGINS = np.linspace(0, 1, 101)
# (member, row indices) -> predictions of the member for these rows
Predict = Callable[[int, Counts], Predictions]


class CascadeRun(NamedTuple):
    """Result of a cascade for each row.

    Parameters
    ----------
    scores : list of n_outputs ndarrays of shape (n_samples, n_classes)
        The largest entry is that of the predicted class. With a margin, combined
        probabilities of the members that were evaluated.
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
        classes = self.combiner.outputs.classes  # type: ignore[union-attr]
        scores = [np.empty((n_samples, len(labels))) for labels in classes]
        sums = self._empty_sums(n_samples)
        evaluated: dict[int, Predictions] = {}
        dtypes = set[np.dtype[Any]]()
        for step, member in enumerate(self.order, 1):
            evaluated[member] = predict(member, rows)
            dtypes.update(output.dtype for output in evaluated[member])
            if step == len(self.order):
                current, stops = self.combine(evaluated), np.ones(len(rows), bool)
            elif self.margin is None:
                self._add(sums, member, evaluated[member])
                current, stops = sums, self._is_decided(sums, step)
            else:
                current = self.combine(evaluated)
                stops = smallest_gap(current) * self.shares[step - 1] >= self.margin
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

    def _empty_sums(self, n_samples: int) -> Predictions:
        """Sums of no terms: the intercepts, or zero."""
        classes = self.combiner.outputs.classes  # type: ignore[union-attr]
        sums = [np.zeros((n_samples, len(labels))) for labels in classes]
        if self.combiner.intercepts is not None:
            for output, intercept in zip(sums, self.combiner.intercepts, strict=True):
                output += intercept
        return sums

    def _add(self, sums: Predictions, member: int, predictions: Predictions) -> None:
        """Add the terms of a member to the sums, in place."""
        transform, weight = terms_of(self.combiner).transform, self._scaled_weights
        for output, rows in zip(sums, predictions, strict=True):
            largest = rows.max(initial=0)
            if largest > 1 + SLACK / 2:
                raise ValueError(
                    "probabilities must be at most 1 for a cascade that stops when the "
                    f"class cannot change: member {member} predicts {largest}; use "
                    "EnsembleClassifier, or wrap the member so that its rows sum to 1"
                )
            terms = rows if transform is None else transform(rows, member)
            output += np.multiply(terms, weight[member], dtype=np.float64)

    def _is_decided(self, sums: Predictions, step: int) -> Any:
        """Mask of the rows whose class the members after ``step`` cannot change."""
        span, weights = terms_of(self.combiner).span, np.abs(self._scaled_weights)
        intercepts = self.combiner.intercepts or [np.zeros(1)]
        largest = max(np.abs(intercept).max(initial=0) for intercept in intercepts)
        slack = SLACK * (1 + weights.sum() * span + largest)
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


def order_members(
    combiner: FittedCombiner,
    weights: Float64,
    costs: Float64,
    out_of_fold: OutOfFold | None,
) -> list[int]:
    """Members with nonzero weight, in descending order of their value for their cost.

    The value of a member is the mean decrease of what is missing for a decision: its
    evaluation takes ``|weight| * span`` from what the other members can change, and
    adds its own difference between the two best classes of the ensemble. Over the
    members, these decreases add up, so that no search is needed.

    Parameters
    ----------
    combiner : FittedCombiner
        Rule with its parameters.
    weights, costs : ndarrays of shape (n_members,)
        Weights, and costs of one prediction, in any unit.
    out_of_fold : OutOfFold or None
        Predictions to compute the value from; None uses the magnitude of the weights.

    Returns
    -------
    list of int
    """
    values = np.abs(weights)
    if out_of_fold is not None:
        span, transform = terms_of(combiner).span, terms_of(combiner).transform
        values = values * span
        combined = combiner(out_of_fold.stacks, weights)
        for stack, output in zip(out_of_fold.stacks, combined, strict=True):
            rows, best = np.arange(len(output)), np.argsort(-output, axis=1)[:, :2]
            for member, y_proba in enumerate(stack):
                terms = y_proba if transform is None else transform(y_proba, member)
                terms = np.asarray(terms, np.float64)
                gap = terms[rows, best[:, 0]] - terms[rows, best[:, -1]]
                values[member] += weights[member] * gap.mean() / len(combined)
    order = np.argsort(-values / costs, kind="stable")
    return [int(index) for index in order if weights[index] != 0] or [0]


class Path(NamedTuple):
    """Effect of stopping after each member, on out-of-fold rows.

    Parameters
    ----------
    margins : ndarray of shape (n_steps, n_samples)
        Largest margin at which each row would stop after each member.
    changes : ndarray of shape (n_steps, n_samples), bool
        Whether the label predicted then differs from that of all members.
    sample_weight : ndarray of shape (n_samples,)
        Sample weights.
    """

    margins: Float64
    changes: Any
    sample_weight: Float64

    def steps(self, margin: float, rows: Any) -> Counts:
        """Index of the last step of each row with a margin."""
        reached = self.margins[:, rows] >= margin
        reached[-1] = True
        return np.asarray(reached.argmax(axis=0))

    def changed_share(self, steps: Counts, rows: Any) -> float:
        """Share of the rows whose label changes by stopping at these steps."""
        weight = self.sample_weight[rows]
        return float(np.average(self.changes[steps, rows], weights=weight))

    def choose_margin(self, tolerance: float, rows: Any) -> float:
        """Smallest margin from which on no margin exceeds the tolerance."""
        shares = [
            self.changed_share(self.steps(margin, rows), rows) for margin in MARGINS
        ]
        first = np.flatnonzero(np.array(shares) > tolerance).max(initial=-1) + 1
        return float(MARGINS[first]) if first < len(MARGINS) else math.inf


def follow(cascade: Cascade, out_of_fold: OutOfFold) -> Path:
    """Evaluate all members on all rows, and record each step.

    Parameters
    ----------
    cascade : Cascade
        Order of the members.
    out_of_fold : OutOfFold
        Predictions of the members.

    Returns
    -------
    Path
    """
    evaluated: dict[int, Predictions] = {}
    margins, codes = [], []
    for member, share in zip(cascade.order, cascade.shares, strict=True):
        evaluated[member] = [stack[member] for stack in out_of_fold.stacks]
        combined = cascade.combine(evaluated)
        margins.append(smallest_gap(combined) * share)
        codes.append([output.argmax(axis=1) for output in combined])
    changes = (np.array(codes) != codes[-1]).any(axis=1)
    weight = out_of_fold.sample_weight
    return Path(
        np.array(margins),
        changes,
        np.ones(changes.shape[1]) if weight is None else weight,
    )


class StoppingEstimate(NamedTuple):
    """Margin of a cascade, and its effect on out-of-fold rows.

    Parameters
    ----------
    margin : float or None
        Margin at which a row stops; None stops if the class cannot change.
    n_members : ndarray of shape (n_samples,)
        Number of members evaluated for each row.
    changed_share : float
        Share of the rows whose label differs from that of all members.
    """

    margin: float | None
    n_members: Counts
    changed_share: float


def estimate_stopping(
    cascade: Cascade, out_of_fold: OutOfFold, tolerance: float | None
) -> StoppingEstimate:
    """Effect of stopping on out-of-fold rows; learns the margin with a tolerance.

    Parameters
    ----------
    cascade : Cascade
        Order of the members, with the margin if it is given.
    out_of_fold : OutOfFold
        Predictions of the members.
    tolerance : float or None
        Largest share of labels that change by a learned margin; None uses the margin of
        the cascade.

    Returns
    -------
    StoppingEstimate
        A learned margin is cross-fitted: its effect on each part of the rows is that of
        the margin learned on the other parts.
    """
    every = np.arange(len(out_of_fold.y))
    if tolerance is None and cascade.margin is None:
        stacks = out_of_fold.stacks
        run = cascade.run(lambda i, rows: [s[i][rows] for s in stacks], len(every))
        return StoppingEstimate(None, run.n_members, 0.0)
    path, margin = follow(cascade, out_of_fold), cascade.margin
    if tolerance is None:
        steps = path.steps(float(margin or 0), every)
    else:
        margin = path.choose_margin(tolerance, every)
        steps = path.steps(margin, every)
        for train, test in weight_folds(out_of_fold) or []:
            steps[test] = path.steps(path.choose_margin(tolerance, train), test)
    return StoppingEstimate(margin, steps + 1, path.changed_share(steps, every))


def sample_rows(out_of_fold: OutOfFold) -> OutOfFold:
    """Rows that were held out, at most `MAX_ROWS` of them at random.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions of the members.

    Returns
    -------
    OutOfFold
    """
    rows = np.flatnonzero(out_of_fold.was_held_out)
    if len(rows) > MAX_ROWS:
        chosen = np.random.default_rng(0).choice(rows, MAX_ROWS, replace=False)
        rows = np.sort(chosen)
    return out_of_fold.subset(rows)
