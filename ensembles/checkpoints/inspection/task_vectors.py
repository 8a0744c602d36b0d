"""Inner products of task vectors, streamed from checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.merging.checksums import verify_checksums
from ensembles.checkpoints.merging.streaming import rule_states
from ensembles.checkpoints.planning.options import MEMORY, Missing
from ensembles.checkpoints.planning.plan import plan
from ensembles.kernels.gram import gram
from ensembles.rules.rule import Rule


def task_vector_gram(
    members: Sequence[Member],
    base: Member,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    missing: Missing = "error",
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> Float64:
    """Inner products of the task vectors of members, their differences from the base.

    Tensors are streamed in float64, and sums added in fixed blocks: the numbers do not
    depend on threads or memory. Integer tensors do not count.

    Parameters
    ----------
    members : sequence of paths or state dicts
        Members.
    base : path or state dict
        Checkpoint that the members were fine-tuned from.
    include, exclude : sequence of str, default=()
        Glob patterns for tensor names, as in `average`.
    missing : {"error", "skip", "first"}, default="error"
        How to handle a tensor that some checkpoints lack: raise an error, or leave it
        out.
    memory : int, default=64 MiB
        Largest total size of the read buffers, in bytes.
    threads : int or None, default=None
        Number of threads; None uses all processors available to the process.
    progress : callable, default does nothing
        Called with the number of bytes read since the last call, from any thread.

    Returns
    -------
    ndarray of shape (n_members, n_members), float64
        NaN for members with NaN or infinity.

    Raises
    ------
    FileNotFoundError
        If a member or the base does not exist.
    ValueError
        If the members and the base do not match, or a file is damaged.
    """
    rule = Rule(_unused, statistics=_differences_gram, needs_base=True)
    planned = plan(
        members,
        base=base,
        base_may_be_member=True,
        rule=rule,
        include=include,
        exclude=exclude,
        integers="first",
        missing="error" if missing == "error" else "skip",
        memory=memory,
        threads=threads,
    )
    verify_checksums(planned.checkpoints, {}, planned.threads, progress)
    total = np.zeros((len(members), len(members)))
    for state in rule_states(planned, progress).values():
        total += state
    return total


def _differences_gram(stack: Array, base: Array) -> Float64:
    """Gram matrices of the differences from the base, one for each block."""
    return gram(stack - base)


def _unused(stack: Array, weights: Float64, *, base: Array, state: Float64) -> Array:
    """Stand in for the rule's own function; only its statistics are computed."""
    return base
