# mypy: disable-error-code="no-untyped-def, assignment"
# mypy: disallow-untyped-decorators=False
"""Compiled loops over class margins, for the accuracy of mean probabilities."""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled

PIECE = 1024  # rows per block, for all members


@compiled
def reach(stack, codes, first, last, most, least):
    """Compute the range of the members' margins of each class over the true class.

    The margin of a class is its probability minus that of the true class.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_rows, n_classes)
        Class probabilities of the members.
    codes : ndarray of shape (n_rows,), int64
        Indices of the true classes.
    first, last : int
        Range of rows to process, ``last`` excluded.
    most, least : ndarrays of shape (n_rows, n_classes), dtype of ``stack``
        Output: largest and smallest margin of any member.

    Returns
    -------
    float
        The largest entry of these rows; infinite if an entry is negative or NaN, or
        if all entries of a row are zero.
    """
    highest = stack.dtype.type(0.0)
    sound = True
    for r in range(first, last):
        for k in range(stack.shape[2]):
            most[r, k] = -np.inf
            least[r, k] = np.inf
    for m in range(stack.shape[0]):
        for r in range(first, last):
            true = stack[m, r, codes[r]]
            top = stack.dtype.type(0.0)
            for k in range(stack.shape[2]):
                value = stack[m, r, k]
                sound &= value >= 0
                top = value if value > top else top
                move = value - true
                most[r, k] = move if move > most[r, k] else most[r, k]
                least[r, k] = move if move < least[r, k] else least[r, k]
            sound &= top > 0
            highest = top if top > highest else highest
    return highest if sound else np.inf


@compiled
def contenders(sums, codes, shares, most, least, slack, rows, starts, classes, leads):
    """List rows that one more member may decide, and the classes that may win there.

    Parameters
    ----------
    sums : ndarray of shape (n_rows, n_classes), float64
        Sums of the probabilities of the members added before.
    codes : ndarray of shape (n_rows,), int64
        Indices of the true classes.
    shares : ndarray of shape (n_rows,)
        Weights of the rows.
    most, least : ndarrays of shape (n_rows, n_classes)
        Largest and smallest margins, from `reach`.
    slack : float
        Error bound: a lead of at most this size is undecided.
    rows, starts, classes, leads : ndarrays
        Output: the listed rows, the start of each row's classes (one entry more than
        rows), the classes, and the lead of each over the true class in ``sums``.

    Returns
    -------
    n_listed : int
        Number of listed rows.
    right : float
        Total weight of the rows that are right whichever member is added.
    """
    n_listed, place, right = 0, 0, 0.0
    starts[0] = 0
    for r in range(codes.size):
        true = codes[r]
        kept = place
        lost = False
        for k in range(sums.shape[1]):
            lead = sums[r, k] - sums[r, true]
            if k == true:
                continue
            if lead + least[r, k] > slack:
                lost = True
                break
            if lead + most[r, k] >= -slack:
                classes[place] = k
                leads[place] = lead
                place += 1
        if lost or place == kept:
            right += 0.0 if lost else shares[r]
            place = kept
            continue
        rows[n_listed] = r
        n_listed += 1
        starts[n_listed] = place
    return n_listed, right


@compiled
def count(stack, codes, shares, members, rows, starts, classes, leads, slack, out):
    """Sum the weights of listed rows that are right with one more copy of each member.

    Parameters
    ----------
    stack, codes
        As in `reach`.
    shares : ndarray of shape (n_rows,)
        Weights of the rows.
    members : ndarray of indices
        Members to add, each by itself.
    rows, starts, classes, leads, slack
        As in `contenders`, cut to the listed rows.
    out : ndarray of shape (2, len(members))
        Output: total weight of the rows that are right, and of the rows in doubt.
    """
    out[:] = 0.0
    for start in range(0, rows.size, PIECE):
        stop = min(start + PIECE, rows.size)
        for i in range(members.size):
            sure, maybe = 0.0, 0.0
            said = stack[members[i]]
            for a in range(start, stop):
                r = rows[a]
                true = np.float64(said[r, codes[r]])
                worst = -np.inf
                for p in range(starts[a], starts[a + 1]):
                    lead = leads[p] + (np.float64(said[r, classes[p]]) - true)
                    worst = lead if lead > worst else worst
                share = shares[r]
                sure += share if worst < -slack else 0.0
                maybe += share if abs(worst) <= slack else 0.0
            out[0, i] += sure
            out[1, i] += maybe


