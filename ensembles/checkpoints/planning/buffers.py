"""Read buffers for blocks of members, within a memory budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.checkpoints.formats.detection import format_by_suffix
from ensembles.kernels.gram import BLOCK
from ensembles.rules.block_rule import PIECE, Unit
from ensembles.rules.builtin import RULES
from ensembles.rules.rule import Rule

PAGE = 4096
ALIGNMENT = 64
SOLVED = 6  # float64 copies of a matrix while a system with it is solved
# Largest number of elements per chunk; with smaller chunks, threads wait for the GIL.
LARGEST_CHUNK = 1 << 19


def fit_to_memory(
    targets: Sequence[TensorPlan],
    rule: Rule,
    params: Mapping[str, Any],
    memory: int,
    n_threads: int,
) -> tuple[int, int]:
    """Size of buffers and statistics, and number of threads, within a memory budget.

    Parameters
    ----------
    targets : sequence of TensorPlan
        Tensors of the result.
    rule : Rule
        Rule that combines them; a fused rule needs no float64 copies.
    params : mapping of str to value
        Parameters of the rule.
    memory : int
        Budget for the buffers and statistics of all threads, in bytes.
    n_threads : int
        Number of threads wanted.

    Returns
    -------
    n_bytes : int
        Size of the buffers and statistics of all threads in bytes. It exceeds the
        budget if the rule needs whole rows or tensors, or statistics, that are larger.
    n_threads : int
        Number of threads, reduced if the budget is too small for ``n_threads``.

    Raises
    ------
    ValueError
        If the budget is too small for one block of each member in one thread.
    """
    smallest = minimum_memory(targets, rule, params)
    if memory < smallest and rule.unit == "element":
        raise ValueError(
            f"memory must be at least {smallest} bytes, for a block of each member; "
            f"found {memory}"
        )
    n_statistics = _statistics_bytes(targets, rule, params)
    n_threads = max(1, min(n_threads, memory // max(smallest + n_statistics, 1)))
    budget = buffer_budget(targets, rule, params, memory, n_threads)
    largest = 0
    for target in targets:
        size = min(chunk_size(target, rule, budget, params), max(target.size, 1))
        largest = max(largest, _buffer_bytes(target, rule, size, params))
    return n_threads * (largest + n_statistics), n_threads


def buffer_budget(
    targets: Sequence[TensorPlan],
    rule: Rule,
    params: Mapping[str, Any],
    memory: int,
    n_threads: int,
) -> int:
    """Budget of one thread for its buffers, without the statistics of the rule.

    Parameters
    ----------
    targets, rule, params, memory, n_threads
        As in `fit_to_memory`.

    Returns
    -------
    int
        Number of bytes; negative if the statistics exceed the budget.
    """
    return memory // n_threads - _statistics_bytes(targets, rule, params)


def _statistics_bytes(
    targets: Sequence[TensorPlan], rule: Rule, params: Mapping[str, Any]
) -> int:
    """Memory of one thread for the statistics of a part and of its tensor so far."""
    needed = {
        (len(target.members), id(target.settings)): target
        for target in targets
        if target.action == "combine"
    }
    return 2 * max(
        (
            rule.statistics_bytes(len(target.members), target.params(params))
            for target in needed.values()
        ),
        default=0,
    )


def minimum_memory(
    targets: Sequence[TensorPlan], rule: Rule, params: Mapping[str, Any]
) -> int:
    """Smallest memory budget: one thread with one block of each member.

    Parameters
    ----------
    targets : sequence of TensorPlan
        Tensors of the result.
    rule : Rule
        Rule that combines them; a fused rule needs no float64 copies.
    params : mapping of str to value
        Parameters of the rule.

    Returns
    -------
    int
        Size of the buffers in bytes, for the tensor that needs the most.
    """
    needed = (
        _buffer_bytes(
            target, rule, min(target.size, _block_size(target, rule, params)), params
        )
        for target in targets
    )
    return max(needed, default=0)


def chunk_size(
    target: TensorPlan, rule: Rule, budget: int, params: Mapping[str, Any]
) -> int:
    """Number of elements to read at once, for one thread's budget in bytes."""
    block = max(_block_size(target, rule, params), 1)
    n_blocks = max(LARGEST_CHUNK // block, 1)
    while (
        n_blocks > 1 and _buffer_bytes(target, rule, n_blocks * block, params) > budget
    ):
        n_blocks //= 2
    return n_blocks * block


def _block_size(target: TensorPlan, rule: Rule, params: Mapping[str, Any]) -> int:
    if target.action != "combine":
        return BLOCK
    return rule.block_size(target.position, target.params(params))


def unit_of(target: TensorPlan, rule: Rule, params: Mapping[str, Any]) -> Unit:
    """What the rule needs whole of a tensor; "element" if it does not combine it."""
    if target.action != "combine":
        return "element"
    return rule.unit_of(target.position, target.params(params))


def _buffer_bytes(
    target: TensorPlan, rule: Rule, size: int, params: Mapping[str, Any]
) -> int:
    """Memory for a number of elements: as stored, in float64, and the result."""
    whole = target.moments if rule.unit == "tensor" else ()
    dtypes = [tensor.dtype for tensor in target.sources[: -len(whole) or None]]
    n_bytes = size * (sum(dtype.itemsize for dtype in dtypes) + 2 * 8)
    # Moments as stored, and copies while a system is solved.
    n_bytes += sum(tensor.nbytes for tensor in whole)
    n_bytes += max((8 * SOLVED * tensor.size for tensor in whole), default=0)
    block = _block_size(target, rule, params)
    has_units = unit_of(target, rule, params) != "element"
    if has_units or not (rule.fused and {*dtypes} == {target.dtype}):
        # Statistics and units are converted to float64 at once, the rest in pieces.
        converted = block if rule.passes or has_units else PIECE // len(dtypes)
        n_bytes += 8 * len(dtypes) * min(size, converted)
    return n_bytes + 8 * rule.workspace * min(size, block) * has_units


def count_held(
    format_: str, parts: Mapping[str, list[TensorPlan]], n_written: int
) -> int:
    """Bytes of the result that are held in memory, if a format does not stream.

    Parameters
    ----------
    format_ : str
        Name of the output's format in `FORMATS`; "directory" or "memory".
    parts : mapping of str to list of TensorPlan
        Tensors of each weight file.
    n_written : int
        Size of the result's tensors in bytes.

    Returns
    -------
    int
        Number of bytes.
    """
    if format_ == "memory":
        return n_written
    formats = {part: format_by_suffix(part) for part in parts}
    held_parts = [
        part
        for part, format_entry in formats.items()
        if format_entry and not format_entry.streams
    ]
    return sum(target.nbytes for part in held_parts for target in parts[part])


class Block(NamedTuple):
    """Elements of a tensor in all members, and what belongs to them.

    Parameters
    ----------
    members : ndarray of shape (n_members, size), or list of arrays of shape (size,)
        Members: a stack if they have one dtype.
    base : ndarray of shape (size,) or None
        The same elements of the base.
    moments : list of ndarray
        The same elements of the moments of each member; all moments, in their shape,
        if the block is the whole tensor or they have another shape.
    """

    members: Sequence[Array] | Array
    base: Array | None
    moments: list[Array]

    @property
    def sources(self) -> list[Array]:
        """Arrays in the order of ``TensorPlan.sources``."""
        base = [] if self.base is None else [self.base]
        return [*self.members, *base, *self.moments]


def n_combined(target: TensorPlan) -> int:
    """Elements that loops read; most rules copy a single member.

    Parameters
    ----------
    target : TensorPlan
        Tensor of the result.

    Returns
    -------
    int
    """
    return target.size * len(target.sources) if len(target.sources) > 1 else 0


def returns_source(
    rule: Rule, target: TensorPlan, weights: Float64, params: Mapping[str, Any]
) -> bool:
    """Whether a tensor of the result certainly has the bytes of its only source.

    Parameters
    ----------
    rule : Rule
        Rule that combines the members.
    target : TensorPlan
        Tensor of the result.
    weights : ndarray of shape (n_members,)
        Weight of each member of the tensor.
    params : mapping of str to value
        Parameters of the rule for the tensor.

    Returns
    -------
    bool
    """
    if len(target.sources) > 1 or target.sources[0].dtype != target.dtype:
        return False
    is_identity = rule is RULES["linear_combination"] and weights[0] == 1
    is_identity &= params.get("scale", 1) == 1
    return target.action == "copy" or (target.action == "combine" and is_identity)


class ReadBuffers:
    """Memory of one thread for blocks of members and base, reused for every block."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def read(self, target: TensorPlan, start: int, stop: int) -> Block:
        """Read elements ``start`` to ``stop`` of all members, base and moments.

        Arrays of members and base are views of the buffer, valid until the next call.
        """
        dtypes = [tensor.dtype for tensor in target.members]
        size = stop - start
        width = size * max(dtype.itemsize for dtype in dtypes)
        end = len(dtypes) * width
        base_start = -(-end // ALIGNMENT) * ALIGNMENT
        n_bytes = base_start + (size * target.base.dtype.itemsize if target.base else 0)
        if n_bytes > len(self._memory):
            fresh = np.empty(n_bytes + PAGE, np.uint8)
            # Page-aligned: malloc's large buffers start 16 bytes into a page, to which
            # some processors copy a file's pages at a quarter of the speed.
            self._memory = fresh[-fresh.ctypes.data % PAGE :]
        rows = self._memory[:end].reshape(len(dtypes), width)
        members = [
            _read(tensor, row, start, size)
            for tensor, row in zip(target.members, rows, strict=True)
        ]
        base = None
        if target.base is not None:
            base = _read(target.base, self._memory[base_start:], start, size)
        stack = rows.view(dtypes[0]) if len(set(dtypes)) == 1 else members
        return Block(
            stack, base, [_moments(t, target, start, stop) for t in target.moments]
        )


def _moments(tensor: Tensor, target: TensorPlan, start: int, stop: int) -> Array:
    """Read moments of the elements of a tensor, or all if they have another shape."""
    is_whole = tensor.shape != target.shape or stop - start == target.size
    if is_whole:
        start, stop = 0, tensor.size
    memory = np.empty((stop - start) * tensor.dtype.itemsize, np.uint8)
    array = _read(tensor, memory, start, stop - start)
    return array.reshape(tensor.shape) if is_whole else array


def _read(tensor: Tensor, memory: Array, start: int, size: int) -> Array:
    """Read ``size`` elements from element ``start`` on into the beginning of memory."""
    buffer = memory[: size * tensor.dtype.itemsize]
    tensor.source.read_into(buffer.data, tensor.offset + start * tensor.dtype.itemsize)
    return buffer.view(tensor.dtype)
