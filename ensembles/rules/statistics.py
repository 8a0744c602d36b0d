"""Statistics of blocks of members, and their totals."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from ensembles._typing import Array
from ensembles.kernels.gram import BLOCK
from ensembles.rules.signatures import Function


def blockwise(function: Function) -> Function:
    """Build the ``statistics`` of a rule from a function of a single block.

    Parameters
    ----------
    function : callable (block, base, **params) -> array of shape (*shape,)
        Called with blocks of shape (n_members, size), of at most 65,536 elements each.
        It has the argument ``base``, of shape (size,), only if the rule needs a base.

    Returns
    -------
    callable (stack, base, **params) -> array of shape (n_blocks, *shape)
    """

    @functools.wraps(function)
    def statistics(stack: Array, base: Array | None = None, **params: Any) -> Array:
        partials = []
        # An empty tensor is one empty block, which gives the statistics their shape.
        for start in range(0, max(stack.shape[1], 1), BLOCK):
            if base is not None:
                params["base"] = base[start : start + BLOCK]
            block = np.ascontiguousarray(stack[:, start : start + BLOCK])
            partials.append(function(block, **params))
        return np.array(partials)

    return statistics


def add_statistics(total: Array | None, partial: Array) -> Array:
    """Add the statistics of the blocks of a part to those before it, one by one.

    `numpy.sum` adds scalars in pairs, so that a total would depend on the parts.

    Parameters
    ----------
    total : ndarray of shape (*shape,) or None
        Total of the parts before, to which integers are added in place; None before the
        first part.
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
            if not len(partial):  # an empty tensor without blocks
                return np.zeros(partial.shape[1:], partial.dtype)
            total, partial = partial[0], partial[1:]
        if partial.shape[1:] != total.shape:
            raise ValueError(
                "statistics of a rule must have the same shape for each block, found "
                f"{total.shape} and {partial.shape[1:]}"
            )
        for block in partial:
            # In place, because arrays of counts, such as histograms, may be large.
            out = total if total.dtype.kind == "i" else None
            total = np.asarray(np.add(total, block, out=out))
    return np.asarray(total)


class OrderedTotal:
    """Total of statistics, whose parts may come in any order.

    A part waits until those before it are added, so that the total is the same for
    every number of threads. Integers, for which the order does not matter, are added at
    once, because histograms are large.

    Parameters
    ----------
    size : int
        Number of elements of all parts.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._total: Array | None = None
        self._n_added = 0  # elements of the parts that are added
        self._waiting: dict[int, tuple[int, Array]] = {}
        self._lock = threading.Lock()

    def add(self, start: int, stop: int, partial: Array) -> Array | None:
        """Add the statistics of a part, or keep them for later.

        Parameters
        ----------
        start, stop : int
            Elements that the part holds; ``stop`` is exclusive.
        partial : ndarray of shape (n_blocks, *shape)
            Statistics of the part.

        Returns
        -------
        ndarray of shape (*shape,) or None
            The total, which is no longer kept, if all parts are added; else None.
        """
        with self._lock:
            if partial.dtype.kind == "i":
                start, stop = self._n_added, self._n_added + stop - start
            self._waiting[start] = stop, partial
            while self._n_added in self._waiting:
                self._n_added, partial = self._waiting.pop(self._n_added)
                self._total = add_statistics(self._total, partial)
            if self._n_added < self.size:
                return None
            total, self._total = self._total, None
            return total
