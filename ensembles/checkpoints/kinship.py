"""Whether networks share a start, told by the directions of their parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import numpy as np

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.floats import Float64, is_float
from ensembles.kernels.gram import widened

Matrices = dict[str, Float64]

READ = 1 << 12  # elements of each matrix: enough to tell 0 from .9
# Of members of one start it was .6 or more in every matrix, on digits, far from where
# they started; from different seeds .3 or less, even where layers have four units.
UNRELATED = 0.5


def unrelated(
    members: Sequence[Checkpoint], names: Collection[str] | None = None
) -> tuple[int, float, str] | None:
    """First member that shares no start with the first, the cosine, and of what it is.

    Networks that were trained from one start lie in nearly one direction, those from
    different ones at right angles: their hidden units come in another order, and a mean
    of them is a network of neither. The same holds of a part, such as a head on a body
    that is frozen: of the units between two matrices. One matrix alone, such as a
    linear head, may differ.

    Parameters
    ----------
    members : sequence of Checkpoint
        Of the same names and shapes; matrices alone are looked at.
    names : collection of str or None, default=None
        Of the tensors of a network; None is all.

    Returns
    -------
    (int, float, str) or None

    References
    ----------
    Ainsworth, Hayase and Srinivasa (2023), "Git re-basin: merging models modulo
    permutation symmetries", ICLR, section 2.
    """
    first, layout = _sampled(members[0], names), members[0].layout
    pairs = [
        pair
        for pair in pairwise(first)
        if _share_units(*(layout[name].shape for name in pair))
    ]
    for place, member in enumerate(members[1:], 1):
        other = _sampled(member, names)
        both = [name for name in first if name in other]
        if not both:
            continue
        whole = (
            np.concatenate([held[name] for name in both]) for held in (first, other)
        )
        found = [(_cosine(*whole), "their parameters")]
        found += [
            (max(_cosine(first[n], other[n]) for n in pair), " and ".join(pair))
            for pair in pairs
            if all(name in other for name in pair)
        ]
        cosine, what = min(found)
        if cosine < UNRELATED:
            return place, cosine, what
    return None


def _share_units(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether units that may change places lie between two matrices."""
    torch_like, transposed = (one[0], other[1]), (one[1], other[0])
    return any(a == b > 1 for a, b in (torch_like, transposed))


def _sampled(member: Checkpoint, names: Collection[str] | None) -> Matrices:
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


def _cosine(a: Float64, b: Float64) -> float:
    norms = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norms if norms else 1.0
