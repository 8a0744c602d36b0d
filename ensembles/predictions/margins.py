"""Order of the members of a cascade, and its margin, learned out of fold."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.fitting.cross_fitting import weight_folds
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import Predictions
from ensembles.predictions.stopping import Cascade, terms_of

MAX_ROWS = 10_000  # out-of-fold rows to learn the order and the margin from
MARGINS = np.linspace(0, 1, 101)


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
    for step, member in enumerate(cascade.order, 1):
        evaluated[member] = [stack[member] for stack in out_of_fold.stacks]
        combined = cascade.combine(evaluated)
        margins.append(cascade.reached_margin(combined, step))
        adjusted = cascade.adjusted(combined)
        codes.append([output.argmax(axis=1) for output in adjusted])
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
