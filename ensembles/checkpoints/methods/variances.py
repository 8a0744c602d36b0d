"""SCE: entries in which members differ most, weighted by their sums of squares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from ensembles._typing import Array, Counts, Float64
from ensembles.checkpoints.methods.checks import check_choice, check_number
from ensembles.kernels.task_vectors.magnitudes import (
    N_BINS,
    Bins,
    count_lower,
    count_upper,
    find_bins,
    find_magnitudes,
)
from ensembles.kernels.task_vectors.selected_deltas import (
    merge_selected,
    selected_squares,
    variances,
)
from ensembles.kernels.task_vectors.stored_members import PIECE
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.passes import Pass
from ensembles.rules.table import RULES


class _Shares(NamedTuple):
    """Smallest selected variance, and the coefficients of members with a weight."""

    threshold: float
    coefficients: Float64


def _pieces_of_variances(stack: Array, weights: Float64) -> Iterator[Float64]:
    """Variance over members with a weight, in pieces of a single row."""
    stack = stack if weights.all() else stack[weights != 0]
    for start, stop in chunks(stack.shape[1], PIECE):
        yield variances(stack, start, stop)[None]


def _count_upper(
    stack: Array, *, base: Array, weights: Float64, total: Counts | None
) -> Counts:
    total = np.zeros((1, N_BINS), np.int64) if total is None else total
    for piece in _pieces_of_variances(stack, weights):
        count_upper(piece, np.zeros(piece.size), total)
    return total


def _bins(total: Counts, weights: Float64, *, density: float = 1.0) -> Bins | None:
    """Bin of the smallest selected variance; None if none is selected."""
    check_number("sce", "density", density, low=0, high=1)
    rank = int(density * int(total[0, 1:].sum()))  # without zeros
    return find_bins(total, np.array([[rank]])) if rank else None


def _count_lower(
    stack: Array,
    *,
    base: Array,
    weights: Float64,
    state: Bins | None,
    total: Counts | None,
) -> Counts:
    if total is None:
        total = np.zeros((1, 1, N_BINS), np.int64)
    if state is not None:
        for piece in _pieces_of_variances(stack, weights):
            count_lower(piece, np.zeros(piece.size), total, state)
    return total


def _threshold(total: Counts, weights: Float64, *, state: Bins | None) -> float:
    """Smallest selected variance; infinity if none is selected."""
    return np.inf if state is None else float(find_magnitudes(total, state)[0, 0])


def _selects(density: float = 1.0) -> bool:
    return density != 1


def _squares(
    stack: Array, *, base: Array, weights: Float64, state: float | None
) -> Float64:
    """Sums of squares of the selected differences of each member with a weight."""
    stack = stack if weights.all() else stack[weights != 0]
    return selected_squares(stack, base, state or 0.0)


def _coefficients(total: Float64, weights: Float64, *, state: float | None) -> _Shares:
    """Share of each member in the weighted sum of squares."""
    weights = weights[weights != 0]
    squares = weights * total
    if not squares.any():  # nothing is selected, or members equal the base
        squares = weights
    return _Shares(state or 0.0, squares / squares.sum())


@register(
    RULES,
    passes=[
        Pass(_count_upper, _bins, _selects),
        Pass(_count_lower, _threshold, _selects),
        Pass(_squares, _coefficients),
    ],
    needs_base=True,
    weight_sum_matters=False,
    fused=True,
)
def sce(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: _Shares,
    density: float = 1.0,
    unselected: Literal["drop", "keep"] = "drop",
    normalize: bool = False,
) -> Array:
    """Select, calculate and erase: task vectors weighted by their squares.

    For each tensor, the entries are selected whose variance over the members is
    largest; the coefficient of a member is its share in the sum of squares of the
    selected entries of all task vectors x[i] - base; and of each entry, the members
    whose task vector has the sign opposite to the sum over members are left out. The
    result is the base plus the sum of what remains, times the coefficients.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Non-negative factor of each member's sum of squares; 1 by default, as in the
        paper. A member with weight 0 does not count anywhere.
    base : array-like of shape (*shape,)
        Common ancestor of the members, the pivot of the paper.
    state : tuple of float and ndarray
        Smallest selected variance, and the coefficients of the members with a nonzero
        weight, which `Rule` computes.
    density : float from 0 to 1, default=1.0
        Share of the entries to select, of those in which members differ; the paper's τ.
        Variances that are equal in float32 precision are selected together. 1 selects
        all entries, also where members are equal.
    unselected : {"drop", "keep"}, default="drop"
        Whether entries that are not selected stay as in the base, or are merged too, so
        that the selection determines the coefficients only.
    normalize : bool, default=False
        Whether the sum is divided by the sum of the coefficients of the members that
        are not left out at an entry.

    Raises
    ------
    ValueError
        If a parameter is not valid.

    Notes
    -----
    Published implementations disagree with the paper, and with each other: mergekit
    0.1.5 is reproduced by ``normalize=True``, with its ``select_topk`` as ``density``,
    except that it replaces all coefficients by equal ones if the mean squares sum to
    less than 1e-6, as those of most fine-tuned models do. The authors' own version of
    mergekit is ``normalize=True, unselected="keep"``. Both select exactly the rounded
    down number of entries where variances are equal. A sum over members that is zero
    counts as positive, as in both.

    References
    ----------
    Wan et al. (2024), "FuseChat: knowledge fusion of chat models", arXiv:2408.07990,
    section 3 (SCE).
    """
    check_number("sce", "density", density, low=0, high=1)
    check_choice("sce", "unselected", unselected, ("drop", "keep"))
    check_choice("sce", "normalize", normalize, (True, False))
    threshold = state.threshold if unselected == "drop" else 0.0
    stack = stack if weights.all() else stack[weights != 0]
    return merge_selected(
        stack, base, state.coefficients, threshold, normalize=normalize
    )
