"""Averages of checkpoints: planned, streamed, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np

from ensembles.blocks import spread
from ensembles.checkpoints import digests, recipes, sharding
from ensembles.checkpoints.formats import safetensors
from ensembles.checkpoints.formats.checkpoint import Record
from ensembles.checkpoints.formats.state_dicts import as_torch, import_torch
from ensembles.checkpoints.members import Member
from ensembles.checkpoints.planning import Options, Plan, plan
from ensembles.checkpoints.streaming import Outcome, Recipe, Sink, stream
from ensembles.checkpoints.writing import whole, write_at
from ensembles.floats import Array

CHUNK = 1 << 20


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
    plan : Plan
    """

    out: Path
    files: list[str]
    members: list[str]
    digest: str
    special: list[str]
    sha256: dict[str, str]
    seconds: float
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
    **options
        See `ensembles.checkpoints.Options`.

    Returns
    -------
    dict or Report
        Without ``out``, a state dict of the kind of the first member: of torch tensors
        for those and for files of torch, else of numpy arrays (bfloat16 and float8 by
        ml_dtypes). With it, a `Report`.

    Raises
    ------
    FileNotFoundError, FileExistsError
        If a member is not there; if a second run wrote ``out`` meanwhile.
    ValueError
        If anything stands in the way; nothing is written.

    Warns
    -----
    UserWarning
        If a tensor of the result holds a NaN or an infinity.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = {"w": np.array([0.0, 2.0])}, {"w": np.array([1.0, 4.0])}
    >>> average([a, b], weights=[3, 1])
    {'w': array([0.25, 2.5 ])}
    """
    return run(plan(members, out, **options), progress=progress, sha256=sha256)


def run(
    plan: Plan, *, progress: Callable[[int], None] = _silent, sha256: bool = False
) -> dict[str, Any] | Report:
    """Do what was planned.

    Parameters
    ----------
    plan : Plan
    progress, sha256
        As in `average`.

    Returns
    -------
    dict or Report
    """
    started = time.perf_counter()
    records = [record for member in plan.members for record in member.records]
    spread(records, lambda: _verify, plan.threads)
    if plan.out is None:
        arrays, outcome = _in_memory(plan, progress)
        _warn(outcome)
        torch = plan.members[0].kind == "torch" or plan.members[0].records
        return _state_dict(plan, arrays, bool(torch))
    write = _write_torch if plan.kind == "torch" else _write_safetensors
    folder = plan.kind == "directory"
    with whole(plan.out, folder=folder, force=plan.options["force"]) as place:
        outcome = write(plan, place, progress)
    _warn(outcome)
    return Report(
        out=plan.out,
        files=list(plan.parts),
        members=outcome.members,
        digest=outcome.result,
        special=outcome.special,
        sha256=_hashes(plan) if sha256 else {},
        seconds=time.perf_counter() - started,
        plan=plan,
    )


def _verify(record: Record) -> None:
    crc = 0
    buffer = bytearray(min(CHUNK, record.size))
    for start in range(0, record.size, CHUNK):
        view = memoryview(buffer)[: min(CHUNK, record.size - start)]
        record.file.read_into(view, record.offset + start)
        crc = zlib.crc32(view, crc)
    if crc != record.crc:
        raise ValueError(
            f"{record.file.path} is damaged: entry {record.name!r} does not match its "
            "checksum; copy or download it again"
        )


def _warn(outcome: Outcome) -> None:
    if outcome.special:
        warnings.warn(
            f"{len(outcome.special)} tensors of the result hold NaN or infinity, such "
            f"as {outcome.special[0]!r}; look for them in the members",
            stacklevel=4,
        )


def _stream(
    plan: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
) -> Outcome:
    recipe = Recipe(plan.rule, plan.weights, plan.params, plan.options["integers"])
    return stream(
        plan.targets,
        sinks,
        recipe,
        memory=plan.memory,
        n_threads=plan.threads,
        progress=progress,
    )


class _ArraySink:
    """Bytes of a tensor in memory."""

    def __init__(self, array: Array) -> None:
        self._bytes = memoryview(array.reshape(-1).view(np.uint8))

    def write(self, buffer: memoryview, offset: int) -> None:
        self._bytes[offset : offset + len(buffer)] = buffer


class _FileSink:
    """Bytes of a tensor in a file."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._start = start

    def write(self, buffer: memoryview, offset: int) -> None:
        write_at(self._fd, buffer, self._start + offset)


