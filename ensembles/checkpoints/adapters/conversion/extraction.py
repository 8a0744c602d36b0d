"""Adapters from the differences of fine-tuned models and their bases."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.atomic_io import atomic_output, check_absent, explain_disk_full
from ensembles.checkpoints.adapters.compression import check_size
from ensembles.checkpoints.adapters.conversion.approximation import approximate
from ensembles.checkpoints.adapters.conversion.changes import (
    Changes,
    Pair,
    find_changes,
)
from ensembles.checkpoints.adapters.conversion.peft_files import (
    StoredFactors,
    write_files,
)
from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.merging.average import silent
from ensembles.checkpoints.planning.destination import (
    destination_problems,
    output_format,
    resolved_link,
)
from ensembles.checkpoints.planning.opening import all_problems
from ensembles.checkpoints.planning.options import float_dtype
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.kernels.casting import narrow
from ensembles.parallel import chunks, map_threads

SHOWN = 3
ROWS = 256  # of a residual that is computed at once


class ExtractedModule(NamedTuple):
    """Approximation of the change of one module.

    Parameters
    ----------
    name : str
        Name of the module.
    shape : tuple of int
        Shape of its weight.
    rank : int
        Rank of the factors.
    squares : float
        Sum of squares of the change of the weight.
    error_squares : float
        Sum of squares of the rest: the change without the product of the factors as
        they are stored.
    """

    name: str
    shape: tuple[int, ...]
    rank: int
    squares: float
    error_squares: float

    @property
    def energy(self) -> float:
        """Fraction of the sum of squares that the factors keep."""
        return 1 - self.error_squares / self.squares

    @property
    def relative_error(self) -> float:
        """Norm of the rest, divided by the norm of the change."""
        return math.sqrt(self.error_squares / self.squares)


@dataclass(frozen=True)
class ExtractionReport:
    """Summary of an extracted adapter.

    Parameters
    ----------
    out : Path
        Directory of the adapter.
    modules : list of ExtractedModule
        Approximation of each changed weight of a linear layer.
    saved : list of str
        Tensors that the adapter stores whole: biases, norms, embeddings and output
        layers that differ.
    left_out : list of str
        Tensors that differ, or were excluded, and that the adapter does not represent.
    n_unchanged : int
        Number of tensors that do not differ.
    write_bytes : int
        Size of the tensors of the adapter in bytes.
    seconds : float
        Elapsed time in seconds.
    notes : tuple of str
        Messages for the user, one sentence each.
    """

    out: Path
    modules: list[ExtractedModule]
    saved: list[str]
    left_out: list[str]
    n_unchanged: int
    write_bytes: int
    seconds: float
    notes: tuple[str, ...]

    @property
    def total(self) -> ExtractedModule:
        """Sums over all modules; the rank is the largest."""
        return ExtractedModule(
            "all modules",
            (),
            max((module.rank for module in self.modules), default=0),
            math.fsum(module.squares for module in self.modules) or 1.0,
            math.fsum(module.error_squares for module in self.modules),
        )


def extract_adapter(
    tuned: Member,
    base: Member,
    out: str | os.PathLike[str],
    *,
    rank: int | None = None,
    energy: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dtype: str = "float32",
    threads: int | None = None,
    force: bool = False,
    progress: Callable[[int], None] = silent,
) -> ExtractionReport:
    """Extract a LoRA adapter of PEFT from a fine-tuned model and its base.

    The change of each linear layer is approximated by a product of low rank, in
    float64. Other tensors that differ are stored whole: biases, norms, embeddings and
    output layers. Tensors that PEFT cannot store are reported. Memory is a few
    times the largest linear layer in float64, for each thread, and the adapter.

    Parameters
    ----------
    tuned : path, state dict or Checkpoint
        Fine-tuned model, or a base with an adapter (``base+adapter``), such as one with
        DoRA.
    base : path, state dict or Checkpoint
        Model that it was fine-tuned from.
    out : path
        Directory to write: ``adapter_model.safetensors`` and ``adapter_config.json``.
    rank : int or None, default=None
        Largest rank of a module.
    energy : float or None, default=None
        Fraction of the sum of squares of each change that is kept, such as 0.99, with
        the smallest rank; at most ``rank`` if both are given. One of the two is needed.
    include, exclude : sequence of str, default=()
        Glob patterns for tensor names, as in `average`. Tensors that are left out are
        those of the base when the adapter is applied.
    dtype : str, default="float32"
        Float format of the factors. Errors that are reported include their rounding.
    threads : int or None, default=None
        Number of threads; None uses all processors available to the process.
    force : bool, default=False
        Whether an existing output is replaced.
    progress : callable, optional
        Called with the number of bytes of each model that were read since the last
        call, from any thread.

    Returns
    -------
    ExtractionReport

    Raises
    ------
    FileNotFoundError
        If a model does not exist.
    FileExistsError
        If ``out`` exists, unless ``force``.
    ValueError
        If the models do not have the same tensors, a change contains NaN or infinity,
        nothing differs, or neither ``rank`` nor ``energy`` is given.
    """
    started = time.perf_counter()
    if rank is None and energy is None:
        raise ValueError("pass rank=16 (--rank 16) or energy=0.99 (--energy 0.99)")
    check_size(rank, energy)
    planned = plan(
        [tuned],
        base=base,
        rule="task_arithmetic",
        include=include,
        exclude=exclude,
        threads=threads,
    )
    path = _destination(out, planned, force=force)
    pairs, left_out = _pairs(planned)
    changes = find_changes(pairs)
    if not (changes.matrices or changes.saved):
        raise ValueError(
            f"{planned.members[0].name} must differ from the base in a linear layer, a "
            f"norm or an embedding: {len(pairs)} tensors were compared"
        )
    stored_dtype = float_dtype(dtype)
    with (
        explain_disk_full(path),
        atomic_output(path, folder=True, force=force) as folder,
    ):
        results = map_threads(
            changes.matrices,
            lambda: (
                lambda pair: _extracted(
                    pair, planned, (rank, energy), stored_dtype, progress
                )
            ),
            planned.threads,
        )
        factors = {stored.module: stored for stored, _ in results}
        n_bytes = write_files(folder, factors, changes, planned)
        for source in {t.source for pair in pairs for t in pair[1:]}:
            source.check_unchanged()
    return ExtractionReport(
        out=path,
        modules=[module for _, module in results],
        saved=_saved(changes),
        left_out=[*changes.left_out, *left_out],
        n_unchanged=changes.n_unchanged,
        write_bytes=n_bytes,
        seconds=time.perf_counter() - started,
        notes=(*planned.notes, *_notes(factors, changes)),
    )


def _destination(out: str | os.PathLike[str], planned: Plan, *, force: bool) -> Path:
    """Path of the output; raise if it cannot be written."""
    path = resolved_link(out, force=force)
    assert path is not None  # out is not None
    problems, _ = destination_problems(path, planned.checkpoints, 0)
    if output_format(path) != "directory":
        problems.append(f"an adapter is a directory: {path} must not have a suffix")
    if problems:
        raise ValueError(all_problems(problems))
    check_absent(path, force=force)
    return path


def _pairs(planned: Plan) -> tuple[list[Pair], list[str]]:
    """Tensors of both models, and the names of tensors that are left out."""
    base = planned.base
    assert base is not None  # the rule needs one
    pairs, left_out = [], []
    for target in planned.targets:
        tensor = target.base or base.tensor(target.name)
        if tensor is None or tensor.shape != target.shape:
            left_out.append(target.name)
        else:
            pairs.append(Pair(target.name, target.members[0], tensor))
    names = {target.name for target in planned.targets} | planned.aliases.keys()
    left_out += [name for name in planned.members[0].names if name not in names]
    if any("/" in pair.name for pair in pairs):
        raise ValueError(
            f"{planned.members[0].name} has several components; pass the folder of "
            "one, such as its unet, and that of the base"
        )
    return pairs, left_out


def _extracted(
    pair: Pair,
    planned: Plan,
    size: tuple[int | None, float | None],
    dtype: np.dtype[Any],
    progress: Callable[[int], None],
) -> tuple[StoredFactors, ExtractedModule]:
    """Factors of the change of a weight, and their error."""
    change = pair.difference()
    progress(pair.tuned.nbytes + pair.base.nbytes)
    if not np.isfinite(change).all():
        raise ValueError(
            f"tensor {pair.name!r} contains NaN or infinity, which has no singular "
            f"values; pass exclude=[{pair.name!r}] (--exclude {pair.name})"
        )
    config = planned.members[0].config
    oriented = change.T if pair.has_inputs_first(config) else change
    rank, energy = size
    a, b = (
        _rounded(factor, dtype)
        for factor in approximate(oriented, rank=rank, energy=energy)
    )
    squares = _sum_of_squares(oriented, None)
    error = _sum_of_squares(oriented, (_widened(b), _widened(a)))
    module = ExtractedModule(pair.module, pair.base.shape, len(a), squares, error)
    return StoredFactors(pair.module, a, b, pair.has_inputs_first(config)), module


def _rounded(values: Float64, dtype: np.dtype[Any]) -> Array:
    flat = np.ascontiguousarray(values).reshape(-1)
    return narrow(flat, dtype).reshape(values.shape)


def _widened(values: Array) -> Float64:
    return values.astype(np.float64)


def _sum_of_squares(matrix: Float64, factors: tuple[Float64, Float64] | None) -> float:
    """Sum of squares of a matrix, without a product of factors."""
    sums = []
    for start, stop in chunks(len(matrix), ROWS):
        rows = matrix[start:stop]
        if factors is not None:
            rows = rows - factors[0][start:stop] @ factors[1]
        sums.append(float(np.square(rows).sum()))
    return math.fsum(sums)


def _saved(changes: Changes) -> list[str]:
    whole = [pair.name for pairs in changes.saved.values() for pair in pairs]
    return [*(pair.name for pair in changes.biases), *whole]


def _notes(factors: dict[str, StoredFactors], changes: Changes) -> list[str]:
    notes = []
    larger = [
        stored.module
        for stored in factors.values()
        if stored.a.size + stored.b.size > stored.a.shape[1] * stored.b.shape[0]
    ]
    if larger:
        notes.append(
            f"{len(larger)} modules, such as {larger[0]}, have more numbers in their "
            "factors than in their weight: the change is not of low rank"
        )
    if changes.left_out:
        shown = ", ".join(changes.left_out[:SHOWN])
        notes.append(
            f"{len(changes.left_out)} tensors that differ, such as {shown}, cannot be "
            "stored in an adapter: it gives those of the base"
        )
    if changes.saved:
        names = [*changes.saved]
        notes.append(
            f"{len(names)} modules that are not linear layers, such as {names[0]}, are "
            "stored whole (modules_to_save); some programs ignore these: pass "
            "exclude=... (--exclude) to leave them out"
        )
    return notes
