"""Merges of low-rank updates by any rule, in the space that their factors span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.formats.lora.adapter import Factors
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.methods.matrices.blas import one_blas_thread
from ensembles.rules.rule import Rule

ROUNDING = float(np.finfo(np.float64).eps)


def check_core_rule(rule: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a rule in core space; raise if it cannot be used there.

    Parameters
    ----------
    rule : str
        Name of the rule.
    params : mapping of str to value
        Its parameters. ``scope`` is "tensor" if it is not given: each weight has a core
        space of its own.

    Returns
    -------
    dict of str to value

    Raises
    ------
    ValueError
        If the rule needs moments of the members' data, or statistics of all weights.
    """
    found = RULES[rule]
    if found.needs_moments is not None:
        raise ValueError(
            f"rule {rule!r} needs moments of the members' data, which adapters do not "
            "have; pass base=PATH (--base PATH) to merge whole models"
        )
    own = dict(params)
    if "scope" in found.params:
        own.setdefault("scope", "tensor")
    if found.spans_model(own):
        raise ValueError(
            f"rule {rule!r} merges each weight of adapters alone; pass scope='tensor' "
            "(--param scope=tensor), or base=PATH (--base PATH) to merge whole "
            "models"
        )
    return own


def core_space(
    updates: Sequence[Factors],
    weights: ArrayLike | None = None,
    *,
    rule: str,
    rule_params: Mapping[str, Any] | None = None,
    name: str = "",
) -> Factors:
    """Merge updates of one weight by a rule, without computing them in full size.

    With orthonormal bases U of all second factors and V of all first factors, each
    update ``b @ a`` is ``U @ core @ V``. The rule combines the cores, as task vectors
    of a base of zeros, and its result is ``U @ merged @ V``. Weighted sums are exact,
    and so are rules of inner products alone, such as slerp. Other rules give another
    result than for whole weights, because an entry of a core is not an entry of a
    weight: sign election of TIES counts directions, and ``iso_c`` has the mean of the
    singular values of the core, whose rank is at most the sum of the ranks.

    Parameters
    ----------
    updates : sequence of Factors
        Update of each adapter, with its scale; of rank 0 if the adapter lacks the
        weight.
    weights : array-like of shape (n_members,) or None, default=None
        Weight of each adapter; None gives all the weight 1.
    rule : str
        Name of the rule, such as "ties", "tsv", "iso_c" or "dare_linear".
    rule_params : mapping of str to value or None, default=None
        Parameters of the rule, see `check_core_rule`; None means the defaults.
    name : str, default=""
        Name of the weight, which determines random numbers of the rule, and whether
        rules for matrices take it as one.

    Returns
    -------
    Factors
        Of the sum of the ranks at most.

    Raises
    ------
    ValueError
        If the rule rejects a parameter or cannot be used, or an update has NaN or
        infinity.

    References
    ----------
    Panariello et al. (2025), "Accurate and efficient low-rank model merging in core
    space", NeurIPS, arXiv:2509.17786, section 4. Their bases are the singular vectors
    of the stacked factors, as here; directions of rounding error are left out.
    """
    params = check_core_rule(rule, rule_params or {})
    if not all(np.isfinite(array).all() for update in updates for array in update):
        raise ValueError(f"factors of {name!r} must be finite to be merged by {rule!r}")
    with one_blas_thread():
        merged = [
            _merged(
                [Factors(u.a[expert], u.b[expert]) for u in updates],
                (RULES[rule], weights, params, f"{name}[{expert}]" if expert else name),
            )
            for expert in range(len(updates[0].a))
        ]
    return _stacked(merged)


def _merged(
    updates: Sequence[Factors], how: tuple[Rule, ArrayLike | None, dict[str, Any], str]
) -> Factors:
    """Merge updates of one matrix."""
    rule, weights, params, name = how
    left = _basis(np.concatenate([update.b for update in updates], axis=1))
    right = _basis(np.concatenate([update.a for update in updates]).T).T
    cores = np.stack([(left.T @ b) @ (a @ right.T) for a, b in updates])
    base = {"base": np.zeros(cores.shape[1:])} if rule.needs_base else {}
    merged = rule(cores, weights, name=name, **base, **params)
    return Factors(np.asarray(merged @ right, np.float64), left)


def _basis(columns: Float64) -> Float64:
    """Orthonormal basis of columns: their left singular vectors, without rounding."""
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    largest = values[:1].sum() * max(columns.shape) * ROUNDING
    return np.asarray(left[:, : max(int(np.sum(values > largest)), 1)])


def _stacked(experts: Sequence[Factors]) -> Factors:
    """Factors of all experts, padded with zeros to one rank."""
    rank = max(expert.b.shape[1] for expert in experts)

    def padded(array: Float64, axis: int) -> Float64:
        widths = [(0, 0), (0, 0)]
        widths[axis] = (0, rank - array.shape[axis])
        return np.pad(array, widths)

    return Factors(
        np.stack([padded(expert.a, 0) for expert in experts]),
        np.stack([padded(expert.b, 1) for expert in experts]),
    )
