"""Loops over two members against their NumPy references, bit for bit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from ensembles.kernels import jit
from ensembles.kernels.pairs import (
    combine_rows,
    moved_towards,
    replaced_outliers,
    row_products,
    scaled_differences,
)


@pytest.mark.parametrize("shape", [(3, 1), (2, 15), (4, 16), (3, 100), (5, 0), (0, 4)])
def test_loops_equal_their_numpy_reference(
    shape: tuple[int, int], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rng.normal(size=(2, *shape)) * 10.0 ** rng.integers(-9, 9, (2, *shape))
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0]
    mixed = np.array(np.meshgrid(special, special)).reshape(2, 1, -1)
    for stack in (rows, mixed):
        factors = np.abs(rng.normal(size=(2, stack.shape[1])))
        functions = [
            partial(moved_towards, stack.reshape(2, -1), 0.5),
            partial(row_products, stack),
            partial(combine_rows, stack, factors),
            partial(scaled_differences, stack, factors[0]),
            partial(replaced_outliers, stack, factors[0], 0.25),
        ]
        for function in functions:
            with np.errstate(all="ignore"):
                monkeypatch.setattr(jit, "WORTHWHILE", 1 << 60)
                expected = function()
                monkeypatch.setattr(jit, "WORTHWHILE", -1)
                found = function()
            assert np.array_equal(np.isnan(found), np.isnan(expected))
            is_number = ~np.isnan(expected)
            assert found[is_number].tobytes() == expected[is_number].tobytes()


def test_products_of_rows_are_exact_sums_rounded(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(2, 6, 77))
    squares, others, products = row_products(rows)
    np.testing.assert_allclose(squares, (rows[0] ** 2).sum(1), rtol=1e-14)
    np.testing.assert_allclose(others, (rows[1] ** 2).sum(1), rtol=1e-14)
    np.testing.assert_allclose(products, (rows[0] * rows[1]).sum(1), atol=1e-13)
