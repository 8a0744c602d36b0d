"""Ranks of magnitudes in rows: compiled loops, NumPy, and a loop over pairs."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.kernels import jit
from ensembles.kernels.ranking import magnitude_ranks

PLAIN = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]  # set when loaded


def rows_of(kind: str, size: int, rng: np.random.Generator) -> Float64:
    rows = rng.normal(size=(3, size))
    if kind == "with equal ones":
        rows = np.rint(4 * rows) / 64
    elif kind == "sparse":
        rows *= rng.random(rows.shape) < 0.3
    elif kind == "of all exponents":  # the smallest share a bucket
        rows = np.ldexp(rows, rng.integers(-1000, 1000, rows.shape))
    elif kind == "with NaN and infinity" and size > 3:
        rows[:, 1], rows[:, 2], rows[:, 3] = np.nan, -np.inf, np.inf
    elif kind == "descending and tiny":
        rows = np.tile(-(2.0**-60) / (1 + np.arange(size)), (3, 1))
        rows[:, :1] = 1
    return rows


KINDS = [
    *("normal", "with equal ones", "sparse", "of all exponents"),
    *("with NaN and infinity", "descending and tiny"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 2, 9, 200, 3_000])
def test_loops_and_numpy_give_the_ranks(
    kind: str, size: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(kind, min(size, 50) if PLAIN else size, rng)
    results = []
    for worthwhile in (-1, 1 << 62):
        monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)
        results.append(magnitude_ranks(rows))
        assert results[-1].shape == rows.shape
    assert results[0].tobytes() == results[1].tobytes()
    if 0 < size <= 200:
        bits = np.abs(rows).view(np.int64) >> 45  # 8 significant bits
        smaller = (bits[:, :, None] > bits[:, None]).sum(2)
        equal = (bits[:, :, None] == bits[:, None]).sum(2)
        assert (results[0] == smaller + (equal - 1) / 2).all()


def test_equal_magnitudes_share_the_mean_of_their_ranks() -> None:
    rows = np.array([[0.0, -2, 2, -0.0, 1, 2], [3, 3, 3, 3, 3, 3]])
    expected = [[0.5, 4, 4, 0.5, 2, 4], [2.5] * 6]
    assert magnitude_ranks(rows).tolist() == expected


def test_magnitudes_are_equal_if_8_significant_bits_are() -> None:
    rows = np.array([[1, 1 + 2.0**-8, 1 + 2.0**-7, 1 + 2.0**-7 + 2.0**-9, 2, -1.0]])
    assert magnitude_ranks(rows).tolist() == [[1, 1, 3.5, 3.5, 5, 1]]


def test_nan_ranks_above_infinity() -> None:
    rows = np.array([[np.nan, 1.0, np.inf, -np.inf, 0]])
    assert magnitude_ranks(rows).tolist() == [[4, 1, 2.5, 2.5, 0]]
