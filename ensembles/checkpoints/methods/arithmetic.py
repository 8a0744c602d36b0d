"""Task arithmetic: weighted sums of task vectors, added to the base."""

from __future__ import annotations

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_number, weight_divisor
from ensembles.kernels.task_vectors.sums import add_task_vectors
from ensembles.registry import register
from ensembles.rules.table import RULES


@register(RULES, needs_base=True, signed=True, fused=True)
def task_arithmetic(
    stack: Array,
    weights: Float64,
    *,
    base: Array,
    scale: float = 1.0,
    normalize: bool = False,
) -> Array:
    """Base plus the scaled sum of task vectors, base + scale * sum(w[i] (x[i] - base)).

    A task vector is the difference of a member from the base. Positive weights add
    tasks, and a negative weight removes one: weights 1 and -1 add the difference of two
    members. The sum is computed in float64 and rounded once; members that equal the
    base leave it unchanged, bit for bit. For float64 members the sum is compensated, so
    that the result is within one unit in the last place.

    With ``normalize=True`` and ``scale=1`` the result is the mean of the members, and
    the base has no effect up to rounding.

    Parameters
    ----------
    stack : array-like of shape (n_members, *shape)
        Members along axis 0.
    weights : array-like of shape (n_members,)
        Weight of each task vector, of any sign; 1 by default.
    base : array-like of shape (*shape,)
        Common ancestor of the members.
    scale : float, default=1.0
        Factor of the sum: the scaling coefficient λ of the paper, which is chosen on
        validation data, with best values between 0.3 and 0.5 for several tasks.
    normalize : bool, default=False
        Whether the sum is divided by the sum of the weights.

    Raises
    ------
    ValueError
        If ``scale`` is not a finite number, or the weights sum to zero with
        ``normalize=True``.

    Notes
    -----
    Published implementations agree up to rounding: ``task_arithmetic`` of mergekit
    0.1.5 (whose ``lambda`` is ``scale``, and whose required ``weight`` is the weight of
    a member), of fusion_bench and of the authors' code. mergekit computes in the
    members' format, which misrounds many entries in bfloat16, and ignores
    ``normalize`` if the weights sum to less than 1e-8; here this is an error. "Add
    difference" of Stable Diffusion tools, A + m (B - C), is the base C with weights 1
    for A and m for B.

    References
    ----------
    Ilharco et al. (2022), "Editing models with task arithmetic", arXiv:2212.04089,
    section 2.
    """
    check_number("task_arithmetic", "scale", scale)
    divisor = weight_divisor("task_arithmetic", weights, normalize)
    return add_task_vectors(stack, weights, base, scale=scale, divisor=divisor)
