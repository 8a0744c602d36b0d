"""Values of averages, and their updates in one pass over the parameters."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ensembles.checkpoints.averaging.moving_averages import LAWA, Average

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Elements that are converted at a time. On a CPU their wide copies stay in the cache;
# elsewhere, starting an operation takes longer.
CPU_CHUNK, DEVICE_CHUNK = 1 << 18, 1 << 22


class Move(NamedTuple):
    """Update of the tensors of an average: a share of the way to a new member."""

    tensors: list[Tensor]
    share: float


class KeptAverage:
    """An average along a run: its tensors, and the numbers that the next update needs.

    Parameters
    ----------
    average : EMA, PowerEMA, SWA or LAWA
        Which steps count, and how much.
    dtype : torch.dtype
        Floating-point dtype of the average.
    device : torch.device or None
        Device of the average; None is that of each tensor.
    """

    def __init__(
        self, average: Average, dtype: torch.dtype, device: torch.device | None
    ) -> None:
        self.average, self.dtype, self.device = average, dtype, device
        self.n_members = 0
        self.step = 0  # of the newest member
        self.total = 0.0
        self.tensors: list[Tensor] = []
        n_snapshots = average.k if isinstance(average, LAWA) else 0
        self.snapshots: deque[list[Tensor]] = deque(maxlen=n_snapshots)

    def add(self, members: Sequence[Tensor], step: int) -> Move | None:
        """Count a new member, and copy it if it is the first, or a snapshot.

        Parameters
        ----------
        members : sequence of Tensor
            Tensors of the model.
        step : int
            Training step of the member.

        Returns
        -------
        Move or None
            Update that remains to be made, with `move`.
        """
        previous, self.step = self.step, step
        self.n_members += 1
        if isinstance(self.average, LAWA):
            self.snapshots.append([self._placed(t, t, t.dtype) for t in members])
            return None
        if self.n_members == 1:
            self.total, self.tensors = 1.0, [self.wide(tensor) for tensor in members]
            return None
        self.total = self.average.total_weight(
            self.total, self.n_members - 1, step, previous
        )
        return Move(self.tensors, 1 / self.total)

    def value(self) -> list[Tensor]:
        """Tensors of the average of all members.

        Returns
        -------
        list of Tensor
        """
        if not self.snapshots:
            return self.tensors
        means = []
        for members in zip(*self.snapshots, strict=True):
            total = self.wide(members[0])
            for member in members[1:]:
                total += member
            means.append(total / len(members))
        return means

    def counters(self) -> dict[str, float]:
        """Numbers that the next update needs.

        Returns
        -------
        dict
            ``n_members``, ``step`` (of the newest member) and ``total``.
        """
        return {"n_members": self.n_members, "step": self.step, "total": self.total}

    def restore(
        self,
        counters: Mapping[str, Any],
        loaded: Sequence[Sequence[Tensor]],
        members: Sequence[Tensor],
    ) -> None:
        """Continue from a saved state.

        Parameters
        ----------
        counters : mapping
            From `counters`.
        loaded : sequence of sequence of Tensor
            The average, if it has members, and then its snapshots.
        members : sequence of Tensor
            Tensors of the model.
        """
        self.n_members, self.step = counters["n_members"], counters["step"]
        self.total = counters["total"]
        self.tensors = []
        self.snapshots.clear()
        for tensors in loaded[1:]:
            pairs = zip(tensors, members, strict=True)
            self.snapshots.append([self._placed(t, m, m.dtype) for t, m in pairs])
        if loaded and not self.snapshots:
            pairs = zip(loaded[0], members, strict=True)
            self.tensors = [self._placed(t, m, self._dtype(m)) for t, m in pairs]

    def wide(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor, in the dtype of the average and on its device.

        Parameters
        ----------
        tensor : Tensor
            Tensor of a member.

        Returns
        -------
        Tensor
            Complex if ``tensor`` is.
        """
        return self._placed(tensor, tensor, self._dtype(tensor))

    def _dtype(self, member: Tensor) -> torch.dtype:
        return self.dtype.to_complex() if member.is_complex() else self.dtype

    def _placed(self, tensor: Tensor, member: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of a tensor on the device of averages of a member."""
        return tensor.to(self.device or member.device, dtype, copy=True)


def move(members: Sequence[Tensor], moves: Sequence[Move]) -> None:
    """Move averages towards a new member, in one pass over its tensors.

    Parameters
    ----------
    members : sequence of Tensor
        Tensors of the model.
    moves : sequence of Move
        Updates, all of averages of one dtype on one device.
    """
    import torch

    if not moves or not members:
        return
    if all(_is_like(m, t) for m, t in zip(members, moves[0].tensors, strict=True)):
        for tensors, share in moves:
            torch._foreach_lerp_(tensors, [*members], share)
        return
    for group in _groups(members, [tensors for tensors, _ in moves]):
        parts, *averages = zip(*group, strict=True)
        wide = [torch.empty_like(tensor) for tensor in averages[0]]
        torch._foreach_copy_(wide, parts)
        for targets, (_, share) in zip(averages, moves, strict=True):
            torch._foreach_lerp_(targets, wide, share)


def _is_like(member: Tensor, tensor: Tensor) -> bool:
    return member.dtype == tensor.dtype and member.device == tensor.device


def _groups(
    members: Sequence[Tensor], averages: Sequence[Sequence[Tensor]]
) -> Iterator[list[tuple[Tensor, ...]]]:
    """Yield tensors and their averages in groups of about a chunk."""
    device = averages[0][0].device
    size = CPU_CHUNK if device.type == "cpu" else DEVICE_CHUNK
    group: list[tuple[Tensor, ...]] = []
    n_elements = 0
    for together in zip(members, *averages, strict=True):
        for piece in _pieces(together, size):
            group.append(piece)
            n_elements += piece[0].numel()
            if n_elements >= size:
                yield group
                group, n_elements = [], 0
    if group:
        yield group


def _pieces(together: tuple[Tensor, ...], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield a tensor and its averages in pieces of at most ``size`` elements."""
    import torch

    if together[0].numel() <= size or not all(t.is_contiguous() for t in together):
        yield together
    else:
        yield from zip(*(torch.split(t.view(-1), size) for t in together), strict=True)
