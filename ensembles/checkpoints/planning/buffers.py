"""Memory for blocks of members, within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.compatibility.layout import Target
from ensembles.kernels.gram import BLOCK
from ensembles.rules.rule import Rule

PAGE = 4096
STEP = 1 << 19  # elements at a time, at most: with fewer, threads wait for Python


def check_budget(
    targets: Sequence[Target], rule: Rule, memory: int, n_threads: int
) -> tuple[int, int]:
    """Bytes of buffers that a budget is used for, and the threads it is enough for.

    Parameters
    ----------
    targets : sequence of Target
    rule : Rule
    memory : int
        Bytes at most.
    n_threads : int

    Returns
    -------
    n_bytes, n_threads : int

    Raises
    ------
    ValueError
        If it is not enough for one block of one thread.
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
    """Bytes of buffers that one thread needs for one block of each member.

    Parameters
    ----------
    targets : sequence of Target
    rule : Rule

    Returns
    -------
    int
    """
    blocks = (min(target.size, BLOCK) for target in targets)
    widths = (_bytes_per_element(target, rule) for target in targets)
    return max((n * w for n, w in zip(blocks, widths, strict=True)), default=0)


def step_of(target: Target, rule: Rule, budget: int) -> int:
    """Elements that a thread's share of the budget lets it take at a time."""
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
    """One thread's memory for blocks of members, used again and again."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def read(self, target: Target, start: int, stop: int) -> Sequence[Array] | Array:
        """Blocks of all members: a stack where they are of one dtype."""
        dtypes = [tensor.dtype for tensor in target.members]
        size = stop - start
        width = size * max(dtype.itemsize for dtype in dtypes)
        if len(dtypes) * width > len(self._memory):
            fresh = np.empty(len(dtypes) * width + PAGE, np.uint8)
            # Where a buffer begins 16 bytes into a page, as malloc's do, some
            # processors copy a file's pages into it at a quarter of the speed.
            self._memory = fresh[-fresh.ctypes.data % PAGE :]
        rows = self._memory[: len(dtypes) * width].reshape(len(dtypes), width)
        members = []
        for tensor, row in zip(target.members, rows, strict=True):
            part = row[: size * tensor.dtype.itemsize]
            offset = tensor.offset + start * tensor.dtype.itemsize
            tensor.source.read_into(part.data, offset)
            members.append(part.view(tensor.dtype))
        return rows.view(dtypes[0]) if len(set(dtypes)) == 1 else members
