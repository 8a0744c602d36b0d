"""Linear maps of transformers' outputs: rotations onto each other, principal axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float64
from ensembles.parallel import chunks
from ensembles.selection.table import check_integer

STEP = 4096  # rows that are converted to float64 at once


def fit_rotations(outputs: list[Float64]) -> list[Float64]:
    """Matrices that rotate each output onto the first of the widest ones.

    The rows of a matrix are orthonormal, so that a rotation changes no inner product: a
    narrower output is rotated as if it were padded with zeros.

    Parameters
    ----------
    outputs : list of ndarrays of shape (n_samples, n_columns)
        Outputs for the same samples.

    Returns
    -------
    list of ndarrays of shape (n_columns, largest n_columns)
        In the dtypes of the outputs.

    References
    ----------
    Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem",
    Psychometrika 31.
    """
    from scipy.linalg import svd

    target = max(outputs, key=lambda output: output.shape[1])
    rotations = []
    for output in outputs:
        left, _, right = svd(output.T @ target, full_matrices=False)
        rotations.append(left @ right)
    return rotations


def principal_axes(vectors: NDArray[Any], n_components: int) -> Float64:
    """Directions of the largest sums of squares, as rows.

    Vectors are not centered: zero vectors stay zero, and among all projections to this
    many dimensions, this one changes inner products least.

    Parameters
    ----------
    vectors : ndarray of shape (n_samples, n_columns)
        Training vectors.
    n_components : int, at most n_samples and n_columns
        Number of directions.

    Returns
    -------
    ndarray of shape (n_components, n_columns)
        Orthonormal, in descending order; the largest entry of each is positive.

    References
    ----------
    Eckart & Young (1936), "The approximation of one matrix by another of lower rank",
    Psychometrika 1.
    """
    products = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start, stop in chunks(len(vectors), STEP):
        block = vectors[start:stop].astype(np.float64)
        products += block.T @ block
    axes = np.linalg.eigh(products)[1][:, ::-1][:, :n_components].T
    largest = np.abs(axes).argmax(axis=1)
    return np.asarray(axes * np.sign(axes[np.arange(len(axes)), largest])[:, None])


def check_n_components(n_components: Any, shape: tuple[int, int] | None = None) -> None:
    """Raise unless a number of components is valid.

    Parameters
    ----------
    n_components : int or None
        Number of components; None keeps all columns.
    shape : (n_samples, n_columns) or None, default=None
        Shape of the training vectors; None if it is not known yet.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is less than 1, or more than the training vectors can have.
    """
    if n_components is None:
        return
    check_integer(n_components=n_components)
    if n_components < 1:
        raise ValueError(f"n_components must be at least 1, found {n_components}")
    if shape is not None and n_components > min(shape):
        raise ValueError(
            f"n_components must be at most {min(shape)} for {shape[0]} samples with "
            f"{shape[1]} columns: found {n_components}"
        )
