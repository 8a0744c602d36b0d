"""Stream the tensors of members through a rule, in blocks and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.compatibility.integers import resolve_integers
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.checkpoint import Source, Tensor
from ensembles.checkpoints.formats.output import Sink
from ensembles.checkpoints.formats.zip_files.crc import combine
from ensembles.checkpoints.merging.digests import (
    BLOCK,
    BlockDigest,
    Digested,
    digest,
)
from ensembles.checkpoints.planning.buffers import (
    ReadBuffers,
    buffer_budget,
    chunk_size,
    n_combined,
    returns_source,
    unit_of,
)
from ensembles.checkpoints.planning.plan import Plan
from ensembles.dtypes import is_float
from ensembles.kernels.casting import narrow, widen
from ensembles.kernels.jit import prepare_loops
from ensembles.kernels.mean import has_nonfinite
from ensembles.parallel import chunks, map_threads
from ensembles.rules.builtin import mean as MEAN
from ensembles.rules.passes import Pass, Position
from ensembles.rules.statistics import OrderedTotal

GROUP = 1 << 30  # bytes that a rule with statistics reads again from the page cache
FEW = 1 << 20  # bytes; combining fewer takes less time than starting a thread

Progress = Callable[[int], None]


@dataclass
class StreamResult:
    """Digests and findings of a stream, besides the tensors themselves.

    Parameters
    ----------
    blocks : dict of Tensor to list of bytes
        Block digests of each tensor that was read.
    written : dict of str to (dtype, shape, list of bytes)
        Dtype, shape and block digests of each tensor of the result, by name.
    nonfinite_tensors : list of str
        Names of tensors of the result that contain NaN or infinity.
    crcs : dict of Tensor to int
        CRC-32 of each tensor that was read from a file with checksums.
    """

    blocks: dict[Tensor, list[bytes]] = field(default_factory=dict)
    written: dict[str, Digested] = field(default_factory=dict)
    nonfinite_tensors: list[str] = field(default_factory=list)
    crcs: dict[Tensor, int] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Digest of the result's tensors."""
        return digest(self.written)

    def checkpoint_digests(self, plan: Plan) -> list[str]:
        """Digests of members, base and moments, from their tensors that were read.

        Parameters
        ----------
        plan : Plan
            Plan that was streamed.

        Returns
        -------
        list of str
            32 hexadecimal digits for each of ``plan.sources``.
        """
        read: list[dict[str, Tensor]] = [{} for _ in plan.sources]
        for target in plan.targets:
            tensors = target.by_member
            if target.base is not None:
                tensors[len(plan.members)] = target.base
            moments = zip(target.by_member, target.moments, strict=False)
            tensors |= {len(plan.checkpoints) + i: tensor for i, tensor in moments}
            for index, tensor in tensors.items():
                read[index][target.name] = tensor
        return [
            digest({n: (t.dtype, t.shape, self.blocks[t]) for n, t in entries.items()})
            for entries in read
        ]


class _Job(NamedTuple):
    """Part of a tensor, which starts at a digest block boundary in every source."""

    target: TensorPlan
    start: int
    stop: int


class _Combined(NamedTuple):
    """Digests of a job's blocks, of each source and the result, and whether finite.

    ``crcs`` has the CRC-32 of each source, 0 for files without checksums.
    """

    digests: list[list[bytes]]
    crcs: list[int]
    is_finite: bool


def stream_plan(
    plan: Plan, sinks: Mapping[str, Sink], progress: Progress
) -> StreamResult:
    """Combine the tensors of a plan's members and write the results to sinks.

    Checksums in PyTorch files are computed, and not compared; see
    `ensembles.checkpoints.merging.checksums`.

    Parameters
    ----------
    plan : Plan
        Plan to carry out; its output is ignored.
    sinks : mapping of str to Sink
        Sink for the bytes of each tensor of the result.
    progress : callable
        Called with the number of bytes read since the last call, one thread at a time.

    Returns
    -------
    StreamResult
        Digests, and the names of tensors with NaN or infinity.

    Raises
    ------
    ValueError
        If a file is truncated or changes while it is read, integers differ with
        ``integers="error"``, or the rule rejects values of a tensor.
    """
    # Integers first: if they differ, the error comes before any float is combined.
    targets = sorted(plan.targets, key=lambda t: t.action != "resolve_integers")
    n_bytes = sum(tensor.nbytes for target in targets for tensor in target.sources)
    n_threads = plan.threads if n_bytes >= FEW else 1
    prepare_loops(sum(map(n_combined, targets)))
    streamer = _Streamer(plan, sinks, n_threads, progress)
    jobs: list[_Job] = []
    combined: list[_Combined] = []
    for group in _groups(targets, streamer.group_size):
        streamer.compute_states([t for t in group if t.action == "combine"])
        group_jobs = streamer.jobs(group)
        jobs += group_jobs
        combined += map_threads(
            group_jobs, lambda: partial(streamer.combine, ReadBuffers()), n_threads
        )
    result = _result(targets, jobs, combined)
    result.crcs.update(_crcs(jobs, combined, streamer.with_checksums))
    for source in {tensor.source for tensor in result.blocks}:
        source.check_unchanged()
    return result


