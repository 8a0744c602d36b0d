"""Work folder in which several processes write the weight files of one output.

The folder is beside the output and has a digest of the plan in its name, so that runs
with other members or options never share it. It contains ``output``, which becomes the
output, and for each complete weight file a marker with its digests. Each file is
written under a temporary name, flushed, and renamed. The process that completes the
last file writes the provenance, the index and the auxiliary files, and renames
``output``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from ensembles.atomic_io import (
    atomic_output,
    check_absent,
    fsync_path,
    publish,
    temporary_sibling,
)
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    ChecksumRecord,
    FileSource,
    Tensor,
)
from ensembles.checkpoints.formats.output import Sink
from ensembles.checkpoints.merging import digests
from ensembles.checkpoints.merging.copied_files import write_auxiliary_files
from ensembles.checkpoints.merging.digests import Digested
from ensembles.checkpoints.merging.provenance import provenance
from ensembles.checkpoints.merging.streaming import StreamResult
from ensembles.checkpoints.merging.writers import (
    result_recipe,
    rewrite_metadata,
    stream_verified,
    write_weight_files,
)
from ensembles.checkpoints.planning.plan import Plan
from ensembles.checkpoints.planning.ranks import work_folders, work_prefix
from ensembles.permissions import status_to_keep, without_group

WITHOUT_EFFECT = ("memory", "threads", "force", "rank", "world_size")  # on the bytes
DIGEST_SIZE = 16  # bytes


class SharedResult(NamedTuple):
    """Result of one of the processes that write an output together.

    Parameters
    ----------
    stream : StreamResult
        Digests and findings of the whole output; empty if files are missing.
    missing : tuple of str
        Weight files that are not complete yet; empty if the output is complete.
    notes : tuple of str
        Messages for the user, one sentence each.
    """

    stream: StreamResult
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def write_shared(plan: Plan, progress: Callable[[int], None]) -> SharedResult:
    """Write the weight files of this process, and the output if it has all files.

    Parameters
    ----------
    plan : Plan
        Plan with a directory as output, and ``world_size`` in its options.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.

    Returns
    -------
    SharedResult

    Raises
    ------
    FileExistsError
        If the output exists and was not written by this plan, unless ``force``.
    ValueError
        If a member is damaged or changes while it is read, or the rule or option
        ``integers`` rejects values of a tensor.
    """
    folder = _WorkFolder(plan)
    notes = list(folder.notes())
    try:
        missing = () if folder.is_published() else folder.write(progress, notes)
    except (FileNotFoundError, FileExistsError):
        # Another process published the output and removed files meanwhile.
        if not folder.is_published():
            raise
        missing = ()
    if missing and not folder.is_published():
        return SharedResult(StreamResult(), missing, tuple(notes))
    stream = folder.result()
    folder.clear()
    return SharedResult(stream, (), tuple(notes))


class _WorkFolder:
    """Files through which the processes of a plan communicate."""

    def __init__(self, plan: Plan) -> None:
        assert plan.out is not None
        self.plan = plan
        self.out = plan.out
        name = work_prefix(self.out) + _plan_digest(plan)
        self.path = self.out.with_name(name)
        self.output = self.path / "output"
        self.published = self.path / "published.json"
        numbers = range(1, len(plan.parts) + 1)
        self.markers = {
            part: self.path / f"{number:05}.json"
            for part, number in zip(plan.parts, numbers, strict=True)
        }

    def notes(self) -> Iterator[str]:
        """Notes on an output that is complete, and on folders of other runs."""
        if self.is_published():
            yield (
                f"{self.out} is complete, written from the same members with the same "
                "options; to write it again, remove it"
            )
        for path in work_folders(self.out):
            if path != self.path and (path / "output").exists():
                yield (
                    f"{path} belongs to a run with other members or options that is "
                    "not complete; if that run has ended, remove it"
                )

    def write(
        self, progress: Callable[[int], None], notes: list[str]
    ) -> tuple[str, ...]:
        """Write the files of this process; return the ones that are missing."""
        check_absent(self.out, force=self.plan.options.force)
        old = status_to_keep(self.out, folder=True)
        mode = 0o777 if old is None else without_group(old.st_mode) | 0o700
        self.path.mkdir(mode, exist_ok=True)
        self.output.mkdir(exist_ok=True)
        assigned = self.plan.assigned
        missing = self.missing(assigned)
        n_complete = len(assigned) - len(missing)
        if n_complete:
            notes.append(
                f"{n_complete} of the {len(assigned)} weight files of this process are "
                "complete from an earlier run, and are not written again"
            )
        records = _records_by_part(self.plan)
        verified: set[ChecksumRecord] = set()
        for part in missing:
            with _lock(self.markers[part].with_suffix(".lock")) as is_free:
                if not is_free:
                    notes.append(f"{part} is being written by another process")
                elif self.missing([part]):
                    self.write_part(part, records[part] - verified, progress)
                    verified |= records[part]
        missing = self.missing(self.markers)
        if not missing:
            self.publish()
        return tuple(missing)

    def missing(self, parts: Iterable[str]) -> list[str]:
        """Weight files that are not complete."""
        # Not `exists`: network file systems cache the absence of a name.
        names = set(os.listdir(self.path))
        return [
            part
            for part in parts
            if self.markers[part].name not in names or not self.has_size(part)
        ]

    def has_size(self, part: str) -> bool:
        """Whether a weight file has the size that its marker says."""
        size = json.loads(self.markers[part].read_text(encoding="utf-8"))["size"]
        path = self.output / part
        return path.exists() and path.stat().st_size == size

    def write_part(
        self,
        part: str,
        records: set[ChecksumRecord],
        progress: Callable[[int], None],
    ) -> None:
        """Write a weight file, and then its marker."""
        marker, target = self.markers[part], self.output / part
        plan = _plan_of(self.plan, part, records)

        def stream(
            _: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
        ) -> StreamResult:
            return stream_verified(plan, sinks, progress)

        with temporary_sibling(marker.with_suffix(""), folder=True) as temporary:
            result = write_weight_files(
                self.plan, temporary, progress, stream, part=part
            )
            fsync_path(temporary / part)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / part, target)
        fsync_path(target.parent)
        self.write_json(marker, _as_marker(plan, result, target.stat().st_size))

    def publish(self) -> None:
        """Write all but the tensors, and rename the output."""
        with _lock(self.path / "publish.lock", wait=True):
            if self.is_published():
                return
            plan, result = self.plan, self.result()
            rewrite_metadata(plan, self.output, result)
            checkpoint_digests = result.checkpoint_digests(plan)
            recipe = result_recipe(plan, result)
            write_auxiliary_files(plan, self.output, checkpoint_digests, recipe)
            self.write_json(self.published, _files(self.output))
            publish(self.output, self.out, force=plan.options.force)

    def write_json(self, path: Path, value: object) -> None:
        """Write a JSON file, which is complete or absent."""
        with atomic_output(path, folder=False, force=True) as temporary:
            temporary.write_text(json.dumps(value), encoding="utf-8")

    def is_published(self) -> bool:
        """Whether the output is the one that processes of this plan have written."""
        with suppress(FileNotFoundError, NotADirectoryError):
            files = json.loads(self.published.read_text(encoding="utf-8"))
            return bool(files == _files(self.out))
        return False

    def result(self) -> StreamResult:
        """Digests and findings of all weight files, from their markers."""
        blocks: dict[Tensor, list[bytes]] = {}
        written: dict[str, Digested] = {}
        nonfinite: set[str] = set()
        for part, path in self.markers.items():
            record = json.loads(path.read_text(encoding="utf-8"))
            nonfinite.update(record["nonfinite"])
            for target in self.plan.parts[part]:
                *read, result = map(_divided, record["digests"][target.name])
                blocks |= zip(target.sources, read, strict=True)
                written[target.name] = (target.dtype, target.shape, result)
        names = [t.name for t in self.plan.targets if t.name in nonfinite]
        return StreamResult(blocks, written, names)

    def clear(self) -> None:
        """Remove what a complete output no longer needs.

        The markers stay if there may be other processes: one that is started late
        finds by them that the output is complete.
        """
        for lock in self.path.glob("*.lock"):
            lock.unlink(missing_ok=True)
        others = [path for path in work_folders(self.out) if path != self.path]
        unused = [path for path in others if not (path / "output").exists()]
        is_alone = self.plan.options.world_size == 1
        for path in [*unused, self.path if is_alone else self.output]:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a file until the block ends; yield False if another process has the lock."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    is_free = True
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_free = False
        except OSError:  # no locks on this file system; temporary names are unique
            pass
        yield is_free
    finally:
        os.close(opened)


def _plan_digest(plan: Plan) -> str:
    """Digest of everything that determines the bytes of the output."""
    options = asdict(plan.options)
    zeros = [digests.ZERO] * len(plan.sources)
    facts = {
        "recipe": provenance(plan, zeros, digests.ZERO),
        "options": {k: options[k] for k in options if k not in WITHOUT_EFFECT},
        "parts": {
            part: [[t.name, str(t.dtype), t.shape, t.action] for t in targets]
            for part, targets in plan.parts.items()
        },
        "checkpoints": [_identity(checkpoint) for checkpoint in plan.sources],
    }
    text = json.dumps(facts, sort_keys=True, default=list)
    return xxhash.xxh3_64_hexdigest(text.encode())


def _identity(checkpoint: Checkpoint) -> list[Any]:
    """Facts that change with the contents of a checkpoint, and with its adapters."""
    return [[c.config, _statuses(c)] for c in (checkpoint, *checkpoint.origins)]


def _statuses(checkpoint: Checkpoint) -> list[tuple[str, int, int]]:
    """Name, size and time of modification of each file; of new contents, a digest."""
    path = Path(str(checkpoint.path))
    folder = path if checkpoint.is_directory else path.parent
    files = [*checkpoint.parts, *checkpoint.files]
    names = [name for name in files if name not in checkpoint.contents]
    statuses = {name: (folder / name).stat() for name in names}
    return [(n, s.st_size, s.st_mtime_ns) for n, s in sorted(statuses.items())] + [
        (n, len(contents), xxhash.xxh3_64_intdigest(contents))
        for n, contents in sorted(checkpoint.contents.items())
    ]


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and time of modification of each file in a folder."""
    statuses = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(folder)): [status.st_size, status.st_mtime_ns]
        for path, status in statuses.items()
    }


