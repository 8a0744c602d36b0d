"""Carry out a plan: write its weight files, or return its tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.formats.detection import writer_for
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
    return arrays, _stream_verified(plan, sinks, progress)


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
    is_directory = plan.format == "directory"
    metadata = {part: _placeholders(plan, len(plan.parts[part])) for part in plan.parts}
    prefixes = {
        part: shards.prefix_of(part, plan.members[0]) if is_directory else ""
        for part in plan.parts
    }
    sinks: dict[str, Sink] = {}
    with ExitStack() as opened:
        for part, prefix in prefixes.items():
            part_path = path / part if is_directory else path
            part_path.parent.mkdir(parents=True, exist_ok=True)
            file = _output_file(plan, part, part_path, prefix, metadata[part])
            part_sinks = opened.enter_context(contextmanager(writer_for(part))(file))
            sinks |= {prefix + name: sink for name, sink in part_sinks.items()}
        result = (stream or _stream_verified)(plan, sinks, progress)
        read_digests = result.checkpoint_digests(plan)
        recipe = provenance(plan, read_digests, result.digest)
        for part, prefix in prefixes.items():
            names = [target.name for target in plan.parts[part]]
            written = {n.removeprefix(prefix): result.written[n] for n in names}
            metadata[part] |= {KEY: recipe, TENSORS: tensor_digests(written)}
    if is_directory:
        write_auxiliary_files(plan, path, read_digests, recipe)
    return result


def _placeholders(plan: Plan, n_tensors: int) -> dict[str, str]:
    """Metadata of a weight file with zeros as digests."""
    zeros = [digests.ZERO] * len(plan.checkpoints)
    return {
        KEY: provenance(plan, zeros, digests.ZERO),
        TENSORS: digests.ZERO * n_tensors,
        **kept_metadata(plan),
    }


def _stream_verified(
    plan: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
) -> StreamResult:
    """Stream a plan, and verify the checksums of all members."""
    with damage_first(plan.checkpoints, plan.threads):
        result = stream_plan(plan, sinks, progress)
    verify_checksums(plan.checkpoints, result.crcs, plan.threads, progress)
    return result


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
    return OutputFile(
        path=path,
        name=f"{plan.out}/{part}" if plan.format == "directory" else f"{plan.out}",
        layout=layout,
        aliases=aliases,
        order=tuple(name.removeprefix(prefix) for name in first.names),
        metadata=metadata,
        template=plan.templates.get(part),
        first=first.path if first.format == plan.format else None,
    )
