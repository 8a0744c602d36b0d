"""Geometry of directions, told by inner products alone."""

from __future__ import annotations

import math

import numpy as np

from ensembles.floats import Float64


def angles(gram: Float64) -> Float64:
    """Angles between vectors: zero for vectors of length zero, NaN for endless ones.

    Parameters
    ----------
    gram : ndarray of shape (n, n)
        Their inner products.

    Returns
    -------
    ndarray of shape (n, n), from 0 to pi
    """
    lengths = np.sqrt(np.diagonal(gram))
    products = np.outer(lengths, lengths)
    with np.errstate(invalid="ignore"):  # a member holds an infinity
        cosines = np.divide(gram, products, out=np.ones_like(gram), where=products != 0)
    return np.asarray(np.arccos(np.clip(cosines, -1, 1)))


def centre(cosines: Float64, share: Float64) -> Float64:
    """Coefficients of the Karcher mean of unit vectors, itself of length one.

    Where the members cancel there is no centre, and the straight mean is returned.

    Parameters
    ----------
    cosines : ndarray of shape (n, n)
        Inner products of the unit vectors.
    share : ndarray of shape (n,), non-negative
        How much each counts.

    Returns
    -------
    ndarray of shape (n,)
    """
    share = share / share.sum()
    point = share
    for _ in range(200):
        length = _length(point, cosines)
        if length < 1e-7:
            return share
        point = point / length
        towards = np.clip(cosines @ point, -1, 1)
        angles, sines = np.arccos(towards), np.sqrt(1 - towards**2)
        pull = share * np.divide(
            angles, sines, out=np.ones_like(angles), where=sines > 1e-8
        )
        step = pull - (pull @ towards) * point
        size = _length(step, cosines)
        if size < 1e-14:
            break
        point = math.cos(size) * point + math.sin(size) / size * step
    return point


def _length(point: Float64, gram: Float64) -> float:
    return math.sqrt(max(float(point @ gram @ point), 0.0))