def rule_states(plan: Plan, progress: Progress) -> dict[str, Any]:
    """State of a rule with statistics for each tensor, without combining the members.

    Parameters
    ----------
    plan : Plan
        Plan whose rule has statistics; its output is ignored.
    progress : callable
        Called with the number of bytes read since the last call, one thread at a time.

    Returns
    -------
    dict of str to object
        State by tensor name, without empty tensors.

    Raises
    ------
    ValueError
        If a file is truncated or changes while it is read.
    """
    targets = [target for target in plan.targets if target.action == "combine"]
    n_bytes = sum(tensor.nbytes for target in targets for tensor in target.sources)
    prepare_loops(sum(map(n_combined, targets)))
    streamer = _Streamer(plan, {}, plan.threads if n_bytes >= FEW else 1, progress)
    streamer.compute_states(targets)
    for source in {tensor.source for target in targets for tensor in target.sources}:
        source.check_unchanged()
    return streamer.states


def _groups(
    targets: Sequence[TensorPlan], group_size: int
) -> Iterator[Sequence[TensorPlan]]:
    """Divide tensors into groups of ``group_size`` bytes to read; 0 is one group."""
    start = size = 0
    for stop, target in enumerate(targets, 1):
        size += sum(tensor.nbytes for tensor in target.sources)
        if stop == len(targets) or size >= group_size > 0:
            yield targets[start:stop]
            start, size = stop, 0


class _Place(NamedTuple):
    """Place of a tensor's statistics: a total, the elements before, all its tensors."""

    total: OrderedTotal
    start: int
    names: list[str]
    position: Position  # of the first tensor


_Places = Mapping[str, _Place]  # by name of the tensor


