"""Carry out a plan: write its weight files, or return its tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.formats.detection import format_by_suffix, writer_for
from ensembles.checkpoints.formats.output import ArraySink, OutputFile, Sink
from ensembles.checkpoints.merging import digests
from ensembles.checkpoints.merging.checksums import damage_first, verify_checksums
from ensembles.checkpoints.merging.copied_files import write_auxiliary_files
from ensembles.checkpoints.merging.provenance import (
    KEY,
    TENSORS,
    kept_metadata,
    provenance,
    tensor_digests,
)
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
    arrays = {t.name: np.empty(t.shape, t.dtype) for t in plan.targets}
    sinks = {name: ArraySink(array) for name, array in arrays.items()}
    return arrays, stream_verified(plan, sinks, progress)


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
        checkpoint_digests = result.checkpoint_digests(plan)
        write_auxiliary_files(
            plan, path, checkpoint_digests, result_recipe(plan, result)
        )
    return result


def write_weight_files(
    plan: Plan,
    path: Path,
    progress: Callable[[int], None],
    stream: TensorStream | None = None,
    *,
    part: str | None = None,
) -> StreamResult:
    """Write weight files of a plan, without the auxiliary files of a directory.

    Parameters
    ----------
    plan, path, progress, stream
        As in `write_plan_to`.
    part : str or None, default=None
        The only weight file to write, with zeros as digests, see `rewrite_metadata`;
        None writes all of them.

    Returns
    -------
    StreamResult
        Digests, and the names of tensors with NaN or infinity.
    """
    parts = plan.parts if part is None else [part]
    metadata = {name: _placeholders(plan, name) for name in parts}
    sinks: dict[str, Sink] = {}
    with ExitStack() as opened:
        for name in parts:
            file = _output_file(plan, name, path, metadata[name])
            file.path.parent.mkdir(parents=True, exist_ok=True)
            part_sinks = opened.enter_context(contextmanager(writer_for(name))(file))
            prefix = _prefix(plan, name)
            sinks |= {prefix + tensor: sink for tensor, sink in part_sinks.items()}
        result = (stream or stream_verified)(plan, sinks, progress)
        if part is None:
            recipe = result_recipe(plan, result)
            for name in parts:
                metadata[name] |= _digest_metadata(plan, name, result, recipe)
    return result


def rewrite_metadata(plan: Plan, path: Path, result: StreamResult) -> None:
    """Write the provenance into complete weight files, which have other digests.

    Parameters
    ----------
    plan : Plan
        Plan whose output is a directory.
    path : Path
        Directory with all weight files.
    result : StreamResult
        Digests of all tensors.
    """
    recipe = result_recipe(plan, result)
    for part in plan.parts:
        format_ = format_by_suffix(part)
        if format_ is not None and format_.rewrite_metadata is not None:
            metadata = _placeholders(plan, part)
            metadata |= _digest_metadata(plan, part, result, recipe)
            format_.rewrite_metadata(_output_file(plan, part, path, metadata))


def result_recipe(plan: Plan, result: StreamResult) -> str:
    """Provenance of a result in JSON.

    Parameters
    ----------
    plan : Plan
        Plan of the result.
    result : StreamResult
        Digests of all tensors.

    Returns
    -------
    str
        JSON object, see `provenance`.
    """
    return provenance(plan, result.checkpoint_digests(plan), result.digest)


def _digest_metadata(
    plan: Plan, part: str, result: StreamResult, recipe: str
) -> dict[str, str]:
    """Metadata of a weight file that contain digests."""
    prefix = _prefix(plan, part)
    names = [target.name for target in plan.parts[part]]
    written = {n.removeprefix(prefix): result.written[n] for n in names}
    return {KEY: recipe, TENSORS: tensor_digests(written)}


def _placeholders(plan: Plan, part: str) -> dict[str, str]:
    """Metadata of a weight file with zeros as digests."""
    zeros = [digests.ZERO] * len(plan.sources)
    return {
        KEY: provenance(plan, zeros, digests.ZERO),
        TENSORS: digests.ZERO * len(plan.parts[part]),
        **kept_metadata(plan),
    }


def stream_verified(
    plan: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
) -> StreamResult:
    """Stream a plan, and verify the checksums of all members.

    Parameters
    ----------
    plan, sinks, progress
        As in `stream_plan`.

    Returns
    -------
    StreamResult
    """
    with damage_first(plan.checkpoints, plan.threads):
        result = stream_plan(plan, sinks, progress)
    verify_checksums(plan.checkpoints, result.crcs, plan.threads, progress)
    return result


def _prefix(plan: Plan, part: str) -> str:
    """Prefix of the tensors of a weight file in the plan, which the file lacks."""
    if plan.format != "directory":
        return ""
    return shards.prefix_of(part, plan.members[0])


def _output_file(
    plan: Plan, part: str, path: Path, metadata: Mapping[str, str]
) -> OutputFile:
    """Weight file of a plan; its tensor names lack the prefix of its module."""
    first, prefix = plan.members[0], _prefix(plan, part)
    layout = {t.name.removeprefix(prefix): (t.dtype, t.shape) for t in plan.parts[part]}
    aliases = {
        alias.removeprefix(prefix): name.removeprefix(prefix)
        for alias, name in plan.aliases.items()
        if alias.startswith(prefix) and name.removeprefix(prefix) in layout
    }
    return OutputFile(
        path=path / part if plan.format == "directory" else path,
        name=f"{plan.out}/{part}" if plan.format == "directory" else f"{plan.out}",
        layout=layout,
        aliases=aliases,
        order=tuple(name.removeprefix(prefix) for name in first.names),
        metadata=metadata,
        template=plan.templates.get(part),
        first=first.path if first.format == plan.format else None,
    )
