"""Scores of the weights of a pool, for selections: mean losses of pooled forecasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, ClassVar

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles._typing import Array, Counts, Float64
from ensembles.parallel import chunks
from ensembles.predictions.forecasts.pool import Pool
from ensembles.predictions.forecasts.quantiles import interpolate_levels, sorted_knots
from ensembles.predictions.metrics.squared_error import minimize_quadratic

BLOCK = 1 << 21  # numbers per block, over all members
# Quantiles of a member for which the linear program takes as long as the gradient.
LARGEST_PROGRAM = 50_000


def share_weights(weights: Float64, is_present: Array) -> Float64:
    """Weights of each unit, where weights of absent members are shared equally.

    Unlike weights that are rescaled, they never give one member almost everything
    because the others with a weight are absent.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Non-negative weights of the members.
    is_present : ndarray of shape (n_members, n_units), bool
        Whether a member is present in a unit; at least one must be.

    Returns
    -------
    ndarray of shape (n_members, n_units)
        0 for members that are absent; the sum of each unit is 1.
    """
    shares = (weights / weights.sum())[:, None]
    absent = np.where(is_present, 0.0, shares).sum(0)
    return np.where(is_present, shares + absent / is_present.sum(0), 0.0)


class PoolScore:
    """Minus the mean loss of a pool's forecasts: twice the pinball loss of the levels.

    Parameters
    ----------
    pool : Pool
        Rule of the ensemble.
    params : mapping of str to value
        Parameters of the rule.
    levels : ndarray of shape (n_levels,)
        Quantile levels.
    stack : ndarray of shape (n_members, n_units, n_levels)
        Quantiles of the members, NaN where a member is absent.
    y : ndarray of shape (n_units,)
        Outcomes.
    unit_weights : ndarray of shape (n_units,)
        Non-negative weights of the units, not all zero.
    """

    # Arrays with one entry for each unit, and the axis of the units.
    unit_axes: ClassVar = {"stack": 1, "is_present": 1, "y": 0, "unit_weights": 0}

    def __init__(
        self,
        pool: Pool,
        params: Mapping[str, Any],
        levels: Float64,
        *,
        stack: Float64,
        y: Float64,
        unit_weights: Float64,
    ) -> None:
        self.pool, self.params, self.levels = pool, params, levels
        self.stack, self.y, self.unit_weights = stack, y, unit_weights
        self.is_present = ~np.isnan(stack[..., 0])
        self._compute()
        self._prepare()

    def _compute(self) -> None:
        """Compute arrays of the units once, for all subsets."""

    def _prepare(self) -> None:
        """Compute values that depend on the weights of the units."""
        self.unit_shares = self.unit_weights / self.unit_weights.sum()

    def subset(self, rows: Counts) -> PoolScore:
        """Score of the same weights on some of the units.

        Parameters
        ----------
        rows : ndarray of indices
            Units, with weights that are not all zero.

        Returns
        -------
        PoolScore
        """
        part = copy(self)
        for name, axis in self.unit_axes.items():
            setattr(part, name, np.take(getattr(self, name), rows, axis))
        part._prepare()
        return part

    def __call__(self, weights: Float64) -> float:
        return self._score(self._pooled(weights))

    def member_losses(self) -> Float64:
        """Loss of each member alone; where it is absent, others count equally.

        Returns
        -------
        ndarray of shape (n_members, n_units)
        """
        equal = self._losses(self._pooled(np.ones(len(self.stack))))
        return np.where(self.is_present, self._losses(self.stack), equal)

    def _pooled(self, weights: Float64) -> Float64:
        shares = share_weights(weights, self.is_present)
        return self.pool.pool(self.stack, shares, self.levels, self.params)

    def _losses(self, quantiles: Float64) -> Float64:
        difference = self.y[:, None] - quantiles
        losses = np.maximum(self.levels * difference, (self.levels - 1) * difference)
        return np.asarray(2 * losses.mean(-1))

    def _score(self, quantiles: Float64) -> float:
        return -float(self.unit_shares @ self._losses(quantiles))


class QuantileMeanScore(PoolScore):
    """Score of the mean of quantiles: a concave function of the weights.

    References
    ----------
    Koenker & Bassett (1978), "Regression quantiles", Econometrica 46, for the linear
    program and its dual.
    """

    unit_axes: ClassVar = {"stack": 1, "filled": 1, "y": 0, "unit_weights": 0}

    def _compute(self) -> None:
        # The mean of the others in place of an absent member shares its weight.
        present = self.is_present[..., None]
        mean = np.where(present, self.stack, 0.0).sum(0) / present.sum(0)
        self.filled = np.where(present, self.stack, mean)

    def __call__(self, weights: Float64) -> float:
        return self._score(np.tensordot(weights, self.filled, axes=1))

    def gains(self, counts: Counts, members: Counts) -> Float64:
        """Scores after one more copy of each of ``members``, for greedy selection.

        Parameters
        ----------
        counts : ndarray of shape (n_members,), int64
            Number of copies of each member so far.
        members : ndarray of indices
            Members to add, each by itself.

        Returns
        -------
        ndarray of the shape of ``members``
        """
        sums, size = np.tensordot(counts, self.filled, axes=1), counts.sum() + 1
        return np.array([self._score((sums + self.filled[m]) / size) for m in members])

    def gradient(self, weights: Float64) -> Float64:
        """Gradient of the score; a subgradient where it has a kink.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1
            Weights at which to evaluate it.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        pooled = np.tensordot(weights, self.filled, axes=1)
        slopes = ((pooled > self.y[:, None]) - self.levels) * self.unit_shares[:, None]
        return np.asarray(
            -2 / len(self.levels) * np.tensordot(self.filled, slopes, axes=2)
        )

    @property
    def optimum(self) -> Callable[[], Float64] | None:
        """Callable that returns the weights with the best score; None for many units.

        With few units the score has too many kinks to follow its gradient, and with
        many units too few to matter.
        """
        return self._solve if self.filled[0].size <= LARGEST_PROGRAM else None

    def _solve(self) -> Float64:
        """Solve the dual of the linear program, which has a row for each member."""
        from scipy.optimize import linprog

        n_members = len(self.filled)
        errors = (self.filled - self.y[:, None]).reshape(n_members, -1)
        errors = errors / (np.abs(errors).mean() or 1.0)
        shares = np.repeat(self.unit_shares, len(self.levels))[:, None]
        levels = np.tile(self.levels, len(self.y))[:, None]
        slopes = np.hstack([levels - 1, levels]) * (shares / shares.max())
        result = linprog(
            np.append(np.zeros(len(slopes)), -1.0),
            np.hstack([errors, np.ones((n_members, 1))]),
            np.zeros(n_members),
            bounds=[*slopes.tolist(), (None, None)],
        )
        if result.status != 0:
            warn_caller(
                "weights are those of the best member, or equal, because the linear "
                f"program of the best weights failed: {result.message}"
            )
            return np.full(n_members, 1 / n_members)
        weights = np.maximum(-result.ineqlin.marginals, 0)
        return np.asarray(weights / weights.sum())


