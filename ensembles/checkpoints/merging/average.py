"""Averages of checkpoints: planned, streamed, written whole or not at all."""

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
    """What an average did.

    Parameters
    ----------
    out : Path
    files : list of str
        Files of weights, relative to ``out`` where it is a directory.
    members : list of str
        Digest of each member, as in the result's metadata.
    digest : str
        Digest of the result's tensors.
    special : list of str
        Names of tensors that hold a NaN or an infinity.
    sha256 : dict of str to str
        Of whole files by path, if asked for.
    seconds : float
    notes : tuple of str
        What only the tensors tell: members that hold the same ones, or that were
        trained from different initializations. The plan has notes of its own.
    plan : Plan
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
    """Progress that nobody asked for."""


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
        A state dict maps names to numpy arrays or torch tensors.
    out : path or None, default=None
        Where the result is written: a ``.safetensors`` file, a file of torch by its
        suffix, else a directory. None returns it.
    progress : callable, optional
        Called from any thread with the number of bytes read since the last call; in
        all they are ``plan(...).read_bytes``.
    sha256 : bool, default=False
        Whether whole files are hashed for the report.
    rule : str or Rule, default="mean"
        A name in `ensembles.rules.RULES`, or a rule of one's own.
    weights : array-like of shape (n_members,) or None, default=None
        How much each member counts; None means equally. The rules "mean" and others
        that say so take negative ones.
    params : mapping of str to value, default={}
        Parameters of the rule.
    dtype : str or None, default=None
        Float format of the result, such as "bfloat16"; None keeps each tensor's own.
    integers : {"error", "first", "max"}, default="error"
        What becomes of integer and boolean tensors that differ.
    missing : {"error", "skip", "first"}, default="error"
        What becomes of a tensor that a member lacks: nothing is done, it is left out,
        or it is copied from the first member.
    include, exclude : sequence of str, default=()
        Patterns for the names of tensors in the result, as "*.bias".
    key : str or None, default=None
        Where in a PyTorch file the state dict lies, as "ema.model".
    shard_size : int or None, default=None
        Bytes at most in a file of a directory; None keeps the first member's files.
    memory : int, default=64 MiB
        Bytes of buffers at most.
    threads : int or None, default=None
        None takes all processors.
    force : bool, default=False
        Whether an existing output is replaced.

    Returns
    -------
    dict or Report
        Without ``out``, a state dict of the kind of the first member: of torch tensors
        for those and for files of torch, else of numpy arrays (bfloat16 and float8 by
        ml_dtypes). With it, a `Report`.

    Raises
    ------
    FileNotFoundError, FileExistsError
        If a member is not there; if something stands at ``out``, from before or by
        a second run, and not ``force``.
    ValueError
        If anything stands in the way; nothing is written.

    Warns
    -----
    UserWarning
        If members were not fine-tuned from the same initialization, by the cosine
        similarity of a sample of their matrices; if that is meant,
        ``warnings.filterwarnings("ignore", ".* the same initialization")``. If a
        tensor of the result holds a NaN or an infinity.

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
    """Do what was planned for an output on disk.

    Parameters
    ----------
    plan : Plan
        With an ``out``.
    progress, sha256
        As in `average`.
    stream : callable, default is `ensembles.checkpoints.merging.writers.stream_members`
        What brings the bytes.

    Returns
    -------
    Report

    Raises
    ------
    FileExistsError, ValueError
        As `average`.

    Warns
    -----
    UserWarning
        As `average`.
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
    """Do what was planned at a place that is there, and empty.

    Parameters
    ----------
    plan : Plan
        With an ``out``, which tells the kind.
    place : Path
        A file, or a directory where that is the kind.
    progress : callable
    stream : callable, default is `ensembles.checkpoints.merging.writers.stream_members`

    Returns
    -------
    Outcome
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
    """Warn whoever called the function that calls this one."""
    if special:
        more = len(special) > 1
        warnings.warn(
            f"{len(special)} tensor{'s' * more} of the result "
            f"{'hold' if more else 'holds'} NaN or infinity, such as {special[0]!r}; "
            "look for them in the members",
            stacklevel=3,
        )


def _hashes(plan: Plan, out: Path) -> dict[str, str]:
    """SHA-256 of every file of weights that was read or written."""
    paths = [out / p if plan.kind == "directory" else out for p in plan.parts]
    for member in plan.members:
        if member.path is not None:
            folder = member.path if member.kind == "directory" else member.path.parent
            paths += [folder / part for part in member.parts]
    return {str(path): digests.sha256(path) for path in dict.fromkeys(paths)}
