"""Rules with second moments of the members' data: Fisher weighting and RegMean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods.checks import check_choice, check_number
from ensembles.checkpoints.methods.matrices.blas import one_blas_thread
from ensembles.registry import register
from ensembles.rules.passes import Pass, Position
from ensembles.rules.table import RULES


def sums_of_squares(stack: Float64, *, moments: Float64) -> Float64:
    """Sum of squares of the Fisher information of each member."""
    return np.asarray((moments**2).sum(axis=1)[None])


def divisors(
    total: Float64,
    weights: Float64,
    *,
    epsilon: float = 0.0,
    scope: Literal["model", "tensor"] = "model",
) -> Float64:
    """Norm of the Fisher information of each member, infinite if it is 0."""
    check_choice("fisher", "scope", scope, ("model", "tensor"))
    norms = np.sqrt(total) + epsilon
    return np.where(norms > 0, norms, np.inf)


def is_normalized(*, normalize: bool = False) -> bool:
    """Whether the norms are needed."""
    return normalize


@register(
    RULES,
    passes=(Pass(sums_of_squares, divisors, is_normalized),),
    needs_moments="fisher",
)
def fisher(
    stack: Float64,
    weights: Float64,
    *,
    moments: Float64,
    state: Float64 | None,
    floor: float = 0.0,
    favor_first: bool = False,
    epsilon: float = 0.0,
    normalize: bool = False,
) -> Float64:
    """Mean of members, each entry weighted by its Fisher information.

    An entry of the result is ``sum(w * F * x) / sum(w * F)`` over members with weights
    w, entries x and diagonal Fisher information F, from `collect_fisher`: the mode of
    the product of Gaussian approximations of the members' posteriors. Where F is 0 for
    all members, and for tensors without F, it is the weighted mean.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size)
        Members along axis 0.
    weights : ndarray of shape (n_members,)
        Non-negative member weights; only their ratios matter.
    moments : ndarray of shape (n_members, size)
        Diagonal Fisher information of each entry, non-negative.
    state : ndarray of shape (n_members,) or None
        Norm of F of each member with ``normalize``.
    floor : float, default=0.0
        Smallest value of F; smaller values are replaced. F is a mean of squared
        gradients, often below 1e-6: then a floor of 1e-6 turns the result into the
        plain mean.
    favor_first : bool, default=False
        Whether ``floor`` applies to the first member only, so that entries that matter
        to no member stay those of the first.
    epsilon : float, default=0.0
        Added to F of each member, after the floor, and to the norms.
    normalize : bool, default=False
        Whether F of each member is divided by its Euclidean norm over all tensors, so
        that each member counts the same; over each tensor with ``scope="tensor"``.

    Returns
    -------
    ndarray of shape (size,)

    Raises
    ------
    ValueError
        If an entry of F is negative, or a parameter is not valid.

    Notes
    -----
    The default is the formula of the paper. ``floor=1e-6, favor_first=True,
    normalize=True`` is the code of its authors (mmatena/model_merging);
    ``epsilon=1e-6, normalize=True`` are MergeLM and FusionBench, whose F differs too:
    they square the gradient of a whole batch, summed over all classes.

    References
    ----------
    Matena and Raffel (2022), "Merging models with Fisher-weighted averaging",
    arXiv:2111.09832, equation 2.
    """
    check_number("fisher", "floor", floor, low=0)
    check_number("fisher", "epsilon", epsilon, low=0)
    check_choice("fisher", "favor_first", favor_first, (True, False))
    check_choice("fisher", "normalize", normalize, (True, False))
    scale = weights if state is None else weights / state
    total, weighted = np.zeros((2, stack.shape[1]))
    rows = np.flatnonzero(weights)  # infinities of other members must not count
    for row in rows.tolist():
        information = moments[row]
        if information.min(initial=0) < 0:
            raise ValueError(
                "Fisher information must not be negative, found "
                f"{information.min()}; collect it with collect_fisher"
            )
        if floor > 0 and (row == 0 or not favor_first):
            information = np.maximum(information, floor)
        counted = (information + epsilon if epsilon else information) * scale[row]
        total += counted
        counted *= stack[row]
        weighted += counted
    weighted /= total
    if total.min(initial=np.inf) > 0:
        return np.asarray(weighted)
    mean = (weights[rows, None] * stack[rows]).sum(axis=0) / weights.sum()
    return np.asarray(np.where(total == 0, mean, weighted))  # NaN passes through


@register(RULES, needs_moments="gram", unit="tensor", workspace=6)
def regmean(
    stack: Float64,
    weights: Float64,
    *,
    moments: Sequence[Array],
    position: Position,
    alpha: float = 0.9,
) -> Float64:
    """Weight of a linear layer whose outputs are closest to those of the members.

    For weights W of shape (n_outputs, n_inputs) and Gram matrices G = X.T @ X of the
    inputs of each member, from `collect_gram`, it is
    ``sum(w * W @ G) @ inverse(sum(w * G))``, the least-squares solution for the outputs
    of all members on their own data. Entries of G outside of the diagonal are
    multiplied by ``alpha`` first. Tensors without Gram matrices, such as biases, norms
    and embeddings, are averaged.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size)
        Flat weights of a linear layer.
    weights : ndarray of shape (n_members,)
        Non-negative member weights; only their ratios matter.
    moments : sequence of ndarray of shape (n_inputs, n_inputs)
        Gram matrices, as stored; with a third axis of length 1 for a weight of shape
        (n_inputs, n_outputs), as in ``Conv1D`` of GPT-2.
    position : Position
        Position with the shape of the weight; a vector is a single output.
    alpha : float in [0, 1], default=0.9
        Factor of entries of G outside of the diagonal. 1 is the exact solution for the
        collected data; smaller values are a regularization. The paper recommends 0.9,
        and 0.1 for T5; MergeBench uses 0.1 for Llama.

    Returns
    -------
    ndarray of shape (size,)

    Raises
    ------
    ValueError
        If ``alpha`` is not in [0, 1], or Gram matrices are not finite, not positive
        semi-definite or do not have the shape of the weight's inputs.

    Notes
    -----
    The code of the authors, FusionBench and MergeBench invert the sum of G, and fail or
    return noise where it is singular, as for inputs that are always 0 or fewer rows
    than inputs with ``alpha=1``. Here the difference from the weighted mean of the
    members is solved for, and directions that no data determine, or none above the
    rounding errors of G, keep the mean; no ridge is added. They divide G by the number
    of rows, as ``collect_gram(reduction="mean")`` does.

    References
    ----------
    Jin et al. (2023), "Dataless knowledge fusion by merging weights of language
    models", arXiv:2212.09849, equation 2 and section 4.2.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], found {alpha}")
    is_transposed = moments[0].ndim == 3
    n_inputs = moments[0].shape[0]
    axis = 0 if is_transposed else -1
    shape = position.shape if len(position.shape) > 1 else (1, stack.shape[1])
    if len(shape) != 2 or any(
        gram.shape[:2] != (shape[axis], shape[axis]) for gram in moments
    ):
        raise ValueError(
            f"Gram matrices for a weight of shape {position.shape} must be square, of "
            f"its number of inputs, found {[gram.shape for gram in moments]}"
        )
    rows = np.flatnonzero(weights)  # infinities of other members must not count
    matrices = stack.reshape(len(stack), *shape)
    columns = matrices if is_transposed else matrices.swapaxes(1, 2)
    cutoff = 4 * np.finfo(moments[0].dtype).eps * np.sqrt(n_inputs)
    total = np.zeros((n_inputs, n_inputs))
    with one_blas_thread():  # the bytes would depend on the number of threads
        mean = np.tensordot(weights[rows], columns[rows], 1) / weights.sum()
        products = np.zeros(mean.shape)
        for row in rows.tolist():
            gram = moments[row].reshape(n_inputs, n_inputs).astype(np.float64)
            gram = weights[row] * _damped(gram, alpha)
            total += gram
            products += gram @ (columns[row] - mean)
        merged = mean + _solve(total, products, cutoff)
    return np.asarray(merged if is_transposed else merged.T).reshape(-1)


