"""What sentences have in common, taken out of them: components, whitening, PCA."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float64
from ensembles.parallel import cut

BLOCK = 4096  # vectors widened to float64 together
EPSILON = float(np.finfo(np.float64).eps)


class Moments:
    """Number, sum and products of vectors that pass by, without those of zeros.

    Parameters
    ----------
    dim : int
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.total = np.zeros(dim)
        self.products = np.zeros((dim, dim))

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Take vectors of shape (n, dim) into account."""
        for start, stop in cut(len(vectors), BLOCK):
            part = vectors[start:stop].astype(np.float64)
            part = part[part.any(axis=1)]
            self.n += len(part)
            self.total += part.sum(axis=0)
            self.products += part.T @ part


class Projection(NamedTuple):
    """What is done to every vector that is not zero: ``(x - mean) @ matrix``.

    Attributes
    ----------
    matrix : ndarray of shape (dim, n_components)
    mean : ndarray of shape (dim,)
    components : ndarray of shape (n_removed, dim)
        Directions that are taken out.
    shares : ndarray of shape (n_removed,)
        How much of each is taken out.
    variances : ndarray of shape (n_components,) or None
        Along the principal axes, before whitening.
    """

    matrix: Float64
    mean: Float64
    components: Float64
    shares: Float64
    variances: Float64 | None = None

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projected vectors of shape (n, n_components), float32; zeros stay zeros.

        In float64, rounded once: what becomes of a vector does not depend on those
        that are projected with it, but for the last bit of numbers within a rounding
        error of float64 of the middle between two of float32, as BLAS may sum in
        another order.
        """
        out = np.empty((len(vectors), self.matrix.shape[1]), np.float32)
        for start, stop in cut(len(vectors), BLOCK):
            part = vectors[start:stop].astype(np.float64)
            some = part.any(axis=1)
            part -= self.mean
            part[~some] = 0
            out[start:stop] = part @ self.matrix
        return out


def fit_projection(
    moments: Moments,
    *,
    remove: int,
    piecewise: bool,
    whiten: bool,
    n_components: int | None,
) -> Projection:
    """Projection that removes components, then turns to the principal axes.

    Parameters
    ----------
    moments : Moments
        Of the vectors that it is learned from.
    remove : int
        Directions to take out: singular vectors of the vectors as they are, not
        centred.
    piecewise : bool
        Whether of each only its share of their squared singular values is taken out,
        not all.
    whiten : bool
        Whether the principal axes are scaled to variance 1. An axis without variance
        becomes 0.
    n_components : int or None
        Principal axes that are kept; None keeps all, and without whitening does not
        turn to them.

    Returns
    -------
    Projection

    Raises
    ------
    ValueError
        If there are too few vectors.

    References
    ----------
    Arora, Liang & Ma (2017), algorithm 1, line 5 (all of one component); Ethayarajh
    (2018), section 3.2 (shares); Su et al. (2021), "Whitening sentence representations
    for better semantics and faster retrieval", arXiv:2103.15316.
    """
    needed = max(remove, 2 if whiten or n_components is not None else 1)
    if moments.n < needed:
        raise ValueError(
            f"there must be at least {needed} texts with known words to learn "
            f"components from, found {moments.n}"
        )
    components, shares = _leading(moments.products, remove, piecewise)
    removal = np.eye(len(moments.total)) - (components.T * shares) @ components
    if not whiten and n_components is None:
        zero = np.zeros(len(removal))
        return Projection(removal, zero, components, shares)
    mean = moments.total / moments.n
    centred = moments.products - moments.n * np.outer(mean, mean)
    covariance = removal.T @ centred @ removal / (moments.n - 1)
    variances, axes = _eigen(covariance, n_components)
    if whiten:
        least = EPSILON * len(covariance) * np.trace(moments.products) / moments.n
        scale = np.zeros_like(variances)
        scale[variances > least] = variances[variances > least] ** -0.5
        axes = axes * scale
    return Projection(removal @ axes, mean, components, shares, variances)


def _leading(products: Float64, n: int, piecewise: bool) -> tuple[Float64, Float64]:
    """Singular vectors as rows, and how much of each is to go."""
    squares, vectors = _eigen(products, n)
    shares = np.ones(n)
    if piecewise and n:
        shares = squares / max(squares.sum(), np.finfo(np.float64).tiny)
    return vectors.T, shares


def _eigen(matrix: Float64, n: int | None) -> tuple[Float64, Float64]:
    """Largest eigenvalues and their vectors as columns, each with its sign fixed."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1][:n], vectors[:, ::-1][:, :n]
    # Either sign is an eigenvector: the largest entry shall be positive.
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.maximum(values, 0), vectors * signs


def check_count(name: str, value: Any, least: int, most: int) -> None:
    """Raise unless a parameter is a whole number within bounds.

    Parameters
    ----------
    name : str
    value : object
    least, most : int

    Raises
    ------
    ValueError
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (whole and least <= value <= most):
        raise ValueError(
            f"{name} must be a whole number from {least} to {most}, the columns that "
            f"there are; found {value!r}"
        )
