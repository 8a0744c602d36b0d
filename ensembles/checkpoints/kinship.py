"""Whether networks share a start, told by the directions of their parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.floats import Float64, is_float
from ensembles.kernels.gram import widened

READ = 1 << 12  # elements of each matrix: enough to tell 0 from .9
# Of members of one start it was .7 or more, on digits, far from where they started; of
# large networks from different seeds it is 0, of some with four units .47.
UNRELATED = 0.5


def unrelated(
    members: Sequence[Checkpoint], names: Collection[str] | None = None
) -> tuple[int, float] | None:
    """First member that does not share a start with the first, and their cosine.

    Networks that were trained from one start lie in nearly one direction, those from
    different ones at right angles: their hidden units come in another order, and a mean
    of them is a network of neither.

    Parameters
    ----------
    members : sequence of Checkpoint
        Of the same names and shapes; matrices alone are looked at.
    names : collection of str or None, default=None
        Of the tensors of a network; None is all.

    Returns
    -------
    (int, float) or None

    References
    ----------
    Ainsworth, Hayase and Srinivasa (2023), "Git re-basin: merging models modulo
    permutation symmetries", ICLR, section 2.
    """
    first = _sampled(members[0], names)
    for place, member in enumerate(members[1:], 1):
        other = _sampled(member, names)
        norms = float(np.sqrt(_dot(first, first) * _dot(other, other)))
        cosine = _dot(first, other) / norms if norms else 1.0
        if cosine < UNRELATED:
            return place, cosine
    return None


def _sampled(member: Checkpoint, names: Collection[str] | None) -> dict[str, Float64]:
    return {
        name: _beginning(tensor)
        for name, tensor in member.layout.items()
        if len(tensor.shape) > 1 and is_float(tensor.dtype)
        if names is None or name in names
    }


def _beginning(tensor: Tensor) -> Float64:
    found = np.empty(min(tensor.size, READ), tensor.dtype)
    tensor.source.read_into(found.view(np.uint8).data, tensor.offset)
    return np.asarray(widened(found[None])[0])


def _dot(a: dict[str, Float64], b: dict[str, Float64]) -> float:
    return float(sum(a[name] @ b[name] for name in a.keys() & b.keys()))
