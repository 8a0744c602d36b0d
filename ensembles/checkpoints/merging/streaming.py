"""Stream the tensors of members through a rule, in blocks and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.compatibility.layout import Target
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.checkpoints.merging import digests
from ensembles.checkpoints.merging.digests import Running
from ensembles.checkpoints.merging.sinks import Sink
from ensembles.checkpoints.planning.buffers import Buffers, step_of
from ensembles.dtypes import is_float
from ensembles.kernels.casting import rounded, widened
from ensembles.kernels.mean import any_special
from ensembles.parallel import cut, spread
from ensembles.rules.rule import Rule

GROUP = 1 << 30  # bytes that a rule with statistics reads again from the page cache
FEW = 1 << 20  # bytes; combining fewer takes less time than starting a thread

Progress = Callable[[int], None]


@dataclass
class Outcome:
    """Digests and findings of a stream, besides the tensors themselves.

    Parameters
    ----------
    blocks : dict of Tensor to list of bytes
        Block digests of each tensor that was read.
    result : str
        Digest of the result's tensors.
    special : list of str
        Names of tensors of the result that contain NaN or infinity.
    """

    blocks: dict[Tensor, list[bytes]] = field(default_factory=dict)
    result: str = ""
    special: list[str] = field(default_factory=list)

    def members(self, targets: Sequence[Target], n_members: int) -> list[str]:
        """Digest of each member, from those of its tensors that were read.

        Parameters
        ----------
        targets : sequence of Target
            Tensors of the result, with the tensors of the members that they combine.
        n_members : int
            Number of members.

        Returns
        -------
        list of str
            32 hexadecimal digits for each member.
        """
        return [
            digests.digest(
                {
                    t.name: (t.members[i].dtype, t.shape, self.blocks[t.members[i]])
                    for t in targets
                    if i < len(t.members)
                }
            )
            for i in range(n_members)
        ]


class Recipe(NamedTuple):
    """Rule, weights, parameters and the option ``integers`` for combining blocks."""

    rule: Rule
    weights: Float64
    params: Mapping[str, Any]
    integers: str


class _Job(NamedTuple):
    place: int
    start: int
    stop: int


class _Done(NamedTuple):
    blocks: list[list[bytes]]
    special: bool


def stream(
    targets: Sequence[Target],
    sinks: Mapping[str, Sink],
    recipe: Recipe,
    *,
    memory: int,
    n_threads: int,
    progress: Progress,
) -> Outcome:
    """Combine the tensors of members and write the results to sinks.

    Parameters
    ----------
    targets : sequence of Target
        Tensors of the result, with the tensors of the members that they combine.
    sinks : mapping of str to Sink
        Sink for the bytes of each tensor of the result.
    recipe : Recipe
        Rule, weights, parameters and the option ``integers``.
    memory : int
        Largest total size of the read buffers, in bytes.
    n_threads : int
        Number of threads; less than 1 MiB is combined in one.
    progress : callable
        Called with the number of bytes read since the last call, one thread at a time.

    Returns
    -------
    Outcome
        Digests, and the names of tensors with NaN or infinity.

    Raises
    ------
    ValueError
        If a file is truncated, integers differ with ``integers="error"``, or the rule
        rejects values of a tensor.
    """
    read = sum(tensor.nbytes for target in targets for tensor in target.members)
    if read < FEW:
        n_threads = 1
    # Integers first: if they differ, the error comes before any float is combined.
    ordered = sorted(targets, key=lambda target: target.action != "settle")
    worker = _Worker(ordered, sinks, recipe, memory // n_threads, progress)
    done: list[tuple[_Job, _Done]] = []
    for group in _groups(ordered, recipe.rule):
        if recipe.rule.statistics is not None:
            jobs = list(_jobs(ordered, [i for i in group if worker.is_combined(i)]))
            worker.take(jobs, spread(jobs, worker.start_statistics, n_threads))
        jobs = list(_jobs(ordered, group))
        done += zip(jobs, spread(jobs, worker.start, n_threads), strict=True)
    return _outcome(ordered, done)


def _groups(targets: Sequence[Target], rule: Rule) -> Iterator[list[int]]:
    group: list[int] = []
    size = 0
    for index, target in enumerate(targets):
        group.append(index)
        size += sum(tensor.nbytes for tensor in target.members)
        if rule.statistics is not None and size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _jobs(targets: Sequence[Target], indices: Sequence[int]) -> Iterator[_Job]:
    """Parts of tensors that start at a digest block boundary in every member."""
    for index in indices:
        target = targets[index]
        stored = [tensor.dtype for tensor in target.members]
        narrowest = min(dtype.itemsize for dtype in [*stored, target.dtype])
        for start, stop in cut(target.size, digests.BLOCK // narrowest):
            yield _Job(index, start, stop)


class _Worker:
    """State that the threads of a stream share."""

    def __init__(
        self,
        targets: Sequence[Target],
        sinks: Mapping[str, Sink],
        recipe: Recipe,
        budget: int,
        progress: Progress,
    ) -> None:
        self.targets = targets
        self.sinks = sinks
        self.recipe = recipe
        self.budget = budget
        self.progress = progress
        self.states: dict[int, Any] = {}  # by target index, for rules with statistics
        self._lock = threading.Lock()

    def is_combined(self, index: int) -> bool:
        """Whether the rule applies to a tensor."""
        return self.targets[index].action == "combine"

    def start(self) -> Callable[[_Job], _Done]:
        """Job function for one thread, which combines and writes."""
        buffers = Buffers()
        return lambda job: self._combine(job, buffers)

    def start_statistics(self) -> Callable[[_Job], Array]:
        """Job function for one thread, which computes the statistics of the rule."""
        buffers = Buffers()
        return lambda job: self._statistics(job, buffers)

    def take(self, jobs: Sequence[_Job], found: Sequence[Array]) -> None:
        """Compute the rule's state of each tensor from the statistics of its parts."""
        partials: dict[int, list[Array]] = {}
        for job, part in zip(jobs, found, strict=True):
            partials.setdefault(job.place, []).append(part)
        rule, weights, params, _ = self.recipe
        for index, parts in partials.items():
            try:
                self.states[index] = rule.state_of(parts, weights, params)
            except ValueError as error:
                name = self.targets[index].name
                raise ValueError(f"tensor {name!r}: {error}") from error

    def _statistics(self, job: _Job, buffers: Buffers) -> Array:
        target = self.targets[job.place]
        parts = []
        for start, stop in self._steps(job):
            members = buffers.read(target, start, stop)
            parts.append(self.recipe.rule.partials(members, self.recipe.params))
            self._tell(members)
        return np.concatenate(parts)

    def _combine(self, job: _Job, buffers: Buffers) -> _Done:
        target = self.targets[job.place]
        running = [Running() for _ in [*target.members, target]]
        special = False
        for start, stop in self._steps(job):
            members = buffers.read(target, start, stop)
            out = self._result(job.place, members)
            size = out.dtype.itemsize
            # Checked before it is written, while it is still in the CPU caches.
            special |= is_float(out.dtype) and any_special(out)
            for found, array in zip(running, [*members, out], strict=True):
                found.update(_bytes(array))
            self.sinks[target.name].write(_bytes(out), start * size)
            self._tell(members)
        return _Done([found.close() for found in running], special)

    def _tell(self, members: Sequence[Array] | Array) -> None:
        with self._lock:
            self.progress(sum(member.nbytes for member in members))

    def _steps(self, job: _Job) -> Iterator[tuple[int, int]]:
        step = step_of(self.targets[job.place], self.recipe.rule, self.budget)
        for start, stop in cut(job.stop - job.start, step):
            yield job.start + start, job.start + stop

    def _result(self, index: int, members: Sequence[Array] | Array) -> Array:
        target = self.targets[index]
        if target.action == "copy":
            first = np.asarray(members[0])
            if first.dtype == target.dtype:
                return first
            return rounded(widened(first[None])[0], target.dtype)
        if target.action == "settle":
            return resolve_integers(target.name, members, self.recipe.integers)
        rule, weights, params, _ = self.recipe
        state = self.states.get(index)
        return rule.combine(members, weights, target.dtype, state=state, **params)


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def resolve_integers(name: str, members: Sequence[Array] | Array, policy: str) -> Array:
    """Integers of the result: those of the first member if all are equal.

    Parameters
    ----------
    name : str
        Name of the tensor, for the error message; ``num_batches_tracked`` of BatchNorm
        always takes the maximum.
    members : n_members arrays of shape (size,)
        The block of each member.
    policy : {"error", "first", "max"}
        How to resolve members that differ: raise, take those of the first member, or
        take the elementwise maximum.

    Returns
    -------
    ndarray of shape (size,)

    Raises
    ------
    ValueError
        If members differ and ``policy`` is "error".
    """
    first = np.asarray(members[0])
    if all(np.array_equal(first, member) for member in members):
        return first
    if policy == "max" or name.endswith("num_batches_tracked"):
        return np.asarray(np.maximum.reduce(members))
    if policy == "first":
        return first
    raise ValueError(
        f"integer tensor {name!r} differs between the members, and has no mean; "
        "integers='first' or integers='max' says which to take"
    )


def _outcome(targets: Sequence[Target], done: Sequence[tuple[_Job, _Done]]) -> Outcome:
    """Collect the block digests of all jobs, by tensor."""
    found = [[list[bytes]() for _ in [*t.members, t]] for t in targets]
    special: dict[str, None] = {}
    for job, part in done:
        for known, more in zip(found[job.place], part.blocks, strict=True):
            known.extend(more)
        if part.special:
            special[targets[job.place].name] = None
    result = digests.digest(
        {
            t.name: (t.dtype, t.shape, blocks[-1])
            for t, blocks in zip(targets, found, strict=True)
        }
    )
    read = {
        tensor: block
        for t, blocks in zip(targets, found, strict=True)
        for tensor, block in zip(t.members, blocks[:-1], strict=True)
    }
    return Outcome(read, result, list(special))
