"""Batched, multithreaded tokenization and pooling of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.pooling.loops import pool_extreme, pool_mean, pool_power
from ensembles.embeddings.pooling.spec import (
    ALIKE,
    Divide,
    Prepared,
    locked,
    prepared,
)
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import (
    CHUNK,
    Part,
    halves,
    n_texts,
    parts_of,
    pieces,
)
from ensembles.embeddings.tokenization.tokenizer import Ragged, Tokens
from ensembles.parallel import count_threads, cut, spread

FEW = 16  # texts that take less time than starting threads


def pool(
    ragged: Ragged,
    table: NDArray[Any],
    *,
    rules: Sequence[str] = ("mean",),
    weights: Float32 | None = None,
    p: int = 3,
    divide: Divide = "weights",
    out: Float32 | None = None,
    n_threads: int | None = 1,
) -> Float32:
    """Pool the vectors of the tokens of each text.

    Parameters
    ----------
    ragged : Ragged
        Rows of the tokens of each text; -1 is skipped. A text without known tokens gets
        a zero vector.
    table : ndarray of shape (n_rows, dim), float32, float16 or int8
        Vector table. It may be memory-mapped, and is copied if it is not C-contiguous.
        int8 entries are used without a scale; the caller rescales the result.
    rules : sequence of {"mean", "maximum", "minimum", "power_mean"}
        Pooling rules; their results are concatenated.
    weights : ndarray of shape (n_rows,), float32, or None
        Weight of each row, finite and not negative (not checked). None is 1 for all.
        Maximum and minimum skip rows of weight 0 and ignore all other weights.
    p : int, positive, default=3
        Power of the power mean, (sum(w x**p) / sum(w)) ** (1 / p), the real root; for
        odd ``p`` it has the sign of the sum.
    divide : {"weights", "count"}, default="weights"
        Divisor of mean and power mean: the sum of the weights, or the number of known
        tokens, as in SIF. If it is 0, the result is 0.
    out : ndarray of shape (n_texts, len(rules) * dim), float32, or None
        C-contiguous output array. None allocates one.
    n_threads : int or None, default=1
        Number of threads; None is all processors. The result does not depend on it.

    Returns
    -------
    ndarray of shape (n_texts, len(rules) * dim), float32
        One vector per text; ``out`` if it is given.

    Raises
    ------
    ValueError
        If an argument has the wrong dtype, shape or value, or a row index is out of
        range.

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
    pooling = prepared(table, rules, weights=weights, p=p, divide=divide)
    n = len(ragged.offsets) - 1
    out = _room(out, n, pooling.n_columns)
    spans = list(cut(n, CHUNK))
    spread(
        spans, lambda: lambda span: _pool(pooling, ragged, *span, out), _n(n_threads)
    )
    return out


def embed(
    texts: Any,
    tokens: Tokens,
    table: NDArray[Any],
    *,
    rules: Sequence[str] = ("mean",),
    weights: Float32 | None = None,
    p: int = 3,
    divide: Divide = "weights",
    out: Float32 | None = None,
    n_threads: int | None = 1,
) -> Float32:
    """Tokenize and pool texts batch by batch, which keeps few rows in memory.

    Parameters
    ----------
    texts : sequence, array or column of str, or an iterator
        Texts, as in `Tokens`. An iterator is consumed some thousand texts at a time.
    tokens : Tokens
        Tokenizer that maps texts to rows of ``table``.
    table, rules, weights, p, divide, out, n_threads
        As in `pool`; ``out`` must be None if ``texts`` is an iterator.

    Returns
    -------
    ndarray of shape (n_texts, len(rules) * dim), float32
        One vector per text.

    Raises
    ------
    ValueError, TypeError
        As in `pool` and `Tokens`.
    """
    pooling = prepared(table, rules, weights=weights, p=p, divide=divide)
    return embed_by(pooling, texts, tokens, out=out, n_threads=n_threads)


def embed_by(
    pooling: Prepared,
    texts: Any,
    tokens: Tokens,
    *,
    out: Float32 | None = None,
    n_threads: int | None = 1,
    coverage: Coverage | None = None,
) -> Float32:
    """Tokenize and pool texts as `embed` does, with validated arguments.

    Token counts are added to ``coverage`` if it is not None and ``texts`` is not an
    iterator.
    """
    n_threads = _n(n_threads)
    # The list check comes first because it takes a tenth of the time.
    if not isinstance(texts, list) and isinstance(texts, Iterator):
        if out is not None:
            raise ValueError("out must be None where texts are an iterator")
        return _stream(texts, tokens, pooling, n_threads)
    parts = parts_of(texts)
    out = _room(out, sum(map(n_texts, parts)), pooling.n_columns)
    _embed(parts, tokens, pooling, out, n_threads, coverage)
    return out