def _damped(gram: Float64, alpha: float) -> Float64:
    """Gram matrix with entries outside of the diagonal multiplied by alpha."""
    damped = alpha * gram
    np.fill_diagonal(damped, gram.diagonal())
    return damped


def _solve(total: Float64, products: Float64, cutoff: float) -> Float64:
    """Solution of a positive semi-definite system, 0 in directions without data.

    Eigenvalues up to ``cutoff``, with a diagonal of 1, are rounding errors.
    """
    diagonal = total.diagonal()
    if not np.isfinite(total).all() or (diagonal < 0).any():
        raise ValueError(
            "Gram matrices must be finite, and positive on the diagonal; collect them "
            "with collect_gram"
        )
    scale = np.zeros(len(total))
    np.divide(1, np.sqrt(diagonal), out=scale, where=diagonal > 0)
    # With a diagonal of 1, or of 0 for inputs that are always 0.
    scaled = scale[:, None] * total * scale
    right = scale[:, None] * products
    if _is_definite(scaled, cutoff):
        return np.asarray(scale[:, None] * np.linalg.solve(scaled, right))
    values, vectors = np.linalg.eigh(scaled)
    if values[0] < -1e-3:
        raise ValueError(
            f"Gram matrices must be positive semi-definite, found an eigenvalue of "
            f"{values[0]:.3g} after scaling; collect them with collect_gram"
        )
    inverse = np.zeros(len(values))
    np.divide(1, values, out=inverse, where=values > cutoff)
    return np.asarray(
        scale[:, None] * (vectors @ (inverse[:, None] * (vectors.T @ right)))
    )


def _is_definite(scaled: Float64, cutoff: float) -> bool:
    """Whether a matrix with a diagonal of 1 has an accurate Cholesky decomposition."""
    try:
        factor = np.linalg.cholesky(scaled)
    except np.linalg.LinAlgError:
        return False
    return bool((factor.diagonal() ** 2 > cutoff).all())
