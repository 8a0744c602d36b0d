"""Whether networks share a start, told by the directions of their parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.floats import Float64, is_float
from ensembles.kernels.gram import widened

READ = 1 << 16  # elements of each matrix: enough to tell 0 from .5
UNRELATED = 0.1  # of networks from different seeds it is 0, give or take .03


def unrelated(members: Sequence[Checkpoint]) -> tuple[int, float] | None:
    """First member that does not share a start with the first, and their cosine.

    Networks that were trained from one start lie in nearly one direction, those from
    different ones at right angles: their hidden units come in another order, and a mean
    of them is a network of neither.

    Parameters
    ----------
    members : sequence of Checkpoint
        Of the same names and shapes; matrices alone are looked at.

    Returns
    -------
    (int, float) or None

    References
    ----------
    Ainsworth, Hayase and Srinivasa (2023), "Git re-basin: merging models modulo
    permutation symmetries", ICLR, section 2.
    """
    first, *others = (_sampled(member) for member in members)
    for place, other in enumerate(others, 1):
        norms = float(np.sqrt(_dot(first, first) * _dot(other, other)))
        cosine = _dot(first, other) / norms if norms else 1.0
        if cosine < UNRELATED:
            return place, cosine
    return None


def _sampled(member: Checkpoint) -> dict[str, Float64]:
    return {
        name: _beginning(tensor)
        for name, tensor in member.layout.items()
        if len(tensor.shape) > 1 and is_float(tensor.dtype)
    }


def _beginning(tensor: Tensor) -> Float64:
    found = np.empty(min(tensor.size, READ), tensor.dtype)
    tensor.source.read_into(found.view(np.uint8).data, tensor.offset)
    return np.asarray(widened(found[None])[0])


def _dot(a: dict[str, Float64], b: dict[str, Float64]) -> float:
    return float(sum(a[name] @ b[name] for name in a.keys() & b.keys()))
