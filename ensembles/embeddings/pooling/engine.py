"""Batched, multithreaded tokenization and pooling of texts by compiled loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.pooling.loops import (
    normalize_rows,
    pool_extreme,
    pool_mean,
    pool_power,
)
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows, Tokenizer
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import (
    BATCH_SIZE,
    TextBatch,
    as_batches,
    n_texts,
    slice_texts,
    split_long,
)
from ensembles.embeddings.vectors.vector_table import STORED, Matrix, VectorTable
from ensembles.parallel import chunks, map_threads, resolve_n_threads

Divide = Literal["weights", "count"]

RULES = frozenset(("mean", "maximum", "minimum", "power_mean"))
MAX_POWER = 64  # overflows float64 only for entries beyond 1e4, which vectors lack


class Storage(NamedTuple):
    """Arrays of a table, as the loops in `ensembles.embeddings.pooling.loops` read it.

    Attributes
    ----------
    stored : ndarray of shape (n_stored, dim)
        float32 or int8 numbers, or the bits of a 16-bit format.
    narrow : True or None
        Whether ``stored`` has bits.
    half : True or None
        Whether the 16-bit format is float16; it is bfloat16 otherwise.
    mapping : ndarray of shape (n_rows,) or None
        Index of the stored vector of each row.
    scales : ndarray of shape (n_rows,), float32, or None
        Factor of each row.
    n_rows : int
        Number of rows.
    """

    stored: NDArray[Any]
    narrow: bool | None
    half: bool | None
    mapping: NDArray[Any] | None
    scales: Float32 | None
    n_rows: int


class PoolingSpec(NamedTuple):
    """Validated arguments of the pooling loops."""

    storage: Storage
    rules: tuple[str, ...]
    weights: Float32 | None
    divide_by_count: bool
    p: int

    @property
    def n_columns(self) -> int:
        """Number of columns of the result."""
        return len(self.rules) * int(self.storage.stored.shape[1])


def pooling_spec(
    table: Matrix,
    *,
    rules: Sequence[str] = ("mean",),
    weights: Float32 | None = None,
    p: int = 3,
    divide: str = "weights",
) -> PoolingSpec:
    """Validate the arguments of the pooling loops.

    Parameters
    ----------
    table : ndarray of shape (n_rows, dim) or VectorTable
        Vectors in float32, float16, bfloat16 or int8, which may be memory-mapped. They
        are not converted, and copied only if they are not C-contiguous. An array of
        int8 has no scale: its entries count as whole numbers.
    rules : sequence of {"mean", "maximum", "minimum", "power_mean"}, default=("mean",)
        Pooling rules; their results are concatenated.
    weights : ndarray of shape (n_rows,), float32, or None, default=None
        Weight of each row, finite and not negative (not checked). None is 1 for all.
        Maximum and minimum skip rows of weight 0 and ignore all other weights.
    p : int, positive, default=3
        Power of the power mean, (sum(w x**p) / sum(w)) ** (1 / p), the real root; for
        odd ``p`` it has the sign of the sum.
    divide : {"weights", "count"}, default="weights"
        Divisor of mean and power mean: the sum of the weights, or the number of known
        tokens, as in SIF. If it is 0, the result is 0.

    Returns
    -------
    PoolingSpec
        The arguments, with read-only arrays.

    Raises
    ------
    ValueError
        If an argument has the wrong dtype, shape or value.
    """
    if not isinstance(table, VectorTable):
        table = VectorTable(table)
    stored = table.stored
    if stored.ndim != 2 or stored.dtype not in STORED:
        raise ValueError(
            "table must be float32, float16, bfloat16 or int8 of shape (n_rows, dim), "
            f"found {stored.dtype} of shape {stored.shape}"
        )
    if isinstance(rules, str) or not rules or not RULES.issuperset(rules):
        raise ValueError(
            f"rules must be a list of {', '.join(sorted(RULES))}, found {rules!r}"
        )
    check_power(p)
    if divide not in ("weights", "count"):
        raise ValueError(f"divide must be 'weights' or 'count', found {divide!r}")
    is_fitting = weights is None or weights.shape == (len(table),)
    if weights is not None and not (is_fitting and weights.dtype == np.float32):
        raise ValueError(
            f"weights must be float32, one for each of {len(table)} rows, found "
            f"{weights.dtype} of shape {weights.shape}"
        )
    weights = None if weights is None else as_readonly(weights)
    by_count = divide == "count"
    return PoolingSpec(_storage(table), tuple(rules), weights, by_count, int(p))


def _storage(table: VectorTable) -> Storage:
    stored, mapping, scales = table.stored, table.mapping, table.scales
    is_half, is_narrow = stored.dtype == np.float16, stored.dtype.itemsize == 2
    if is_narrow:  # the loops need the sign of float16
        stored = stored.view(np.int16 if is_half else np.uint16)
    return Storage(
        as_readonly(stored),
        is_narrow or None,
        is_half or None,
        None if mapping is None else as_readonly(mapping),
        None if scales is None else as_readonly(scales),
        len(table),
    )


def check_power(p: Any) -> None:
    """Raise unless ``p`` is a valid power for the power mean.

    Parameters
    ----------
    p : object
        Power to check.

    Raises
    ------
    ValueError
        If ``p`` is not an integer from 1 to 64.
    """
    if not isinstance(p, int | np.integer) or not 1 <= p <= MAX_POWER:
        raise ValueError(
            f"p of 'power_mean' must be a positive int, found {p!r}; at most "
            f"{MAX_POWER}; for a larger power, use its limit, rule='maximum' "
            "(--rule maximum)"
        )


def as_readonly(array: NDArray[Any]) -> NDArray[Any]:
    """Read-only, C-contiguous array: the loops are compiled for this layout only."""
    if not array.flags.writeable and array.flags.c_contiguous:
        return array
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


LARGEST_SLICE = 4 * BATCH_SIZE  # texts that are tokenized at once
N_POOLED = 256  # texts whose vectors are in the cache of a processor
FEW_TEXTS = 16  # pooled in less time than threads take to start


def pool(
    ragged: RaggedRows,
    spec: PoolingSpec,
    *,
    out: Float32 | None = None,
    n_threads: int | None = 1,
) -> Float32:
    """Pool the vectors of the tokens of each text.

    Parameters
    ----------
    ragged : RaggedRows
        Rows of the tokens of each text; -1 is skipped. A text without known tokens gets
        a zero vector.
    spec : PoolingSpec
        Table, rules and weights.
    out : ndarray of shape (n_texts, n_columns), float32, or None, default=None
        C-contiguous output array. None allocates one.
    n_threads : int or None, default=1
        Number of threads; None is all processors. The result does not depend on it.

    Returns
    -------
    ndarray of shape (n_texts, n_columns), float32
        One vector per text; ``out`` if it is given.

    Raises
    ------
    ValueError
        If ``out`` has the wrong dtype or shape, or a row index is out of range.

    Notes
    -----
    The mean sums blocks of 64 vectors in float32, and the blocks in float64: its error
    is at most 1e-5 of the mean of the magnitudes. Maximum and minimum are exact. The
    power mean sums in float64; its relative error is at most 1e-6 if the sums do not
    cancel.

    References
    ----------
    Power means of signed entries: Rücklé et al. (2018), "Concatenated power mean word
    embeddings as universal cross-lingual sentence representations", arXiv:1803.01400;
    their code takes the real part of a complex root, which halves negative results.
    """
    n = len(ragged.offsets) - 1
    out = _output(out, n, spec.n_columns)
    spans = list(chunks(n, BATCH_SIZE))
    n_threads = _resolve_n_threads(n_threads)
    map_threads(spans, lambda: lambda span: _pool(spec, ragged, *span, out), n_threads)
    return out


def embed_texts(
    texts: Any,
    tokenizer: Tokenizer,
    spec: PoolingSpec,
    *,
    out: Float32 | None = None,
    n_threads: int | None = 1,
    coverage: Coverage | None = None,
    normalize: bool = False,
) -> Float32:
    """Tokenize and pool texts batch by batch, which keeps few rows in memory.

    Parameters
    ----------
    texts : sequence, array or column of str, or an iterator
        Texts, as in `Tokenizer`. An iterator is consumed some thousand texts at a time.
    tokenizer : Tokenizer
        Maps texts to rows of the table.
    spec : PoolingSpec
        Table, rules and weights.
    out : ndarray of shape (n_texts, n_columns), float32, or None, default=None
        C-contiguous output array; it must be None if ``texts`` is an iterator. None
        allocates one.
    n_threads : int or None, default=1
        Number of threads; None is all processors. The result does not depend on it.
    coverage : Coverage or None, default=None
        Counter of texts and tokens; the texts of an iterator are not counted.
    normalize : bool, default=False
        Whether to L2-normalize the vectors, while they are in the processor's cache.

    Returns
    -------
    ndarray of shape (n_texts, n_columns), float32
        One vector per text; ``out`` if it is given.

    Raises
    ------
    ValueError, TypeError
        As in `pool` and `Tokenizer`.
    """
    n_threads = _resolve_n_threads(n_threads)
    # The list check comes first because it takes a tenth of the time.
    if not isinstance(texts, list) and isinstance(texts, Iterator):
        if out is not None:
            raise ValueError("out must be None if texts is an iterator")
        options: dict[str, Any] = {"n_threads": n_threads, "normalize": normalize}
        blocks = [np.empty((0, spec.n_columns), np.float32)]
        while block := list(islice(texts, 16 * BATCH_SIZE * n_threads)):
            blocks.append(embed_texts(block, tokenizer, spec, **options))
        return np.concatenate(blocks)
    batches = as_batches(texts)
    out = _output(out, sum(map(n_texts, batches)), spec.n_columns)
    if len(out) == len(batches) == 1 and coverage is None:
        _pool(spec, tokenizer.tokenize(batches[0]), 0, 1, out, normalize)
        return out

    def embed_slice(job: tuple[int, TextBatch]) -> None:
        for first, batch in split_long(job[1], job[0]):
            ragged = tokenizer.tokenize(batch, first)
            if coverage is not None:
                coverage.add(ragged)
            n = len(ragged.offsets) - 1
            _pool(spec, ragged, 0, n, out[first : first + n], normalize)

    # Tokenization is slower after each change from the table of vectors to the table of
    # words: few large slices, if there are enough for the threads.
    step = min(max(BATCH_SIZE, len(out) // (4 * n_threads)), LARGEST_SLICE)
    jobs: list[tuple[int, TextBatch]] = []
    first = 0
    for batch in batches:
        for start, stop in chunks(n_texts(batch), step):
            jobs.append((first + start, slice_texts(batch, start, stop)))
        first += n_texts(batch)
    if len(out) <= FEW_TEXTS:
        for job in jobs:
            embed_slice(job)
    else:
        map_threads(jobs, lambda: embed_slice, n_threads)
    return out


def _resolve_n_threads(n_threads: int | None) -> int:
    return n_threads if n_threads == 1 else resolve_n_threads(n_threads)


def _output(out: Float32 | None, n: int, n_columns: int) -> Float32:
    if out is None:
        return np.empty((n, n_columns), np.float32)
    is_matching = out.shape == (n, n_columns) and out.dtype == np.float32
    if not (is_matching and out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(
            f"out must be a writable C-contiguous float32 array of shape "
            f"{(n, n_columns)}, found {out.dtype} of shape {out.shape}"
        )
    return out


def _pool(
    spec: PoolingSpec,
    ragged: RaggedRows,
    start: int,
    stop: int,
    out: Float32,
    normalize: bool = False,
) -> None:
    """Write the vectors of texts ``start`` to ``stop - 1`` to ``out``."""
    if not normalize:
        _apply_rules(spec, ragged, start, stop, out)
        return
    for first, last in chunks(stop - start, N_POOLED):
        _apply_rules(spec, ragged, start + first, start + last, out)
        normalize_rows(out, start + first, start + last)


def _apply_rules(
    spec: PoolingSpec, ragged: RaggedRows, start: int, stop: int, out: Float32
) -> None:
    storage, rules, weights, by_count, p = spec
    dim = storage.stored.shape[1]
    rows, offsets = ragged
    for index, rule in enumerate(rules):
        span = (start, stop, index * dim, out)
        if rule == "mean":
            largest = pool_mean(*storage, rows, offsets, weights, by_count, *span)
        elif rule == "power_mean":
            largest = pool_power(*storage, rows, offsets, weights, by_count, p, *span)
        else:
            sign = 1 if rule == "maximum" else -1
            largest = pool_extreme(*storage, rows, offsets, weights, sign, *span)
        if largest >= 0:  # and at least the number of rows
            raise ValueError(
                f"rows must be below {storage.n_rows}, the number of rows of the "
                f"table, found {largest}"
            )
