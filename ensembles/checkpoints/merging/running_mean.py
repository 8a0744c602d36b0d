"""Equal means of members that are added one by one: each costs a pass over its file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.atomic_io import telling_if_full
from ensembles.checkpoints.compatibility.layout import Target
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.merging.checksums import verify
from ensembles.checkpoints.merging.sinks import FileSink, Sink
from ensembles.checkpoints.merging.streaming import Outcome
from ensembles.checkpoints.merging.writers import stream_verified
from ensembles.checkpoints.planning.plan import Plan
from ensembles.kernels.mean import mean
from ensembles.rules.rule import Rule

FEWEST = 3  # members; the mean of two reads nothing twice
FLOAT64 = np.dtype(np.float64)


class RunningMean:
    """Streams plans; of equal means it keeps the sum of all members but the last.

    A plan whose members are those of the one before, with others behind them, reads
    what is new alone: the sum lies in a file without a name, in float64, block by block
    what `ensembles.kernels.mean` adds up in this order, so the bytes of the result are
    those of `average`. Tensors of float64, whose sums are exact in a way of their own,
    integers, and plans of another kind, are read whole.

    Parameters
    ----------
    folder : path or None, default=None
        Where the file lies, of 8 bytes an element; None takes the system's place for
        such.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = folder
        self._blocks: dict[Tensor, list[bytes]] = {}
        self._verified: set[int] = set()
        self._summed: list[Checkpoint] = []
        self._sums: _Sums | None = None

    def __call__(
        self, plan: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
    ) -> Outcome:
        """Stream a plan, as `stream_members` of `writers` does."""
        fresh = [m for m in plan.members if id(m) not in self._verified]
        verify(fresh, plan.threads, progress)
        self._verified |= {id(member) for member in fresh}
        if len(plan.members) < FEWEST or not _is_equal_mean(plan):
            outcome = stream_verified(plan, sinks, progress)
        else:
            outcome = self._grown(plan, sinks, progress)
        self._blocks |= outcome.blocks
        return replace(outcome, blocks=self._blocks)

    def _grown(
        self, plan: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
    ) -> Outcome:
        narrow = [target for target in plan.targets if _is_narrow(target)]
        sums = self._sums
        if sums is None or not sums.fits(narrow):
            sums = self._sums = _Sums(narrow, self._folder)
            self._summed = []
        self._add(plan, narrow, sums, progress)
        n_members = len(plan.members)

        def grown(stack: Float64, weights: Float64) -> Array:
            """Mean of the sum and the last member, or of members of float64."""
            if len(stack) == n_members:  # never two
                return mean(stack, np.ones(n_members))
            return np.asarray((stack[0] + stack[1]) / n_members)

        targets = [
            target._replace(members=(sums.tensors[target.name], target.members[-1]))
            if target.name in sums.tensors
            else target
            for target in plan.targets
        ]
        return _streamed(plan, targets, grown, sinks, progress)

    def _add(
        self,
        plan: Plan,
        targets: Sequence[Target],
        sums: _Sums,
        progress: Callable[[int], None],
    ) -> None:
        """Bring the sum to that of all members but the last."""
        wanted = list(plan.members[:-1])
        n_held = len(self._summed)
        same = all(a is b for a, b in zip(self._summed, wanted, strict=False))
        if n_held > len(wanted) or not same:
            n_held = 0
        if n_held == len(wanted):
            return

        def added(stack: Float64, weights: Float64) -> Array:
            """Sum in the order of the members."""
            total = stack[0].copy()
            for row in stack[1:]:
                total += row
            return np.asarray(total)

        growing = []
        for target in targets:
            held = (sums.tensors[target.name],) if n_held else ()
            fresh = target.members[n_held:-1]
            growing.append(target._replace(dtype=FLOAT64, members=(*held, *fresh)))
        self._summed = []  # whatever becomes of it half-way, it is no sum of these
        sinks: Mapping[str, Sink] = sums.sinks
        with telling_if_full(*self._place()):
            outcome = _streamed(plan, growing, added, sinks, progress)
        self._blocks |= outcome.blocks
        self._summed = wanted

    def _place(self) -> tuple[str, str]:
        """What is written where, and what helps if there is no room."""
        folder = self._folder or tempfile.gettempdir()
        way = "choose another place" if self._folder else "set TMPDIR to another folder"
        return f"a sum of members in {folder}", way


class _Sums:
    """Room on a disk for the sums of some tensors, in float64."""

    def __init__(
        self, targets: Sequence[Target], folder: str | os.PathLike[str] | None
    ) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            self._fd = os.dup(file.fileno())
        self.tensors: dict[str, Tensor] = {}
        self.sinks: dict[str, Sink] = {}
        start = 0
        for target in targets:
            self.tensors[target.name] = Tensor(FLOAT64, target.shape, self, start)
            self.sinks[target.name] = FileSink(self._fd, start)
            start += target.size * FLOAT64.itemsize
        os.truncate(self._fd, start)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def fits(self, targets: Sequence[Target]) -> bool:
        """Whether there is room for these tensors, and no others."""
        shapes = {target.name: target.shape for target in targets}
        return shapes == {name: t.shape for name, t in self.tensors.items()}

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        while len(buffer):
            n_read = os.preadv(self._fd, [buffer], offset)
            buffer, offset = buffer[n_read:], offset + n_read

    def check_unchanged(self) -> None:
        """Nobody else knows the file."""


def _is_equal_mean(plan: Plan) -> bool:
    return plan.rule.name == "mean" and bool((plan.weights == 1).all())


def _is_narrow(target: Target) -> bool:
    """Whether float64 sums of the members, rounded as they go, are what is asked."""
    stored = {tensor.dtype for tensor in target.members}
    return target.action == "combine" and FLOAT64 not in stored


def _streamed(
    plan: Plan,
    targets: list[Target],
    function: Callable[..., Array],
    sinks: Mapping[str, Sink],
    progress: Callable[[int], None],
) -> Outcome:
    by = Rule(function)
    return stream_verified(replace(plan, targets=targets, rule=by), sinks, progress)
