"""Gradients by member weights, from the gradients by the combined parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.formats.checkpoint import Checkpoint

STEP = 1 << 16  # elements of a tensor that are read at a time


def products(
    members: Sequence[Checkpoint],
    gradients: Mapping[str, Array],
    merged: Mapping[str, Array],
) -> dict[str, Float64]:
    """Inner products of gradients with each member's difference from the combination.

    Differences, because the products of similar members would lose their digits to
    the common part.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members; their tensors are read in blocks.
    gradients : mapping of str to array
        Gradients by the combined parameters, by tensor name.
    merged : mapping of str to array
        Combined parameters, with at least the names of ``gradients``.

    Returns
    -------
    dict of str to ndarray of shape (n_members,)
        Inner products by tensor name, in float64.
    """
    by_tensor = {}
    for name, gradient in gradients.items():
        slope, center = gradient.reshape(-1), merged[name].reshape(-1)
        by_member = np.zeros(len(members))
        for index, member in enumerate(members):
            tensor = member.layout[name]
            for start in range(0, tensor.size, STEP):
                stop = min(start + STEP, tensor.size)
                block = np.empty(stop - start, tensor.dtype)
                offset = tensor.offset + start * tensor.dtype.itemsize
                tensor.source.read_into(block.view(np.uint8).data, offset)
                difference = block.astype(np.float64) - center[start:stop]
                by_member[index] += float(
                    slope[start:stop].astype(np.float64) @ difference
                )
        by_tensor[name] = by_member
    return by_tensor
