"""Tensors of a base plus the updates of an adapter, computed when they are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.checkpoints.formats.lora.adapter import LowRankUpdate
from ensembles.kernels.casting import widen
from ensembles.kernels.low_rank import add_product
from ensembles.parallel import chunks

KEPT = 8 << 20  # bytes of factors that an adapted base keeps for the next reads
PIECE = 1 << 18  # elements that a pass over a matrix reads at once, at least one row


class Product(NamedTuple):
    """Factors of the update of a tensor, with the scale, in the layout of the base.

    Parameters
    ----------
    left : ndarray of shape (n_matrices, n_rows, rank)
        First factor of each matrix of the tensor.
    right : ndarray of shape (n_matrices, rank, n_columns)
        Second factor.
    row_scale, column_scale : ndarray or None
        Factors of the rows (n_rows,) or columns (n_columns,) of the updated matrix, by
        which DoRA changes it; None without.
    """

    left: Float64
    right: Float64
    row_scale: Float64 | None = None
    column_scale: Float64 | None = None

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return sum(array.nbytes for array in self if array is not None)


class ProductCache:
    """Products of the last tensors that were read, shared by all threads.

    Parameters
    ----------
    largest : int
        Bytes of all products; the last one is kept whatever its size.
    """

    def __init__(self, largest: int = KEPT) -> None:
        self._largest = largest
        self._products: OrderedDict[int, Product] = OrderedDict()
        self._lock = threading.Lock()

    def product(self, source: AdaptedSource) -> Product:
        """Product of a source, from memory or computed."""
        with self._lock:
            key = id(source)
            if key not in self._products:
                self._products[key] = source.compute_product()
            self._products.move_to_end(key)
            while len(self._products) > 1 and self._n_bytes() > self._largest:
                self._products.popitem(last=False)
            return self._products[key]

    def _n_bytes(self) -> int:
        return sum(product.nbytes for product in self._products.values())


class AdaptedSource:
    """A tensor of the base plus its update, in float64.

    Parameters
    ----------
    base : Tensor
        Tensor of the base.
    update : LowRankUpdate
        Update of the tensor, or of the layer whose bias it is.
    scale : float
        Factor of the update, besides its own.
    cache : ProductCache
        Products of all tensors of the base.
    """

    def __init__(
        self, base: Tensor, update: LowRankUpdate, scale: float, cache: ProductCache
    ) -> None:
        self.base = base
        self.update = update
        self.scale = scale * update.scale
        self._cache = cache

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        start, stop = offset // 8, -(-(offset + len(buffer)) // 8)
        values = self._updated(start, stop, self._cache.product(self))
        first = offset - 8 * start
        buffer[:] = values.view(np.uint8).data[first : first + len(buffer)]

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the base or the adapter was modified."""
        for source in {t.source for t in (self.base, *self.update.tensors)}:
            source.check_unchanged()

    def compute_product(self) -> Product:
        """Factors of the update; with DoRA, from a pass over the whole tensor."""
        if self._is_bias:
            assert self.update.bias is not None
            column = _read(self.update.bias, 0, self.base.size)
            return Product(column[None, :, None] * self.scale, np.ones((1, 1, 1)))
        a, b = self.update.read()
        left, right = (
            (a.swapaxes(-1, -2), b.swapaxes(-1, -2) * self.scale)
            if self._swaps
            else (b * self.scale, a)
        )
        product = Product(np.ascontiguousarray(left), np.ascontiguousarray(right))
        if self.update.magnitude is None:
            return product
        magnitude = _read(self.update.magnitude, 0, self.update.magnitude.size)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = magnitude / self._norms(product)
        if self._swaps:
            return product._replace(column_scale=scale)
        return product._replace(row_scale=scale)

    @property
    def _is_bias(self) -> bool:
        return len(self.base.shape) == 1

    @property
    def _swaps(self) -> bool:
        """Whether the base stores the matrix with inputs first."""
        update = self.update
        is_plain = matrix_shape(self.base, update) == (
            update.n_outputs,
            update.n_inputs,
        )
        return not is_plain or (update.is_transposed and _is_square(update))

    def _norms(self, product: Product) -> Float64:
        """Euclidean norms of the rows of the updated matrix, or of its columns."""
        n_rows, n_columns = matrix_shape(self.base, self.update)
        squares = np.zeros(n_columns if self._swaps else n_rows)
        step = max(PIECE // n_columns, 1)
        for first, last in chunks(n_rows, step):
            piece = self._updated(first * n_columns, last * n_columns, product)
            rows = piece.reshape(-1, n_columns)
            if self._swaps:
                squares += np.square(rows).sum(axis=0)
            else:
                squares[first:last] = np.square(rows).sum(axis=1)
        return np.sqrt(squares)

    def _updated(self, start: int, stop: int, product: Product) -> Float64:
        """Elements ``start`` to ``stop`` of the updated tensor."""
        values = _read(self.base, start, stop)
        n_rows, n_columns = product.left.shape[1], product.right.shape[2]
        size = n_rows * n_columns
        for index in range(start // size, -(-stop // size)):
            first, last = max(index * size, start), min((index + 1) * size, stop)
            part = values[first - start : last - start]
            begin = first - index * size
            add_product(part, product.left[index], product.right[index], begin)
        if product.row_scale is not None:
            values *= product.row_scale[np.arange(start, stop) // n_columns]
        if product.column_scale is not None:
            values *= product.column_scale[np.arange(start, stop) % n_columns]
        return values


def matrix_shape(base: Tensor, update: LowRankUpdate) -> tuple[int, int]:
    """Rows and columns of each matrix of a tensor, with kernels in the columns.

    Parameters
    ----------
    base : Tensor
        Tensor of the base, with two axes or more.
    update : LowRankUpdate
        Its update.

    Returns
    -------
    (int, int)
    """
    matrix = base.shape[1:] if update.n_experts > 1 else base.shape
    return matrix[0], int(np.prod(matrix[1:], dtype=np.int64))


def _is_square(update: LowRankUpdate) -> bool:
    return update.n_outputs == update.n_inputs


def _read(tensor: Tensor, start: int, stop: int) -> Float64:
    """Elements of a stored tensor in float64."""
    stored = np.empty(stop - start, tensor.dtype)
    if stored.size:
        position = tensor.offset + start * tensor.dtype.itemsize
        tensor.source.read_into(stored.view(np.uint8).data, position)
    return np.asarray(widen(stored[None])[0])
