"""Carry out a merge of adapters: compute the factors, and write them with a report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles.atomic_io import atomic_output, explain_disk_full
from ensembles.checkpoints.adapters.adapter_card import adapter_card
from ensembles.checkpoints.adapters.modules import (
    MergedModule,
    layout_of,
    merged_module,
    tensors_of,
)
from ensembles.checkpoints.adapters.plan import AdapterPlan
from ensembles.checkpoints.adapters.result_names import peft_config
from ensembles.checkpoints.adapters.terms import Digests, ModuleSum
from ensembles.checkpoints.adapters.weight_file import ResultTensors, written_file
from ensembles.checkpoints.compatibility.configuration import CARD, is_card
from ensembles.checkpoints.directories.adapter_files import CONFIG
from ensembles.checkpoints.formats.output import Layout
from ensembles.checkpoints.merging.average import silent
from ensembles.checkpoints.merging.digests import digest, read_blocks
from ensembles.checkpoints.methods.matrices.blas import one_blas_thread
from ensembles.dtypes import is_float
from ensembles.parallel import map_threads

Progress = Callable[[int], None]


class ModuleRank(NamedTuple):
    """Rank of a module before and after a merge.

    Parameters
    ----------
    name : str
        Name of the module in the result.
    ranks : tuple of int
        Rank in each adapter that has the module.
    rank : int
        Rank in the result.
    energy : float, default=1
        Fraction of the sum of squared singular values of the weighted sum that the
        result keeps; 1 if the result is exact.
    """

    name: str
    ranks: tuple[int, ...]
    rank: int
    energy: float = 1.0


@dataclass(frozen=True)
class AdapterReport:
    """Summary of a merge of adapters.

    Parameters
    ----------
    out : Path
        Path of the output.
    modules : list of ModuleRank
        Rank of each module before and after, with the energy kept.
    energy : float
        Fraction of the sum of squared singular values of all modules that the result
        keeps; 1 if the result is exact.
    member_digests : list of str
        Digest of the tensors of each adapter, as in the metadata of the result.
    digest : str
        Digest of the tensors of the result.
    write_bytes : int
        Size of the tensors of the result in bytes.
    nonfinite_tensors : list of str
        Names of tensors of the result that contain NaN or infinity.
    seconds : float
        Elapsed time in seconds, without planning.
    plan : AdapterPlan
        Plan that was carried out.
    """

    out: Path
    modules: list[ModuleRank]
    energy: float
    member_digests: list[str]
    digest: str
    write_bytes: int
    nonfinite_tensors: list[str]
    seconds: float
    plan: AdapterPlan = field(repr=False)


def write_adapters(plan: AdapterPlan, *, progress: Progress = silent) -> AdapterReport:
    """Carry out a plan of a merge of adapters.

    Parameters
    ----------
    plan : AdapterPlan
        Plan of `plan_adapters`.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread.

    Returns
    -------
    AdapterReport

    Raises
    ------
    FileExistsError
        If the output exists, unless ``force``.
    ValueError
        If an adapter is damaged or changes while it is read, or has NaN or infinity in
        factors to compress.

    Warns
    -----
    UserWarning
        If a tensor of the result contains NaN or infinity.
    """
    started = time.perf_counter()
    checkpoints = [adapter.checkpoint for adapter in plan.members]
    blocks = read_blocks(plan.tensors, plan.threads, progress)
    digests = [
        digest({n: (t.dtype, t.shape, blocks[t]) for n, t in c.layout.items()})
        for c in checkpoints
    ]
    _check_base_weights(plan, blocks)
    merged = _merged(plan, blocks)
    with (
        explain_disk_full(plan.out),
        atomic_output(plan.out, folder=plan.is_directory, force=plan.force) as path,
    ):
        with written_file(plan, path, _layout(plan, merged), digests) as result:
            _write_tensors(plan, merged, result, progress)
            for source in {tensor.source for tensor in plan.tensors}:
                source.check_unchanged()
        if plan.is_directory:
            _write_other_files(plan, path, merged, digests)
    if result.nonfinite:
        warn_caller(
            f"{len(result.nonfinite)} tensors of the result contain NaN or infinity, "
            f"such as {result.nonfinite[0]!r}; look for them in the adapters"
        )
    squares = sum(module.squares for module in merged)
    lost = sum(module.squares * (1 - module.energy) for module in merged)
    return AdapterReport(
        out=plan.out,
        modules=_ranks(plan, merged),
        energy=1 - lost / squares if squares else 1.0,
        member_digests=digests,
        digest=digest(result.written),
        write_bytes=sum(
            int(np.prod(shape)) * dtype.itemsize
            for dtype, shape, _ in result.written.values()
        ),
        nonfinite_tensors=result.nonfinite,
        seconds=time.perf_counter() - started,
        plan=plan,
    )


def _check_base_weights(plan: AdapterPlan, digests: Digests) -> None:
    """Raise if adapters have different weights of the base in their files."""
    for name, tensors in plan.base_weights.items():
        contents = {(t.dtype, t.shape, tuple(digests[t])) for t in tensors}
        if len(contents) > 1:
            raise ValueError(
                f"the adapters have different tensors {name!r}, a weight of the base: "
                "they have different bases; apply each to its base, and average the "
                "results"
            )


def _ranks(plan: AdapterPlan, merged: Sequence[MergedModule]) -> list[ModuleRank]:
    if plan.is_copy:
        return [ModuleRank(m.name, (m.first.rank,), m.first.rank) for m in plan.sums]
    return [
        ModuleRank(
            module.sum.name,
            tuple(term.update.rank for term in module.sum.terms),
            module.rank,
            module.energy,
        )
        for module in merged
    ]


def _merged(plan: AdapterPlan, digests: Digests) -> list[MergedModule]:
    """Merged update of each module; empty for a copy."""

    def merge(module: ModuleSum) -> MergedModule:
        return merged_module(plan, module, digests)

    if plan.is_copy:
        return []
    with one_blas_thread():
        return map_threads(plan.sums, lambda: merge, plan.threads)


def _layout(plan: AdapterPlan, merged: Sequence[MergedModule]) -> Layout:
    """Tensors of the result, in the order of the modules."""
    layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    if plan.is_copy:
        for name, tensor in plan.members[0].checkpoint.layout.items():
            layout[name] = _dtype(plan, tensor.dtype, tensor.shape), tensor.shape
        return layout
    for module in merged:
        layout |= layout_of(plan, module)
    for name, (first, *_) in (plan.replaced | plan.base_weights).items():
        layout[name] = _dtype(plan, first.dtype, first.shape), first.shape
    return layout


def _dtype(
    plan: AdapterPlan, stored: np.dtype[Any], shape: tuple[int, ...]
) -> np.dtype[Any]:
    """Dtype of a copied or averaged tensor; alphas and integers keep theirs."""
    is_kept = plan.dtype is None or not shape or not is_float(stored)
    return stored if is_kept else plan.dtype or stored


def _write_tensors(
    plan: AdapterPlan,
    merged: Sequence[MergedModule],
    result: ResultTensors,
    progress: Progress,
) -> None:
    def write(module: MergedModule) -> None:
        for name, array in tensors_of(plan, module).items():
            result.add(name, array)
        progress(sum(tensor.nbytes for tensor in module.sum.tensors))

    map_threads(merged, lambda: write, plan.threads)
    means = plan.replaced
    weights = plan.rule.weights if plan.rule.name == "mean" else plan.rule.coefficients
    copied = {name: tensor for name, (tensor, *_) in plan.base_weights.items()}
    if plan.is_copy:
        means, copied = {}, plan.members[0].checkpoint.layout
    for name, tensor in copied.items():
        dtype = _dtype(plan, tensor.dtype, tensor.shape)
        result.add_mean(name, dtype, [tensor], np.ones(1))
        progress(tensor.nbytes)
    for name, tensors in means.items():
        dtype = _dtype(plan, tensors[0].dtype, tensors[0].shape)
        result.add_mean(name, dtype, tensors, weights)
        progress(sum(tensor.nbytes for tensor in tensors))


def _write_other_files(
    plan: AdapterPlan, path: Path, merged: Sequence[MergedModule], digests: list[str]
) -> None:
    """Configuration, model card, and the other files of the first directory."""
    first = next(adapter for adapter in plan.members if adapter.config)
    config = dict(first.config)
    if not plan.is_copy:
        config = peft_config(
            plan.members,
            {module.sum.name: module.sum.first.weight for module in merged},
            {module.sum.name: module.rank for module in merged},
            {module.sum.name: module.scale for module in merged},
            has_bias=plan.has_bias,
        )
    for name in first.checkpoint.files:
        if name != CONFIG and (plan.is_copy or not is_card(name)):
            copy = path / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(first.checkpoint.path)) / name, copy)
    text = json.dumps(config, indent=2) + "\n"
    (path / CONFIG).write_text(text, encoding="utf-8")
    if not plan.is_copy:
        (path / CARD).write_text(adapter_card(plan, digests), encoding="utf-8")
