"""Integer tensors of the result, which are not averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensembles._typing import Array


def resolve_integers(name: str, members: Sequence[Array] | Array, policy: str) -> Array:
    """Integers of the result: those of the first member if all are equal.

    Parameters
    ----------
    name : str
        Name of the tensor, for the error message; ``num_batches_tracked`` of BatchNorm
        always takes the maximum.
    members : n_members arrays of shape (size,)
        The block of each member.
    policy : {"error", "first", "max"}
        How to resolve members that differ: raise, take those of the first member, or
        take the elementwise maximum.

    Returns
    -------
    ndarray of shape (size,)

    Raises
    ------
    ValueError
        If members differ and ``policy`` is "error".
    """
    first = np.asarray(members[0])
    if all(np.array_equal(first, member) for member in members):
        return first
    if policy == "max" or name.endswith("num_batches_tracked"):
        return np.asarray(np.maximum.reduce(members))
    if policy == "first":
        return first
    raise ValueError(
        f"integer tensor {name!r} differs between the members, and integers are "
        "not averaged; pass integers='first' (--integers first) to take those of the "
        "first member, or integers='max' (--integers max) to take the largest"
    )
