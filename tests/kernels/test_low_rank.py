"""Products of low-rank factors, added to elements of a matrix."""

import numpy as np
import pytest

from ensembles.kernels.low_rank import _add_product, add_product_reference

SHAPES = [(7, 11, 1), (7, 11, 5), (3, 3000, 16), (1, 5, 0), (5, 1, 3), (2, 9000, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_part_has_the_bytes_of_the_whole(shape: tuple[int, int, int]) -> None:
    n_rows, n_columns, rank = shape
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(n_rows, rank)), rng.normal(size=(rank, n_columns))
    base = rng.normal(size=n_rows * n_columns)
    whole = base.copy()
    _add_product(whole, left, right, 0)
    exact = base + (left @ right).reshape(-1)
    np.testing.assert_allclose(whole, exact, rtol=1e-12, atol=1e-12)
    for _ in range(8):
        start, stop = sorted(rng.integers(0, base.size + 1, 2))
        for add in (_add_product, add_product_reference):
            part = base[start:stop].copy()
            add(part, left, right, start)
            assert part.tobytes() == whole[start:stop].tobytes()