def _stream(
    texts: Iterator[str], tokens: Tokens, pooling: Prepared, n_threads: int
) -> Float32:
    found = [np.empty((0, pooling.n_columns), np.float32)]
    while some := list(islice(texts, 16 * CHUNK * n_threads)):
        found.append(np.empty((len(some), pooling.n_columns), np.float32))
        _embed(parts_of(some), tokens, pooling, found[-1], n_threads)
    return np.concatenate(found)


def _embed(
    parts: list[Part],
    tokens: Tokens,
    pooling: Prepared,
    out: Float32,
    n_threads: int,
    coverage: Coverage | None = None,
) -> None:
    """Write the vectors of texts to ``out``, batch by batch."""
    if len(out) == len(parts) == 1 and coverage is None:
        _pool(pooling, tokens.of_part(parts[0]), 0, 1, out)
        return

    def do(job: tuple[int, Part]) -> None:
        for first, part in halves(job[1], job[0]):
            ragged = tokens.of_part(part, first)
            if coverage is not None:
                coverage.add(ragged)
            n = len(ragged.offsets) - 1
            _pool(pooling, ragged, 0, n, out[first : first + n])

    if len(out) <= FEW:
        first = 0
        for part in parts:
            do((first, part))
            first += n_texts(part)
        return
    jobs: list[tuple[int, Part]] = []
    first = 0
    for part in parts:
        jobs += pieces(part, first)
        first += n_texts(part)
    spread(jobs, lambda: do, n_threads)


def _n(n_threads: int | None) -> int:
    return n_threads if n_threads == 1 else count_threads(n_threads)


def _room(out: Float32 | None, n: int, n_columns: int) -> Float32:
    if out is None:
        return np.empty((n, n_columns), np.float32)
    fits = out.shape == (n, n_columns) and out.dtype == np.float32
    if not (fits and out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(
            f"out must be a writable float32 array of shape {(n, n_columns)} in C "
            f"order, found {out.dtype} of shape {out.shape}"
        )
    return out


def _pool(
    pooling: Prepared, ragged: Ragged, start: int, stop: int, out: Float32
) -> None:
    """Write the vectors of texts ``start`` to ``stop - 1`` to ``out``."""
    if pooling.table.dtype == np.float16:
        pooling, ragged = _widened(pooling, ragged, start, stop)
        out, start, stop = out[start:stop], 0, stop - start
    table, rules, weights, by_count, p = pooling
    dim = table.shape[1]
    rows, offsets = ragged
    for index, rule in enumerate(rules):
        span = (start, stop, index * dim, out)
        if rule == "mean":
            wrong = pool_mean(table, rows, offsets, weights, by_count, *span)
        elif rule == "power_mean":
            wrong = pool_power(table, rows, offsets, weights, by_count, p, *span)
        else:
            sign = 1 if rule == "maximum" else -1
            wrong = pool_extreme(table, rows, offsets, weights, sign, *span)
        _refuse(wrong, table)


def _widened(
    pooling: Prepared, ragged: Ragged, start: int, stop: int
) -> tuple[Prepared, Ragged]:
    """A float32 table of the distinct rows that texts use, and their rows in it."""
    first, last = ragged.offsets[start], ragged.offsets[stop]
    rows = ragged.rows[first:last]
    seen, places = np.unique(rows, return_inverse=True)
    _refuse(seen.max(initial=-1), pooling.table)
    held = np.maximum(seen, 0) if len(pooling.table) else seen[:0]
    weights = pooling.weights[held] if pooling.weights.size else ALIKE
    table = locked(pooling.table[held].astype(np.float32))
    pooling = pooling._replace(table=table, weights=locked(weights))
    where: NDArray[np.int32] = np.where(rows < 0, -1, places).astype(np.int32)
    return pooling, Ragged(where, ragged.offsets[start : stop + 1] - first)


def _refuse(row: int, table: NDArray[Any]) -> None:
    if row >= 0 and row >= len(table):
        raise ValueError(
            f"rows must be below {len(table)}, the rows of the table, found {row}"
        )
