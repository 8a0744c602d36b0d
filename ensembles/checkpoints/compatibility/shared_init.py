"""Whether networks were trained from one initialization, told by their matrices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float
from ensembles.kernels.casting import widened

READ, MOST_ROWS = 1 << 12, 64  # elements and rows that are read of each matrix
# Above it nothing else is looked at: members of one initialization had .6 or more in
# every matrix, unless they were trained far, and members of two .3 or less, even where
# layers have four units.
UNRELATED = 0.5
# Members of one initialization that were trained far still have each unit in its
# place. From two initializations the inner product of equal places is one draw among
# those of all pairs of places: so many standard deviations above them it is none.
ALIGNED, FAINT, FEW = 4.0, 0.15, 8
WHOLE = "their parameters"


class Relation(NamedTuple):
    """How a member lies to the first one.

    Parameters
    ----------
    place : int
        Of the member among all.
    cosine : float
        Of the parameters that ``what`` names.
    what : str
    is_related : bool
        Whether both may come from one initialization.
    """

    place: int
    cosine: float
    what: str
    is_related: bool


class _Matrix(NamedTuple):
    """Some rows of a matrix, and how many units it has on either side."""

    values: Float64
    units: tuple[int, int]
    is_convolution: bool


def unrelated(
    members: Sequence[Checkpoint], names: Collection[str] | None = None
) -> tuple[int, float, str] | None:
    """First member of another initialization than the first, and what shows it.

    Networks that were trained from one initialization lie in nearly one direction.
    Those from different ones have their hidden units in another order, and their mean
    is useless. The same holds of a part, such as a head of two layers on a frozen
    body. A single layer, such as a linear head, may differ.

    Parameters
    ----------
    members : sequence of Checkpoint
        Matrices of the same name and shape are compared. Those that are equal, and
        entries that are not finite, are left out.
    names : collection of str or None, default=None
        Tensors of the network, such as its parameters without its buffers; None is
        all.

    Returns
    -------
    (int, float, str) or None
        Index of the member, the cosine, and the names of the matrices.

    References
    ----------
    Ainsworth, Hayase and Srinivasa (2023), "Git re-basin: merging models modulo
    permutation symmetries", ICLR, section 2.
    """
    for relation in relations(members, names):
        if not relation.is_related:
            return relation[:3]
    return None


def relations(
    members: Sequence[Checkpoint], names: Collection[str] | None = None
) -> Iterator[Relation]:
    """How each member but the first lies to the first one.

    Parameters
    ----------
    members, names
        As in `unrelated`.

    Yields
    ------
    Relation
        Of a related member the cosine of all matrices that differ and are aligned.
    """
    wanted = _matrices(members[0], names)
    first = {name: _sampled(members[0].layout[name]) for name in wanted}
    for index, member in enumerate(members[1:], 1):
        pairs = {}
        for name, ours in first.items():
            tensor = member.layout.get(name)
            if tensor is None or tensor.shape != members[0].layout[name].shape:
                continue
            pairs[name] = (ours, _sampled(tensor))
        yield _relation(index, pairs)


def _relation(index: int, pairs: dict[str, tuple[_Matrix, _Matrix]]) -> Relation:
    cosines, strangers, n_alike = {}, [], 0
    for name, (ours, theirs) in pairs.items():
        both = np.isfinite(ours.values) & np.isfinite(theirs.values)
        one, other = (_scaled(m.values, both) for m in (ours, theirs))
        if not (one.any() and other.any()):
            continue
        if np.array_equal(one, other):
            # Also of constants, such as the weights of a LayerNorm over planes.
            n_alike += bool(_centred(one).any())
            continue
        cosines[name] = (_cosine(one, other), float(np.linalg.norm(one)))
        if cosines[name][0] >= UNRELATED or _is_aligned(one, other):
            n_alike += 1
        else:
            strangers.append(name)
    if strangers and not n_alike:
        return Relation(index, _mean(cosines, strangers), WHOLE, False)
    for a, b in combinations(strangers, 2):
        if _share_units(pairs[a][0], pairs[b][0]):
            cosine = max(cosines[a][0], cosines[b][0])
            return Relation(index, cosine, f"{a} and {b}", False)
    related = [name for name in cosines if name not in strangers]
    return Relation(index, _mean(cosines, related) if related else 1.0, WHOLE, True)


def _mean(cosines: dict[str, tuple[float, float]], names: Sequence[str]) -> float:
    """Cosine of several matrices, each counted by its squared length."""
    lengths = [cosines[name][1] ** 2 for name in names]
    return float(np.average([cosines[name][0] for name in names], weights=lengths))


def _share_units(one: _Matrix, other: _Matrix) -> bool:
    """Whether units that may change places lie between two matrices.

    One matrix gives the units that the other takes, stored either way round; gates of a
    recurrent layer have several rows for each unit that they take; and a layer behind
    convolutions may take several places of each channel.
    """
    for (a_out, a_in), (b_out, b_in), producer in (
        (one.units, other.units, one),
        (other.units, one.units, other),
    ):
        if a_out == b_in > 1 or (a_in == b_out > 1):
            return True
        if a_out == b_out and b_in > 1 and b_out in (3 * b_in, 4 * b_in):
            return True
        if producer.is_convolution and b_in > a_out > 1 and b_in % a_out == 0:
            return True
    return False


def _matrices(member: Checkpoint, names: Collection[str] | None) -> list[str]:
    return [
        name
        for name, tensor in member.layout.items()
        if sum(size > 1 for size in tensor.shape) > 1 and is_float(tensor.dtype)
        if names is None or name in names
    ]


def _sampled(tensor: Tensor) -> _Matrix:
    """Rows at even distances, each from its beginning."""
    shape, size = tensor.shape, tensor.size
    # Experts, one behind the other, are one matrix of each one's rows.
    stacked = len(shape) == 3 and min(shape[1:]) >= 2 * FEW
    n_rows = size // shape[-1] if stacked else shape[0]
    n_columns = size // n_rows
    rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, MOST_ROWS)).astype(int))
    width = min(n_columns, max(1, READ // len(rows)))
    found = np.empty((len(rows), width), tensor.dtype)
    for line, row in zip(found, rows.tolist(), strict=True):
        place = tensor.offset + row * n_columns * tensor.dtype.itemsize
        tensor.source.read_into(line.view(np.uint8).data, place)
    units = (shape[1], shape[2]) if stacked else (shape[0], shape[1])
    return _Matrix(np.asarray(widened(found)), units, len(shape) > 2 and not stacked)


def _scaled(values: Float64, counted: Array) -> Float64:
    """Entries that count, the largest 1, so that squares do not overflow."""
    kept = np.where(counted, values, 0.0)
    largest = np.abs(kept).max(initial=0.0)
    return kept / largest if largest else kept


def _cosine(a: Float64, b: Float64) -> float:
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def _centred(values: Float64) -> Float64:
    """Entries less what all rows, and all columns, have in common."""
    rows = values.mean(1, keepdims=True)
    found = values - rows - values.mean(0, keepdims=True) + rows.mean()
    return np.where(np.abs(found) > 1e-9, found, 0.0)


def _is_aligned(one: Float64, other: Float64) -> bool:
    """Whether each row, and each column, is like its own of the other matrix most."""
    a, b = _centred(one), _centred(other)
    if not (a.any() and b.any()) or _cosine(a, b) < FAINT or min(a.shape) < FEW:
        return False
    return min(_deviations(a @ b.T), _deviations(a.T @ b)) > ALIGNED


def _deviations(products: Float64) -> float:
    """How far the sum of equal places is above that of places paired by chance."""
    n_units = len(products)
    spread = np.sqrt((products**2).sum() / (n_units - 1))
    return float((np.trace(products) - products.sum() / n_units) / spread)
