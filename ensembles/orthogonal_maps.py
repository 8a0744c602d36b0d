"""Rotations and principal axes of vectors, computed in blocks in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float64
from ensembles.parallel import chunks

STEP = 4096  # rows that are converted to float64 at once


def sum_products(first: NDArray[Any], second: NDArray[Any]) -> Float64:
    """Matrix product of the transpose of an array with another, in float64.

    Parameters
    ----------
    first, second : ndarrays of shape (n_rows, n_columns)
        Arrays of as many rows, possibly memory-mapped.

    Returns
    -------
    ndarray of shape (n_columns of first, n_columns of second)
    """
    products = np.zeros((first.shape[1], second.shape[1]))
    for start, stop in chunks(len(first), STEP):
        block = first[start:stop].astype(np.float64)
        products += block.T @ second[start:stop].astype(np.float64)
    return products


def procrustes_rotation(vectors: NDArray[Any], target: NDArray[Any]) -> Float64:
    """Matrix with orthonormal rows that maps vectors as close as possible to others.

    A map onto wider vectors is that of vectors padded with zeros.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, n_columns)
        Vectors to map.
    target : ndarray of shape (n_rows, at least n_columns)
        Vectors to map them onto.

    Returns
    -------
    ndarray of shape (n_columns, n_columns of target)

    References
    ----------
    Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem",
    Psychometrika 31.
    """
    left, _, right = np.linalg.svd(sum_products(vectors, target), full_matrices=False)
    return np.asarray(left @ right)


def principal_axes(parts: Sequence[NDArray[Any]], n_components: int) -> Float64:
    """Directions of the largest sums of squares of concatenated vectors, as rows.

    Vectors are not centered: zero vectors stay zero, and among all projections to this
    many dimensions, this one changes inner products least.

    Parameters
    ----------
    parts : sequence of ndarrays of shape (n_rows, n_columns of the part)
        Vectors, or several whose columns are concatenated.
    n_components : int, at most the number of all columns
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
    products = np.block(
        [[sum_products(one, other) for other in parts] for one in parts]
    )
    axes = np.linalg.eigh(products)[1][:, ::-1][:, :n_components].T
    largest = np.abs(axes).argmax(axis=1)
    return np.asarray(axes * np.sign(axes[np.arange(len(axes)), largest])[:, None])
