"""Log-loss of the mean probabilities, from probabilities of the true class alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks, map_threads, resolve_n_threads
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.metrics.log_loss_loops import (
    LANES,
    PIECE,
    gather_true_class,
    log_sums,
    weighted_log_sums,
)
from ensembles.predictions.metrics.mixture_weights import mixture_weights
from ensembles.predictions.metrics.scorer import (
    ROW_SUM_TOLERANCE,
    UNIT,
    BoundedScore,
    NotApplicable,
    RunningSums,
    as_float_array,
    normalized_sample_weight,
)

FLOOR = float(np.finfo(np.float64).eps)  # scikit-learn clips probabilities to it
CHUNK = 8  # members per job of a thread


class LogLoss(BoundedScore):
    """Negative log-loss of the mean probabilities, averaged over the outputs.

    Stores one number per member and row: the probability of the true class. The rows of
    several outputs are concatenated. The scorer divides each row of the mean by its
    sum. These sums are nearly 1, so their logarithms are approximated to first order,
    which is linear in the weights and takes one number per member.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Class probabilities.
    combiner : FittedCombiner
        Rule "mean".
    scoring : str or None
        "neg_log_loss", or None, which means the same.

    Raises
    ------
    NotApplicable
        If a probability is negative or NaN, or a row sum differs from 1 by more than
        `ROW_SUM_TOLERANCE`.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew and Ksikes (2004), "Ensemble selection from libraries
    of models", ICML: greedy selection, which uses these scores.
    """

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        super().__init__(out_of_fold, combiner, scoring)
        stacks = [as_float_array(stack) for stack in out_of_fold.stacks]
        dtype = np.result_type(*stacks)
        n_members, n_rows = stacks[0].shape[:2]
        self.is_weighted = out_of_fold.sample_weight is not None
        row_weights = normalized_sample_weight(out_of_fold.sample_weight, n_rows)
        self.true_proba = np.empty((n_members, n_rows * len(stacks)), dtype)
        self.row_weights = np.tile(row_weights, len(stacks)) / len(stacks)
        self.excess = np.zeros(n_members)
        max_deviation, min_proba = np.empty((2, self.true_proba.shape[1]))
        codes = np.concatenate(out_of_fold.outputs.encode(out_of_fold.y))  # type: ignore[union-attr]
        jobs = [
            (stack, start, stop, output * n_rows)
            for output, stack in enumerate(stacks)
            for start, stop in chunks(n_rows, PIECE)
        ]

        def gather_block(job: tuple[Float64, int, int, int]) -> Float64:
            excess = np.zeros(n_members)
            outputs = (self.true_proba, excess, max_deviation, min_proba)
            gather_true_class(*job, codes, self.row_weights, *outputs)
            return excess

        for excess in map_threads(jobs, lambda: gather_block, resolve_n_threads(None)):
            self.excess += excess
        if not max_deviation.max() <= ROW_SUM_TOLERANCE:
            raise NotApplicable
        self.running_sums = RunningSums(self.true_proba)
        # The mean may be below the floor only where a member is.
        clipping = (min_proba < 2 * FLOOR) * (3 * max_deviation)
        self.approximation_error = float(
            self.row_weights @ (max_deviation * max_deviation + clipping)
        )

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after one more copy of each of ``members``, with error bounds."""
        size = float(counts.sum() + 1)
        sums = self.running_sums.update(counts)
        log_means = self._mean_logs(sums, size * FLOOR, members)
        excess = (counts @ self.excess + self.excess[members]) / size
        values = log_means - math.log(size) - excess
        width = sum(stack.shape[2] for stack in self.out_of_fold.stacks)
        steps = 4 * (size + width + 16)
        n_additions = 200 + (len(sums) / LANES if self.is_weighted else 0)
        magnitude = abs(values) + 2 * math.log(size)
        rounding = UNIT * (steps + n_additions * magnitude)
        return values, self.approximation_error + rounding

    def _mean_logs(self, sums: Float64, floor: float, members: Counts) -> Float64:
        """Weighted mean over the rows of the log-sum with each member added."""

        def average_block(bounds: tuple[int, int]) -> Float64:
            block = members[slice(*bounds)]
            out = np.empty(len(block))
            if self.is_weighted:
                weighted_log_sums(
                    self.true_proba, sums, self.row_weights, floor, block, out
                )
                return out
            log_sums(self.true_proba, sums, floor, block, out)
            return out / len(sums)

        jobs = list(chunks(len(members), CHUNK))
        n_threads = resolve_n_threads(None) if len(sums) > PIECE else 1
        return np.concatenate(map_threads(jobs, lambda: average_block, n_threads))

    def gradient(self, weights: Float64) -> Float64:
        """Gradient of the score, up to a constant added to all entries.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1
            Member weights at which the gradient is evaluated.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        out = np.zeros(len(weights))
        for start, stop in chunks(len(self.row_weights), PIECE):
            rows = np.maximum(self.true_proba[:, start:stop], FLOOR, dtype=np.float64)
            out += rows @ (self.row_weights[start:stop] / (weights @ rows))
        return out - self.excess

    def optimum(self) -> Float64:
        """Weights on the simplex that maximize the score.

        Returns
        -------
        ndarray of shape (n_members,)
            Non-negative, with sum 1.
        """
        return mixture_weights(self.true_proba, self.row_weights, floor=FLOOR)
