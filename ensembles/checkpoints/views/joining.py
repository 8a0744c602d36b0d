"""A source that joins the bytes of several tensors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from ensembles.checkpoints.formats.checkpoint import Tensor


class JoinedSource:
    """Bytes of several tensors, one after the other.

    Parameters
    ----------
    tensors : sequence of Tensor
        Tensors in their order, at least one.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._starts = [*accumulate((t.nbytes for t in tensors), initial=0)]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        rest = buffer
        while len(rest):
            index = bisect_right(self._starts, offset) - 1
            tensor = self._tensors[index]
            part = rest[: self._starts[index + 1] - offset]
            tensor.source.read_into(part, tensor.offset + offset - self._starts[index])
            rest, offset = rest[len(part) :], offset + len(part)

    def check_unchanged(self) -> None:
        """Raise `ValueError` if a source was modified since it was opened."""
        for source in {tensor.source for tensor in self._tensors}:
            source.check_unchanged()
