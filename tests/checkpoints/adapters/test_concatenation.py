"""Weighted sums of low-rank updates."""

import numpy as np

from ensembles.checkpoints.adapters.concatenation import concatenated
from ensembles.checkpoints.formats.lora.adapter import Factors


def test_the_product_is_the_weighted_sum_of_the_updates() -> None:
    rng = np.random.default_rng(0)
    updates = [
        Factors(rng.standard_normal((rank, 5)), rng.standard_normal((4, rank)))
        for rank in (1, 2, 3)
    ]
    weights = [0.5, -2.0, 0.0]
    merged = concatenated(updates, weights)
    expected = sum(w * (u.b @ u.a) for w, u in zip(weights, updates, strict=True))
    np.testing.assert_allclose(merged.b @ merged.a, expected, rtol=1e-12)
    assert merged.a.shape == (6, 5)
