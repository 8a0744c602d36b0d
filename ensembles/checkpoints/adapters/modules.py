"""The merged update of one module: its rank, scale and factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.adapters.compression import decomposed
from ensembles.checkpoints.adapters.core_space import core_space
from ensembles.checkpoints.adapters.plan import AdapterPlan
from ensembles.checkpoints.adapters.result_names import factor_names
from ensembles.checkpoints.adapters.terms import (
    Digests,
    Groups,
    ModuleSum,
    Term,
    grouped,
    summed,
)
from ensembles.checkpoints.formats.lora.adapter import Factors, LowRankUpdate
from ensembles.kernels.casting import narrow

Stored = dict[str, Array]  # tensors of a module by name in the result


class MergedModule(NamedTuple):
    """Merged update of a module.

    Parameters
    ----------
    sum : ModuleSum
        Updates that are added.
    groups : Groups
        The same updates, those with an equal factor together.
    rank : int
        Rank of the result.
    scale : float
        Factor of the product of the result's factors.
    energy : float, default=1
        Fraction of the sum of squared singular values that the rank keeps.
    squares : float, default=0
        Sum of the squared singular values of the weighted sum, if it is compressed.
    stored : dict of str to ndarray or None
        Tensors of a compressed update; None if they are computed when they are written.
    """

    sum: ModuleSum
    groups: Groups
    rank: int
    scale: float
    energy: float = 1.0
    squares: float = 0.0
    stored: Stored | None = None


def merged_module(
    plan: AdapterPlan, module: ModuleSum, digests: Digests
) -> MergedModule:
    """Rank and scale of a module, with its factors if they are compressed.

    Parameters
    ----------
    plan : AdapterPlan
        Plan of the result.
    module : ModuleSum
        Updates of the module.
    digests : dict of Tensor to list of bytes
        Digests of the factors.

    Returns
    -------
    MergedModule

    Raises
    ------
    ValueError
        If factors to compress contain NaN or infinity.
    """
    counted = [term for term in module.terms if term.coefficient != 0]
    groups = grouped(counted or module.terms[:1], digests)
    if plan.is_exact:
        # Files of diffusers have no place for a scale.
        scale = 1.0 if plan.naming == "diffusers" else module.scale
        return MergedModule(module, groups, groups.rank, scale)
    scale = 1.0
    factors = summed(groups, scale) if plan.rule.is_linear else _by_rule(plan, module)
    if not plan.compresses:
        stored = _stored(plan, module, factors, scale)
        return MergedModule(module, groups, factors.rank, scale, stored=stored)
    if not all(np.isfinite(factor).all() for factor in factors):
        raise ValueError(
            f"module {module.name!r} has NaN or infinity in the factors of "
            f"{' or '.join(_owners(plan, counted))}: it has no singular values; leave "
            "the adapter out"
        )
    spectrum = decomposed(factors)
    rank = min(plan.rank or spectrum.size, spectrum.size)
    if plan.energy is not None:
        rank = spectrum.rank_for(plan.energy)
    energy = spectrum.kept_energy(rank)
    stored = _stored(plan, module, spectrum.truncated(rank), scale)
    squares = float(spectrum.energies.sum())
    return MergedModule(module, groups, rank, scale, energy, squares, stored)


def _by_rule(plan: AdapterPlan, module: ModuleSum) -> Factors:
    """Updates merged by a rule that is not a weighted sum; absent ones have rank 0."""
    first = module.first
    none = Factors(
        np.zeros((first.n_experts, 0, first.n_inputs)),
        np.zeros((first.n_experts, first.n_outputs, 0)),
    )
    updates = [none] * len(plan.members)
    for term in module.terms:
        a, b = term.update.read()
        updates[term.member] = Factors(a, term.coefficient * b)
    rule = plan.rule
    return core_space(
        updates, rule.weights, rule=rule.name, rule_params=rule.params, name=module.name
    )


def _owners(plan: AdapterPlan, terms: list[Term]) -> list[str]:
    """Names of adapters with NaN or infinity."""
    return [
        plan.members[term.member].name
        for term in terms
        if not all(np.isfinite(factor).all() for factor in term.update.read())
    ]


def tensors_of(plan: AdapterPlan, merged: MergedModule) -> Stored:
    """Tensors of a module in the result, by name.

    Parameters
    ----------
    plan : AdapterPlan
        Plan of the result.
    merged : MergedModule
        Rank and scale of the module.

    Returns
    -------
    dict of str to ndarray
    """
    if merged.stored is not None:
        return merged.stored
    factors = summed(merged.groups, merged.scale)
    return _stored(plan, merged.sum, factors, merged.scale)


def layout_of(
    plan: AdapterPlan, merged: MergedModule
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Dtype and shape of each tensor of a module in the result, by name.

    Parameters
    ----------
    plan : AdapterPlan
        Plan of the result.
    merged : MergedModule
        Rank and scale of the module.

    Returns
    -------
    dict of str to (dtype, shape)
    """
    first, names = merged.sum.first, factor_names(plan.naming, merged.sum)
    a, b = plan.dtype or first.a.dtype, plan.dtype or first.b.dtype
    rank = merged.rank * first.n_experts
    layout = {
        names.a: (a, (rank, *_inputs(first))),
        names.b: (b, (first.n_outputs, rank, *first.b.shape[2:])),
    }
    if names.alpha:
        layout[names.alpha] = (np.dtype(np.float32), ())
    if names.bias and plan.has_bias:
        layout[names.bias] = (b, (first.n_outputs,))
    return layout


def _inputs(update: LowRankUpdate) -> tuple[int, ...]:
    return (update.a.shape[1], *update.kernel)


def _stored(
    plan: AdapterPlan, module: ModuleSum, factors: Factors, scale: float
) -> Stored:
    """Factors in the dtypes and shapes of the file, with alpha or the bias."""
    merged = MergedModule(module, Groups("a", []), factors.rank, scale)
    layout = layout_of(plan, merged)
    names = factor_names(plan.naming, module)
    values = {names.a: factors.a, names.b: np.moveaxis(factors.b, 0, -1)}
    if names.alpha:
        values[names.alpha] = np.array(scale * factors.rank)
    if names.bias in layout:
        bias = module.bias(scale)
        values[names.bias] = np.zeros(module.first.n_outputs) if bias is None else bias
    return {
        name: _rounded(values[name], dtype).reshape(shape)
        for name, (dtype, shape) in layout.items()
    }


def _rounded(values: Float64, dtype: np.dtype[Any]) -> Array:
    return narrow(np.ascontiguousarray(values).reshape(-1), dtype)
