"""Data that the tests of the estimators share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris


@pytest.fixture
def iris(rng: np.random.Generator) -> tuple[Any, Any]:
    """Iris in a random order."""
    X, y = load_iris(return_X_y=True)
    order = rng.permutation(len(y))
    return X[order], y[order]