def _plan_of(plan: Plan, part: str, records: set[ChecksumRecord]) -> Plan:
    """Plan of one weight file."""
    names = {target.name for target in plan.parts[part]}
    checkpoints = [
        replace(c, records=[record for record in c.records if record in records])
        for c in plan.checkpoints
    ]
    return replace(
        plan,
        members=tuple(checkpoints[: len(plan.members)]),
        base=None if plan.base is None else checkpoints[-1],
        targets=[target for target in plan.targets if target.name in names],
        parts={part: plan.parts[part]},
    )


def _records_by_part(plan: Plan) -> dict[str, set[ChecksumRecord]]:
    """Checksums to verify with each weight file: the ones of its tensors' bytes.

    Checksums of bytes that no tensor has are verified with the first weight file, and
    all checksums with a weight file that has tensors at unknown offsets.
    """
    records: dict[FileSource, list[ChecksumRecord]] = {}
    for checkpoint in plan.checkpoints:
        for record in checkpoint.records:
            records.setdefault(record.file, []).append(record)
    all_records = {record for in_file in records.values() for record in in_file}
    by_part: dict[str, set[ChecksumRecord]] = {}
    for part, targets in plan.parts.items():
        tensors = [tensor for target in targets for tensor in target.sources]
        by_part[part] = set()
        for tensor in tensors:
            if isinstance(tensor.source, FileSource):
                in_file = records.get(tensor.source, [])
                by_part[part].update(_overlapping(tensor, in_file))
            else:
                by_part[part] |= all_records
    verified = set().union(*by_part.values())
    by_part[next(iter(by_part))] |= all_records - verified
    return by_part


def _overlapping(
    tensor: Tensor, records: Sequence[ChecksumRecord]
) -> Iterator[ChecksumRecord]:
    """Records of the file of a tensor that cover some of its bytes."""
    stop = tensor.offset + tensor.nbytes
    for record in records:
        if record.offset < stop and tensor.offset < record.offset + record.size:
            yield record


def _as_marker(plan: Plan, result: StreamResult, size: int) -> dict[str, Any]:
    """Size, block digests and findings of a weight file, as JSON values."""
    return {
        "size": size,
        "nonfinite": result.nonfinite_tensors,
        "digests": {
            target.name: [
                b"".join(blocks).hex()
                for blocks in [
                    *(result.blocks[tensor] for tensor in target.sources),
                    result.written[target.name][2],
                ]
            ]
            for target in plan.targets
        },
    }


def _divided(hexadecimal: str) -> list[bytes]:
    joined = bytes.fromhex(hexadecimal)
    starts = range(0, len(joined), DIGEST_SIZE)
    return [joined[start : start + DIGEST_SIZE] for start in starts]
