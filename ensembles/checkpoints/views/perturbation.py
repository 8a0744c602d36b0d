"""A source that adds noise to a tensor and multiplies it by a factor."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.dtypes import round_to_dtype
from ensembles.kernels.task_vectors.random_masks import RESOLUTION, random_words


class PerturbedSource:
    """Bytes of ``factor * (tensor + noise_scale * noise)``, noise from N(0, 1).

    Computed in float64 and rounded once. The noise of an element depends on the seed,
    the name and its index, not on the order of reads.

    Parameters
    ----------
    tensor : Tensor
        Tensor of floats.
    dtype : dtype
        Dtype of the bytes.
    name : str
        Name of the tensor in the result.
    seed : int
        Seed of the noise.
    noise_scale : float, default=0.0
        Standard deviation of the noise.
    factor : float, default=1.0
        Factor of the sum.
    """

    def __init__(
        self,
        tensor: Tensor,
        dtype: np.dtype[Any],
        *,
        name: str,
        seed: int,
        noise_scale: float = 0.0,
        factor: float = 1.0,
    ) -> None:
        self._tensor = tensor
        self._dtype = dtype
        self._key = seed, name
        self._noise_scale = noise_scale
        self._factor = factor

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        itemsize = self._dtype.itemsize
        start, skipped = divmod(offset, itemsize)
        stop = -(-(offset + len(buffer)) // itemsize)
        values = round_to_dtype(self._values(start, stop), self._dtype)
        buffer[:] = values.view(np.uint8).data[skipped : skipped + len(buffer)]

    def _values(self, start: int, stop: int) -> Float64:
        tensor = self._tensor
        stored = np.empty(stop - start, tensor.dtype)
        begin = tensor.offset + start * tensor.dtype.itemsize
        tensor.source.read_into(stored.view(np.uint8).data, begin)
        values = stored.astype(np.float64)
        if self._noise_scale:
            noise = standard_normal(*self._key, start, stop - start)
            values += self._noise_scale * noise
        return np.asarray(values * self._factor)

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the tensor was modified since it was opened."""
        self._tensor.source.check_unchanged()


def standard_normal(seed: int, name: str, start: int, size: int) -> Float64:
    """Standard normal numbers of consecutive elements of a tensor.

    Parameters
    ----------
    seed : int
        Seed.
    name : str
        Name of the tensor.
    start : int
        Index of the first element.
    size : int
        Number of elements.

    Returns
    -------
    ndarray of shape (size,)
        The quantiles of uniform numbers of 32 bits.
    """
    from scipy.special import ndtri

    return np.asarray(ndtri(standard_uniform(seed, name, start, size)))


def standard_uniform(seed: int, name: str, start: int, size: int) -> Float64:
    """Uniform numbers between 0 and 1 of consecutive elements of a tensor.

    Parameters
    ----------
    seed, name, start, size
        As in `standard_normal`.

    Returns
    -------
    ndarray of shape (size,)
        Numbers larger than 0 and smaller than 1.
    """
    words = random_words(seed, name, 0, start, size)
    return np.asarray((words + 0.5) * RESOLUTION)
