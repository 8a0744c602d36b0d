"""Model Stock: the mean of the members, pulled to the base by their angles."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_choice
from ensembles.kernels.gram import difference_gram
from ensembles.kernels.task_vectors.sums import add_task_vectors
from ensembles.registry import register
from ensembles.rules.table import RULES


def _mean_cosine(products: Float64, weights: Float64) -> float:
    """Mean cosine of all pairs of task vectors, weighted by w[i] w[j].

    A pair with a zero vector has the cosine 0.
    """
    squares = np.diagonal(products)
    # Not sqrt(a * b), which may overflow; 1 for vectors that are equal.
    norms = np.sqrt(squares[:, None] / squares) * squares
    is_zero = np.logical_or.outer(squares == 0, squares == 0)
    cosines = np.where(is_zero, 0.0, np.clip(products / norms, -1, 1))
    shares = np.outer(weights, weights)
    np.fill_diagonal(shares, 0)
    # A member without weight does not count, whatever its entries.
    return float((np.where(shares, cosines, 0.0) * shares).sum() / shares.sum())


def _ratio(
    total: Float64,
    weights: Float64,
    *,
    clamp: bool = True,
    scope: Literal["tensor", "model"] = "tensor",
) -> float:
    """Interpolation ratio t of the mean of the members."""
    check_choice("model_stock", "clamp", clamp, (True, False))
    check_choice("model_stock", "scope", scope, ("tensor", "model"))
    if np.count_nonzero(weights) < 2:
        raise ValueError(
            "rule 'model_stock' needs at least two members with a nonzero weight, to "
            f"compare their task vectors; found weights {weights.tolist()}"
        )
    cosine = _mean_cosine(total, weights)
    n_members = weights.sum() ** 2 / (weights**2).sum()
    if cosine <= 0 and clamp:
        return 0.0
    # Not negative: |sum(w[i] u[i])|² >= 0 for the unit vectors u[i].
    rest = 1 + (n_members - 1) * cosine
    return 0.0 if abs(rest) < 1e-6 else float(n_members * cosine / rest)


@register(
    RULES,
    statistics=difference_gram,
    finish=_ratio,
    needs_base=True,
    weight_sum_matters=False,
    fused=True,
)
def model_stock(stack: Array, weights: Float64, *, base: Array, state: float) -> Array:
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
    state : float
        Ratio t, which `Rule` computes from the inner products of the task vectors.
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
    nearly orthogonal task vectors get a wrong ratio. Its ``filter_wise=True`` has one
    ratio for each row, and is not available here. fusion_bench averages the angles, not
    their cosines, which differs for three and more members.

    References
    ----------
    Jang et al. (2024), "Model Stock: all we need is just a few fine-tuned models",
    arXiv:2403.19522, section 4, and its generalization to more than two members.
    """
    return add_task_vectors(
        stack, weights, base, scale=state, divisor=float(weights.sum())
    )
