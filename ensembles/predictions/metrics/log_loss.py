"""Log-loss of the mean probabilities, from probabilities of the true class alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks, map_threads, resolve_n_threads
from ensembles.predictions.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.metrics.log_loss_loops import (
    LANES,
    PIECE,
    gather,
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
    several outputs are concatenated. The scorer scales the rows of the mean to sum 1;
    as they nearly do before, the logarithm of a row sum is linear in the weights up to
    second order, and one number per member accounts for it.

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
        self.weighted = out_of_fold.sample_weight is not None
        shares = normalized_sample_weight(out_of_fold.sample_weight, n_rows)
        self.entries = np.empty((n_members, n_rows * len(stacks)), dtype)
        self.shares = np.tile(shares, len(stacks)) / len(stacks)
        self.drift = np.zeros(n_members)
        farthest, least = np.empty((2, self.entries.shape[1]))
        codes = np.concatenate(out_of_fold.outputs.encode(out_of_fold.y))  # type: ignore[union-attr]
        jobs = [
            (stack, start, stop, output * n_rows)
            for output, stack in enumerate(stacks)
            for start, stop in chunks(n_rows, PIECE)
        ]

        def take(job: tuple[Float64, int, int, int]) -> Float64:
            drift = np.zeros(n_members)
            known = (codes, self.shares, self.entries, drift, farthest, least)
            gather(*job, *known)
            return drift

        for drift in map_threads(jobs, lambda: take, resolve_n_threads(None)):
            self.drift += drift
        if not farthest.max() <= ROW_SUM_TOLERANCE:
            raise NotApplicable
        self.running = RunningSums(self.entries)
        # The mean of a row may be below the floor only if an entry is.
        raised = (least < 2 * FLOOR) * (3 * farthest)
        self.slack = float(self.shares @ (farthest * farthest + raised))

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after one more copy of each of ``members``, with error bounds."""
        size = float(counts.sum() + 1)
        sums = self.running.update(counts)
        found = self._sums_of_logs(sums, size * FLOOR, members)
        drift = (counts @ self.drift + self.drift[members]) / size
        values = found - math.log(size) - drift
        width = sum(stack.shape[2] for stack in self.out_of_fold.stacks)
        steps = 4 * (size + width + 16)
        adding = 200 + (len(sums) / LANES if self.weighted else 0)
        logs = abs(values) + 2 * math.log(size)
        return values, self.slack + UNIT * (steps + adding * logs)

    def _sums_of_logs(self, sums: Float64, floor: float, members: Counts) -> Float64:
        def work(part: tuple[int, int]) -> Float64:
            chosen = members[slice(*part)]
            out = np.empty(len(chosen))
            if self.weighted:
                weighted_log_sums(self.entries, sums, self.shares, floor, chosen, out)
                return out
            log_sums(self.entries, sums, floor, chosen, out)
            return out / len(sums)

        jobs = list(chunks(len(members), CHUNK))
        n_threads = resolve_n_threads(None) if len(sums) > PIECE else 1
        return np.concatenate(map_threads(jobs, lambda: work, n_threads))

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
        for start, stop in chunks(len(self.shares), PIECE):
            rows = np.maximum(self.entries[:, start:stop], FLOOR, dtype=np.float64)
            out += rows @ (self.shares[start:stop] / (weights @ rows))
        return out - self.drift

    def optimum(self) -> Float64:
        """Weights on the simplex that maximize the score.

        Returns
        -------
        ndarray of shape (n_members,)
            Non-negative, with sum 1.
        """
        return mixture_weights(self.entries, self.shares, floor=FLOOR)
