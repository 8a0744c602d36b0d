"""Linear projections of sentence vectors: component removal, whitening and PCA."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32, Float64
from ensembles.embeddings.postprocessing.quantization import l2_normalize
from ensembles.parallel import chunks

BLOCK = 4096  # vectors converted to float64 at once
EPSILON = float(np.finfo(np.float64).eps)


class Moments:
    """Running first and second moments of vectors; zero vectors are skipped.

    Parameters
    ----------
    dim : int
        Length of the vectors.

    Attributes
    ----------
    n : int
        Number of nonzero vectors so far.
    total : ndarray of shape (dim,)
        Sum of the vectors.
    products : ndarray of shape (dim, dim)
        Sum of their outer products, not centered.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.total = np.zeros(dim)
        self.products = np.zeros((dim, dim))

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Add vectors of shape (n, dim) to the moments."""
        for start, stop in chunks(len(vectors), BLOCK):
            block = vectors[start:stop].astype(np.float64)
            block = block[block.any(axis=1)]
            self.n += len(block)
            self.total += block.sum(axis=0)
            self.products += block.T @ block


class Projection(NamedTuple):
    """Affine projection ``(x - mean) @ matrix`` of every nonzero vector.

    Attributes
    ----------
    matrix : ndarray of shape (dim, n_components)
        Component removal, rotation to the principal axes and whitening in one matrix.
    mean : ndarray of shape (dim,)
        Mean of the training vectors; zero without principal axes.
    components : ndarray of shape (n_removed, dim)
        Unit vectors of the removed directions.
    shares : ndarray of shape (n_removed,)
        Fraction of each direction that is removed, from 0 to 1.
    variances : ndarray of shape (n_components,) or None, default=None
        Variances along the principal axes before whitening; None without them.
    """

    matrix: Float64
    mean: Float64
    components: Float64
    shares: Float64
    variances: Float64 | None = None

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projected vectors of shape (n, n_components), float32; zeros stay zero.

        The product is computed in float64 and rounded once, so a result does not depend
        on the other vectors in the batch. The exception is the last bit of a number
        that lies within a float64 rounding error of the midpoint of two float32
        numbers, because BLAS may sum in another order.
        """
        out = np.empty((len(vectors), self.matrix.shape[1]), np.float32)
        for start, stop in chunks(len(vectors), BLOCK):
            block = vectors[start:stop].astype(np.float64)
            is_nonzero = block.any(axis=1)
            block -= self.mean
            block[~is_nonzero] = 0
            out[start:stop] = block @ self.matrix
        return out


def fit_projection(
    moments: Moments,
    *,
    remove: int,
    by_variance_share: bool,
    whiten: bool,
    n_components: int | None,
) -> Projection:
    """Fit a projection that removes components and rotates to the principal axes.

    Parameters
    ----------
    moments : Moments
        Moments of the training vectors.
    remove : int
        Number of leading singular vectors of the training vectors, not centered, to
        remove.
    by_variance_share : bool
        Whether to remove only a fraction of each: its squared singular value over the
        sum of the squared singular values of the ``remove`` leading ones.
    whiten : bool
        Whether to scale the principal axes to variance 1. Axes without variance become
        0.
    n_components : int or None
        Number of principal axes to keep. None keeps all, and does not rotate unless
        ``whiten`` is True.

    Returns
    -------
    Projection
        The fitted projection.

    Raises
    ------
    ValueError
        If there are fewer nonzero training vectors than the projection needs.

    References
    ----------
    Arora, Liang & Ma (2017), algorithm 1, line 5 (all of one component); Ethayarajh
    (2018), section 3.2 (shares); Su et al. (2021), "Whitening sentence representations
    for better semantics and faster retrieval", arXiv:2103.15316.
    """
    needed = max(remove, 2 if whiten or n_components is not None else 1)
    if moments.n < needed:
        raise ValueError(
            f"components must be learned from at least {needed} texts with known words "
            f"in fit, found {moments.n}"
        )
    components, shares = _leading(moments.products, remove, by_variance_share)
    removal = np.eye(len(moments.total)) - (components.T * shares) @ components
    if not whiten and n_components is None:
        zero = np.zeros(len(removal))
        return Projection(removal, zero, components, shares)
    mean = moments.total / moments.n
    centered = moments.products - moments.n * np.outer(mean, mean)
    covariance = removal.T @ centered @ removal / (moments.n - 1)
    variances, axes = _eigen(covariance, n_components)
    if whiten:
        smallest = EPSILON * len(covariance) * np.trace(moments.products) / moments.n
        scale = np.zeros_like(variances)
        scale[variances > smallest] = variances[variances > smallest] ** -0.5
        axes = axes * scale
    return Projection(removal @ axes, mean, components, shares, variances)


def _leading(
    products: Float64, n: int, by_variance_share: bool
) -> tuple[Float64, Float64]:
    """Leading right singular vectors as rows, and the fraction of each to remove."""
    squares, vectors = _eigen(products, n)
    shares = np.ones(n)
    if by_variance_share and n:
        shares = squares / max(squares.sum(), np.finfo(np.float64).tiny)
    return vectors.T, shares


def _eigen(matrix: Float64, n: int | None) -> tuple[Float64, Float64]:
    """Largest eigenvalues, and eigenvectors as columns with deterministic signs."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1][:n], vectors[:, ::-1][:, :n]
    # The sign of an eigenvector is arbitrary: make its largest entry positive.
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.maximum(values, 0), vectors * signs


def check_count(
    name: str, value: Any, minimum: int, maximum: int | None = None
) -> None:
    """Raise unless a parameter is an integer within bounds.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value : object
        Value to check.
    minimum : int
        Least value that is allowed.
    maximum : int or None, default=None
        Number of columns of the vectors, the largest value that is allowed; None if it
        is not known yet.

    Raises
    ------
    ValueError
        If ``value`` is not an integer or out of bounds.
    """
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        bounds = f"of at least {minimum}"
        if maximum is not None:
            bounds = f"from {minimum} to {maximum}, the number of columns"
        raise ValueError(f"{name} must be an integer {bounds}; found {value!r}")


def project(
    vectors: Float32, projection: Projection | None, *, normalize: bool
) -> Float32:
    """Project vectors, and L2-normalize them.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32
        Vectors, one per row; they may be overwritten.
    projection : Projection or None
        Projection to apply; None applies none.
    normalize : bool
        Whether to L2-normalize.

    Returns
    -------
    ndarray of shape (n, n_components), float32
    """
    if projection is not None:
        vectors = projection(vectors)
    return l2_normalize(vectors) if normalize else vectors
