"""Carry out a plan: write its weight files, or return its tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.formats.detection import format_by_suffix, writer_for
from ensembles.checkpoints.formats.output import ArraySink, OutputFile, Sink
from ensembles.checkpoints.merging import digests
from ensembles.checkpoints.merging.checksums import verify_checksums
from ensembles.checkpoints.merging.copied_files import write_auxiliary_files
from ensembles.checkpoints.merging.provenance import KEY, provenance
from ensembles.checkpoints.merging.streaming import StreamResult, stream_plan
from ensembles.checkpoints.planning import shards
from ensembles.checkpoints.planning.plan import Plan

TensorStream = Callable[[Plan, Mapping[str, Sink], Callable[[int], None]], StreamResult]


def merge_to_memory(
    plan: Plan, progress: Callable[[int], None]
) -> tuple[dict[str, Array], StreamResult]:
    """Carry out a plan into arrays in memory.

    Parameters
    ----------
    plan : Plan
        Plan to carry out; its output is ignored.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.

    Returns
    -------
    arrays : dict of str to ndarray
        Tensors of the result by name, without aliases.
    result : StreamResult
        Digests, and the names of tensors with NaN or infinity.
    """
    verify_checksums(plan.checkpoints, plan.threads, progress)
    arrays = {t.name: np.empty(t.shape, t.dtype) for t in plan.targets}
    sinks = {name: ArraySink(array) for name, array in arrays.items()}
    return arrays, stream_plan(plan, sinks, progress)


def write_plan_to(
    plan: Plan,
    path: Path,
    progress: Callable[[int], None],
    stream: TensorStream | None = None,
) -> StreamResult:
    """Carry out a plan into a file or directory that exists and is empty.

    Parameters
    ----------
    plan : Plan
        Plan with an ``out``, whose suffix determines the format.
    path : Path
        Path to write to instead of ``out``: a directory if ``plan.format`` is
        "directory", else a file.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.
    stream : callable or None, default=None
        Function that combines the members and passes the result to sinks, such as a
        `RunningMean`; it also verifies checksums. None verifies them, and streams all
        members.

    Returns
    -------
    StreamResult
        Digests, and the names of tensors with NaN or infinity.

    Raises
    ------
    ValueError
        If a member is damaged or changes while it is read, or the rule or option
        ``integers`` rejects values of a tensor.
    """
    result = write_weight_files(plan, path, progress, stream)
    if plan.format == "directory":
        write_auxiliary_files(plan, path, result.checkpoint_digests(plan))
    return result


def write_weight_files(
    plan: Plan,
    path: Path,
    progress: Callable[[int], None],
    stream: TensorStream | None = None,
) -> StreamResult:
    """Write the weight files of a plan, without the auxiliary files of a directory.

    Parameters
    ----------
    plan, path, progress, stream
        As in `write_plan_to`.

    Returns
    -------
    StreamResult
        Digests, and the names of tensors with NaN or infinity.
    """
    if stream is None:
        verify_checksums(plan.checkpoints, plan.threads, progress)
    metadata = {KEY: provenance(plan, [digests.ZERO] * len(plan.checkpoints))}
    is_directory = plan.format == "directory"
    sinks: dict[str, Sink] = {}
    with ExitStack() as opened:
        for part in plan.parts:
            prefix = shards.prefix_of(part, plan.members[0]) if is_directory else ""
            file = _output_file(plan, part, path, prefix, metadata)
            file.path.parent.mkdir(parents=True, exist_ok=True)
            part_sinks = opened.enter_context(contextmanager(writer_for(part))(file))
            sinks |= {prefix + name: sink for name, sink in part_sinks.items()}
        result = (stream or stream_plan)(plan, sinks, progress)
        metadata[KEY] = provenance(plan, result.checkpoint_digests(plan))
    return result


def rewrite_metadata(plan: Plan, path: Path, checkpoint_digests: Sequence[str]) -> None:
    """Write the provenance into complete weight files, which have other digests.

    Parameters
    ----------
    plan : Plan
        Plan whose output is a directory.
    path : Path
        Directory with all weight files.
    checkpoint_digests : sequence of str
        Digest of each member's tensors, then of the base's.
    """
    metadata = {KEY: provenance(plan, checkpoint_digests)}
    for part in plan.parts:
        format_ = format_by_suffix(part)
        if format_ is not None and format_.rewrite_metadata is not None:
            prefix = shards.prefix_of(part, plan.members[0])
            file = _output_file(plan, part, path, prefix, metadata)
            format_.rewrite_metadata(file)


def _output_file(
    plan: Plan, part: str, path: Path, prefix: str, metadata: Mapping[str, str]
) -> OutputFile:
    """Weight file of a plan; its tensor names lack the prefix of its module."""
    first = plan.members[0]
    layout = {t.name.removeprefix(prefix): (t.dtype, t.shape) for t in plan.parts[part]}
    aliases = {
        alias.removeprefix(prefix): name.removeprefix(prefix)
        for alias, name in plan.aliases.items()
        if alias.startswith(prefix) and name.removeprefix(prefix) in layout
    }
    is_extra = plan.format == "directory" and part in first.extras
    return OutputFile(
        path=path / part if plan.format == "directory" else path,
        name=f"{plan.out}/{part}" if plan.format == "directory" else f"{plan.out}",
        layout=layout,
        aliases=aliases,
        order=tuple(name.removeprefix(prefix) for name in first.names),
        metadata=metadata,
        template=Path(str(first.path)) / part if is_extra else None,
    )
