"""Division of the weight files of an output among several processes (ranks)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.formats.detection import format_by_suffix
from ensembles.checkpoints.planning.options import MergeOptions

UNEVEN = 1.2  # largest share over the mean share; beyond, the plan has a note
SHARDS_PER_RANK = 4  # of the size that the note proposes
Parts = Mapping[str, Sequence[TensorPlan]]


def assign(parts: Parts, world_size: int) -> list[list[str]]:
    """Weight files that each rank writes: the largest first, to the least loaded rank.

    Parameters
    ----------
    parts : mapping of str to sequence of TensorPlan
        Tensors of each weight file.
    world_size : int
        Number of ranks.

    Returns
    -------
    list of list of str
        Weight files of each rank, in the order of ``parts``; empty for some ranks if
        there are fewer files than ranks.
    """
    sizes = {part: _n_bytes(targets) for part, targets in parts.items()}
    loads, ranks = [0] * world_size, {}
    for part in sorted(sizes, key=lambda part: -sizes[part]):
        rank = min(range(world_size), key=lambda rank: (loads[rank], rank))
        loads[rank] += sizes[part]
        ranks[part] = rank
    return [[p for p in parts if ranks[p] == rank] for rank in range(world_size)]


def rank_problems(
    out: Path | None,
    parts: Parts | None,
    members: Sequence[Checkpoint],
    options: MergeOptions,
) -> Iterator[str]:
    """Reasons why several processes cannot write the output together.

    Parameters
    ----------
    out : Path or None
        Path of the output; None for a state dict in memory.
    parts : mapping of str to sequence of TensorPlan, or None
        Tensors of each weight file of a directory; None for other outputs.
    members : sequence of Checkpoint
        Members, then the base if there is one.
    options : MergeOptions
        Options with ``rank`` and ``world_size``.

    Yields
    ------
    str
        One message each; none if ``world_size`` is None.
    """
    if options.world_size is None:
        return
    if parts is None:
        if options.world_size > 1:
            yield (
                f"{options.world_size} processes can only write a directory together, "
                f"found the output {out}: choose a path without suffix, and pass "
                "shard_size=N (--shard-size N) for several weight files, or pass "
                "world_size=1 (--part 1/1) to write it in one process"
            )
        return
    for member in members:
        if member.path is None:
            yield (
                "members and base must be files or directories if world_size is set, "
                f"found {member.name} in memory: save it to a file"
            )
    for part in parts:
        format_ = format_by_suffix(part)
        if format_ and format_.keeps_metadata and not format_.rewrite_metadata:
            yield (
                f"several processes cannot write {part} together: the format "
                f"{format_.name!r} must be registered with rewrite_metadata"
            )


def rank_notes(parts: Parts, world_size: int | None) -> Iterator[str]:
    """Note on an uneven division of the weight files among ranks.

    Parameters
    ----------
    parts : mapping of str to sequence of TensorPlan
        Tensors of each weight file.
    world_size : int or None
        Number of ranks; None yields nothing.

    Yields
    ------
    str
        One sentence.
    """
    if world_size is None:
        return
    ranks = assign(parts, world_size)
    loads = [sum(_n_bytes(parts[part]) for part in files) for files in ranks]
    total = sum(loads)
    if total and max(loads) * world_size > UNEVEN * total:
        n_idle = ranks.count([])
        written = sum(target.nbytes for part in parts.values() for target in part)
        size = max(1, written // (SHARDS_PER_RANK * world_size))
        yield (
            f"the weight files divide unevenly among {world_size} processes: the "
            f"largest share is {max(loads) / total:.0%} of the bytes"
            + f", and {n_idle} write none" * (n_idle > 0)
            + f"; pass shard_size={size} (--shard-size {size}) for smaller files"
        )


def work_folders(out: Path) -> list[Path]:
    """Work folders beside an output, in which several processes write it.

    Parameters
    ----------
    out : Path
        Path of the output.

    Returns
    -------
    list of Path
        Folders of all runs that are not complete, and of the last complete one.
    """
    prefix = work_prefix(out)
    return sorted(p for p in out.parent.iterdir() if p.name.startswith(prefix))


def work_prefix(out: Path) -> str:
    """Beginning of the names of work folders, followed by the digest of the plan."""
    return f".{out.name}.parts-"


def work_bytes(out: Path | None) -> int:
    """Bytes that the work folders of an output have on its disk.

    Parameters
    ----------
    out : Path or None
        Path of the output; None for a state dict in memory.

    Returns
    -------
    int
        Size of all files; 0 if the folder of the output does not exist.
    """
    if out is None or not out.parent.is_dir():
        return 0
    n_bytes = 0
    for folder in work_folders(out):
        # Not `rglob`, which raises if another process removes a folder meanwhile.
        for parent, _, files in os.walk(folder):
            for name in files:
                with suppress(FileNotFoundError):
                    n_bytes += os.lstat(os.path.join(parent, name)).st_size
    return n_bytes


def _n_bytes(targets: Sequence[TensorPlan]) -> int:
    """Bytes to read and to write for the tensors of a weight file."""
    return sum(
        target.nbytes + sum(tensor.nbytes for tensor in target.sources)
        for target in targets
    )
