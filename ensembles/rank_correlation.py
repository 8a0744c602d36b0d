"""Spearman's rank correlation of many variables with one, or of pairs of variables."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64


def spearman(similarities: Float64, scores: Float64) -> Float64:
    """Spearman correlation along the last axis; 0 if either side is constant.

    Parameters
    ----------
    similarities, scores : ndarray of shape (..., n_pairs)
        Both variables; their other axes are broadcast.

    Returns
    -------
    ndarray of shape (...)
    """
    from scipy.stats import rankdata

    a, b = (rankdata(values, axis=-1) for values in (similarities, scores))
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (a, b))
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    products = (a * b).sum(axis=-1)
    out: Float64 = np.zeros_like(products)
    np.divide(products, scale, out=out, where=scale > 0)
    return out
