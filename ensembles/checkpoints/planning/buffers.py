"""Read buffers for blocks of members, within a memory budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.compatibility.layout import Target
from ensembles.kernels.gram import BLOCK
from ensembles.rules.rule import Rule

PAGE = 4096
STEP = 1 << 19  # most elements per step; with smaller steps, threads wait for the GIL


def check_budget(
    targets: Sequence[Target], rule: Rule, memory: int, n_threads: int
) -> tuple[int, int]:
    """Buffer size and number of threads within a memory budget.

    Parameters
    ----------
    targets : sequence of Target
        Tensors of the result.
    rule : Rule
        Rule that combines them; a fused rule needs no float64 copies.
    memory : int
        Budget for the buffers of all threads, in bytes.
    n_threads : int
        Number of threads wanted.

    Returns
    -------
    n_bytes : int
        Bytes that the buffers of all threads take.
    n_threads : int
        Number of threads, reduced if the budget is too small for ``n_threads``.

    Raises
    ------
    ValueError
        If the budget is too small for one block of each member in one thread.
    """
    least = least_memory(targets, rule)
    if memory < least:
        raise ValueError(
            f"memory must be at least {least} bytes, for a block of each member; found "
            f"{memory}"
        )
    n_threads = max(1, min(n_threads, memory // max(least, 1)))
    steps = [step_of(target, rule, memory // n_threads) for target in targets]
    used = [
        min(step, max(target.size, 1)) * _bytes_per_element(target, rule)
        for step, target in zip(steps, targets, strict=True)
    ]
    return n_threads * max(used, default=0), n_threads


def least_memory(targets: Sequence[Target], rule: Rule) -> int:
    """Smallest memory budget: one thread with one block of each member.

    Parameters
    ----------
    targets : sequence of Target
        Tensors of the result.
    rule : Rule
        Rule that combines them; a fused rule needs no float64 copies.

    Returns
    -------
    int
        Size of the buffers in bytes, for the tensor that needs the most.
    """
    blocks = (min(target.size, BLOCK) for target in targets)
    widths = (_bytes_per_element(target, rule) for target in targets)
    return max((n * w for n, w in zip(blocks, widths, strict=True)), default=0)


def step_of(target: Target, rule: Rule, budget: int) -> int:
    """Number of elements per step for one thread's budget in bytes."""
    step = STEP
    while step > BLOCK and step * _bytes_per_element(target, rule) > budget:
        step //= 2
    return step


def _bytes_per_element(target: Target, rule: Rule) -> int:
    stored = sum(tensor.dtype.itemsize for tensor in target.members)
    alike = {tensor.dtype for tensor in target.members} == {target.dtype}
    widened = 0 if alike and rule.fused else len(target.members)
    return stored + 8 * (widened + 2)


class Buffers:
    """Memory of one thread for blocks of members, reused for every block."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def read(self, target: Target, start: int, stop: int) -> Sequence[Array] | Array:
        """Read elements ``start`` to ``stop`` of all members.

        Returns a stack if the members have one dtype, else a list of arrays. Both are
        views of the buffer, valid until the next call.
        """
        dtypes = [tensor.dtype for tensor in target.members]
        size = stop - start
        width = size * max(dtype.itemsize for dtype in dtypes)
        if len(dtypes) * width > len(self._memory):
            fresh = np.empty(len(dtypes) * width + PAGE, np.uint8)
            # Page-aligned: malloc's large buffers start 16 bytes into a page, to which
            # some processors copy a file's pages at a quarter of the speed.
            self._memory = fresh[-fresh.ctypes.data % PAGE :]
        rows = self._memory[: len(dtypes) * width].reshape(len(dtypes), width)
        members = []
        for tensor, row in zip(target.members, rows, strict=True):
            part = row[: size * tensor.dtype.itemsize]
            offset = tensor.offset + start * tensor.dtype.itemsize
            tensor.source.read_into(part.data, offset)
            members.append(part.view(tensor.dtype))
        return rows.view(dtypes[0]) if len(set(dtypes)) == 1 else members
