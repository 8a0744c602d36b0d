"""Average checkpoints in memory or on disk, with atomic output."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from numpy.typing import ArrayLike

from ensembles._sklearn import warn_caller
from ensembles.atomic_io import atomic_output, explain_disk_full
from ensembles.checkpoints.compatibility.member_moments import MomentsSource
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.formats.checkpoint import Keys
from ensembles.checkpoints.formats.state_dict import as_torch, with_aliases
from ensembles.checkpoints.merging import digests
from ensembles.checkpoints.merging.relations import (
    different_initializations,
    repetitions,
)
from ensembles.checkpoints.merging.work_folder import write_shared
from ensembles.checkpoints.merging.writers import (
    TensorStream,
    merge_to_memory,
    write_plan_to,
)
from ensembles.checkpoints.planning.options import MEMORY, Integers, Missing
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.rules.rule import Rule


@dataclass(frozen=True)
class MergeReport:
    """Summary of an average on disk.

    Parameters
    ----------
    out : Path
        Path of the output.
    files : list of str
        Weight files, relative to ``out`` if it is a directory, else its name.
    member_digests : list of str
        Digest of each member's tensors, as in the metadata of the result.
    base_digest : str or None
        Digest of the base's tensors; None without a base.
    moments_digests : list of str
        Digest of the moments of each member; empty without moments.
    digest : str
        Digest of the result's tensors.
    nonfinite_tensors : list of str
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
    missing : tuple of str, default=()
        Weight files that other processes have not completed yet, with ``world_size``.
        If there are any, ``out`` does not exist, and digests are empty.
    """

    out: Path
    files: list[str]
    member_digests: list[str]
    base_digest: str | None
    moments_digests: list[str]
    digest: str
    nonfinite_tensors: list[str]
    sha256: dict[str, str]
    seconds: float
    notes: tuple[str, ...]
    plan: Plan = field(repr=False)
    missing: tuple[str, ...] = ()


def silent(n_bytes: int) -> None:
    """Ignore the number of bytes that were read."""


@overload
def average(
    members: Sequence[Member],
    out: None = None,
    *,
    base: Member | None = None,
    moments: Sequence[MomentsSource] | None = None,
    rule: str | Rule = "mean",
    weights: ArrayLike | None = None,
    rule_params: Mapping[str, Any] | None = None,
    settings: Mapping[str, TensorSettings] | None = None,
    dtype: str | None = None,
    integers: Integers = "error",
    missing: Missing = "error",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: Keys = None,
    shard_size: int | None = None,
    only_weights: bool | None = None,
    memory: int = MEMORY,
    threads: int | None = None,
    force: bool = False,
    rank: int = 0,
    world_size: int | None = None,
    progress: Callable[[int], None] = silent,
    sha256: bool = False,
) -> dict[str, Any]: ...
@overload
def average(
    members: Sequence[Member],
    out: str | os.PathLike[str],
    *,
    base: Member | None = None,
    moments: Sequence[MomentsSource] | None = None,
    rule: str | Rule = "mean",
    weights: ArrayLike | None = None,
    rule_params: Mapping[str, Any] | None = None,
    settings: Mapping[str, TensorSettings] | None = None,
    dtype: str | None = None,
    integers: Integers = "error",
    missing: Missing = "error",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: Keys = None,
    shard_size: int | None = None,
    only_weights: bool | None = None,
    memory: int = MEMORY,
    threads: int | None = None,
    force: bool = False,
    rank: int = 0,
    world_size: int | None = None,
    progress: Callable[[int], None] = silent,
    sha256: bool = False,
) -> MergeReport: ...
def average(
    members: Sequence[Member],
    out: str | os.PathLike[str] | None = None,
    *,
    base: Member | None = None,
    moments: Sequence[MomentsSource] | None = None,
    rule: str | Rule = "mean",
    weights: ArrayLike | None = None,
    rule_params: Mapping[str, Any] | None = None,
    settings: Mapping[str, TensorSettings] | None = None,
    dtype: str | None = None,
    integers: Integers = "error",
    missing: Missing = "error",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: Keys = None,
    shard_size: int | None = None,
    only_weights: bool | None = None,
    memory: int = MEMORY,
    threads: int | None = None,
    force: bool = False,
    rank: int = 0,
    world_size: int | None = None,
    progress: Callable[[int], None] = silent,
    sha256: bool = False,
) -> dict[str, Any] | MergeReport:
    """Average checkpoints, on disk or in memory.

    Parameters
    ----------
    members : sequence of paths or state dicts, at least one
        Checkpoint files, directories, or state dicts: mappings of names to NumPy arrays
        or torch tensors.
    out : path or None, default=None
        Path of the output: a safetensors file (``.safetensors``), a PyTorch file
        (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), a NumPy archive (``.npz``), a GGUF
        file (``.gguf``), a NeMo archive (``.nemo``), else a directory. None returns a
        state dict.
    base : path, state dict or None, default=None
        Checkpoint that the members were fine-tuned from; required by rules with
        ``needs_base=True``, None for all others. It is not a member and has no weight.
    moments : sequence of paths or Moments, or None, default=None
        Second moments of the data of each member, in the order of the members, from
        `collect_fisher` or `collect_gram`; required by rules with ``needs_moments``,
        None for all others.
    rule : str or Rule, default="mean"
        Rule that combines the members: a name in `ensembles.rules.RULES`, or a custom
        `Rule`.
    weights : array-like of shape (n_members,) or None, default=None
        Weight of each member; None gives all members the same weight. Weights may be
        negative for "mean" and other rules with ``signed=True``.
    rule_params : mapping of str to value or None, default=None
        Parameters of the rule, by name; None means the defaults.
    settings : mapping of str to TensorSettings, or None, default=None
        Weights and parameters of single tensors by name, in place of ``weights`` and
        ``rule_params``; None gives all tensors the same.
    dtype : str or None, default=None
        Float format of the result, such as "bfloat16"; None keeps the dtype of each
        tensor in the first member.
    integers : {"error", "first", "max"}, default="error"
        How to merge integer and boolean tensors that differ: raise an error, take the
        first member's, or take the elementwise maximum. BatchNorm's
        ``num_batches_tracked`` always takes the maximum.
    missing : {"error", "skip", "first", "present"}, default="error"
        How to handle a tensor that some members or the base lack: raise an error, leave
        it out, copy it from the first member, or combine it from the members that have
        it. A tensor that the first member lacks is left out with "first" too, and one
        that the base lacks is an error with "present".
    include, exclude : sequence of str, default=()
        Glob patterns for tensor names, such as "*.bias". An empty ``include`` includes
        all tensors; ``exclude`` takes precedence.
    key : str, sequence of str or None, default=None
        Key of the state dict in PyTorch checkpoints, with dots between nested keys,
        such as "ema.model"; several keys if the parts of one model have a key each.
        None finds it.
    shard_size : int or None, default=None
        Largest size of a weight file in a directory, in bytes; a larger tensor gets a
        file of its own. None divides tensors into files like the first member.
    only_weights : bool or None, default=None
        Whether the output contains only tensors, and the auxiliary files of a
        directory. False also keeps the training state of the first member: a PyTorch
        file is a copy of the first member's file, with its optimizer state and
        counters, in which only the tensors differ; into a directory, the files with
        training state are copied, such as ``optimizer.pt``. If they cannot be kept, an
        error is raised. None keeps them in a PyTorch file, if the names, dtypes and
        shapes of its tensors stay the same, but not in a directory.
    memory : int, default=64 MiB
        Largest total size of the read buffers, in bytes.
    threads : int or None, default=None
        Number of threads; None uses all processors available to the process.
    force : bool, default=False
        Whether an existing output is replaced.
    rank : int, default=0
        Number of this process among the ones that write the output together, from 0.
    world_size : int or None, default=None
        Number of processes that write a directory together, on any machines with the
        same file system. Each writes the weight files of its rank, into a folder beside
        ``out``; the process that completes the last file also writes the index and
        renames the directory to ``out``. A process that is started again continues
        with the files that are not complete. None writes ``out`` in this process alone.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread; the
        total is ``plan(...).read_bytes``.
    sha256 : bool, default=False
        Whether to compute the SHA-256 of all weight files for the report.

    Returns
    -------
    dict or MergeReport
        Without ``out``, a state dict: torch tensors if the first member is a PyTorch
        checkpoint or has torch tensors, else NumPy arrays (bfloat16 and float8 from
        ml_dtypes). With ``out``, a `MergeReport`.

    Raises
    ------
    FileNotFoundError
        If a member or the base does not exist.
    FileExistsError
        If ``out`` exists, or another run creates it meanwhile, unless ``force``.
    TypeError
        If a member or an option has the wrong type.
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
    planned = plan(
        members,
        out,
        base=base,
        moments=moments,
        rule=rule,
        weights=weights,
        rule_params=rule_params,
        settings=settings,
        dtype=dtype,
        integers=integers,
        missing=missing,
        include=include,
        exclude=exclude,
        key=key,
        shard_size=shard_size,
        only_weights=only_weights,
        memory=memory,
        threads=threads,
        force=force,
        rank=rank,
        world_size=world_size,
    )
    note = different_initializations(planned)
    if note is not None:
        warn_caller(note)
    if planned.out is not None:
        report = write(planned, progress=progress, sha256=sha256)
        notes = report.notes if note is None else (note, *report.notes)
        return replace(report, notes=notes)
    tensors: dict[str, Any]
    tensors, result = merge_to_memory(planned, progress)
    _warn_if_nonfinite(result.nonfinite_tensors)
    first = planned.members[0]
    if first.is_torch:
        tensors = {name: as_torch(array) for name, array in tensors.items()}
    return with_aliases(tensors, planned.aliases, first.names)


