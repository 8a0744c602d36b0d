"""Write the result of a plan to memory, PyTorch files or safetensors files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ensembles._typing import Array
from ensembles.atomic_io import reserve, write_at
from ensembles.checkpoints.formats import safetensors
from ensembles.checkpoints.formats.state_dict import as_torch, import_torch
from ensembles.checkpoints.merging import digests, extra_files, provenance
from ensembles.checkpoints.merging.checksums import verify
from ensembles.checkpoints.merging.copied_files import write_around
from ensembles.checkpoints.merging.sinks import ArraySink, FileSink, Sink
from ensembles.checkpoints.merging.streaming import StreamResult, stream
from ensembles.checkpoints.planning import shards
from ensembles.checkpoints.planning.plan import Plan

Stream = Callable[[Plan, Mapping[str, Sink], Callable[[int], None]], StreamResult]


def stream_members(
    plan: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
) -> StreamResult:
    """Verify the checksums of a plan's members and stream them through its rule.

    Parameters
    ----------
    plan : Plan
        Plan to carry out; its output is ignored.
    sinks : mapping of str to Sink
        Sink for the bytes of each tensor of the result.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.

    Returns
    -------
    StreamResult
        Digests, and the names of tensors with NaN or infinity.

    Raises
    ------
    ValueError
        If a file is damaged or changes while it is read, integers differ, or the rule
        rejects values of a tensor.
    """
    verify(plan.checkpoints, plan.threads, progress)
    return stream(plan, sinks, progress)


def in_memory(
    plan: Plan, progress: Callable[[int], None], stream: Stream = stream_members
) -> tuple[dict[str, Array], StreamResult]:
    """Carry out a plan into arrays in memory.

    Parameters
    ----------
    plan : Plan
        Plan to carry out; its output is ignored.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.
    stream : callable, default is `stream_members`
        Function that combines the members and passes the result to sinks.

    Returns
    -------
    arrays : dict of str to ndarray
        Tensors of the result by name, without aliases.
    outcome : StreamResult
        Digests, and the names of tensors with NaN or infinity.
    """
    arrays = {t.name: np.empty(t.shape, t.dtype) for t in plan.targets}
    sinks = {name: ArraySink(array) for name, array in arrays.items()}
    return arrays, stream(plan, sinks, progress)


def state_dict(plan: Plan, arrays: dict[str, Array], torch: bool) -> dict[str, Any]:
    """State dict in the order of the first member; tied tensors are one object.

    Parameters
    ----------
    plan : Plan
        Plan of the result, for its aliases and first member.
    arrays : dict of str to ndarray
        Tensors of the result, as from `in_memory`.
    torch : bool
        Whether to return torch tensors, which share the memory of the arrays.

    Returns
    -------
    dict of str to ndarray or torch.Tensor
    """
    found: dict[str, Any] = {
        name: as_torch(array) if torch else array for name, array in arrays.items()
    }
    found.update({alias: found[name] for alias, name in plan.aliases.items()})
    return {name: found[name] for name in plan.members[0].names if name in found}


def write_torch(
    plan: Plan,
    place: Path,
    progress: Callable[[int], None],
    stream: Stream = stream_members,
) -> StreamResult:
    """Write the result to a PyTorch file; it is held in memory first.

    Parameters
    ----------
    plan : Plan
        Plan to carry out.
    place : Path
        Path to write to instead of ``plan.out``.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.
    stream : callable, default is `stream_members`
        Function that combines the members and passes the result to sinks.

    Returns
    -------
    StreamResult
        Digests, and the names of tensors with NaN or infinity.

    Raises
    ------
    OSError
        If ``torch.save`` fails.
    """
    torch = import_torch(f"writing {plan.out}")
    arrays, outcome = in_memory(plan, progress, stream)
    try:
        # With a path, torch.save would store the name of the temporary file.
        with place.open("wb") as file:
            torch.save(state_dict(plan, arrays, torch=True), file)
    except RuntimeError as error:
        raise OSError(f"{plan.out} could not be written: {error}") from None
    return outcome


def write_safetensors(
    plan: Plan,
    place: Path,
    progress: Callable[[int], None],
    stream: Stream = stream_members,
) -> StreamResult:
    """Write the result to a safetensors file, or to a directory with auxiliary files.

    Headers are written first, with zeros as the digests of the members, and again with
    the digests at the end.

    Parameters
    ----------
    plan : Plan
        Plan to carry out.
    place : Path
        Path of the file or directory to write to instead of ``plan.out``.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.
    stream : callable, default is `stream_members`
        Function that combines the members and passes the result to sinks.

    Returns
    -------
    StreamResult
        Digests, and the names of tensors with NaN or infinity.
    """
    blank = provenance.metadata(plan, [digests.ZERO] * len(plan.checkpoints))
    paths = {p: place / p if plan.kind == "directory" else place for p in plan.parts}
    heads = {
        part: path for part, path in paths.items() if extra_files.is_torch(plan, part)
    }
    arrays = {
        target.name: np.empty(target.shape, target.dtype)
        for part in heads
        for target in plan.parts[part]
    }
    with ExitStack() as opened:
        sinks: dict[str, Sink] = {name: ArraySink(a) for name, a in arrays.items()}
        fds = {}
        for part, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if part in heads:
                continue
            fds[part] = opened.enter_context(_open(path))
            header = _header(plan, part, blank)
            write_at(fds[part], memoryview(header), 0)
            start = len(header)
            for target in plan.parts[part]:
                sinks[target.name] = FileSink(fds[part], start)
                start += target.nbytes
            reserve(fds[part], start)
        outcome = stream(plan, sinks, progress)
        members = outcome.checkpoint_digests(plan)
        filled = provenance.metadata(plan, members)
        for part, fd in fds.items():
            write_at(fd, memoryview(_header(plan, part, filled)), 0)
    for part, path in heads.items():
        extra_files.write(plan, part, path, arrays)
    if plan.kind == "directory":
        write_around(plan, place, members)
    return outcome


@contextmanager
def _open(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)


def _header(plan: Plan, part: str, metadata: dict[str, str]) -> bytes:
    first = plan.members[0]
    prefix = shards.prefix_of(part, first) if plan.kind == "directory" else ""
    layout = {
        target.name.removeprefix(prefix): (target.dtype, target.shape)
        for target in plan.parts[part]
    }
    ties = {
        alias.removeprefix(prefix): name.removeprefix(prefix)
        for alias, name in plan.aliases.items()
        if alias.startswith(prefix) and name.removeprefix(prefix) in layout
    }
    return safetensors.encode_header(layout, {**ties, **metadata})
