from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from ensembles.rank_correlation import spearman


def test_it_is_that_of_scipy_row_by_row(rng: np.random.Generator) -> None:
    values = rng.integers(8, size=(3, 40)).astype(float)
    scores = rng.integers(5, size=40).astype(float)
    found = spearman(values, scores)
    assert found.shape == (3,)
    for row, value in zip(values, found, strict=True):
        assert value == pytest.approx(spearmanr(row, scores)[0])


def test_a_constant_has_no_correlation() -> None:
    assert spearman(np.ones(4), np.arange(4.0)) == 0
    assert spearman(np.arange(4.0), np.ones(4)) == 0
