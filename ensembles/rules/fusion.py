"""Arcee Fusion: the important changes of one member, taken over into another."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float64
from ensembles.kernels.jit import PIECE
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.passes import Pass
from ensembles.rules.position import Position
from ensembles.rules.table import RULES

SMOOTHING = 1e-8  # added to probabilities, as mergekit does
HALF = 16  # bits of a float32 that a histogram counts
MASK = (1 << HALF) - 1


class Quartiles(NamedTuple):
    """Quartiles of importance scores, as far as their bits are counted.

    Parameters
    ----------
    divergences : ndarray of shape (n_rows,)
        Divergence of each row of the tensor.
    high : ndarray of shape (3,)
        The 16 high bits of each quartile in float32.
    ranks : ndarray of shape (3,)
        Rank of each quartile among the scores with the same high bits.
    """

    divergences: Float64
    high: NDArray[np.int64]
    ranks: NDArray[np.int64]


class Fusion(NamedTuple):
    """Divergence of each row of the tensor, and the least score that is important."""

    divergences: Float64
    threshold: float


def divergence(first: Float64, second: Float64) -> Float64:
    """Kullback-Leibler divergence of the softmax of rows, KL(second || first).

    Parameters
    ----------
    first, second : ndarray of shape (n_rows, row_size)
        Logits.

    Returns
    -------
    ndarray of shape (n_rows,), not negative
        Of probabilities to each of which 1e-8 is added; NaN if a row has NaN or
        infinity.
    """
    p, q = _probabilities(second), _probabilities(first)
    return np.maximum((p * np.log(p / q)).sum(axis=1), 0)


def _probabilities(rows: Float64) -> Float64:
    """Softmax of each row, smoothed."""
    out = np.exp(rows - rows.max(axis=1, keepdims=True))
    out /= out.sum(axis=1, keepdims=True)
    out += SMOOTHING
    return out


def _divergences(
    stack: Float64, *, position: Position, total: Float64 | None
) -> Float64:
    """Divergence of each row; each part of a tensor fills in its rows."""
    row_size = max(position.row_size, 1)
    if total is None:
        total = np.zeros(math.prod(position.shape) // row_size)
    first, second = stack.reshape(2, -1, row_size)
    offset = position.start // row_size
    for start, stop in chunks(len(first), max(PIECE // row_size, 1)):
        total[offset + start : offset + stop] = divergence(
            first[start:stop], second[start:stop]
        )
    return total


def _score_bits(
    stack: Float64, divergences: Float64, position: Position
) -> NDArray[np.uint32]:
    """Importance of each entry in float32, as bits, which sort like the scores."""
    row_size = max(position.row_size, 1)
    offset = position.start // row_size
    rows = np.abs(stack[1] - stack[0]).reshape(-1, row_size)
    rows *= divergences[offset : offset + len(rows), None]
    return rows.reshape(-1).astype(np.float32).view(np.uint32)


def _count_high(
    stack: Float64,
    *,
    state: Float64,
    position: Position,
    total: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Histogram of the high bits of the scores."""
    counts = np.bincount(
        _score_bits(stack, state, position) >> HALF, minlength=1 << HALF
    )
    return counts if total is None else np.add(total, counts, out=total)


def _find_high(
    total: NDArray[np.int64], weights: Float64, *, state: Float64
) -> Quartiles:
    """High bits of the quartiles, from a histogram."""
    ends = np.cumsum(total)
    ranks = (ends[-1] - 1) * np.arange(1, 4) // 4
    high = np.searchsorted(ends, ranks, side="right")
    return Quartiles(state, high, ranks - (ends - total)[high])


def _count_low(
    stack: Float64,
    *,
    state: Quartiles,
    position: Position,
    total: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Histogram of the low bits of the scores that share their high bits."""
    if total is None:
        total = np.zeros((3, 1 << HALF), np.int64)
    bits = _score_bits(stack, state.divergences, position)
    for counts, high in zip(total, state.high.tolist(), strict=True):
        counts += np.bincount(bits[bits >> HALF == high] & MASK, minlength=1 << HALF)
    return total


def _find_threshold(
    total: NDArray[np.int64], weights: Float64, *, state: Quartiles
) -> Fusion:
    """Median plus 1.5 times the interquartile range; NaN if a divergence is NaN."""
    pairs = zip(np.cumsum(total, axis=1), state.ranks, strict=True)
    low = np.array([np.searchsorted(ends, rank, side="right") for ends, rank in pairs])
    bits = (state.high << HALF | low).astype(np.uint32)
    first, median, third = bits.view(np.float32).astype(np.float64).tolist()
    threshold = median + 1.5 * (third - first)
    has_nan = np.isnan(state.divergences).any()
    return Fusion(state.divergences, math.nan if has_nan else threshold)


@register(
    RULES,
    passes=[
        Pass(_divergences),
        Pass(_count_high, _find_high),
        Pass(_count_low, _find_threshold),
    ],
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

    Scores are computed in float64 and rounded to float32; quartiles are exact: the
    entries of rank floor(q (n - 1)) of all n scores, found by counting their bits.
    Entries of the result are those of a member, bit for bit. If three quarters of a
    tensor are unchanged, the threshold is 0, and the result is the second member.

    Parameters
    ----------
    stack : array-like of shape (2, *shape)
        Members along axis 0: the one that is kept, then the one whose changes are taken
        over.
    weights : array-like of shape (2,)
        Equal weights; if one is zero, the result is the other member.
    state : Fusion
        Threshold, which `Rule` computes in three passes.
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
    scores = _score_bits(stack, state.divergences, position).view(np.float32)
    return np.where(scores >= state.threshold, stack[1], stack[0])
