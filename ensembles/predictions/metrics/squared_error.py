"""Squared errors of the mean, from the Gram matrix of the members' errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks
from ensembles.predictions.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.metrics.scorer import (
    ROW_SUM_TOLERANCE,
    UNIT,
    BoundedScore,
    NotApplicable,
    as_float_array,
    normalized_sample_weight,
)

BLOCK = 1 << 22  # numbers per block, over all members: 32 MiB in float64
LONGEST = 1 << 13  # most numbers per member in a block: limits the rounding error


class SquaredError(BoundedScore):
    """Negative mean squared error of the mean predictions, averaged over the outputs.

    Most of the cost is in the constructor: one pass over the predictions for the Gram
    matrix of the errors, in float64. The cost of a greedy round then does not depend on
    the number of rows.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Predictions of the members, with the true targets.
    combiner : FittedCombiner
        Rule "mean".
    scoring : str or None
        Name of the scorer, e.g. "neg_mean_squared_error"; None means the same.

    Raises
    ------
    NotApplicable
        If the predictions are not one array, or an inner product of errors is not
        finite.
    """

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        super().__init__(out_of_fold, combiner, scoring)
        if len(out_of_fold.stacks) != 1:
            raise NotApplicable
        stack = as_float_array(out_of_fold.stacks[0])
        n_members, n_rows, width = stack.shape
        self.shares = normalized_sample_weight(out_of_fold.sample_weight, n_rows)
        self.products = np.zeros((n_members, n_members))
        self.sizes, self.far = np.zeros(n_members), 0.0
        per_member = min(LONGEST, BLOCK // n_members)
        blocks = list(chunks(n_rows, max(1, per_member // width)))
        for start, stop in blocks:
            self._add(stack[:, start:stop], start, stop)
        self.products *= self._scale(width)
        self.sizes = np.sqrt(self.sizes * self._scale(width))
        self.adding = (blocks[0][1] * width + len(blocks) + 8) * UNIT
        if not np.isfinite(self.products).all() or self.far > ROW_SUM_TOLERANCE:
            raise NotApplicable

    def _scale(self, width: int) -> float:
        """Factor of the sum of squared errors of a row."""
        return 1 / width

    def _truth(self, start: int, stop: int, width: int) -> Float64:
        truth = np.asarray(self.out_of_fold.y, np.float64)
        return truth.reshape(-1, width)[start:stop]

    def _add(self, part: Float64, start: int, stop: int) -> None:
        shares = np.sqrt(self.shares[start:stop])[:, None]
        said = part.astype(np.float64)
        self.sizes += np.einsum("mrk,mrk,r->m", said, said, self.shares[start:stop])
        self._look_at(said)
        said -= self._truth(start, stop, part.shape[2])
        said *= shares
        errors = said.reshape(len(said), -1)
        self.products += errors @ errors.T

    def _look_at(self, said: Float64) -> None:
        """Check a block of predictions; values need no check, so this does nothing."""

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after one more copy of each of ``members``, with error bounds."""
        size = float(counts.sum() + 1)
        own = np.diag(self.products)
        beside = self.products @ counts
        squares = counts @ beside + 2 * beside[members] + own[members]
        squares = np.maximum(squares, 0) / size**2
        each = np.sqrt(own)
        wide = (counts @ each + each[members]) / size
        errors = (self.adding + 8 * UNIT) * wide**2
        # The scored mean is rounded before the true targets are subtracted.
        n_steps = np.count_nonzero(counts) + 16
        lost = UNIT * n_steps * (counts @ self.sizes + self.sizes[members]) / size
        errors += lost * (2 * np.sqrt(squares + errors) + lost) + 200 * UNIT * squares
        return self._scores(squares, errors + 3 * self.far)

    def _scores(self, squares: Float64, errors: Float64) -> tuple[Float64, Float64]:
        """Convert squared errors and their error bounds to scores and theirs."""
        return -squares, errors

    def gradient(self, weights: Float64) -> Float64:
        """Gradient of the negative mean squared error.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1
            Member weights at which the gradient is evaluated.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        return np.asarray(-2 * self.products @ weights)

    def optimum(self) -> Float64:
        """Weights on the simplex that minimize the squared error.

        With the members' errors E, the minimizer of |Ew| on the simplex is, up to its
        scale, the minimizer of |Ew|^2 + (sum(w) - 1)^2 over non-negative weights. A
        factor of the Gram matrix replaces E.

        Returns
        -------
        ndarray of shape (n_members,)
            Non-negative, with sum 1.

        References
        ----------
        Lawson & Hanson (1974), "Solving least squares problems", chapter 23, for
        non-negative least squares. Breiman (1996), "Stacked regressions", Machine
        Learning 24, for its use in ensembles.
        """
        from scipy.linalg import eigh
        from scipy.optimize import nnls

        # Scaled to unit errors, so that a diverged member does not dominate the others.
        sizes = np.sqrt(np.diag(self.products))
        least = sizes.min()
        if least == 0:
            return np.asarray((sizes == 0) / np.count_nonzero(sizes == 0))
        units = least / sizes
        values, vectors = eigh(self.products / np.outer(sizes, sizes))
        factor = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
        rows = np.vstack([factor, units])
        target = np.append(np.zeros(len(factor)), 1.0)
        found = nnls(rows, target, maxiter=30 * len(factor))[0] * units
        return np.asarray(found / found.sum())


class RootSquaredError(SquaredError):
    """Negative root mean squared error, for one output."""

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        if out_of_fold.stacks[0].shape[2] != 1:
            raise NotApplicable
        super().__init__(out_of_fold, combiner, scoring)

    def _scores(self, squares: Float64, errors: Float64) -> tuple[Float64, Float64]:
        most = np.sqrt(squares + errors)
        least = np.sqrt(np.maximum(squares - errors, 0))
        return -np.sqrt(squares), most - least + 4 * UNIT * most

    def gradient(self, weights: Float64) -> Float64:
        """Gradient of the negative root mean squared error.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1
            Member weights at which the gradient is evaluated.

        Returns
        -------
        ndarray of shape (n_members,)
            All zeros if the error is zero.
        """
        slopes = self.products @ weights
        root = math.sqrt(max(float(weights @ slopes), 0.0))
        return np.asarray(-slopes / root if root > 0 else 0 * slopes)


class R2(SquaredError):
    """Coefficient of determination (R2) of the mean predictions, for one output."""

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        if out_of_fold.stacks[0].shape[2] != 1:
            raise NotApplicable
        truth = np.asarray(out_of_fold.y, np.float64).reshape(-1)
        weight = out_of_fold.sample_weight
        centre = np.average(truth, weights=weight)
        self.variance = float(np.average((truth - centre) ** 2, weights=weight))
        if len(truth) < 2 or not self.variance > 0:
            raise NotApplicable
        super().__init__(out_of_fold, combiner, scoring)

    def _scores(self, squares: Float64, errors: Float64) -> tuple[Float64, Float64]:
        rest = squares / self.variance
        errors = errors / self.variance + 200 * UNIT * (1 + rest)
        return 1 - rest, errors

    def gradient(self, weights: Float64) -> Float64:
        """Gradient of R2.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1
            Member weights at which the gradient is evaluated.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        return super().gradient(weights) / self.variance


class BrierScore(SquaredError):
    """Negative Brier score; halved for two classes, as in scikit-learn since 1.7.

    The scorer scales the rows of the mean to sum 1, the estimates do not: their error
    bounds include the largest deviation of a row sum from 1, which must not exceed
    `ROW_SUM_TOLERANCE`, a multiple of the rounding of float32.
    """

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        if (
            not isinstance(out_of_fold.outputs, ClassOutputs)
            or len(out_of_fold.stacks) != 1
        ):
            raise NotApplicable
        self.codes = out_of_fold.outputs.encode(out_of_fold.y)[0]
        super().__init__(out_of_fold, combiner, scoring)

    def _scale(self, width: int) -> float:
        return 0.5 if width < 3 else 1.0

    def _truth(self, start: int, stop: int, width: int) -> Float64:
        return np.eye(width)[self.codes[start:stop]]

    def _look_at(self, said: Float64) -> None:
        if said.min() < 0:
            raise NotApplicable
        self.far = max(self.far, float(np.abs(said.sum(axis=2) - 1).max()))
