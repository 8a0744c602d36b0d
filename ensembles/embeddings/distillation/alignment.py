"""Combination of the vectors of several teachers into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float64
from ensembles.embeddings.postprocessing.projection import Moments, fit_projection
from ensembles.embeddings.postprocessing.quantization import l2_normalize
from ensembles.parallel import chunks

BLOCK = 4096  # vectors converted to float64 at once
Vectors = NDArray[np.float16]


def fit_alignment(parts: Sequence[Vectors]) -> list[Float64]:
    """Matrix of each teacher that maps its vectors to the space of the combination.

    Vectors of equal length are rotated to those of the first teacher (orthogonal
    Procrustes). Vectors of different lengths are concatenated, and projected to as many
    of their principal axes, not centered, as the longest has entries.

    Parameters
    ----------
    parts : sequence of ndarray of shape (n_texts, dim of the teacher)
        Vectors of the same texts by each teacher.

    Returns
    -------
    list of ndarray of shape (dim of the teacher, dim)

    References
    ----------
    Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem",
    Psychometrika 31.
    """
    dims = [part.shape[1] for part in parts]
    if len(set(dims)) == 1:
        rotations = [_rotation(part, parts[0]) for part in parts[1:]]
        return [np.eye(dims[0]), *rotations]
    moments = Moments(sum(dims))
    for start, stop in chunks(len(parts[0]), BLOCK):
        block = [np.asarray(part[start:stop], np.float32) for part in parts]
        moments.add(np.concatenate(block, axis=1))
    axes = principal_axes(moments, max(dims))
    return np.split(axes, np.cumsum(dims)[:-1])


def principal_axes(moments: Moments, n_components: int) -> Float64:
    """Leading principal axes of vectors as columns, about zero and not their mean.

    Cosines of the vectors are about zero too, and a product with a matrix alone can be
    folded into a table of token vectors, where a mean cannot if a vector is zero.
    """
    moments.total[:] = 0
    return fit_projection(
        moments,
        remove=0,
        by_variance_share=False,
        whiten=False,
        n_components=n_components,
    ).matrix


def _rotation(vectors: Vectors, onto: Vectors) -> Float64:
    """Orthogonal matrix that maps vectors as close as possible to others."""
    product = np.zeros((vectors.shape[1], onto.shape[1]))
    for start, stop in chunks(len(vectors), BLOCK):
        block = vectors[start:stop].astype(np.float64)
        product += block.T @ onto[start:stop].astype(np.float64)
    left, _, right = np.linalg.svd(product)
    rotation: Float64 = left @ right
    return rotation


def align(
    parts: Sequence[Vectors], matrices: Sequence[Float64], out: Vectors
) -> Vectors:
    """Write the normalized sum of the mapped vectors of all teachers to ``out``.

    Parameters
    ----------
    parts : sequence of ndarray of shape (n_texts, dim of the teacher)
        Vectors of the same texts by each teacher.
    matrices : sequence of ndarray of shape (dim of the teacher, dim)
        Result of `fit_alignment`.
    out : ndarray of shape (n_texts, dim), float16
        Overwritten with the combined vectors.

    Returns
    -------
    ndarray of shape (n_texts, dim), float16
        ``out``.
    """
    for start, stop in chunks(len(out), BLOCK):
        total = np.zeros((stop - start, out.shape[1]))
        for part, matrix in zip(parts, matrices, strict=True):
            total += part[start:stop].astype(np.float64) @ matrix
        out[start:stop] = l2_normalize(total.astype(np.float32))
    return out