@compiled
def count_all(stack, codes, shares, members, sums, slack, out):
    """Variant of `count` over all rows and classes; faster if most are listed.

    Parameters
    ----------
    stack, codes, shares, members, slack, out
        As in `count`; ``out`` covers all rows.
    sums : ndarray of shape (n_rows, n_classes), float64
        Sums of the probabilities of the members added before.
    """
    out[:] = 0.0
    worst = np.empty(PIECE)
    for start in range(0, codes.size, PIECE):
        stop = min(start + PIECE, codes.size)
        for i in range(members.size):
            said = stack[members[i]]
            for r in range(start, stop):
                true = codes[r]
                top = -np.inf
                for k in range(sums.shape[1]):
                    value = sums[r, k] + np.float64(said[r, k])
                    value = -np.inf if k == true else value
                    top = value if value > top else top
                worst[r - start] = top - (sums[r, true] + np.float64(said[r, true]))
            sure, maybe = 0.0, 0.0
            for j in range(stop - start):
                share = shares[start + j]
                sure += share if worst[j] < -slack else 0.0
                maybe += share if abs(worst[j]) <= slack else 0.0
            out[0, i] += sure
            out[1, i] += maybe


@compiled
def tell(said, codes, rows, starts, classes, leads, slack, right, unsure):
    """Mark the listed rows that are right, or in doubt, with one more copy of a member.

    Parameters
    ----------
    said : ndarray of shape (n_rows, n_classes)
        Class probabilities of the member.
    codes, rows, starts, classes, leads, slack
        As in `count`.
    right, unsure : ndarrays of the shape of ``rows``, bool
        Output: whether each row is right, and whether it is in doubt.
    """
    for a in range(rows.size):
        r = rows[a]
        true = np.float64(said[r, codes[r]])
        worst = -np.inf
        for p in range(starts[a], starts[a + 1]):
            worst = max(worst, leads[p] + (np.float64(said[r, classes[p]]) - true))
        right[a] = worst < -slack
        unsure[a] = abs(worst) <= slack


@compiled
def fill(stack, codes, places, rows, classes, moves):
    """Copy the margins of all members for some pairs of row and class to the cache.

    Parameters
    ----------
    stack, codes
        As in `reach`.
    places, rows, classes : ndarrays of shape (n_pairs,)
        Index in ``moves``, row and class of each pair.
    moves : ndarray of shape (n_places, n_members)
        Output: margins over the true class, in the rows ``places``.
    """
    for m in range(stack.shape[0]):
        said = stack[m]
        for p in range(rows.size):
            r = rows[p]
            moves[places[p], m] = said[r, classes[p]] - said[r, codes[r]]


@compiled
def count_moved(moves, places, shares, rows, starts, leads, slack, out):
    """Variant of `count` for all members, with the margins cached by `fill`.

    Parameters
    ----------
    moves : ndarray of shape (n_places, n_members)
        Cached margins over the true class.
    places : ndarray of shape (n_pairs,)
        Index in ``moves`` of each listed pair of row and class.
    shares, rows, starts, leads, slack
        As in `count`.
    out : ndarray of shape (2, n_members)
        Output, as in `count`.
    """
    out[:] = 0.0
    worst = np.empty(moves.shape[1])
    for a in range(rows.size):
        first = starts[a]
        _lead(moves[places[first]], leads[first], worst)
        for p in range(first + 1, starts[a + 1]):
            _lead_more(moves[places[p]], leads[p], worst)
        _add(worst, shares[rows[a]], slack, out[0], out[1])


@compiled
def _lead(moves, lead, worst):
    for m in range(worst.size):
        worst[m] = lead + np.float64(moves[m])


@compiled
def _lead_more(moves, lead, worst):
    for m in range(worst.size):
        there = lead + np.float64(moves[m])
        worst[m] = there if there > worst[m] else worst[m]


@compiled
def _add(worst, share, slack, sure, maybe):
    for m in range(worst.size):
        sure[m] += share if worst[m] < -slack else 0.0
        maybe[m] += share if abs(worst[m]) <= slack else 0.0
