"""Penalized maximum-likelihood weights and intercepts of a log-linear pool."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.repetitions import effective_size

# Ridge penalties, in samples; chosen on other data sets than those reported.
WEIGHT_RIDGE = 2.0  # for up to five members
RIDGE_PER_MEMBER = 0.4  # for more members
INTERCEPT_RIDGE = 5.0


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


class PoolLoss:
    """Log-loss of a log-linear pool with a ridge penalty.

    With the logarithms of the members' probabilities as features, shared by all
    classes, the pool is a multinomial logistic regression with one coefficient per
    member and one intercept per class: the problem is convex. The ridge penalty
    shrinks the weights towards equal weights and the intercepts towards zero, so that
    they stay finite if the samples are separable.

    Parameters
    ----------
    held : OutOfFold
        Held-out probabilities, with true labels and sample weights.
    floor : float
        Lower bound of the probabilities; smaller ones are raised to it.
    signed : bool
        Whether weights may be negative.
    """

    def __init__(self, held: OutOfFold, floor: float, *, signed: bool) -> None:
        self.signed = signed
        self.logs = [np.log(np.maximum(stack, floor)) for stack in held.stacks]
        labels: Any = held.outputs
        self.codes = labels.encode(held.y)
        self.ends = np.cumsum([held.n_members, *(s.shape[2] for s in held.stacks)])
        weight = held.sample_weight
        weight = np.ones(len(held.y)) if weight is None else weight
        size = effective_size(weight)
        self.ridge = np.full(self.ends[-1], INTERCEPT_RIDGE / size)
        strength = max(WEIGHT_RIDGE, RIDGE_PER_MEMBER * held.n_members)
        self.ridge[: held.n_members] = strength / size
        self.centre = np.zeros(self.ends[-1])
        self.centre[: held.n_members] = 1 / held.n_members
        self.shares = weight / (weight.sum() * len(self.logs))

    def minimum(
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

        point = self.centre
        if start is not None:
            point = np.concatenate([start.weights, *start.intercepts])
        n_members = len(self.logs[0])
        n_others = len(point) - n_members
        least = None if self.signed else 0
        found = minimize(
            self.loss,
            point,
            jac=True,
            method="L-BFGS-B",
            bounds=[(least, None)] * n_members + [(None, None)] * n_others,
            options={"maxiter": 1000, "ftol": tolerance, "gtol": 1e-7},
        )
        return self._parted(found.x)

    def _parted(self, point: Float64) -> PoolWeights:
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
        apart = point - self.centre
        return self.loss(point)[0] - float(apart @ (self.ridge * apart)) / 2

    def alone(self) -> Float64:
        """Log-loss of each member alone.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        rows = np.arange(len(self.shares))
        losses = np.zeros(len(self.logs[0]))
        for logs, codes in zip(self.logs, self.codes, strict=True):
            sums = np.exp(logs).sum(axis=2)
            losses += (np.log(sums) - logs[:, rows, codes]) @ self.shares
        return losses

    def at(self, weights: Float64) -> PoolWeights:
        """Weights with zero intercepts.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weights of the members.

        Returns
        -------
        PoolWeights
        """
        return self._parted(np.append(weights, np.zeros(self.ends[-1] - len(weights))))

    def loss(self, point: Float64) -> tuple[float, Float64]:
        """Penalized log-loss and its gradient at a point: weights, then intercepts."""
        apart = point - self.centre
        loss, slope = float(apart @ (self.ridge * apart)) / 2, self.ridge * apart
        weights, intercepts = self._parted(point)
        for output, logs in enumerate(self.logs):
            value, gradient, by_class = _log_loss(
                logs, self.codes[output], self.shares, weights, intercepts[output]
            )
            loss += value
            slope[: len(weights)] += gradient
            slope[self.ends[output] : self.ends[output + 1]] += by_class
        return loss, slope


def _log_loss(
    logs: Float64, codes: Counts, shares: Float64, weights: Float64, intercept: Float64
) -> tuple[float, Float64, Float64]:
    n_members, n_samples, n_classes = logs.shape
    flat = logs.reshape(n_members, -1)
    rows = np.arange(n_samples)
    pooled = (weights @ flat).reshape(n_samples, n_classes)
    pooled += intercept
    pooled -= pooled.max(axis=1, keepdims=True)
    chosen = pooled[rows, codes]
    np.exp(pooled, out=pooled)
    sums = pooled.sum(axis=1)
    loss = float(shares @ (np.log(sums) - chosen))
    pooled *= (shares / sums)[:, None]
    pooled[rows, codes] -= shares
    return loss, flat @ pooled.ravel(), pooled.sum(axis=0)