class LinearPoolScore(PoolScore):
    """Minus the mean CRPS of a mixture: a quadratic function of the weights.

    The distribution functions are linear between quantiles, whichever interpolation the
    rule has. Most of the cost is in the constructor, in one pass over the forecasts.
    """

    unit_axes: ClassVar = {"stack": 1, "products": 0, "unit_weights": 0}

    def _compute(self) -> None:
        n_members, n_units, n_levels = self.stack.shape
        self.products = np.empty((n_units, n_members, n_members))
        n_rows = max(1, BLOCK // (3 * n_members**2 * n_levels))
        for start, stop in chunks(n_units, n_rows):
            rows = slice(start, stop)
            errors = _errors(self.stack[:, rows], self.y[rows], self.levels)
            self.products[rows] = errors @ errors.transpose(0, 2, 1)

    def _prepare(self) -> None:
        super()._prepare()
        self.gram = np.tensordot(self.unit_shares, self.products, axes=1)

    def __call__(self, weights: Float64) -> float:
        return -float(weights @ self.gram @ weights)

    def gradient(self, weights: Float64) -> Float64:
        """Gradient of the score.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1
            Weights at which to evaluate it.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        return np.asarray(-2 * self.gram @ weights)

    def optimum(self) -> Float64:
        """Weights on the simplex with the best score.

        Returns
        -------
        ndarray of shape (n_members,)
            Non-negative, with sum 1.
        """
        return minimize_quadratic(self.gram)


def _errors(stack: Float64, y: Float64, levels: Float64) -> Float64:
    """Rows for each unit and member whose inner products are those of the errors.

    The error of a distribution function F is F(x) - 1{y <= x}, for all x. The rows of
    absent members are the mean of the others. Shape (n_units, n_members, n_columns).
    """
    is_present = ~np.isnan(stack[..., 0])
    knots, counts = sorted_knots(stack, is_present, y)
    is_reached = knots[:, :-1] >= y[:, None]

    def errors(x: Float64) -> Float64:
        """Errors between knots, with the counts of the first one."""
        functions = [
            interpolate_levels(x, member, count[:, :-1], levels, "linear") - is_reached
            for member, count in zip(stack, counts, strict=True)
        ]
        return np.stack(functions, axis=1)

    start, end = errors(knots[:, :-1]), errors(knots[:, 1:])
    # The product of two lines with the ends a, b and c, d has the mean
    # (ac + bd + (a + b)(c + d)) / 6.
    scale = np.sqrt(np.diff(knots) / 6)[:, None]
    rows = np.concatenate([start * scale, end * scale, (start + end) * scale], axis=2)
    present = is_present.T[..., None]
    mean = np.where(present, rows, 0.0).sum(1, keepdims=True) / present.sum(
        1, keepdims=True
    )
    return np.where(present, rows, mean)


def make_objective(score: PoolScore) -> PoolScore:
    """Score that learned weights maximize, in the fastest form that the pool allows.

    Parameters
    ----------
    score : PoolScore
        Score of the pool's forecasts.

    Returns
    -------
    PoolScore
        ``score`` itself, the same score with a gradient, or the negative CRPS.
    """
    kinds = {"quantiles": QuantileMeanScore, "probabilities": LinearPoolScore}
    kind = kinds.get(score.pool.averages or "")
    if kind is None:
        return score
    return kind(
        score.pool,
        score.params,
        score.levels,
        stack=score.stack,
        y=score.y,
        unit_weights=score.unit_weights,
    )
