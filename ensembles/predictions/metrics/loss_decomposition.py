"""Loss of an ensemble as the loss of its members minus their diversity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.predictions.members.sample_weight import check_sample_weight
from ensembles.predictions.metrics.class_labels import column_indices
from ensembles.weights import check_weights

SMALLEST = np.finfo(np.float64).eps  # of a probability, as in scikit-learn's log_loss


class LossDecomposition(NamedTuple):
    """Terms of the loss of an ensemble.

    ``ensemble_loss = member_loss - diversity``, and with several trials
    ``member_loss = bias + variance``.

    Parameters
    ----------
    ensemble_loss : float
        Mean loss of the combined predictions.
    member_loss : float
        Weighted mean of the losses of the members.
    diversity : float
        Loss that combining the members saves. Not negative for ``"squared_error"``,
        ``"brier"`` and ``"log_loss"``, where it does not depend on ``y``.
    bias : float or None
        Loss of the central prediction of each member over the trials, including the
        noise of ``y``; None for a single trial.
    variance : float or None
        Loss by the difference of a member from its central prediction; None for a
        single trial.
    """

    ensemble_loss: float
    member_loss: float
    diversity: float
    bias: float | None = None
    variance: float | None = None


class _Loss(NamedTuple):
    """A loss, and the center that minimizes the mean divergence to predictions.

    Parameters
    ----------
    center : callable
        ``(predictions, shares, axis) -> center``, without that axis.
    divergence : callable
        ``(center, predictions) -> divergence`` of each row; the loss is that of ``y``.
    """

    center: Callable[[Any, Float64, int], Any]
    divergence: Callable[[Any, Any], Float64]


def _mean(predictions: Any, shares: Float64, axis: int) -> Any:
    return np.tensordot(shares, predictions, (0, axis))


def _geometric_mean(predictions: Any, shares: Float64, axis: int) -> Any:
    logits = np.tensordot(shares, np.log(predictions), (0, axis))
    proba = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return proba / proba.sum(axis=-1, keepdims=True)


def _plurality(predictions: Any, shares: Float64, axis: int) -> Any:
    """One-hot rows of the class with the largest weight; ties go to the first."""
    votes = np.tensordot(shares, predictions, (0, axis))
    return np.eye(votes.shape[-1])[votes.argmax(axis=-1)]


def _squared(center: Any, predictions: Any) -> Float64:
    return np.asarray(((center - predictions) ** 2).sum(axis=-1))


def _mean_squared(center: Any, predictions: Any) -> Float64:
    return np.asarray(((center - predictions) ** 2).mean(axis=-1))


def _relative_entropy(center: Any, predictions: Any) -> Float64:
    from scipy.special import rel_entr

    return np.asarray(rel_entr(center, predictions).sum(axis=-1))


def _differs(center: Any, predictions: Any) -> Float64:
    return np.asarray((center != predictions).any(axis=-1), np.float64)


LOSSES = {
    "squared_error": _Loss(_mean, _mean_squared),
    "brier": _Loss(_mean, _squared),
    "log_loss": _Loss(_geometric_mean, _relative_entropy),
    "zero_one": _Loss(_plurality, _differs),
}


def decompose_loss(
    predictions: ArrayLike,
    y: ArrayLike,
    *,
    loss: str,
    weights: ArrayLike | None = None,
    classes: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> LossDecomposition:
    """Loss of an ensemble, decomposed into bias, variance and diversity.

    The members are combined by the center that belongs to the loss: the mean for
    ``"squared_error"`` and ``"brier"``, the normalized geometric mean for
    ``"log_loss"``, the plurality vote for ``"zero_one"``. For another rule, the
    difference between the mean loss of the members and the loss of the ensemble is
    not a property of the predictions alone.

    Parameters
    ----------
    predictions : array-like of shape ([n_trials,] n_members, n_samples, n_columns)
        Predictions of the members: class probabilities, or values for
        ``"squared_error"``. With trials, members that were fitted again on other
        training data, which gives bias and variance. Values of one target without
        trials may have the shape (n_members, n_samples). Rows that are NaN for every
        member and trial, which no split held out, are left out.
    y : array-like of shape (n_samples,) or (n_samples, n_columns)
        Labels, or values for ``"squared_error"``.
    loss : {"squared_error", "brier", "log_loss", "zero_one"}
        Squared error, mean over the columns; squared error of the probabilities, summed
        over the classes; cross-entropy in nats; share of wrong labels.
    weights : array-like of shape (n_members,) or None, default=None
        Non-negative weights of the members, divided by their sum; None weights all
        members equally.
    classes : array-like of shape (n_columns,) or None, default=None
        Labels of the columns; None takes the sorted labels of ``y``.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        Sample weights; None weights all samples equally.

    Returns
    -------
    LossDecomposition

    Raises
    ------
    ValueError
        If the shapes do not match, an entry is not finite or not a probability, or a
        sample weight is negative or not finite.

    Notes
    -----
    For ``"zero_one"``, the terms are the effects of Wood et al., section 5.3: they add
    up, but depend on ``y``, and the diversity is negative if the vote is worse than its
    members.

    References
    ----------
    Wood, Mu, Webb, Reeve, Luján & Brown (2023), "A unified theory of diversity in
    ensemble learning", Journal of Machine Learning Research 24, theorems 5 and 7;
    Krogh & Vedelsby (1995), "Neural network ensembles, cross validation, and active
    learning", NeurIPS, for the squared error.

    Examples
    --------
    >>> members = [[1.0, 3.0], [2.0, 7.0]]
    >>> terms = decompose_loss(members, [2.0, 4.0], loss="squared_error")
    >>> terms.member_loss, terms.diversity, terms.ensemble_loss
    (2.75, 2.125, 0.625)
    """
    if loss not in LOSSES:
        known = ", ".join(map(repr, LOSSES))
        raise ValueError(f"loss must be one of {known}: found {loss!r}")
    center, divergence = LOSSES[loss]
    stack, y, row_weights = _held_out_rows(predictions, y, sample_weight)
    target = _target(y, classes, stack.shape, loss)
    if loss != "squared_error":
        stack = _probabilities(stack)
    if loss == "log_loss":
        stack = stack.clip(SMALLEST)  # a probability of 0 has an infinite logarithm
    if loss == "zero_one":
        stack = np.eye(stack.shape[-1])[stack.argmax(axis=-1)]
    n_trials, n_members = stack.shape[:2]
    shares = check_weights(weights, n_members)
    shares = shares / shares.sum()
    trials = np.full(n_trials, 1 / n_trials)

    def average(rows: Float64) -> float:
        """Mean over trials, members and rows."""
        by_row = np.tensordot(shares, np.tensordot(trials, rows, (0, 0)), (0, 0))
        return float(np.average(by_row, weights=row_weights))

    ensemble = center(stack, shares, 1)[:, None]
    ensemble_rows = np.repeat(divergence(target, ensemble), n_members, axis=1)
    member_rows = divergence(target, stack)
    diversity_rows = divergence(ensemble, stack)
    if loss == "zero_one":
        diversity_rows = member_rows - ensemble_rows
    terms = LossDecomposition(
        average(ensemble_rows), average(member_rows), average(diversity_rows)
    )
    if n_trials == 1:
        return terms
    middle = center(stack, trials, 0)[None]
    bias_rows = np.repeat(divergence(target, middle), n_trials, axis=0)
    variance_rows = divergence(middle, stack)
    if loss == "zero_one":
        variance_rows = member_rows - bias_rows
    return terms._replace(bias=average(bias_rows), variance=average(variance_rows))


def _held_out_rows(
    predictions: ArrayLike, y: Any, sample_weight: Any
) -> tuple[Float64, Any, Float64 | None]:
    """Predictions of shape (n_trials, n_members, n_samples, n_columns), y and weights.

    Without the rows that no split held out.
    """
    stack = np.asarray(predictions, np.float64)
    if stack.ndim == 2:
        stack = stack[:, :, None]
    if stack.ndim == 3:
        stack = stack[None]
    if stack.ndim != 4 or 0 in stack.shape:
        raise ValueError(
            "predictions must have the shape (n_members, n_samples, n_columns), with "
            f"trials before it: found {np.shape(predictions)}"
        )
    y = np.asarray(y)
    if len(y) != stack.shape[2]:
        raise ValueError(
            f"y must have one row for each of the {stack.shape[2]} samples: found "
            f"{len(y)}"
        )
    weight = None
    if sample_weight is not None:
        weight = check_sample_weight(sample_weight, len(y))
    held_out = np.asarray(~np.isnan(stack).all(axis=(0, 1, 3)))
    is_wrong = ~np.isfinite(stack) & (held_out[:, None] | ~held_out.any())
    if is_wrong.any():
        index = tuple(np.argwhere(is_wrong)[0].tolist())
        raise ValueError(
            "predictions must be finite: found "
            f"{stack[index]} at (trial, member, row, column) {index}"
        )
    weight = None if weight is None else weight[held_out]
    return stack[:, :, held_out], y[held_out], weight


def _target(y: Any, classes: Any, shape: tuple[int, ...], loss: str) -> Float64:
    """Target values, or one-hot labels, of shape (n_samples, n_columns)."""
    if loss != "squared_error":
        return np.asarray(np.eye(shape[3])[column_indices(y, classes, shape[3])])
    target = np.asarray(y, np.float64).reshape(len(y), -1)
    if target.shape[1] != shape[3]:
        raise ValueError(
            "y must have the columns of the predictions: found "
            f"{target.shape[1]} and {shape[3]}"
        )
    if not np.isfinite(target).all():
        row = int(np.argwhere(~np.isfinite(target))[0, 0])
        raise ValueError(f"y must be finite: found {y[row]} in row {row}")
    return target


def _probabilities(stack: Float64) -> Float64:
    """Rows scaled to sum 1."""
    sums = stack.sum(axis=-1, keepdims=True)
    if (stack < 0).any() or (sums <= 0).any():
        raise ValueError(
            "probabilities must be non-negative, with a positive sum in each row: "
            f"found {stack.min()}, and a sum of {sums.min()}"
        )
    return np.asarray(stack / sums)
