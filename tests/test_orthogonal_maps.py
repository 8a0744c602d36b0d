"""Rotations and principal axes, against SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import TruncatedSVD

from ensembles.orthogonal_maps import (
    STEP,
    principal_axes,
    procrustes_rotation,
    sum_products,
)


def test_principal_axes_are_those_of_the_singular_value_decomposition(
    rng: np.random.Generator,
) -> None:
    vectors = rng.normal(size=(5000, 6)) * np.arange(1, 7) + 3
    axes = principal_axes([vectors.astype(np.float32)], 4)
    exact = TruncatedSVD(4, algorithm="arpack", random_state=0).fit(vectors)
    assert np.abs((axes * exact.components_).sum(axis=1)) == pytest.approx(np.ones(4))
    assert axes @ axes.T == pytest.approx(np.eye(4))
    largest = np.abs(axes).argmax(axis=1)
    assert (axes[np.arange(4), largest] > 0).all()


def test_columns_of_parts_are_concatenated(rng: np.random.Generator) -> None:
    parts = [rng.normal(size=(50, width)).astype(np.float16) for width in (3, 4)]
    joined = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(principal_axes(parts, 5), principal_axes([joined], 5))


def test_a_rotation_is_that_of_scipy(rng: np.random.Generator) -> None:
    vectors, target = rng.normal(size=(2, STEP + 7, 5)).astype(np.float32)
    expected, _ = orthogonal_procrustes(vectors.astype(float), target.astype(float))
    np.testing.assert_allclose(procrustes_rotation(vectors, target), expected)
    products = vectors.T.astype(float) @ target.astype(float)
    np.testing.assert_allclose(sum_products(vectors, target), products)
