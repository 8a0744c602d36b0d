"""Differences between two checkpoints, tensor by tensor and module by module."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.compatibility.layers import layers_of
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.compatibility.prefixes import match_first_names
from ensembles.checkpoints.directories.open import Member, open_checkpoint
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys, Tensor
from ensembles.checkpoints.merging.checksums import verify_checksums
from ensembles.checkpoints.planning.buffers import (
    ReadBuffers,
    chunk_size,
    fit_to_memory,
)
from ensembles.checkpoints.planning.options import MEMORY
from ensembles.kernels.differences import (
    N_COLUMNS,
    DifferenceSums,
    difference_sums,
    total,
)
from ensembles.kernels.jit import prepare_loops
from ensembles.parallel import chunks, map_threads, resolve_n_threads
from ensembles.rules.builtin import RULES

JOB = 1 << 22  # elements of a job, a multiple of the blocks of sums
FEW = 1 << 20  # bytes; comparing fewer takes less time than starting a thread
NO_ROWS = np.zeros((0, N_COLUMNS))


class TensorDifference(NamedTuple):
    """Difference of a tensor between two checkpoints, of b from a.

    Parameters
    ----------
    name : str
        Tensor name.
    size : int
        Number of elements.
    is_identical : bool
        Whether dtype and bytes are equal.
    sums : DifferenceSums
        Sums over the elements that are finite in both.
    """

    name: str
    size: int
    is_identical: bool
    sums: DifferenceSums

    @property
    def relative(self) -> float:
        """L2 norm of b - a, divided by that of a; infinite if only a is 0."""
        return _relative(self.sums)

    @property
    def cosine(self) -> float:
        """Cosine similarity of a and b; NaN if one of them is 0."""
        return _cosine(self.sums)

    @property
    def largest(self) -> float:
        """Largest absolute value of b - a."""
        return self.sums.largest

    @property
    def n_nonfinite(self) -> int:
        """Number of elements that are NaN or infinite in a or b, and left out."""
        return int(self.sums.n_nonfinite)


class ModuleDifference(NamedTuple):
    """Difference of all tensors of a module between two checkpoints.

    Parameters
    ----------
    name : str
        Name of the module.
    size : int
        Number of elements.
    n_tensors : int
        Number of tensors that both checkpoints have, of the same shape.
    n_identical : int
        Number of tensors with equal dtype and bytes.
    relative : float
        L2 norm of b - a over all elements, divided by that of a.
    cosine : float
        Cosine similarity over all elements; NaN if a or b is 0.
    largest : float
        Largest absolute value of b - a.
    largest_tensor : str
        Name of the tensor with the largest absolute change.
    n_nonfinite : int
        Number of elements that are NaN or infinite in a or b, and left out.
    """

    name: str
    size: int
    n_tensors: int
    n_identical: int
    relative: float
    cosine: float
    largest: float
    largest_tensor: str
    n_nonfinite: int


@dataclass(frozen=True)
class Difference:
    """Differences between two checkpoints a and b.

    Parameters
    ----------
    a, b : str
        Names of the checkpoints.
    tensors : list of TensorDifference
        Tensors that both have, of the same shape, in the order of a.
    only_a, only_b : list of str
        Names of tensors that only one of them has.
    shapes : dict of str to (shape, shape)
        Shapes in a and b of tensors whose shapes differ; their values are not compared.
    dtypes : dict of str to (str, str)
        Dtypes in a and b of tensors whose dtypes differ; their values are compared.
    notes : list of str
        Messages, such as on names that were matched.
    """

    a: str
    b: str
    tensors: list[TensorDifference]
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(
        default_factory=dict
    )
    dtypes: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_identical(self) -> bool:
        """Whether both have the same tensors with the same names, dtypes and bytes."""
        changed = any(not tensor.is_identical for tensor in self.tensors)
        return not (changed or self.only_a or self.only_b or self.shapes)

    @property
    def whole(self) -> ModuleDifference:
        """Difference over all tensors."""
        return _module("", self.tensors)

    def modules(self, depth: int | None = None) -> list[ModuleDifference]:
        """Differences by module, the largest relative change first.

        Parameters
        ----------
        depth : int or None, default=None
            Number of components of the names that distinguish modules; None takes the
            layers, such as ``encoder.layer.3``.

        Returns
        -------
        list of ModuleDifference
            Equal changes are in the order of a.
        """
        by_name = {tensor.name: tensor for tensor in self.tensors}
        groups = layers_of(by_name) if depth is None else _by_depth(by_name, depth)
        modules = [
            _module(name, [by_name[tensor] for tensor in names])
            for name, names in groups.items()
        ]
        return sorted(modules, key=lambda module: -module.relative)


def _silent(n_bytes: int) -> None:
    """Ignore progress."""


def diff(
    a: Member,
    b: Member,
    *,
    key: Keys = None,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Callable[[int], None] = _silent,
) -> Difference:
    """Compare two checkpoints, tensor by tensor.

    Tensors are streamed, in float64, and their sums added in fixed blocks: the numbers
    do not depend on threads or memory. Elements that are NaN or infinite in one of the
    checkpoints are left out of the sums and counted.

    Parameters
    ----------
    a : path or state dict
        Checkpoint that changes are relative to, such as a base.
    b : path or state dict
        Checkpoint to compare with it, such as a fine-tuned model.
    key : str or None, default=None
        Key of the state dict in PyTorch files, with dots between nested keys; None
        finds it.
    memory : int, default=64 MiB
        Memory for the buffers of all threads, in bytes; fewer threads run if it is too
        small for all.
    threads : int or None, default=None
        Number of threads; None means one per processor.
    progress : callable, optional
        Called with the number of bytes read since the last call, one thread at a time.

    Returns
    -------
    Difference

    Raises
    ------
    FileNotFoundError
        If a checkpoint does not exist.
    ValueError
        If a checkpoint is damaged or has an unsupported format, changes while it is
        read, or the memory is too small.

    Examples
    --------
    >>> import numpy as np
    >>> found = diff({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])})
    >>> found.tensors[0].relative, found.tensors[0].largest
    (0.1, 0.5)
    """
    opened = [open_checkpoint(m, place, key=key) for place, m in enumerate((a, b))]
    notes = [f"{c.name}: {note}" for c in opened for note in c.notes]
    if opened[0].layout.keys() != opened[1].layout.keys():
        renamed, more = match_first_names(opened)
        opened, notes = [*renamed], notes + more
    pairs, only_a, only_b = _pairs(*opened)
    shapes = {name: (x.shape, y.shape) for name, (x, y) in pairs.items()}
    targets = [
        TensorPlan(name, tensors[0].dtype, tensors[0].shape, tensors, "combine")
        for name, tensors in pairs.items()
        if shapes[name][0] == shapes[name][1]
    ]
    wanted = resolve_n_threads(threads)
    _, n_threads = fit_to_memory(targets, RULES["mean"], {}, memory, wanted)
    verify_checksums(opened, {}, n_threads, progress)
    tensors = _compared(targets, n_threads, memory, progress)
    for source in {tensor.source for pair in pairs.values() for tensor in pair}:
        source.check_unchanged()
    return Difference(
        a=opened[0].name,
        b=opened[1].name,
        tensors=tensors,
        only_a=only_a,
        only_b=only_b,
        shapes={name: pair for name, pair in shapes.items() if pair[0] != pair[1]},
        dtypes={
            name: (str(x.dtype), str(y.dtype))
            for name, (x, y) in pairs.items()
            if x.dtype != y.dtype
        },
        notes=notes,
    )


def _pairs(
    a: Checkpoint, b: Checkpoint
) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str], list[str]]:
    """Tensors that both have, by name, and names that only one of them has."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name in a.names:
        x, y = a.tensor(name), b.tensor(name)
        # Tensors tied in both are compared once.
        if (
            x
            and y
            and (name not in a.aliases or a.aliases[name] != b.aliases.get(name))
        ):
            pairs[name] = (x, y)
    only_a = [name for name in a.names if b.tensor(name) is None]
    only_b = [name for name in b.names if a.tensor(name) is None]
    return pairs, only_a, only_b


