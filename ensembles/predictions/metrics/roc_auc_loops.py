# mypy: disable-error-code="no-untyped-def, assignment"
# mypy: disallow-untyped-decorators=False
"""Compiled loops that build and evaluate the sort keys of the ROC AUC."""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled

STEPS = 2.0**31


@compiled
def pack(sums, said, labels, keys):
    """Pack probabilities and labels into integers that sort by probability.

    Parameters
    ----------
    sums, said : ndarrays of shape (n_rows, 2), non-negative
        Sums of the class probabilities of the members added before, and probabilities
        of the member to add.
    labels : ndarray of shape (n_rows,), int64
        True labels, 0 or 1.
    keys : ndarray of shape (n_rows,), uint32
        Output: probability of the second class in units of 2**-31, rounded down, in
        the upper 31 bits; the last bit is the label.
    """
    for r in range(keys.size):
        false = sums[r, 0] + np.float64(said[r, 0])
        true = sums[r, 1] + np.float64(said[r, 1])
        share = np.divide(true, false + true)
        place = np.int64(min(share * STEPS, STEPS - 1.0))
        keys[r] = np.uint32(2 * place + labels[r])


@compiled
def count_pairs(keys, slack):
    """Count correctly ordered pairs of the two labels in sorted keys.

    Parameters
    ----------
    keys : ndarray of shape (n_rows,), uint32, sorted
        Keys from `pack`.
    slack : int
        Largest difference, in units of 2**-31, at which two adjacent keys are in doubt.

    Returns
    -------
    right : float
        Twice the number of correctly ordered pairs; pairs in doubt count 1 each.
    doubt : float
        Number of pairs in doubt.
    """
    below, right, doubt = 0, 0, 0
    trues, falses = 0, 0
    before = np.int64(0)
    for r in range(keys.size):
        key = np.int64(keys[r])
        if (key >> 1) - before > slack:
            right += trues * (2 * below + falses)
            doubt += trues * falses
            below += falses
            trues, falses = 0, 0
        before = key >> 1
        label = key & 1
        trues += label
        falses += 1 - label
    right += trues * (2 * below + falses)
    doubt += trues * falses
    return np.float64(right), np.float64(doubt)
