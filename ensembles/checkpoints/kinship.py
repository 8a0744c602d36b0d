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
) -> tuple[int, float] | None:
    """First member that does not share a start with the first, and their cosine.

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
    (int, float) or None

    References
    ----------
    Ainsworth, Hayase and Srinivasa (2023), "Git re-basin: merging models modulo
    permutation symmetries", ICLR, section 2.
    """
    first = _sampled(members[0], names)
    for place, member in enumerate(members[1:], 1):
        cosine = _least(first, _sampled(member, names))
        if cosine < UNRELATED:
            return place, cosine
    return None


def _least(first: Matrices, other: Matrices) -> float:
    """Cosine of all matrices, or of the two in a row that differ most, if less."""
    both = [(matrix, other[name]) for name, matrix in first.items() if name in other]
    if not both:
        return 1.0
    whole = _cosine(*(np.concatenate(side) for side in zip(*both, strict=True)))
    found = [_cosine(*pair) for pair in both]
    return min([whole, *map(max, pairwise(found))])


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
