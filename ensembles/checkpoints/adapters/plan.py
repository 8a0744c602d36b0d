"""The plan of a merge of adapters: validation, from headers alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.adapters.compression import check_size
from ensembles.checkpoints.adapters.linear_rules import RuleOfUpdates, rule_of_updates
from ensembles.checkpoints.adapters.matching import (
    in_naming,
    mismatches,
    missing_notes,
)
from ensembles.checkpoints.adapters.terms import ModuleSum, Term
from ensembles.checkpoints.directories.adapter_files import AdapterSource, open_adapter
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.checkpoints.formats.lora.adapter import Adapter, Naming
from ensembles.checkpoints.planning.destination import (
    destination_problems,
    output_format,
    resolved_link,
)
from ensembles.checkpoints.planning.opening import all_problems
from ensembles.checkpoints.planning.options import float_dtype
from ensembles.parallel import resolve_n_threads

NEAR = 1e-9  # of the sum of coefficients to 1


@dataclass(frozen=True)
class AdapterPlan:
    """Validated plan of a merge of adapters.

    Parameters
    ----------
    members : tuple of Adapter
        Opened adapters, with the names of their files.
    rule : RuleOfUpdates
        Rule with its parameters, the weights of the adapters and the factors of their
        updates.
    sums : tuple of ModuleSum
        Updates of each module, with the names of the result.
    replaced : dict of str to tuple of Tensor
        Tensors of all adapters that replace those of the base, by their name in the
        result.
    base_weights : dict of str to tuple of Tensor
        Weights of the base in the files of the adapters that have them, by their name
        in the result.
    out : Path
        Path of the output.
    naming : {"peft", "kohya", "diffusers"}
        Naming of the result.
    rank : int or None
        Largest rank of the result; None keeps all ranks.
    energy : float or None
        Fraction of the sum of squared singular values that each module keeps; None
        keeps all.
    dtype : dtype or None
        Float format of the result; None keeps that of the first adapter.
    threads : int
        Number of threads.
    force : bool
        Whether an existing output is replaced.
    notes : tuple of str
        Messages for the user, one sentence each.
    free_bytes : int, default=0
        Free bytes on the disk of the output.
    """

    members: tuple[Adapter, ...]
    rule: RuleOfUpdates
    sums: tuple[ModuleSum, ...]
    replaced: dict[str, tuple[Tensor, ...]]
    base_weights: dict[str, tuple[Tensor, ...]]
    out: Path
    naming: Naming
    rank: int | None
    energy: float | None
    dtype: np.dtype[Any] | None
    threads: int
    force: bool
    notes: tuple[str, ...]
    free_bytes: int = 0

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the adapters."""
        return [t for a in self.members for t in a.checkpoint.layout.values()]

    @property
    def read_bytes(self) -> int:
        """Bytes that are read: each adapter twice, first for the digests."""
        return 2 * sum(tensor.nbytes for tensor in self.tensors)

    @property
    def write_bytes(self) -> int:
        """Largest size of the result in bytes."""
        return sum(
            tensor.size * (self.dtype or tensor.dtype).itemsize
            for tensor in self.tensors
        )

    @property
    def is_copy(self) -> bool:
        """Whether the result is a copy of a single adapter."""
        return (
            len(self.members) == 1
            and self.is_exact
            and self.rule.coefficients[0] == 1
            and self.members[0].naming == self.naming
        )

    @property
    def is_directory(self) -> bool:
        """Whether the output is a directory of PEFT."""
        return self.naming == "peft"

    @property
    def file(self) -> str:
        """Name of the weight file."""
        return "adapter_model.safetensors" if self.is_directory else self.out.name

    @property
    def has_bias(self) -> bool:
        """Whether a second factor of an adapter has a bias."""
        terms = (term for module in self.sums for term in module.terms)
        return any(term.update.bias is not None for term in terms)

    @property
    def is_exact(self) -> bool:
        """Whether the factors of the adapters are stacked, in linear rules."""
        return self.rule.is_linear and not self.compresses

    @property
    def compresses(self) -> bool:
        """Whether ranks are reduced."""
        return self.rank is not None or self.energy is not None


