"""Arcee Fusion: the important changes of one member, taken over into another."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.kernels.pairs import replaced_outliers, scaled_differences
from ensembles.kernels.task_vectors.magnitudes import (
    N_BINS,
    Bins,
    count_lower,
    count_upper,
    find_bins,
    find_magnitudes,
)
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.passes import Pass, Position
from ensembles.rules.table import RULES

SMOOTHING = 1e-8  # added to probabilities, as mergekit does
PIECE_SIZE = 16_384  # elements of each member, whose temporary arrays fit the L2 cache


class Quartiles(NamedTuple):
    """Divergence of each row of a tensor, and the bins of the quartiles of scores."""

    divergences: Float64
    bins: Bins


class Fusion(NamedTuple):
    """Divergence of each row of a tensor, and the smallest score that is important."""

    divergences: Float64
    threshold: float


def divergences(rows: Float64) -> Float64:
    """Divergence KL(q || p) of the softmax p and q of the rows of two members.

    Parameters
    ----------
    rows : ndarray of shape (2, n_rows, row_size)
        Logits of p, then of q.

    Returns
    -------
    ndarray of shape (n_rows,), not negative
        The probabilities are increased by 1e-8; NaN if a row has NaN or a positive
        infinity.
    """
    probabilities = rows - rows.max(axis=2, keepdims=True, initial=-np.inf)
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    probabilities += SMOOTHING
    p, q = probabilities
    terms = np.log(np.divide(q, p, out=p), out=p)
    terms *= q
    return np.asarray(np.maximum(terms.sum(axis=1), 0))


def _rows(stack: Float64, position: Position) -> tuple[Float64, slice]:
    """Rows of the members, and their place among the rows of the tensor."""
    row_size = max(position.row_size, 1)
    rows = stack.reshape(2, -1, row_size)
    offset = position.start // row_size
    return rows, slice(offset, offset + rows.shape[1])


def _count_upper(stack: Float64, *, position: Position, total: Counts | None) -> Counts:
    """Histogram of the scores, followed by the bits of the divergence of each row.

    Each part of a tensor fills in its rows, so that integers may be added.
    """
    if total is None:
        n_rows = math.prod(position.shape) // max(position.row_size, 1)
        total = np.zeros(N_BINS + n_rows, np.int64)
    counts, filled = total[None, :N_BINS], total[N_BINS:].view(np.float64)
    rows, place = _rows(stack, position)
    for start, stop in chunks(rows.shape[1], max(PIECE_SIZE // rows.shape[2], 1)):
        piece = np.ascontiguousarray(rows[:, start:stop])
        factors = filled[place][start:stop] = divergences(piece)
        scores = scaled_differences(piece, factors).reshape(1, -1)
        count_upper(scores, np.zeros(scores.size), counts)
    return total


def _find_bins(total: Counts, weights: Float64) -> Quartiles:
    """Bins of the quartiles, the entries of rank floor(q (n - 1))."""
    counts = total[None, :N_BINS]
    n_scores = int(counts.sum())
    ranks = n_scores - max(n_scores - 1, 0) * np.arange(1, 4) // 4  # 1 is the largest
    return Quartiles(total[N_BINS:].view(np.float64), find_bins(counts, ranks[None]))


def _count_lower(
    stack: Float64, *, state: Quartiles, position: Position, total: Counts | None
) -> Counts:
    """Histogram of the scores in the bins of the quartiles."""
    rows, place = _rows(stack, position)
    scores = scaled_differences(rows, state.divergences[place]).reshape(1, -1)
    return count_lower(scores, np.zeros(scores.size), total, state.bins)


def _find_threshold(total: Counts, weights: Float64, *, state: Quartiles) -> Fusion:
    """Median plus 1.5 times the interquartile range; NaN if a divergence is NaN."""
    first, median, third = find_magnitudes(total, state.bins)[0].tolist()
    has_nan = np.isnan(state.divergences).any()
    return Fusion(
        state.divergences, math.nan if has_nan else median + 1.5 * (third - first)
    )


@register(
    RULES,
    passes=[Pass(_count_upper, _find_bins), Pass(_count_lower, _find_threshold)],
    n_members=2,
    weighted=False,
    symmetric=False,
    unit="row",
)
def arcee_fusion(
    stack: Float64, weights: Float64, *, state: Fusion, position: Position
) -> Float64:
    """Second member where its change is important, else the first.

    The importance of an entry is |b - a| times the Kullback-Leibler divergence between
    the softmax of its row in both members, KL(softmax(b) || softmax(a)). Entries of a
    tensor are important from the median of their importance plus 1.5 times the
    interquartile range on, the usual mark of an outlier. A row is the last axis; a
    vector is one row.

    Quartiles are the entries of rank floor(q (n - 1)) of all n scores, truncated to the
    precision of float32 and found by counting their bits. Entries of the result are
    those of a member, bit for bit. If three quarters of a tensor are unchanged, the
    threshold is 0, and the result is the second member.

    Parameters
    ----------
    stack : array-like of shape (2, *shape)
        Members along axis 0: the one that is kept, then the one whose changes are taken
        over.
    weights : array-like of shape (2,)
        Equal weights; if one is zero, the result is the other member.
    state : Fusion
        Threshold, which `Rule` computes in two passes.
    position : Position
        Position of the rows in the tensor.

    Notes
    -----
    There is no paper; mergekit 0.1.5 defines the method (its ``base_model`` is the
    first member here). It draws a million of the scores of a larger tensor at random,
    so that its result differs from run to run, and computes in the format of the
    members: in bfloat16, differences between probabilities of a wide row are rounding
    errors. A NaN in a member makes the result NaN, where mergekit keeps the first.

    References
    ----------
    mergekit's merge method ``arcee_fusion``; Kullback & Leibler (1951), "On information
    and sufficiency", Annals of Mathematical Statistics 22; the threshold is similar to
    the fence of Tukey (1977), Exploratory data analysis, section 2E.
    """
    if not weights.all():
        return np.asarray(stack[np.flatnonzero(weights)[0]])
    if math.isnan(state.threshold):
        return np.full(stack.shape[1], np.nan)
    rows, place = _rows(stack, position)
    factors = state.divergences[place]
    return replaced_outliers(rows, factors, state.threshold).reshape(-1)
