# mypy: disable-error-code="no-untyped-def, assignment"
# mypy: disallow-untyped-decorators=False
"""Compiled loops over class margins, for the accuracy of mean probabilities."""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled

PIECE = 1024  # rows per block, for all members


@compiled
def compute_margin_bounds(stack, codes, first, last, max_margins, min_margins):
    """Compute the smallest and largest margin of any member, by row and class.

    The margin of a class is its probability minus the probability of the true class.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_rows, n_classes)
        Class probabilities of the members.
    codes : ndarray of shape (n_rows,), int64
        Indices of the true classes.
    first, last : int
        Range of rows to process, ``last`` excluded.
    max_margins, min_margins : ndarrays of shape (n_rows, n_classes), dtype of ``stack``
        Output: largest and smallest margin of any member.

    Returns
    -------
    float
        The largest probability in these rows; infinite if a probability is negative or
        NaN, or if all probabilities of a row are zero.
    """
    largest = stack.dtype.type(0.0)
    is_valid = True
    for r in range(first, last):
        for k in range(stack.shape[2]):
            max_margins[r, k] = -np.inf
            min_margins[r, k] = np.inf
    for m in range(stack.shape[0]):
        for r in range(first, last):
            true = stack[m, r, codes[r]]
            top = stack.dtype.type(0.0)
            for k in range(stack.shape[2]):
                value = stack[m, r, k]
                is_valid &= value >= 0
                top = value if value > top else top
                margin = value - true
                upper, lower = max_margins[r, k], min_margins[r, k]
                max_margins[r, k] = margin if margin > upper else upper
                min_margins[r, k] = margin if margin < lower else lower
            is_valid &= top > 0
            largest = top if top > largest else largest
    return largest if is_valid else np.inf


@compiled
def list_undecided(
    sums,
    codes,
    row_weights,
    max_margins,
    min_margins,
    slack,
    rows,
    starts,
    classes,
    leads,
):
    """List the rows whose predicted class depends on which member is added.

    Also lists the classes that may be predicted instead of the true class. The lead of
    a class is its sum minus the sum of the true class.

    Parameters
    ----------
    sums : ndarray of shape (n_rows, n_classes), float64
        Sums of the probabilities of the members added before.
    codes : ndarray of shape (n_rows,), int64
        Indices of the true classes.
    row_weights : ndarray of shape (n_rows,)
        Weights of the rows.
    max_margins, min_margins : ndarrays of shape (n_rows, n_classes)
        Largest and smallest margins, from `compute_margin_bounds`.
    slack : float
        Error bound of leads; a lead of at most this absolute value is undecided.
    rows, starts, classes, leads : ndarrays
        Output: indices of the listed rows; index in ``classes`` and ``leads`` of the
        first class of each row, and the end of the last row; classes of all listed rows
        in one array; and the lead of each class.

    Returns
    -------
    n_listed : int
        Number of listed rows.
    correct : float
        Total weight of the other rows that are classified correctly.
    """
    n_listed, end, correct = 0, 0, 0.0
    starts[0] = 0
    for r in range(codes.size):
        true = codes[r]
        start = end
        is_wrong = False
        for k in range(sums.shape[1]):
            lead = sums[r, k] - sums[r, true]
            if k == true:
                continue
            if lead + min_margins[r, k] > slack:
                is_wrong = True
                break
            if lead + max_margins[r, k] >= -slack:
                classes[end] = k
                leads[end] = lead
                end += 1
        if is_wrong or end == start:
            correct += 0.0 if is_wrong else row_weights[r]
            end = start
            continue
        rows[n_listed] = r
        n_listed += 1
        starts[n_listed] = end
    return n_listed, correct


@compiled
def sum_correct(
    stack, codes, row_weights, members, rows, starts, classes, leads, slack, out
):
    """Sum the weights of correct and uncertain listed rows, for each member to add.

    Parameters
    ----------
    stack, codes
        As in `compute_margin_bounds`.
    row_weights : ndarray of shape (n_rows,)
        Weights of the rows.
    members : ndarray of indices
        Members to add, each by itself.
    rows, starts, classes, leads, slack
        As in `list_undecided`, cut to the listed rows.
    out : ndarray of shape (2, len(members))
        Output: total weight of the rows that are classified correctly, and of the rows
        where the largest lead is within ``slack``.
    """
    out[:] = 0.0
    for start in range(0, rows.size, PIECE):
        stop = min(start + PIECE, rows.size)
        for i in range(members.size):
            correct, uncertain = 0.0, 0.0
            proba = stack[members[i]]
            for j in range(start, stop):
                r = rows[j]
                true = np.float64(proba[r, codes[r]])
                max_lead = -np.inf
                for p in range(starts[j], starts[j + 1]):
                    lead = leads[p] + (np.float64(proba[r, classes[p]]) - true)
                    max_lead = lead if lead > max_lead else max_lead
                weight = row_weights[r]
                correct += weight if max_lead < -slack else 0.0
                uncertain += weight if abs(max_lead) <= slack else 0.0
            out[0, i] += correct
            out[1, i] += uncertain