class _Job(NamedTuple):
    """Part of a tensor, which starts at a multiple of `BLOCK` elements."""

    target: TensorPlan
    start: int
    stop: int


def _compared(
    targets: Sequence[TensorPlan],
    n_threads: int,
    memory: int,
    progress: Callable[[int], None],
) -> list[TensorDifference]:
    """Compare the tensors of two members, in threads."""
    jobs = [
        _Job(target, start, stop)
        for target in targets
        for start, stop in chunks(target.size, JOB)
    ]
    n_bytes = sum(tensor.nbytes for target in targets for tensor in target.members)
    n_threads = n_threads if n_bytes >= FEW else 1
    prepare_loops(2 * sum(target.size for target in targets))
    lock = threading.Lock()

    def start_thread() -> Callable[[_Job], tuple[Float64, bool]]:
        budget = memory // n_threads
        return partial(
            _compare, ReadBuffers(), budget, partial(_report, lock, progress)
        )

    rows: dict[str, list[Float64]] = {target.name: [] for target in targets}
    differing = set()
    parts = map_threads(jobs, start_thread, n_threads)
    for job, (sums, is_identical) in zip(jobs, parts, strict=True):
        rows[job.target.name].append(sums)
        if not is_identical:
            differing.add(job.target.name)
    return [
        TensorDifference(
            name=target.name,
            size=target.size,
            is_identical=target.name not in differing and _same_dtype(target),
            sums=total(np.concatenate([NO_ROWS, *rows[target.name]])),
        )
        for target in targets
    ]


