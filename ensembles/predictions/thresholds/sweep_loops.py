# mypy: disable-error-code="no-untyped-def, assignment"
# mypy: disallow-untyped-decorators=False
"""Compiled loops that sweep the factor of one class over the sorted margins of rows."""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled

# Scores of predicted labels that the loops know.
ACCURACY, BALANCED_ACCURACY, F1, F1_MACRO, MCC = range(5)
TIE = 1e-12  # scores that differ less are equal, up to the rounding of their sums
# Relative difference of margins below which products of float64 may not separate them.
RESOLUTION = 1e-12


TOLERANCE = 1e-5  # least gain of a pass over all classes for another; far below noise


@compiled
def maximize(
    y_proba, factors, label_weights, row_weights, positive, metric, max_passes
):
    """Change the factors of the classes, in place, so that the labels score best.

    Sweeps the factor of one class after another over all values that change a
    prediction, until sweeps of all improve the score by less than `TOLERANCE`. With two
    classes, the first sweep finds the maximum; with more, a local maximum.

    Parameters
    ----------
    y_proba : ndarray of shape (n_rows, n_classes), non-negative
        Class probabilities; rows may have any sum.
    factors : ndarray of shape (n_classes,), positive
        Initial factors, kept where no others score better. Output: the best factors.
    label_weights : ndarray of shape (n_rows, n_classes)
        Weight of each row, times the probability that the class is its true class.
    row_weights : ndarray of shape (n_rows,)
        Weights of the rows.
    positive : int
        Class whose score is `F1`; other scores ignore it.
    metric : int
        Score, e.g. `ACCURACY`.
    max_passes : int
        Largest number of sweeps of each class.

    Returns
    -------
    float
        Score with these factors.
    """
    n_rows, n_classes = y_proba.shape
    margins, rivals = np.empty(n_rows), np.empty(n_rows, np.int64)
    best = score_factors(y_proba, factors, label_weights, row_weights, positive, metric)
    for _ in range(max_passes):
        before = best
        # The factor of the first of two classes changes what the second changes.
        for k in range(1 if n_classes <= 2 else 0, n_classes):
            compute_margins(y_proba, factors, k, margins, rivals)
            order = np.argsort(margins)
            score, low, high = sweep_class(
                margins,
                order,
                rivals,
                label_weights,
                row_weights,
                k,
                factors[k],
                positive,
                metric,
            )
            if score > best + TIE:
                best = score
                if low == 0.0:
                    factors[k] = high / 3
                elif high == np.inf:
                    factors[k] = 3 * low
                else:
                    factors[k] = np.sqrt(low) * np.sqrt(high)
        if n_classes == 2 or best < before + TOLERANCE:
            break
    return best


@compiled
def score_with_each(
    sums, stack, members, factors, label_weights, row_weights, positive, metric, out
):
    """Score of a mean of probabilities, with each member added to it.

    Parameters
    ----------
    sums : ndarray of shape (n_rows, n_classes), float64
        Sums of the probabilities of the members added before.
    stack : ndarray of shape (n_members, n_rows, n_classes)
        Class probabilities of the members.
    members : ndarray of indices
        Members to add, each by itself.
    factors : ndarray of shape (n_classes,), positive
        Factors of the classes.
    label_weights, row_weights, positive, metric
        As in `maximize`.
    out : ndarray of the shape of ``members``
        Output: score with each of these members.
    """
    n_rows, n_classes = sums.shape
    actual = np.zeros(n_classes)
    for r in range(n_rows):
        for j in range(n_classes):
            actual[j] += label_weights[r, j]
    for i in range(members.size):
        y_proba = stack[members[i]]
        hits, predicted = np.zeros(n_classes), np.zeros(n_classes)
        for r in range(n_rows):
            largest, label = -1.0, 0
            for j in range(n_classes):
                value = (sums[r, j] + y_proba[r, j]) * factors[j]
                label = j if value > largest else label
                largest = value if value > largest else largest
            hits[label] += label_weights[r, label]
            predicted[label] += row_weights[r]
        out[i] = score_counts(hits, predicted, actual, positive, metric)


@compiled
def score_factors(y_proba, factors, label_weights, row_weights, positive, metric):
    """Score of the labels with the largest products of probability and factor.

    Parameters
    ----------
    y_proba, factors, label_weights, row_weights, positive, metric
        As in `maximize`.

    Returns
    -------
    float
    """
    n_rows, n_classes = y_proba.shape
    counts = np.zeros((3, n_classes))
    for r in range(n_rows):
        predicted = 0
        for j in range(n_classes):
            largest = y_proba[r, predicted] * factors[predicted]
            if y_proba[r, j] * factors[j] > largest:
                predicted = j
            counts[2, j] += label_weights[r, j]
        counts[0, predicted] += label_weights[r, predicted]
        counts[1, predicted] += row_weights[r]
    return score_counts(counts[0], counts[1], counts[2], positive, metric)


