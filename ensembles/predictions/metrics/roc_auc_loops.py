# mypy: disable-error-code="no-untyped-def, assignment"
# mypy: disallow-untyped-decorators=False
"""Compiled loops that build and evaluate the sort keys of the ROC AUC."""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled

STEPS = 2.0**31  # keys hold probabilities in units of 1 / STEPS


@compiled
def pack_keys(sums, proba, labels, keys):
    """Pack probabilities and labels into integers that sort by probability.

    Parameters
    ----------
    sums : ndarray of shape (n_rows, 2), non-negative
        Sums of the class probabilities of the members added before.
    proba : ndarray of shape (n_rows, 2), non-negative
        Class probabilities of the member to add.
    labels : ndarray of shape (n_rows,), int64
        True labels, 0 or 1.
    keys : ndarray of shape (n_rows,), uint32
        Output: mean probability of the second class in units of 2**-31, rounded down,
        in the upper 31 bits; the last bit is the label.
    """
    for r in range(keys.size):
        negative = sums[r, 0] + np.float64(proba[r, 0])
        positive = sums[r, 1] + np.float64(proba[r, 1])
        mean_proba = np.divide(positive, negative + positive)
        step = np.int64(min(mean_proba * STEPS, STEPS - 1.0))
        keys[r] = np.uint32(2 * step + labels[r])


@compiled
def count_pairs(keys, slack):
    """Count correctly ordered pairs of the two labels in sorted keys.

    Parameters
    ----------
    keys : ndarray of shape (n_rows,), uint32, sorted
        Keys from `pack_keys`.
    slack : int
        Largest difference of adjacent probabilities, in units of 2**-31, at which their
        order is uncertain.

    Returns
    -------
    ordered : float
        Twice the number of correctly ordered pairs; uncertain pairs count 1 each.
    uncertain : float
        Number of pairs whose order is uncertain.
    """
    n_negative_below, ordered, uncertain = 0, 0, 0
    n_positive, n_negative = 0, 0
    previous = np.int64(0)
    for r in range(keys.size):
        key = np.int64(keys[r])
        if (key >> 1) - previous > slack:
            ordered += n_positive * (2 * n_negative_below + n_negative)
            uncertain += n_positive * n_negative
            n_negative_below += n_negative
            n_positive, n_negative = 0, 0
        previous = key >> 1
        label = key & 1
        n_positive += label
        n_negative += 1 - label
    ordered += n_positive * (2 * n_negative_below + n_negative)
    uncertain += n_positive * n_negative
    return np.float64(ordered), np.float64(uncertain)
