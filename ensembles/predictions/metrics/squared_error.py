"""Squared errors of the mean, from the Gram matrix of the members' errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
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
MAX_PER_MEMBER = 1 << 13  # numbers in a block: limits the rounding error


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
        "neg_mean_squared_error", or None, which means the same; other scorers in
        derived classes.

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
        self.row_weights = normalized_sample_weight(out_of_fold.sample_weight, n_rows)
        self.gram = np.zeros((n_members, n_members))
        # Weighted sums of squared predictions, for the rounding error of their mean.
        self.squared_sizes = np.zeros(n_members)
        self.row_sum_error = 0.0  # largest |row sum - 1| of probabilities
        per_member = min(MAX_PER_MEMBER, BLOCK // n_members)
        blocks = list(chunks(n_rows, max(1, per_member // width)))
        for start, stop in blocks:
            self._add_block(stack[:, start:stop], start, stop)
        self.gram *= self._scale(width)
        self.sizes = np.sqrt(self.squared_sizes * self._scale(width))
        self.gram_error = (blocks[0][1] * width + len(blocks) + 8) * UNIT
        if not np.isfinite(self.gram).all() or self.row_sum_error > ROW_SUM_TOLERANCE:
            raise NotApplicable

    def _scale(self, width: int) -> float:
        """Factor of the sum of squared errors of a row."""
        return 1 / width

    def _targets(self, start: int, stop: int, width: int) -> Float64:
        """Targets of some rows, of shape (n_rows, width)."""
        targets = np.asarray(self.out_of_fold.y, np.float64)
        return targets.reshape(-1, width)[start:stop]

    def _add_block(self, block: Float64, start: int, stop: int) -> None:
        y_pred, row_weights = block.astype(np.float64), self.row_weights[start:stop]
        self.squared_sizes += np.einsum("mrk,mrk,r->m", y_pred, y_pred, row_weights)
        self._check_block(y_pred)
        y_pred -= self._targets(start, stop, block.shape[2])
        y_pred *= np.sqrt(row_weights)[:, None]
        errors = y_pred.reshape(len(y_pred), -1)
        self.gram += errors @ errors.T

    def _check_block(self, y_pred: Float64) -> None:
        """Check a block of predictions; a regression target may have any value."""

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after one more copy of each of ``members``, with error bounds."""
        size = float(counts.sum() + 1)
        squared_norms = np.diag(self.gram)
        products = self.gram @ counts  # of each member with the sum of the added ones
        squares = counts @ products + 2 * products[members] + squared_norms[members]
        squares = np.maximum(squares, 0) / size**2
        norms = np.sqrt(squared_norms)
        norm_bound = (counts @ norms + norms[members]) / size
        errors = (self.gram_error + 8 * UNIT) * norm_bound**2
        # The scored mean is rounded before the true targets are subtracted.
        n_steps = np.count_nonzero(counts) + 16
        rounding = UNIT * n_steps * (counts @ self.sizes + self.sizes[members]) / size
        errors += rounding * (2 * np.sqrt(squares + errors) + rounding)
        errors += 200 * UNIT * squares
        return self._scores(squares, errors + 3 * self.row_sum_error)

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
        return np.asarray(-2 * self.gram @ weights)

    def optimum(self) -> Float64:
        """Weights on the simplex that minimize the squared error.

        Returns
        -------
        ndarray of shape (n_members,)
            Non-negative, with sum 1.

        References
        ----------
        Breiman (1996), "Stacked regressions", Machine Learning 24.
        """
        return minimize_quadratic(self.gram)


def minimize_quadratic(gram: Float64) -> Float64:
    """Weights on the simplex that minimize ``w @ gram @ w``.

    Let E have the members' errors as columns. The minimizer of |Ew| on the simplex is,
    up to its scale, the minimizer of |Ew|^2 + (sum(w) - 1)^2 over non-negative weights.
    A factor of the Gram matrix replaces E.

    Parameters
    ----------
    gram : ndarray of shape (n_members, n_members)
        Inner products of the members' errors.

    Returns
    -------
    ndarray of shape (n_members,)
        Non-negative, with sum 1.

    References
    ----------
    Lawson & Hanson (1974), "Solving least squares problems", chapter 23, for
    non-negative least squares.
    """
    from scipy.linalg import eigh
    from scipy.optimize import nnls

    # Scaled to unit errors, so that a diverged member does not dominate the others.
    sizes = np.sqrt(np.diag(gram))
    if sizes.min() == 0:
        return np.asarray((sizes == 0) / np.count_nonzero(sizes == 0))
    scales = sizes.min() / sizes
    values, vectors = eigh(gram / np.outer(sizes, sizes))
    factor = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    rows = np.vstack([factor, scales])
    target = np.append(np.zeros(len(factor)), 1.0)
    weights = nnls(rows, target, maxiter=30 * len(factor))[0] * scales
    return np.asarray(weights / weights.sum())


class RootSquaredError(SquaredError):
    """Negative root mean squared error, for one output."""

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        if out_of_fold.stacks[0].shape[2] != 1:
            raise NotApplicable
        super().__init__(out_of_fold, combiner, scoring)

    def _scores(self, squares: Float64, errors: Float64) -> tuple[Float64, Float64]:
        upper = np.sqrt(squares + errors)
        lower = np.sqrt(np.maximum(squares - errors, 0))
        return -np.sqrt(squares), upper - lower + 4 * UNIT * upper

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
        products = self.gram @ weights
        root = math.sqrt(max(float(weights @ products), 0.0))
        return np.asarray(-products / root if root > 0 else 0 * products)


class R2(SquaredError):
    """Coefficient of determination (R2) of the mean predictions, for one output."""

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        if out_of_fold.stacks[0].shape[2] != 1:
            raise NotApplicable
        targets = np.asarray(out_of_fold.y, np.float64).reshape(-1)
        weight = out_of_fold.sample_weight
        mean = np.average(targets, weights=weight)
        self.variance = float(np.average((targets - mean) ** 2, weights=weight))
        if len(targets) < 2 or not self.variance > 0:
            raise NotApplicable
        super().__init__(out_of_fold, combiner, scoring)

    def _scores(self, squares: Float64, errors: Float64) -> tuple[Float64, Float64]:
        unexplained = squares / self.variance
        errors = errors / self.variance + 200 * UNIT * (1 + unexplained)
        return 1 - unexplained, errors

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

    The scorer divides each row of the mean by its sum. The estimates do not; their
    error bounds include the largest deviation of a row sum from 1, which must not
    exceed `ROW_SUM_TOLERANCE`, a multiple of the rounding of float32.
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

    def _targets(self, start: int, stop: int, width: int) -> Float64:
        return np.eye(width)[self.codes[start:stop]]

    def _check_block(self, y_pred: Float64) -> None:
        if y_pred.min() < 0:
            raise NotApplicable
        deviation = float(np.abs(y_pred.sum(axis=2) - 1).max())
        self.row_sum_error = max(self.row_sum_error, deviation)