@compiled
def sum_correct_all_rows(stack, codes, row_weights, members, sums, slack, out):
    """Variant of `sum_correct` over all rows and classes; faster if most are listed.

    Parameters
    ----------
    stack, codes, row_weights, members, slack, out
        As in `sum_correct`; ``out`` covers all rows.
    sums : ndarray of shape (n_rows, n_classes), float64
        Sums of the probabilities of the members added before.
    """
    out[:] = 0.0
    max_leads = np.empty(PIECE)
    for start in range(0, codes.size, PIECE):
        stop = min(start + PIECE, codes.size)
        for i in range(members.size):
            proba = stack[members[i]]
            for r in range(start, stop):
                true = codes[r]
                top = -np.inf
                for k in range(sums.shape[1]):
                    value = sums[r, k] + np.float64(proba[r, k])
                    value = -np.inf if k == true else value
                    top = value if value > top else top
                total = sums[r, true] + np.float64(proba[r, true])
                max_leads[r - start] = top - total
            correct, uncertain = 0.0, 0.0
            for j in range(stop - start):
                weight = row_weights[start + j]
                correct += weight if max_leads[j] < -slack else 0.0
                uncertain += weight if abs(max_leads[j]) <= slack else 0.0
            out[0, i] += correct
            out[1, i] += uncertain


@compiled
def mark_correct(proba, codes, rows, starts, classes, leads, slack, correct, uncertain):
    """Mark the listed rows that are correct or uncertain after a member is added.

    Parameters
    ----------
    proba : ndarray of shape (n_rows, n_classes)
        Class probabilities of the member.
    codes, rows, starts, classes, leads, slack
        As in `sum_correct`.
    correct, uncertain : ndarrays of the shape of ``rows``, bool
        Output: whether each row is classified correctly, and whether its largest lead
        is within ``slack``.
    """
    for j in range(rows.size):
        r = rows[j]
        true = np.float64(proba[r, codes[r]])
        max_lead = -np.inf
        for p in range(starts[j], starts[j + 1]):
            lead = leads[p] + (np.float64(proba[r, classes[p]]) - true)
            max_lead = max(max_lead, lead)
        correct[j] = max_lead < -slack
        uncertain[j] = abs(max_lead) <= slack


@compiled
def copy_margins(stack, codes, slots, rows, classes, margins):
    """Copy the margins of all members for some pairs of row and class to a cache.

    Parameters
    ----------
    stack, codes
        As in `compute_margin_bounds`.
    slots, rows, classes : ndarrays of shape (n_pairs,)
        Row of the cache, row of the stack, and class of each pair.
    margins : ndarray of shape (n_slots, n_members)
        Output: the cache; rows ``slots`` are written.
    """
    for m in range(stack.shape[0]):
        proba = stack[m]
        for p in range(rows.size):
            r = rows[p]
            margins[slots[p], m] = proba[r, classes[p]] - proba[r, codes[r]]


@compiled
def sum_correct_cached(margins, slots, row_weights, rows, starts, leads, slack, out):
    """Variant of `sum_correct` for all members, with margins from `copy_margins`.

    Parameters
    ----------
    margins : ndarray of shape (n_slots, n_members)
        Cached margins of all members.
    slots : ndarray of shape (n_pairs,)
        Row of the cache for each listed pair of row and class.
    row_weights, rows, starts, leads, slack
        As in `sum_correct`.
    out : ndarray of shape (2, n_members)
        Output, as in `sum_correct`.
    """
    out[:] = 0.0
    max_leads = np.empty(margins.shape[1])
    for j in range(rows.size):
        first = starts[j]
        _set_leads(margins[slots[first]], leads[first], max_leads)
        for p in range(first + 1, starts[j + 1]):
            _raise_leads(margins[slots[p]], leads[p], max_leads)
        _add_weight(max_leads, row_weights[rows[j]], slack, out[0], out[1])


@compiled
def _set_leads(margins, lead, max_leads):
    for m in range(max_leads.size):
        max_leads[m] = lead + np.float64(margins[m])


@compiled
def _raise_leads(margins, lead, max_leads):
    for m in range(max_leads.size):
        member_lead = lead + np.float64(margins[m])
        max_leads[m] = member_lead if member_lead > max_leads[m] else max_leads[m]


@compiled
def _add_weight(max_leads, weight, slack, correct, uncertain):
    for m in range(max_leads.size):
        correct[m] += weight if max_leads[m] < -slack else 0.0
        uncertain[m] += weight if abs(max_leads[m]) <= slack else 0.0
