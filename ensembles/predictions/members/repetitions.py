"""How many samples sample weights stand for."""

from __future__ import annotations

import math

from ensembles._typing import Float64


def effective_size(sample_weight: Float64) -> float:
    """Number of samples that weights stand for.

    Their sum, so that a whole weight means repetition; or, where that is larger,
    Kish's effective sample size, which does not depend on their scale: weights that
    sum to 1 are not less than one sample.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_samples,), non-negative, not all zero

    Returns
    -------
    float

    References
    ----------
    Kish (1965), "Survey sampling", section 8.2.
    """
    scaled = sample_weight / sample_weight.max()  # squares of tiny weights underflow
    kish = math.fsum(scaled) ** 2 / math.fsum(scaled * scaled)
    return max(math.fsum(sample_weight), kish)


def as_repetitions(sample_weight: Float64 | None) -> Float64 | None:
    """Weights scaled so that their sum is their `effective_size`.

    For learners whose penalty is fixed in samples, which weights of a small scale
    would let win. Whole weights stay as they are.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    ndarray of shape (n_samples,) or None
    """
    if sample_weight is None:
        return None
    total, size = math.fsum(sample_weight), effective_size(sample_weight)
    return sample_weight if size <= total else sample_weight * (size / total)
