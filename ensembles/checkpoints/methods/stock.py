"""Model Stock: the mean of the members, pulled to the base by their angles."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Literal

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_choice
from ensembles.kernels.casting import narrow, widen
from ensembles.kernels.gram import difference_gram
from ensembles.kernels.task_vectors.sums import add_task_vectors
from ensembles.parallel import chunks
from ensembles.registry import register
from ensembles.rules.arcs import whole_rows
from ensembles.rules.passes import Pass, Position
from ensembles.rules.table import RULES

Vectors = Literal["tensor", "row"]
Scope = Literal["tensor", "model"]
PIECE_SIZE = 16_384  # elements of each member in float64, which fit the L2 cache


def _row_products(rows: Float64) -> Float64:
    """Inner products of the members for each row: (n_rows, n_members, n_members)."""
    # Not einsum: the order of its sums depends on the number of rows.
    products = np.empty((rows.shape[1], len(rows), len(rows)))
    for i, j in combinations_with_replacement(range(len(rows)), 2):
        products[:, i, j] = products[:, j, i] = (rows[i] * rows[j]).sum(axis=-1)
    return products


def _mean_cosines(products: Float64, weights: Float64) -> Float64:
    """Mean cosine of all pairs of task vectors, weighted by w[i] w[j].

    A pair with a zero vector has the cosine 0. Inner products have the shape (...,
    n_members, n_members).
    """
    squares = np.diagonal(products, axis1=-2, axis2=-1)
    rows, columns = squares[..., :, None], squares[..., None, :]
    # Not sqrt(a * b), which may overflow; 1 for vectors that are equal.
    norms = np.sqrt(rows / columns) * columns
    is_zero = (rows == 0) | (columns == 0)
    cosines = np.where(is_zero, 0.0, np.clip(products / norms, -1, 1))
    shares = np.outer(weights, weights)
    np.fill_diagonal(shares, 0)
    # A member without weight does not count, whatever its entries.
    weighted = np.where(shares, cosines, 0.0) * shares
    flat = np.ascontiguousarray(weighted).reshape(*weighted.shape[:-2], -1)
    return np.asarray(flat.sum(axis=-1) / shares.sum())


def _ratios(
    products: Float64,
    weights: Float64,
    *,
    clamp: bool = True,
    scope: Scope = "tensor",
    vectors: Vectors = "tensor",
) -> Float64:
    """Interpolation ratios t of the mean of the members."""
    check_choice("model_stock", "clamp", clamp, (True, False))
    check_choice("model_stock", "scope", scope, ("tensor", "model"))
    check_choice("model_stock", "vectors", vectors, ("tensor", "row"))
    if np.count_nonzero(weights) < 2:
        raise ValueError(
            "rule 'model_stock' needs at least two members with a nonzero weight, to "
            f"compare their task vectors; found weights {weights.tolist()}"
        )
    cosines = _mean_cosines(products, weights)
    n_members = weights.sum() ** 2 / (weights**2).sum()
    if clamp:
        cosines = np.maximum(cosines, 0)
    # Not negative: |sum(w[i] u[i])|² >= 0 for the unit vectors u[i].
    rest = 1 + (n_members - 1) * cosines
    is_singular = np.abs(rest) < 1e-6
    ratios = n_members * cosines / np.where(is_singular, 1.0, rest)
    return np.where(is_singular, 0.0, ratios)


def _has_rows(position: Position, *, vectors: Vectors = "tensor") -> bool:
    return vectors == "row"


def _flattens(*, vectors: Vectors = "tensor") -> bool:
    return vectors != "row"


@register(
    RULES,
    passes=[Pass(difference_gram, _ratios, _flattens, fused=True)],
    needs_base=True,
    weight_sum_matters=False,
    fused=True,
    unit="row",
    has_units=_has_rows,
)
def model_stock(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    state: Float64 | None,
    position: Position,
    vectors: Vectors = "tensor",
    clamp: bool = True,
    scope: Scope = "tensor",
) -> Array:
    """Interpolation of base and mean by angles, base + t * (mean(x) - base).

    The ratio t = N cos / (1 + (N - 1) cos) depends on the number N of members and the
    mean cosine of the angles between all pairs of their task vectors x[i] - base. It is
    the projection of the center that the members are scattered around onto the line
    from the base to their mean: members that point in one direction have t = 1, the
    mean, and orthogonal ones t = 0, the base. Inner products are added in float64.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0, at least two with a nonzero weight.
    weights : array-like of shape (n_members,)
        Non-negative weight of each member. The paper has equal weights; with others,
        the mean is weighted, a pair counts w[i] w[j] in the mean cosine, and N is
        sum(w)² / sum(w²), by the same projection.
    base : array-like of shape (*shape,)
        Common ancestor of the members, the pre-trained model.
    state : ndarray of shape () or None
        Ratio t, which `Rule` computes from the inner products of the task vectors; None
        with ``vectors="row"``.
    position : Position
        Position of the rows in the tensor.
    vectors : {"tensor", "row"}, default="tensor"
        Vectors between which angles are measured: whole tensors, or each row, the last
        axis, which gives each row a ratio of its own.
    clamp : bool, default=True
        Whether t is 0 if the mean cosine is negative. Otherwise the formula
        extrapolates away from the mean, without bound as the cosine approaches its
        minimum -1 / (N - 1), and t is 0 at the minimum.
    scope : {"tensor", "model"}, default="tensor"
        Whether t is computed for each tensor, as in the paper, or once for all.

    Raises
    ------
    ValueError
        If fewer than two members have a nonzero weight, or a parameter is not valid.

    Notes
    -----
    A member that equals the base has no direction: its pairs have the cosine 0. The
    result is NaN if a difference is NaN or infinite, or its square overflows float64.

    mergekit 0.1.5 is reproduced by ``clamp=False``, up to the rounding of the members'
    format: in float16, norms and products of small differences underflow there, and
    nearly orthogonal task vectors get a wrong ratio, as do task vectors whose lengths
    have a product below 1e-6, which it divides by. Its ``filter_wise: true`` is
    ``vectors="row"``. fusion_bench averages the angles, not their cosines, which
    differs for three and more members.

    References
    ----------
    Jang et al. (2024), "Model Stock: all we need is just a few fine-tuned models",
    arXiv:2403.19522, section 4, and its generalization to more than two members.
    """
    total = float(weights.sum())
    if state is not None:
        return add_task_vectors(stack, weights, base, scale=float(state), divisor=total)
    counted = weights != 0
    out = np.empty(base.size, base.dtype)
    for start, stop in chunks(out.size, whole_rows(PIECE_SIZE, position)):
        origin = widen(base[None, start:stop])[0]
        deltas = widen(stack[counted, start:stop]) - origin
        rows = deltas.reshape(len(deltas), -1, position.row_size)
        ratios = _ratios(
            _row_products(rows),
            weights[counted],
            clamp=clamp,
            scope=scope,
            vectors=vectors,
        )
        sums = np.zeros(rows.shape[1:])  # BLAS rounds by the number of rows
        for row, weight in zip(rows, weights[counted], strict=True):
            sums += weight * row
        sums *= (ratios / total)[:, None]
        out[start:stop] = narrow(sums.reshape(-1) + origin, base.dtype)
    return out
