"""Average checkpoints in memory or on disk, with atomic output."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack, overload

from ensembles._sklearn import warn_user
from ensembles.atomic_io import telling_if_full, whole
from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.merging import digests
from ensembles.checkpoints.merging.relations import (
    different_initializations,
    repetitions,
)
from ensembles.checkpoints.merging.streaming import Outcome
from ensembles.checkpoints.merging.writers import (
    Stream,
    in_memory,
    state_dict,
    stream_members,
    write_safetensors,
    write_torch,
)
from ensembles.checkpoints.planning.options import Options
from ensembles.checkpoints.planning.plan import Plan, plan


@dataclass(frozen=True)
class Report:
    """Summary of an average on disk.

    Parameters
    ----------
    out : Path
        Path of the output.
    files : list of str
        Weight files, relative to ``out`` if it is a directory, else its name.
    members : list of str
        Digest of each member's tensors, as in the metadata of the result.
    digest : str
        Digest of the result's tensors.
    special : list of str
        Names of tensors of the result that contain NaN or infinity.
    sha256 : dict of str to str
        SHA-256 of each weight file that was read or written, by path; empty unless
        requested.
    seconds : float
        Elapsed time in seconds, without planning.
    notes : tuple of str
        Messages based on tensor values: members with the same tensors, or fine-tuned
        from different initializations. Other messages are in ``plan.notes``.
    plan : Plan
        Plan that was carried out.
    """

    out: Path
    files: list[str]
    members: list[str]
    digest: str
    special: list[str]
    sha256: dict[str, str]
    seconds: float
    notes: tuple[str, ...]
    plan: Plan = field(repr=False)


def _silent(n_bytes: int) -> None:
    """Ignore progress."""


@overload
def average(
    members: Sequence[Member],
    out: None = None,
    *,
    progress: Callable[[int], None] = _silent,
    sha256: bool = False,
    **options: Unpack[Options],
) -> dict[str, Any]: ...
@overload
def average(
    members: Sequence[Member],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int], None] = _silent,
    sha256: bool = False,
    **options: Unpack[Options],
) -> Report: ...
def average(
    members: Sequence[Member],
    out: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[int], None] = _silent,
    sha256: bool = False,
    **options: Unpack[Options],
) -> dict[str, Any] | Report:
    """Average checkpoints, on disk or in memory.

    Parameters
    ----------
    members : sequence of paths or state dicts, at least one
        Checkpoint files, directories, or state dicts: mappings of names to NumPy arrays
        or torch tensors.
    out : path or None, default=None
        Path of the output: a safetensors file (``.safetensors``), a PyTorch file
        (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), else a directory. None returns a state
        dict.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread; the
        total is ``plan(...).read_bytes``.
    sha256 : bool, default=False
        Whether to compute the SHA-256 of all weight files for the report.
    rule : str or Rule, default="mean"
        Rule that combines the members: a name in `ensembles.rules.RULES`, or a custom
        `Rule`.
    weights : array-like of shape (n_members,) or None, default=None
        Weight of each member; None gives all members the same weight. Weights may be
        negative for "mean" and other rules with ``signed=True``.
    params : mapping of str to value, default={}
        Parameters of the rule, by name.
    dtype : str or None, default=None
        Float format of the result, such as "bfloat16"; None keeps the dtype of each
        tensor in the first member.
    integers : {"error", "first", "max"}, default="error"
        How to merge integer and boolean tensors that differ: raise an error, take the
        first member's, or take the elementwise maximum. BatchNorm's
        ``num_batches_tracked`` always takes the maximum.
    missing : {"error", "skip", "first"}, default="error"
        How to handle a tensor that some members lack: raise an error, leave it out, or
        copy it from the first member.
    include, exclude : sequence of str, default=()
        Glob patterns for tensor names, such as "*.bias". An empty ``include`` includes
        all tensors; ``exclude`` takes precedence.
    key : str or None, default=None
        Key of the state dict in PyTorch checkpoints, with dots between nested keys,
        such as "ema.model"; None finds it.
    shard_size : int or None, default=None
        Largest size of a weight file in a directory, in bytes; None divides tensors
        into files like the first member.
    memory : int, default=64 MiB
        Largest total size of the read buffers, in bytes.
    threads : int or None, default=None
        Number of threads; None uses all processors available to the process.
    force : bool, default=False
        Whether an existing output is replaced.

    Returns
    -------
    dict or Report
        Without ``out``, a state dict: torch tensors if the first member is a PyTorch
        checkpoint or has torch tensors, else NumPy arrays (bfloat16 and float8 from
        ml_dtypes). With ``out``, a `Report`.

    Raises
    ------
    FileNotFoundError
        If a member does not exist.
    FileExistsError
        If ``out`` exists, or another run creates it meanwhile, unless ``force``.
    TypeError
        If an option is unknown, or a member or option has the wrong type.
    ValueError
        If the members cannot be averaged or ``out`` cannot be written; nothing is
        written.

    Warns
    -----
    UserWarning
        If members were not fine-tuned from the same initialization, by the cosine
        similarity of a sample of their matrices. To average them nevertheless, use
        ``warnings.filterwarnings("ignore", ".* the same initialization")``. Also if a
        tensor of the result contains NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = {"w": np.array([0.0, 2.0])}, {"w": np.array([1.0, 4.0])}
    >>> average([a, b], weights=[3, 1])
    {'w': array([0.25, 2.5 ])}
    """
    planned = plan(members, out, **options)
    apart = different_initializations(planned)
    if apart is not None:
        warn_user(apart)
    if planned.out is not None:
        report = _written(planned, planned.out, progress, sha256)
        _warn(report.special)
        notes = report.notes if apart is None else (apart, *report.notes)
        return replace(report, notes=notes)
    arrays, outcome = in_memory(planned, progress)
    _warn(outcome.special)
    first = planned.members[0]
    return state_dict(planned, arrays, torch=first.is_torch)


def write(
    plan: Plan,
    *,
    progress: Callable[[int], None] = _silent,
    sha256: bool = False,
    stream: Stream = stream_members,
) -> Report:
    """Carry out a plan whose output is on disk.

    Unlike `average`, it does not compare the initializations of the members.

    Parameters
    ----------
    plan : Plan
        Plan with an ``out``.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread.
    sha256 : bool, default=False
        Whether to compute the SHA-256 of all weight files for the report.
    stream : callable, default is `ensembles.checkpoints.merging.writers.stream_members`
        Function that combines the members and passes the result to sinks.

    Returns
    -------
    Report

    Raises
    ------
    FileExistsError
        If the output exists, or another run creates it meanwhile, unless ``force``.
    ValueError
        If the plan has no ``out``, a member is damaged or changes while it is read, or
        the rule or option ``integers`` rejects values of a tensor.

    Warns
    -----
    UserWarning
        If a tensor of the result contains NaN or infinity.
    """
    if plan.out is None:
        raise ValueError("the plan must have an out to be written to")
    report = _written(plan, plan.out, progress, sha256, stream)
    _warn(report.special)
    return report


def write_into(
    plan: Plan,
    place: Path,
    progress: Callable[[int], None],
    stream: Stream = stream_members,
) -> Outcome:
    """Carry out a plan into a file or directory that exists and is empty.

    Parameters
    ----------
    plan : Plan
        Plan with an ``out``, whose suffix determines the format.
    place : Path
        Path to write to instead of ``out``: a directory if ``plan.kind`` is
        "directory", else a file.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.
    stream : callable, default is `ensembles.checkpoints.merging.writers.stream_members`
        Function that combines the members and passes the result to sinks.

    Returns
    -------
    Outcome
        Digests, and the names of tensors with NaN or infinity.
    """
    into = write_torch if plan.kind == "torch" else write_safetensors
    return into(plan, place, progress, stream)


def _written(
    plan: Plan,
    out: Path,
    progress: Callable[[int], None],
    sha256: bool,
    stream: Stream = stream_members,
) -> Report:
    started = time.perf_counter()
    folder, force = plan.kind == "directory", plan.options["force"]
    with telling_if_full(out), whole(out, folder=folder, force=force) as place:
        outcome = write_into(plan, place, progress, stream)
    members = outcome.members(plan.targets, len(plan.members))
    return Report(
        out=out,
        files=list(plan.parts),
        members=members,
        digest=outcome.result,
        special=outcome.special,
        sha256=_hashes(plan, out) if sha256 else {},
        seconds=time.perf_counter() - started,
        notes=tuple(repetitions(plan, members)),
        plan=plan,
    )


def _warn(special: Sequence[str]) -> None:
    """Warn of NaN and infinity, at the line that called `average` or `write`."""
    if special:
        more = len(special) > 1
        warnings.warn(
            f"{len(special)} tensor{'s' * more} of the result "
            f"{'hold' if more else 'holds'} NaN or infinity, such as {special[0]!r}; "
            "look for them in the members",
            stacklevel=3,
        )


def _hashes(plan: Plan, out: Path) -> dict[str, str]:
    """SHA-256 of every weight file that was read or written, by path."""
    paths = [out / p if plan.kind == "directory" else out for p in plan.parts]
    for member in plan.members:
        if member.path is not None:
            folder = member.path if member.kind == "directory" else member.path.parent
            paths += [folder / part for part in member.parts]
    return {str(path): digests.sha256(path) for path in dict.fromkeys(paths)}
