"""Test networks for a common initialization by the cosine similarity of matrices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float
from ensembles.kernels.casting import widen

READ, MOST_ROWS = 1 << 12, 64  # elements and rows read from each matrix
# A matrix with a larger cosine counts as related. Networks with a common initialization
# had .6 or more in every matrix, unless trained far from it; networks with different
# ones had .3 or less, even with four units per layer.
UNRELATED = 0.5
# Networks trained far from a common initialization keep the order of their units. With
# different initializations, the inner products of units at equal positions are a random
# draw from those of all pairs, so a sum ALIGNED standard deviations above chance shows
# a common one. FAINT is the smallest cosine, FEW the fewest units, for this test.
ALIGNED, FAINT, FEW = 4.0, 0.15, 8
WHOLE = "their parameters"


class Relation(NamedTuple):
    """Similarity of a member to the first one.

    Parameters
    ----------
    member_index : int
        Index of the member.
    cosine : float
        Cosine similarity of the matrices named by ``what``, from -1 to 1.
    what : str
        Names of the matrices, or "their parameters", for messages.
    is_related : bool
        Whether both members may have a common initialization.
    """

    member_index: int
    cosine: float
    what: str
    is_related: bool


class _Matrix(NamedTuple):
    """Sampled rows of a matrix, and its numbers of output and input units."""

    values: Float64
    units: tuple[int, int]
    is_convolution: bool


def find_unrelated_member(
    members: Sequence[Checkpoint], names: Collection[str] | None = None
) -> tuple[int, float, str] | None:
    """First member with another initialization than the first member.

    Parameters of networks trained from a common initialization have a high cosine
    similarity. Networks with different initializations have their hidden units in
    different orders, so their mean is useless. The same holds for a part of the
    network, such as a head of two layers on a frozen body. A single layer, such as a
    linear head, may differ.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members whose matrices of the same name and shape are compared. Equal matrices
        and entries that are not finite are ignored.
    names : collection of str or None, default=None
        Tensor names to compare, such as parameters without buffers; None compares all.

    Returns
    -------
    (int, float, str) or None
        Index of the member, cosine similarity, and names of the matrices. None if all
        members may have a common initialization.

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
    """Similarity of each other member to the first member.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members, see `find_unrelated_member`.
    names : collection of str or None, default=None
        Tensor names to compare; None compares all.

    Yields
    ------
    Relation
        One for each member after the first. For a related member, the cosine is that of
        all aligned matrices that differ, or 1 if none of them differs.
    """
    matrix_names = _matrices(members[0], names)
    first_samples = {name: _sampled(members[0].layout[name]) for name in matrix_names}
    for index, member in enumerate(members[1:], 1):
        pairs = {}
        for name, first_sample in first_samples.items():
            tensor = member.layout.get(name)
            if tensor is None or tensor.shape != members[0].layout[name].shape:
                continue
            pairs[name] = (first_sample, _sampled(tensor))
        yield _relation(index, pairs)


def _relation(index: int, pairs: dict[str, tuple[_Matrix, _Matrix]]) -> Relation:
    cosines, unrelated, n_related = {}, [], 0
    for name, (first, second) in pairs.items():
        is_finite = np.isfinite(first.values) & np.isfinite(second.values)
        first_values, second_values = (
            _scaled(m.values, is_finite) for m in (first, second)
        )
        if not (first_values.any() and second_values.any()):
            continue
        if np.array_equal(first_values, second_values):
            # Equal constants, as in a LayerNorm over planes, are not evidence.
            n_related += bool(_centered(first_values).any())
            continue
        cosines[name] = (
            _cosine(first_values, second_values),
            float(np.linalg.norm(first_values)),
        )
        if cosines[name][0] >= UNRELATED or _is_aligned(first_values, second_values):
            n_related += 1
        else:
            unrelated.append(name)
    if unrelated and not n_related:
        return Relation(index, _mean(cosines, unrelated), WHOLE, False)
    for a, b in combinations(unrelated, 2):
        if _share_units(pairs[a][0], pairs[b][0]):
            cosine = max(cosines[a][0], cosines[b][0])
            return Relation(index, cosine, f"{a} and {b}", False)
    related_names = [name for name in cosines if name not in unrelated]
    return Relation(
        index, _mean(cosines, related_names) if related_names else 1.0, WHOLE, True
    )


def _mean(cosines: dict[str, tuple[float, float]], names: Sequence[str]) -> float:
    """Mean cosine of matrices, weighted by their squared norms."""
    lengths = [cosines[name][1] ** 2 for name in names]
    return float(np.average([cosines[name][0] for name in names], weights=lengths))


def _share_units(first: _Matrix, second: _Matrix) -> bool:
    """Whether two matrices may share hidden units, which could be permuted.

    The outputs of one matrix are the inputs of the other, in either storage order.
    Recurrent layers have 3 or 4 rows (gates) for each input unit, and a layer after
    convolutions may have several inputs for each channel.
    """
    for (a_out, a_in), (b_out, b_in), producer in (
        (first.units, second.units, first),
        (second.units, first.units, second),
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
    """Sample the beginnings of evenly spaced rows."""
    shape, size = tensor.shape, tensor.size
    # Stacked experts (experts, rows, columns) are read as one matrix of all rows.
    stacked = len(shape) == 3 and min(shape[1:]) >= 2 * FEW
    n_rows = size // shape[-1] if stacked else shape[0]
    n_columns = size // n_rows
    indices = np.linspace(0, n_rows - 1, min(n_rows, MOST_ROWS)).astype(int)
    rows = sorted(set(indices.tolist()))  # np.unique imports numpy.ma, 7 ms
    width = min(n_columns, max(1, READ // len(rows)))
    values = np.empty((len(rows), width), tensor.dtype)
    for row, row_index in zip(values, rows, strict=True):
        offset = tensor.offset + row_index * n_columns * tensor.dtype.itemsize
        tensor.source.read_into(row.view(np.uint8).data, offset)
    units = (shape[1], shape[2]) if stacked else (shape[0], shape[1])
    return _Matrix(np.asarray(widen(values)), units, len(shape) > 2 and not stacked)


def _scaled(values: Float64, counted: Array) -> Float64:
    """Mask entries and scale the largest to 1, so that squares do not overflow."""
    masked = np.where(counted, values, 0.0)
    largest = np.abs(masked).max(initial=0.0)
    return masked / largest if largest else masked


def _cosine(a: Float64, b: Float64) -> float:
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def _centered(values: Float64) -> Float64:
    """Subtract the row and column means."""
    rows = values.mean(1, keepdims=True)
    centered = values - rows - values.mean(0, keepdims=True) + rows.mean()
    return np.where(np.abs(centered) > 1e-9, centered, 0.0)


def _is_aligned(first: Float64, second: Float64) -> bool:
    """Whether rows and columns of one matrix match the same ones of the other."""
    a, b = _centered(first), _centered(second)
    if not (a.any() and b.any()) or _cosine(a, b) < FAINT or min(a.shape) < FEW:
        return False
    return min(_deviations(a @ b.T), _deviations(a.T @ b)) > ALIGNED


def _deviations(products: Float64) -> float:
    """Standard deviations of the trace above the mean of random pairings."""
    n_units = len(products)
    spread = np.sqrt((products**2).sum() / (n_units - 1))
    return float((np.trace(products) - products.sum() / n_units) / spread)
