"""Combination of the vectors of several teachers into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float64
from ensembles.embeddings.postprocessing.quantization import l2_normalize
from ensembles.orthogonal_maps import principal_axes, procrustes_rotation
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

    See Also
    --------
    ensembles.orthogonal_maps : The rotations and the principal axes.
    """
    dims = [part.shape[1] for part in parts]
    if len(set(dims)) == 1:
        rotations = [procrustes_rotation(part, parts[0]) for part in parts[1:]]
        return [np.eye(dims[0]), *rotations]
    axes = principal_axes(parts, max(dims))
    return np.split(axes.T, np.cumsum(dims)[:-1])


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
