"""Components, whitening and PCA, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD

from ensembles.embeddings.postprocessing.projection import (
    Moments,
    Projection,
    fit_projection,
)

Float32 = NDArray[np.float32]


@pytest.fixture
def vectors(rng: np.random.Generator) -> Float32:
    mixed = rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8)) + 1
    return np.asarray(mixed, np.float32)


def fitted(vectors: Float32, **settings: object) -> Projection:
    moments = Moments(vectors.shape[1])
    moments.add(vectors)
    known: dict[str, object] = {
        "remove": 0,
        "by_variance_share": False,
        "whiten": False,
        "n_components": None,
    }
    return fit_projection(moments, **(known | settings))  # type: ignore[arg-type]


def up_to_signs(found: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-5)


def test_removal_is_that_of_the_truncated_svd(vectors: Float32) -> None:
    exact = TruncatedSVD(3, algorithm="arpack").fit(vectors.astype(np.float64))
    c = exact.components_
    found = fitted(vectors, remove=3)(vectors)
    np.testing.assert_allclose(found, vectors - vectors @ c.T @ c, atol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("n_components", [3, 8])
def test_axes_are_those_of_pca(
    vectors: Float32, whiten: bool, n_components: int
) -> None:
    pca = PCA(n_components, whiten=whiten).fit(vectors.astype(np.float64))
    found = fitted(vectors, whiten=whiten, n_components=n_components)
    up_to_signs(found(vectors), pca.transform(vectors))
    assert found.variances is not None
    np.testing.assert_allclose(found.variances, pca.explained_variance_, rtol=1e-6)


def test_removal_comes_before_whitening(vectors: Float32) -> None:
    removed = fitted(vectors, remove=2)(vectors)
    pca = PCA(6, whiten=True).fit(removed.astype(np.float64))
    found = fitted(vectors, remove=2, whiten=True, n_components=6)(vectors)
    up_to_signs(found, pca.transform(removed))


def test_an_axis_without_variance_becomes_zero(vectors: Float32) -> None:
    found = fitted(vectors, remove=2, whiten=True)(vectors)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 6:], 0)
    np.testing.assert_allclose(found[:, :6].std(axis=0, ddof=1), 1, rtol=1e-4)


def test_few_sentences_leave_the_other_axes_empty(vectors: Float32) -> None:
    found = fitted(vectors[:3], whiten=True)(vectors[:3])
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 2:], 0)


def test_vectors_of_zeros_neither_count_nor_move(vectors: Float32) -> None:
    empty = np.zeros((50, 8), np.float32)
    padded = fitted(np.concatenate([vectors, empty]), whiten=True)
    plain = fitted(vectors, whiten=True)
    np.testing.assert_allclose(padded.matrix, plain.matrix)
    np.testing.assert_array_equal(plain(empty), empty)


def test_a_vector_becomes_the_same_alone_and_among_others(vectors: Float32) -> None:
    project = fitted(vectors, remove=1, whiten=True)
    alone = np.concatenate([project(row[None]) for row in vectors])
    np.testing.assert_array_equal(alone, project(vectors))


@pytest.mark.parametrize("settings", [{"remove": 3}, {"whiten": True}])
def test_too_few_sentences_are_reported(vectors: Float32, settings: object) -> None:
    with pytest.raises(ValueError, match=r"at least . texts with known words"):
        fitted(vectors[:1], **settings)  # type: ignore[arg-type]
