"""Running sums for equally weighted means of a growing list of members."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.atomic_io import explain_disk_full
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.formats.output import FileSink, Sink
from ensembles.checkpoints.merging.checksums import damage_first, verify_checksums
from ensembles.checkpoints.merging.combinations import is_mean
from ensembles.checkpoints.merging.streaming import StreamResult, stream_plan
from ensembles.checkpoints.planning.plan import Plan
from ensembles.kernels.mean import mean
from ensembles.rules.rule import Rule

FEWEST = 3  # members; for two, a sum saves no reads
FLOAT64 = np.dtype(np.float64)


class RunningMean:
    """Stream plans, with a running sum for equally weighted means.

    For three or more members, the sum of all but the last is kept in an unnamed
    temporary file. A later plan whose members start with those of the sum reads only
    the sum and the remaining members. The sum is accumulated in float64, in the same
    order as in `ensembles.kernels.mean`, so the result equals that of `average` byte
    for byte. Float64 tensors (their mean uses a compensated sum), integer tensors and
    plans with other rules or weights are read completely.

    Parameters
    ----------
    folder : path or None, default=None
        Directory for the file, which takes 8 bytes per element; None is the system's
        directory for temporary files.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = folder
        self._blocks: dict[Tensor, list[bytes]] = {}
        self._crcs: dict[Tensor, int] = {}
        self._verified: set[int] = set()
        self._summed: list[Checkpoint] = []
        self._sums: _Sums | None = None

    def __call__(
        self, plan: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
    ) -> StreamResult:
        """Stream a plan and verify checksums, see `writers.write_plan_to`.

        Parameters
        ----------
        plan : Plan
            Plan to carry out. Checksums of a member are verified only once, and members
            are identified by ``id``: the caller must keep them alive.
        sinks : mapping of str to Sink
            Sink for the bytes of each tensor of the result.
        progress : callable
            Called with the number of bytes read since the last call, from any thread.

        Returns
        -------
        StreamResult
        """
        fresh = [m for m in plan.checkpoints if id(m) not in self._verified]
        with damage_first(fresh, plan.threads):
            if len(plan.members) < FEWEST or not _is_equal_mean(plan):
                outcome = stream_plan(plan, sinks, progress)
            else:
                outcome = self._stream_with_sum(plan, sinks, progress)
        self._add_read(outcome)
        verify_checksums(fresh, self._crcs, plan.threads, progress)
        self._verified |= {id(member) for member in fresh}
        return replace(outcome, blocks=self._blocks)

    def _add_read(self, outcome: StreamResult) -> None:
        """Keep digests and checksums of tensors, which later plans may not read."""
        self._blocks |= outcome.blocks
        self._crcs |= outcome.crcs

    def _stream_with_sum(
        self, plan: Plan, sinks: Mapping[str, Sink], progress: Callable[[int], None]
    ) -> StreamResult:
        narrow = [target for target in plan.targets if _is_narrow(target)]
        sums = self._sums
        if sums is None or not sums.fits(narrow):
            sums = self._sums = _Sums(narrow, self._folder)
            self._summed = []
        self._add(plan, narrow, sums, progress)
        n_members = len(plan.members)

        def mean_from_sum(stack: Float64, weights: Float64) -> Array:
            """Mean from the sum and the last member, or from all float64 members."""
            if len(stack) == n_members:  # at least FEWEST, so never the pair
                return mean(stack, np.ones(n_members))
            return np.asarray((stack[0] + stack[1]) / n_members)

        targets = [
            target._replace(members=(sums.tensors[target.name], target.members[-1]))
            if target.name in sums.tensors
            else target
            for target in plan.targets
        ]
        return _streamed(plan, targets, mean_from_sum, sinks, progress)

    def _add(
        self,
        plan: Plan,
        targets: Sequence[TensorPlan],
        sums: _Sums,
        progress: Callable[[int], None],
    ) -> None:
        """Update the sum to all members but the last."""
        to_sum = list(plan.members[:-1])
        n_summed = len(self._summed)
        same = all(a is b for a, b in zip(self._summed, to_sum, strict=False))
        if n_summed > len(to_sum) or not same:
            n_summed = 0
        if n_summed == len(to_sum):
            return

        def sum_members(stack: Float64, weights: Float64) -> Array:
            """Sum of the members, in their order."""
            total = stack[0].copy()
            for row in stack[1:]:
                total += row
            return np.asarray(total)

        growing = []
        for target in targets:
            total = (sums.tensors[target.name],) if n_summed else ()
            members = (*total, *target.members[n_summed:-1])
            growing.append(target._replace(dtype=FLOAT64, members=members))
        self._summed = []  # invalid until the stream is complete
        sinks: Mapping[str, Sink] = sums.sinks
        with explain_disk_full(*self._location()):
            outcome = _streamed(plan, growing, sum_members, sinks, progress)
        self._add_read(outcome)
        self._summed = to_sum

    def _location(self) -> tuple[str, str]:
        """Name of the file for messages, and a hint for a full disk."""
        folder = self._folder or tempfile.gettempdir()
        hint = (
            "choose another folder" if self._folder else "set TMPDIR to another folder"
        )
        return f"a sum of members in {folder}", hint


class _Sums:
    """Float64 sums of tensors in an unnamed temporary file."""

    def __init__(
        self, targets: Sequence[TensorPlan], folder: str | os.PathLike[str] | None
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

    def fits(self, targets: Sequence[TensorPlan]) -> bool:
        """Whether the file has exactly these tensors, by name and shape."""
        shapes = {target.name: target.shape for target in targets}
        return shapes == {name: t.shape for name, t in self.tensors.items()}

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        while len(buffer):
            n_read = os.preadv(self._fd, [buffer], offset)
            buffer, offset = buffer[n_read:], offset + n_read

    def check_unchanged(self) -> None:
        """Do nothing: other processes cannot open a file without a name."""


def _is_equal_mean(plan: Plan) -> bool:
    differ = any(t.settings or t.holders is not None for t in plan.targets)
    equal = bool((plan.weights == 1).all())
    return is_mean(plan.rule) and equal and not differ


def _is_narrow(target: TensorPlan) -> bool:
    """Whether the mean of a tensor is a plain float64 sum, divided at the end."""
    stored = {tensor.dtype for tensor in target.members}
    return target.action == "combine" and FLOAT64 not in stored


def _streamed(
    plan: Plan,
    targets: list[TensorPlan],
    function: Callable[..., Array],
    sinks: Mapping[str, Sink],
    progress: Callable[[int], None],
) -> StreamResult:
    rule = Rule(function)
    return stream_plan(replace(plan, targets=targets, rule=rule), sinks, progress)