def write(
    plan: Plan,
    *,
    progress: Callable[[int], None] = silent,
    sha256: bool = False,
    stream: TensorStream | None = None,
) -> MergeReport:
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
    stream : callable or None, default=None
        Function that combines the members, such as a ``RunningMean``; see
        `ensembles.checkpoints.merging.writers.write_plan_to`.

    Returns
    -------
    MergeReport

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
    out = plan.out
    if out is None:
        raise ValueError("the plan must have an output path: pass out=PATH to plan")
    started = time.perf_counter()
    is_directory, force = plan.format == "directory", plan.options.force
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    with explain_disk_full(out):
        if is_directory and plan.options.world_size is not None:
            result, missing, notes = write_shared(plan, progress)
        else:
            with atomic_output(out, folder=is_directory, force=force) as path:
                result = write_plan_to(plan, path, progress, stream)
    _warn_if_nonfinite(result.nonfinite_tensors)
    checkpoint_digests = [] if missing else result.checkpoint_digests(plan)
    member_digests = checkpoint_digests[: len(plan.members)]
    return MergeReport(
        out=out,
        files=list(plan.parts),
        member_digests=member_digests,
        base_digest=(
            None
            if missing or plan.base is None
            else checkpoint_digests[len(plan.members)]
        ),
        moments_digests=checkpoint_digests[len(plan.checkpoints) :],
        digest="" if missing else result.digest,
        nonfinite_tensors=result.nonfinite_tensors,
        sha256=_hashes(plan, out) if sha256 and not missing else {},
        seconds=time.perf_counter() - started,
        notes=(*notes, *([] if missing else repetitions(plan, member_digests))),
        plan=plan,
        missing=missing,
    )


def _warn_if_nonfinite(names: Sequence[str]) -> None:
    """Warn of tensors with NaN or infinity."""
    if names:
        more = len(names) > 1
        warn_caller(
            f"{len(names)} tensor{'s' * more} of the result contain{'s' * (not more)} "
            f"NaN or infinity, such as {names[0]!r}; look for them in the members"
        )


def _hashes(plan: Plan, out: Path) -> dict[str, str]:
    """SHA-256 of every weight file that was read or written, by path."""
    paths = [out / p if plan.format == "directory" else out for p in plan.parts]
    for member in (origin for c in plan.sources for origin in c.origins):
        if member.path is not None:
            folder = member.path if member.is_directory else member.path.parent
            paths += [folder / part for part in member.parts]
    return {str(path): digests.sha256(path) for path in dict.fromkeys(paths)}