def _in_memory(
    plan: Plan, progress: Callable[[int], None]
) -> tuple[dict[str, Array], Outcome]:
    arrays = {t.name: np.empty(t.shape, t.dtype) for t in plan.targets}
    sinks = {name: _ArraySink(array) for name, array in arrays.items()}
    return arrays, _stream(plan, sinks, progress)


def _state_dict(plan: Plan, arrays: dict[str, Array], torch: bool) -> dict[str, Any]:
    """Tensors in the order of the first member, tied ones as one object."""
    found: dict[str, Any] = {
        name: as_torch(array) if torch else array for name, array in arrays.items()
    }
    found.update({alias: found[name] for alias, name in plan.aliases.items()})
    first = plan.members[0]
    order = {name: None for name in first.names if name in found}
    return {name: found[name] for name in [*order, *(found.keys() - order.keys())]}


def _write_torch(
    plan: Plan, place: Path, progress: Callable[[int], None]
) -> Outcome:
    torch = import_torch(f"writing {plan.out}")
    arrays, outcome = _in_memory(plan, progress)
    torch.save(_state_dict(plan, arrays, torch=True), place)
    return outcome


def _write_safetensors(
    plan: Plan, place: Path, progress: Callable[[int], None]
) -> Outcome:
    blank = recipes.metadata(plan, [digests.ZERO] * len(plan.members))
    paths = {p: place / p if plan.kind == "directory" else place for p in plan.parts}
    with ExitStack() as opened:
        sinks: dict[str, Sink] = {}
        fds = {}
        for part, path in paths.items():
            path.parent.mkdir(exist_ok=True)
            fds[part] = opened.enter_context(_open(path))
            header = _header(plan, part, blank)
            write_at(fds[part], memoryview(header), 0)
            start = len(header)
            for target in plan.parts[part]:
                sinks[target.name] = _FileSink(fds[part], start)
                start += target.nbytes
            os.truncate(fds[part], start)
        outcome = _stream(plan, sinks, progress)
        filled = recipes.metadata(plan, outcome.members)
        for part, fd in fds.items():
            write_at(fd, memoryview(_header(plan, part, filled)), 0)
    if plan.kind == "directory":
        _write_around(plan, place, recipes.recipe(plan, outcome.members))
    return outcome


@contextmanager
def _open(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)


def _header(plan: Plan, part: str, metadata: dict[str, str]) -> bytes:
    prefix = sharding.prefix_of(part) if plan.kind == "directory" else ""
    layout = {
        target.name.removeprefix(prefix): (target.dtype, target.shape)
        for target in plan.parts[part]
    }
    return safetensors.encode_header(layout, metadata)


def _write_around(plan: Plan, place: Path, recipe: str) -> None:
    """The small files of the first member, and the index of shards."""
    first = plan.members[0]
    for name in first.files:
        target = place / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(str(first.path)) / name, target)
    for name, contents in sharding.index(plan.parts, recipe).items():
        text = json.dumps(contents, indent=2, sort_keys=True) + "\n"
        (place / name).write_text(text, encoding="utf-8")


def _hashes(plan: Plan) -> dict[str, str]:
    """SHA-256 of every file of weights that was read or written."""
    out = Path(str(plan.out))
    paths = [out / p if plan.kind == "directory" else out for p in plan.parts]
    for member in plan.members:
        if member.path is not None:
            folder = member.path if member.kind == "directory" else member.path.parent
            paths += [folder / part for part in member.parts]
    return {str(path): digests.sha256(path) for path in dict.fromkeys(paths)}