@compiled
def compute_margins(y_proba, factors, k, margins, rivals):
    """Compute the factor at which class ``k`` takes over each row.

    Parameters
    ----------
    y_proba : ndarray of shape (n_rows, n_classes), non-negative
        Class probabilities.
    factors : ndarray of shape (n_classes,), positive
        Factors of the probabilities; that of class ``k`` is ignored.
    k : int
        Class whose factor is swept.
    margins : ndarray of shape (n_rows,)
        Output: the largest product of the other classes, divided by the probability of
        class ``k``. Infinite if the probability of class ``k`` is 0.
    rivals : ndarray of shape (n_rows,), int64
        Output: the other class with the largest product, the first in a tie.
    """
    for r in range(margins.size):
        largest, rival = -1.0, 0
        for j in range(factors.size):
            value = y_proba[r, j] * factors[j]
            if j != k and value > largest:
                largest, rival = value, j
        margins[r] = largest / y_proba[r, k] if y_proba[r, k] > 0 else np.inf
        rivals[r] = rival


@compiled
def sweep_class(
    margins, order, rivals, label_weights, row_weights, k, current, positive, metric
):
    """Find the interval of the factor of class ``k`` with the best score.

    Parameters
    ----------
    margins, rivals : ndarrays of shape (n_rows,)
        From `compute_margins`.
    order : ndarray of shape (n_rows,), int64
        Indices that sort the margins.
    label_weights : ndarray of shape (n_rows, n_classes)
        Weight of each row, times the probability that the class is its true class.
    row_weights : ndarray of shape (n_rows,)
        Weights of the rows.
    k : int
        Class whose factor is swept.
    current : float
        Present factor; among intervals with equal scores, the one nearest to it is
        returned.
    positive : int
        Class whose score is `F1`; other scores ignore it.
    metric : int
        Score, e.g. `ACCURACY`.

    Returns
    -------
    score : float
        Best score; minus infinity if the factor changes no prediction.
    low, high : float
        Open interval of the factors with this score, from 0 to infinity.
    """
    n_rows, n_classes = label_weights.shape
    hits, predicted, actual = (
        np.zeros(n_classes),
        np.zeros(n_classes),
        np.zeros(n_classes),
    )
    for r in range(n_rows):
        hits[rivals[r]] += label_weights[r, rivals[r]]
        predicted[rivals[r]] += row_weights[r]
        for j in range(n_classes):
            actual[j] += label_weights[r, j]
    best, best_low, best_high, least_distance = -np.inf, 0.0, np.inf, np.inf
    for i in range(-1, n_rows):
        low = 0.0
        if i >= 0:
            r = order[i]
            low = margins[r]
            if low == np.inf:
                break
            j = rivals[r]
            hits[j] -= label_weights[r, j]
            predicted[j] -= row_weights[r]
            hits[k] += label_weights[r, k]
            predicted[k] += row_weights[r]
        high = margins[order[i + 1]] if i + 1 < n_rows else np.inf
        if high == 0.0 or (high < np.inf and low >= high * (1 - RESOLUTION)):
            continue
        score = score_counts(hits, predicted, actual, positive, metric)
        distance = max(1.0, low / current, current / high)
        if score > best + TIE or (score >= best - TIE and distance < least_distance):
            best, best_low, best_high, least_distance = score, low, high, distance
    return best, best_low, best_high


@compiled
def score_counts(hits, predicted, actual, positive, metric):
    """Score of predicted labels, as scikit-learn defines it.

    Parameters
    ----------
    hits, predicted, actual : ndarrays of shape (n_classes,)
        Total weight of the rows of each class that are predicted correctly, that are
        predicted as the class, and that belong to the class.
    positive : int
        Class whose score is `F1`; other scores ignore it.
    metric : int
        Score, e.g. `ACCURACY`.

    Returns
    -------
    float
    """
    total = actual.sum()
    if metric == ACCURACY:
        return hits.sum() / total
    if metric == F1:
        size = predicted[positive] + actual[positive]
        return 2 * hits[positive] / size if size > 0 else 0.0
    if metric == MCC:
        covariance = hits.sum() * total
        predicted_variance, actual_variance = total * total, total * total
        for j in range(hits.size):
            covariance -= predicted[j] * actual[j]
            predicted_variance -= predicted[j] * predicted[j]
            actual_variance -= actual[j] * actual[j]
        # Rounding leaves the variance of a single class near 0.
        if min(predicted_variance, actual_variance) <= TIE * total * total:
            return 0.0
        return covariance / np.sqrt(predicted_variance * actual_variance)
    score, n_present = 0.0, 0
    for j in range(hits.size):
        size = actual[j] if metric == BALANCED_ACCURACY else predicted[j] + actual[j]
        if size > TIE * total:
            n_present += 1
            score += (1 if metric == BALANCED_ACCURACY else 2) * hits[j] / size
    return score / n_present
