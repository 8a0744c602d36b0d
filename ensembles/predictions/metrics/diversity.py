"""Diversity of classifiers: how much the errors and labels of two members differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.sample_weight import check_sample_weight
from ensembles.predictions.metrics.class_labels import column_indices

CHANCE = 1e-12


@dataclass(frozen=True)
class Diversity:
    """Measures of diversity of each pair of members, with symmetric matrices.

    A measure that divides by zero is NaN, e.g. the correlation with a member that is
    always right.

    Parameters
    ----------
    disagreement : ndarray of shape (n_members, n_members)
        Share of rows on which exactly one of the two is right; larger is more diverse.
    label_disagreement : ndarray of shape (n_members, n_members)
        Share of rows on which the two predict different labels.
    double_fault : ndarray of shape (n_members, n_members)
        Share of rows on which both are wrong; smaller is better.
    q_statistic : ndarray of shape (n_members, n_members)
        Yule's Q of being right, from -1 to 1; 0 for independent errors.
    correlation : ndarray of shape (n_members, n_members)
        Correlation of being right, from -1 to 1.
    kappa : ndarray of shape (n_members, n_members)
        Cohen's kappa of the labels: 1 for equal labels, 0 for agreement by chance.
    accuracy : ndarray of shape (n_members,)
        Share of rows on which each member is right.
    """

    disagreement: Float64
    label_disagreement: Float64
    double_fault: Float64
    q_statistic: Float64
    correlation: Float64
    kappa: Float64
    accuracy: Float64

    def means(self) -> dict[str, float]:
        """Mean of each measure over the pairs of different members.

        Returns
        -------
        dict of str to float
            Without pairs for which the measure is NaN; NaN if there are no others.
        """
        n_members = len(self.accuracy)
        pairs = np.triu_indices(n_members, 1)
        means = {"accuracy": float(self.accuracy.mean())}
        for name, values in vars(self).items():
            if values.ndim == 2:
                defined = values[pairs][~np.isnan(values[pairs])]
                means[name] = float(defined.mean()) if len(defined) else float("nan")
        return means


def diversity(
    predictions: ArrayLike,
    y: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> Diversity:
    """Pairwise diversity of classifiers, by their labels and by their errors.

    Parameters
    ----------
    predictions : array-like of shape (n_members, n_samples[, n_classes])
        Predicted labels, or class probabilities, such as ``oof_`` of a fitted
        `EnsembleClassifier`. The label of probabilities is that of the largest, the
        first in a tie. Rows that are NaN for every member, which no split held out,
        are left out.
    y : array-like of shape (n_samples,)
        True labels.
    classes : array-like of shape (n_classes,) or None, default=None
        Labels of the columns of probabilities; None takes the sorted labels of ``y``.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        Sample weights; None weights all samples equally.

    Returns
    -------
    Diversity

    Raises
    ------
    ValueError
        If the shapes do not match, a prediction is NaN, or a sample weight is negative
        or not finite.

    See Also
    --------
    decompose_loss : Diversity as the loss that combining the members saves.

    References
    ----------
    Kuncheva & Whitaker (2003), "Measures of diversity in classifier ensembles and their
    relationship with the ensemble accuracy", Machine Learning 51, section 2;
    Margineantu & Dietterich (1997), "Pruning adaptive boosting", ICML, for kappa.

    Examples
    --------
    >>> pair = diversity([list("aabb"), list("abba")], list("aabb"))
    >>> float(pair.disagreement[0, 1]), float(pair.kappa[0, 1])
    (0.5, 0.0)
    """
    stack, y = np.asarray(predictions), np.asarray(y)
    if stack.ndim not in (2, 3) or len(stack) == 0 or stack.shape[1] != len(y):
        raise ValueError(
            "predictions must have the shape (n_members, n_samples), or that with "
            f"n_classes, for {len(y)} labels: found {stack.shape}"
        )
    weight = np.ones(len(y))
    if sample_weight is not None:
        weight = check_sample_weight(sample_weight, len(y))
    if stack.ndim == 3:
        held_out = ~np.isnan(stack).all(axis=(0, 2))
        stack, y, weight = stack[:, held_out], y[held_out], weight[held_out]
    codes, y_codes = _label_codes(stack, y, classes)
    weight = weight / weight.sum()
    is_right = (codes == y_codes).astype(np.float64)
    both, neither = _both(is_right, weight), _both(1 - is_right, weight)
    first = (is_right * weight) @ (1 - is_right).T  # weight with only the first right
    second, accuracy = first.T, is_right @ weight
    cross, diagonal = first * second, both * neither
    variance = accuracy * ((1 - is_right) @ weight)  # exactly 0 if always right
    spread = np.sqrt(np.outer(variance, variance))
    same, by_chance = _label_agreement(codes, weight)
    above_chance = 1 - by_chance
    above_chance[above_chance < CHANCE] = 0  # rounding, if all labels are one
    with np.errstate(divide="ignore", invalid="ignore"):
        return Diversity(
            disagreement=first + second,
            label_disagreement=np.maximum(1 - same, 0),
            double_fault=neither,
            q_statistic=(diagonal - cross) / (diagonal + cross),
            correlation=(diagonal - cross) / spread,
            kappa=np.where(above_chance > 0, (same - by_chance) / above_chance, np.nan),
            accuracy=accuracy,
        )


def _label_codes(stack: Any, y: Any, classes: Any) -> tuple[Counts, Counts]:
    """Integer codes of the predicted and of the true labels."""
    if stack.ndim == 3:
        is_missing = np.isnan(stack)
        if is_missing.any():
            member, row, _ = np.argwhere(is_missing)[0]
            raise ValueError(f"predictions must not be NaN: member {member}, row {row}")
        return stack.argmax(axis=2), column_indices(y, classes, stack.shape[2])
    if (stack.dtype.kind in "OUS") != (y.dtype.kind in "OUS"):
        raise ValueError(
            "predictions must be labels of the type of y's: found "
            f"{stack.ravel()[:3].tolist()} and {y[:3].tolist()}"
        )
    labels = np.concatenate([stack, y[None]])
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError("labels must not be NaN")
    codes = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    return codes[:-1], codes[-1]


def _both(is_event: Float64, weight: Float64) -> Float64:
    """Weight of the rows on which both members of a pair have an event."""
    return (is_event * weight) @ is_event.T


def _label_agreement(codes: Counts, weight: Float64) -> tuple[Float64, Float64]:
    """Weight of rows with equal labels, and the agreement expected by chance."""
    same = np.zeros((len(codes), len(codes)))
    by_chance = np.zeros_like(same)
    for code in np.unique(codes):
        is_code = (codes == code).astype(np.float64)
        same += _both(is_code, weight)
        share = is_code @ weight
        by_chance += np.outer(share, share)
    return same, by_chance