def _report(
    lock: threading.Lock, progress: Callable[[int], None], n_bytes: int
) -> None:
    with lock:
        progress(n_bytes)


def _compare(
    buffers: ReadBuffers, budget: int, report: Callable[[int], None], job: _Job
) -> tuple[Float64, bool]:
    """Rows of sums of a part of a tensor, and whether its bytes are equal."""
    rows = []
    is_identical = True
    step = chunk_size(job.target, RULES["mean"], budget, {})
    for start, stop in chunks(job.stop - job.start, step):
        a, b = buffers.read(job.target, job.start + start, job.start + stop).members
        rows.append(difference_sums(a, b))
        # Bytes are compared only if no number differs.
        is_identical = is_identical and not rows[-1][:, 4].any() and _same_bits(a, b)
        report(a.nbytes + b.nbytes)
    return np.concatenate(rows), is_identical


def _same_dtype(target: TensorPlan) -> bool:
    return len({tensor.dtype for tensor in target.members}) == 1


def _same_bits(a: Array, b: Array) -> bool:
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return a.dtype == b.dtype and np.array_equal(a.view(bits), b.view(bits))


def _by_depth(names: Iterable[str], depth: int) -> dict[str, list[str]]:
    """Group tensor names by their first components, without the tensor itself."""
    groups: dict[str, list[str]] = {}
    for name in names:
        components = name.split(".")
        module = ".".join(components[:-1][:depth]) or name
        groups.setdefault(module, []).append(name)
    return groups


def _module(name: str, tensors: Sequence[TensorDifference]) -> ModuleDifference:
    """Difference over all elements of some tensors."""
    sums = total(np.array([tensor.sums for tensor in tensors]).reshape(-1, N_COLUMNS))
    changed = max(tensors, key=lambda tensor: tensor.largest, default=None)
    return ModuleDifference(
        name=name,
        size=sum(tensor.size for tensor in tensors),
        n_tensors=len(tensors),
        n_identical=sum(tensor.is_identical for tensor in tensors),
        relative=_relative(sums),
        cosine=_cosine(sums),
        largest=sums.largest,
        largest_tensor=changed.name if changed is not None else "",
        n_nonfinite=int(sums.n_nonfinite),
    )


def _relative(sums: DifferenceSums) -> float:
    if sums.aa == 0:
        return math.inf if sums.dd else 0.0
    return math.sqrt(sums.dd) / math.sqrt(sums.aa)


def _cosine(sums: DifferenceSums) -> float:
    if sums.aa == 0 or sums.bb == 0:
        return math.nan
    cosine = sums.ab / (math.sqrt(sums.aa) * math.sqrt(sums.bb))
    return min(max(cosine, -1.0), 1.0)