def plan_adapters(
    members: Sequence[AdapterSource],
    out: str | os.PathLike[str],
    *,
    rule: str = "mean",
    weights: ArrayLike | None = None,
    rule_params: Mapping[str, Any] | None = None,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    force: bool = False,
) -> AdapterPlan:
    """Plan a merge of adapters from the headers of their files.

    Parameters
    ----------
    members, out, rule, weights, rule_params
        As in `average_adapters`, with the same defaults.
    rank, energy, dtype, threads, force
        As in `average_adapters`, with the same defaults.

    Returns
    -------
    AdapterPlan

    Raises
    ------
    FileNotFoundError
        If an adapter does not exist.
    ValueError
        If the adapters have no weighted sum, or the output cannot be written; the
        message lists all problems, 20 at most.
    """
    if isinstance(members, str | os.PathLike | Mapping):
        raise TypeError(
            f"members must be a sequence of adapters, found {members!r:.80}"
        )
    _check_ranks(rank, energy)
    adapters = [open_adapter(member, index) for index, member in enumerate(members)]
    checked = rule_of_updates(rule, weights, len(adapters), rule_params or {})
    path = resolved_link(out, force=force)
    assert path is not None  # out is not None
    naming = _naming(adapters, path)
    renamed = in_naming(adapters, naming)
    first = adapters[0]
    planned = AdapterPlan(
        members=tuple(adapters),
        rule=checked,
        sums=tuple(_sums(renamed, checked.coefficients)),
        replaced={
            stored: tuple(a.replaced[name] for a in adapters if name in a.replaced)
            for name, stored in first.names.items()
        },
        base_weights={
            name: tuple(
                a.base_weights[name] for a in adapters if name in a.base_weights
            )
            for name in dict.fromkeys(n for a in adapters for n in a.base_weights)
        },
        out=path,
        naming=naming,
        rank=None if rank is None else int(rank),
        energy=None if energy is None else float(energy),
        dtype=None if dtype is None else float_dtype(dtype),
        threads=resolve_n_threads(threads),
        force=force,
        notes=tuple(_notes(renamed, naming)),
    )
    if note := _rounding_note(planned):
        planned = replace(planned, notes=(*planned.notes, note))
    problems = [] if planned.is_copy else [a.reason for a in adapters if a.reason]
    problems += [*mismatches(renamed), *_replaced_problems(adapters, checked)]
    checkpoints = [adapter.checkpoint for adapter in adapters]
    reasons, n_free = destination_problems(path, checkpoints, planned.write_bytes)
    if problems + reasons:
        raise ValueError(all_problems(problems + reasons))
    return replace(planned, free_bytes=n_free)


def _check_ranks(rank: int | None, energy: float | None) -> None:
    if rank is not None and energy is not None:
        raise ValueError(
            "rank and energy both choose the rank: pass rank=... (--rank) or "
            "energy=... (--energy)"
        )
    check_size(rank, energy)


def _naming(adapters: Sequence[Adapter], out: Path) -> Naming:
    """Naming of the result: PEFT's in a directory, else kohya's or diffusers'."""
    namings = {adapter.naming: adapter.name for adapter in reversed(adapters)}
    if {"peft", "diffusers"} <= namings.keys():
        raise ValueError(
            f"{namings['peft']} has an adapter_config.json and "
            f"{namings['diffusers']} has the component of a pipeline in its names; "
            "merge adapters of one kind"
        )
    format_ = output_format(out)
    if format_ not in ("directory", "safetensors", "pytorch"):
        raise ValueError(
            f"adapters are written into directories, .safetensors and PyTorch files, "
            f"found {out}; choose another output"
        )
    if format_ == "directory":
        if "peft" not in namings:
            raise ValueError(
                f"{out} would be a directory of PEFT, and no adapter has an "
                "adapter_config.json; pass a file as output, such as merged.safetensors"
            )
        return "peft"
    return "diffusers" if adapters[0].naming == "diffusers" else "kohya"


