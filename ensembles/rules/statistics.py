"""Totals of the statistics of a rule, added block by block."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Array


def add_statistics(total: Array | None, partial: Array) -> Array:
    """Add the statistics of the blocks of a part to those before it, one by one.

    `numpy.sum` adds scalars in pairs, so that a total would depend on the parts.

    Parameters
    ----------
    total : ndarray of shape (*shape,) or None
        Total of the parts before; None before the first part.
    partial : ndarray of shape (n_blocks, *shape)
        Return value of `Rule.partial_statistics`.

    Returns
    -------
    ndarray of shape (*shape,)

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    with np.errstate(all="ignore"):  # infinities of both signs
        if total is None:
            total, partial = partial[:1].sum(axis=0), partial[1:]
        if partial.shape[1:] != total.shape:
            raise ValueError(
                "statistics of a rule must have the same shape for each block, found "
                f"{total.shape} and {partial.shape[1:]}"
            )
        for block in partial:
            total = total + block
    return np.asarray(total)