class _Streamer:
    """State that the threads of a stream share."""

    def __init__(
        self,
        plan: Plan,
        sinks: Mapping[str, Sink],
        n_threads: int,
        progress: Progress,
    ) -> None:
        self.plan = plan
        self.sinks = sinks
        self.n_threads = n_threads
        self.progress = progress
        self.states: dict[str, Any] = {}  # by tensor name, for rules with passes
        self._budget = buffer_budget(
            plan.targets, plan.rule, plan.rule_params, plan.options.memory, n_threads
        )
        self.with_checksums = {r.file for c in plan.checkpoints for r in c.records}
        self._lock = threading.Lock()

    def jobs(self, targets: Sequence[TensorPlan]) -> list[_Job]:
        """Divide tensors into jobs, each of whole units of the rule."""
        jobs = []
        for target in targets:
            dtypes = [target.dtype, *(tensor.dtype for tensor in target.sources)]
            step = BLOCK // min(dtype.itemsize for dtype in dtypes)
            if unit_of(target, self.plan.rule, self.plan.rule_params) != "element":
                step = max(target.size, 1)
            for start, stop in chunks(target.size, step):
                jobs.append(_Job(target, start, stop))
        return jobs

    @property
    def group_size(self) -> int:
        """Bytes of the members after which they are combined; 0 for all."""
        spans_model = self.plan.rule.spans_model(self.plan.rule_params)
        return GROUP if self.plan.rule.passes and not spans_model else 0

    def compute_states(self, targets: Sequence[TensorPlan]) -> None:
        """Compute the rule's state of each tensor, from passes over its parts."""
        plan = self.plan
        named = ((target.position.name, target) for target in targets)
        counted = {name: t for name, t in named if name not in self.states}
        shared = [[name] for name in counted]
        if plan.rule.spans_model(plan.rule_params):
            shared = [sorted(counted)]  # an order that does not depend on the files
        needed = {name: plan.needed_passes(target) for name, target in counted.items()}
        for entry in plan.rule.passes:
            places: dict[str, _Place] = {}
            for names in shared:
                if entry not in needed[names[0]]:
                    continue
                sizes = [counted[name].size for name in names]
                total, starts = OrderedTotal(sum(sizes)), accumulate(sizes, initial=0)
                where = counted[names[0]].position
                places |= {n: _Place(total, next(starts), names, where) for n in names}
            map_threads(
                self.jobs([counted[name] for name in places]),
                partial(self._adder, entry, places),
                self.n_threads,
            )

    def _adder(self, entry: Pass, places: _Places) -> Callable[[_Job], None]:
        """Function of one thread, which adds the statistics of a job to a total."""
        return partial(self.add_statistics, entry, places, ReadBuffers())

    def add_statistics(
        self, entry: Pass, places: _Places, buffers: ReadBuffers, job: _Job
    ) -> None:
        """Add the statistics of a job to a total, and finish a complete total."""
        plan, target, name = self.plan, job.target, job.target.position.name
        weights, params = plan.settings_of(target)
        partial_total: Array | None = None
        for start, stop in self._chunks(job):
            block = buffers.read(target, start, stop)
            with naming(name):
                partial_total = plan.rule.partial_statistics(
                    entry,
                    block.members,
                    weights,
                    block.base,
                    params,
                    moments=block.moments or None,
                    position=target.position.advanced(start),
                    state=self.states.get(name),
                    before=partial_total,
                )
            self._report(block.sources)
        assert partial_total is not None  # jobs are not empty
        ordered, start, names, position = places[name]
        with naming(name):
            total = ordered.add(start + job.start, start + job.stop, partial_total)
            if total is None:  # parts are missing
                return
            # At once, because the totals of many tensors may be larger than they are.
            state = plan.rule.compute_state(
                entry,
                total,
                weights,
                params,
                position=position,
                state=self.states.get(name),
            )
        self.states |= dict.fromkeys(names, state)

    def combine(self, buffers: ReadBuffers, job: _Job) -> _Combined:
        """Combine the blocks of a job and write them."""
        target, plan = job.target, self.plan
        weights, params = plan.settings_of(target)
        digests = [
            BlockDigest(has_crc=tensor.source in self.with_checksums)
            for tensor in target.sources
        ]
        is_copied = returns_source(plan.rule, target, weights, params)
        if not is_copied:
            digests.append(BlockDigest(has_crc=False))  # of the result
        is_finite = True
        for start, stop in self._chunks(job):
            block = buffers.read(target, start, stop)
            members = block.members
            if is_copied:
                out = members[0]
            elif target.action == "average":
                out = MEAN.combine(members, weights, target.dtype)
            elif target.action == "combine":
                with naming(target.name):
                    out = plan.rule.combine(
                        members,
                        weights,
                        target.dtype,
                        params=params,
                        base=block.base,
                        moments=block.moments or None,
                        state=self.states.get(target.position.name),
                        position=target.position.advanced(start),
                    )
            elif target.action == "copy":
                out = narrow(widen(members[0][None])[0], target.dtype)
            else:
                out = resolve_integers(target.name, members, plan.options.integers)
            # Checked before it is written, while it is still in the CPU caches.
            is_finite &= not (is_float(out.dtype) and has_nonfinite(out))
            sources = block.sources
            for block_digest, array in zip(digests, [*sources, out], strict=False):
                block_digest.update(_bytes(array))
            self.sinks[target.name].write(_bytes(out), start * out.dtype.itemsize)
            self._report(sources)
        blocks = [block_digest.close() for block_digest in digests]
        crcs = [block_digest.crc for block_digest in digests[: len(target.sources)]]
        if is_copied:
            blocks.append(blocks[0])
        return _Combined(blocks, crcs, is_finite)

    def _chunks(self, job: _Job) -> Iterator[tuple[int, int]]:
        plan = self.plan
        size = chunk_size(job.target, plan.rule, self._budget, plan.rule_params)
        for start, stop in chunks(job.stop - job.start, size):
            yield job.start + start, job.start + stop

    def _report(self, arrays: Sequence[Array]) -> None:
        with self._lock:
            self.progress(sum(array.nbytes for array in arrays))


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name the tensor in the message of a `ValueError` of a rule.

    Parameters
    ----------
    name : str
        Name of the tensor.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"tensor {name!r}: {error}") from error


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _result(
    targets: Sequence[TensorPlan],
    jobs: Sequence[_Job],
    combined: Sequence[_Combined],
) -> StreamResult:
    """Collect the block digests of all jobs, by tensor."""
    blocks = {t.name: [list[bytes]() for _ in [*t.sources, t]] for t in targets}
    nonfinite: dict[str, None] = {}
    for job, part in zip(jobs, combined, strict=True):
        for digests, more in zip(blocks[job.target.name], part.digests, strict=True):
            digests.extend(more)
        if not part.is_finite:
            nonfinite[job.target.name] = None
    written: dict[str, Digested] = {
        t.name: (t.dtype, t.shape, blocks[t.name][-1]) for t in targets
    }
    read = {
        tensor: digests
        for target in targets
        for tensor, digests in zip(target.sources, blocks[target.name], strict=False)
    }
    return StreamResult(read, written, list(nonfinite))


def _crcs(
    jobs: Sequence[_Job], combined: Sequence[_Combined], files: Collection[Source]
) -> dict[Tensor, int]:
    """CRC-32 of each tensor in one of the files, from the parts of all jobs."""
    crcs: dict[Tensor, int] = {}
    for job, part in zip(jobs, combined, strict=True):
        parts = dict(zip(job.target.sources, part.crcs, strict=True))
        for tensor, crc in parts.items():
            if tensor.source in files:
                n_bytes = (job.stop - job.start) * tensor.dtype.itemsize
                before = crcs[tensor] if job.start else 0  # a target may repeat it
                crcs[tensor] = combine(before, crc, n_bytes)
    return crcs