def _replaced_problems(adapters: Sequence[Adapter], rule: RuleOfUpdates) -> list[str]:
    """Reasons why the tensors that replace those of the base have no average."""
    biases = [
        a for a in adapters if any(u.bias is not None for u in a.updates.values())
    ]
    if biases and not rule.is_linear:
        return [
            f"{biases[0].name} has biases of second factors (lora_bias), which the "
            f"rule {rule.name!r} does not merge; use the rule 'mean'"
        ]
    names = dict.fromkeys(name for adapter in adapters for name in adapter.replaced)
    if not names:
        return []
    shown = next(iter(names))
    total = float(rule.coefficients.sum()) if rule.is_linear else float("nan")
    if not abs(total - 1) <= NEAR:
        return [
            f"tensor {shown!r} replaces that of the base, which the adapters do not "
            f"have: it needs a weighted sum with coefficients that sum to 1, found "
            f"{total:g} by the rule {rule.name!r}; use the rule 'mean', or apply the "
            "adapters to the base"
        ]
    problems = []
    for name in names:
        stored = [adapter.replaced.get(name) for adapter in adapters]
        for adapter, tensor in zip(adapters, stored, strict=True):
            if tensor is None:
                problems.append(
                    f"{adapter.name} lacks tensor {name!r}, which replaces that of the "
                    "base in other adapters; apply the adapters to the base first"
                )
        shapes = {tensor.shape for tensor in stored if tensor is not None}
        if len(shapes) > 1:
            problems.append(f"tensor {name!r} has the shapes {shapes} in the adapters")
    return problems


def _sums(adapters: Sequence[Adapter], factors: Float64) -> list[ModuleSum]:
    """Updates of each module, in the order of the first adapter that has it."""
    terms: dict[str, list[Term]] = {}
    for index, adapter in enumerate(adapters):
        for name, update in adapter.updates.items():
            coefficient = float(factors[index]) * update.scale
            terms.setdefault(name, []).append(Term(index, update, coefficient))
    return [ModuleSum(name, tuple(found)) for name, found in terms.items()]


def _rounding_note(plan: AdapterPlan) -> str:
    """Note on second factors that are multiplied and rounded to a short format."""
    for module in plan.sums:
        dtype = plan.dtype or module.first.b.dtype
        factors = {term.coefficient for term in module.terms}
        if plan.is_exact and len(factors) > 1 and dtype.itemsize < 4:
            return (
                f"the factors are multiplied and rounded to {dtype}; pass "
                "dtype='float32' (--dtype float32) for a sum that is exact to float32"
            )
    return ""


def _notes(adapters: Sequence[Adapter], naming: Naming) -> list[str]:
    notes = missing_notes(adapters)
    for adapter in adapters:
        notes += [f"{adapter.name}: {note}" for note in adapter.checkpoint.notes]
    for option in ("base_model_name_or_path", "task_type"):
        values = {str(a.config[option]): a.name for a in adapters if option in a.config}
        if len(values) > 1:
            notes.append(
                f"the adapters have different values of {option}: {', '.join(values)}; "
                "the result has the first"
            )
    if any(adapter.naming not in (naming, "kohya") for adapter in adapters):
        notes.append(
            "the result has the names of kohya (lora_down, lora_up, alpha); pass a "
            "path without a suffix for a directory of PEFT"
        )
    if any(adapter.replaced for adapter in adapters):
        notes.append(
            "biases and modules that the adapters replace whole are averaged as "
            "tensors, which equals the sum of their updates since the coefficients sum "
            "to 1"
        )
    return notes
