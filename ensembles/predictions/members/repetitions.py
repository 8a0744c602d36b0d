"""Effective sample size of sample weights."""

from __future__ import annotations

import math

from ensembles._typing import Float64


def effective_size(sample_weight: Float64) -> float:
    """Effective sample size: the sum of the weights or Kish's size, if that is larger.

    With the sum, integer weights are equivalent to repeated samples. Kish's size does
    not depend on the scale of the weights, so weights that sum to 1 do not count as a
    single sample.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_samples,), non-negative, not all zero
        Sample weights of any scale.

    Returns
    -------
    float
        In samples, at least 1.

    References
    ----------
    Kish (1965), "Survey sampling", section 8.2.
    """
    scaled = sample_weight / sample_weight.max()  # squares of tiny weights underflow
    kish = math.fsum(scaled) ** 2 / math.fsum(scaled * scaled)
    return max(math.fsum(sample_weight), kish)


def scale_to_effective_size(sample_weight: Float64 | None) -> Float64 | None:
    """Scale sample weights up so that their sum is the `effective_size`.

    For learners with a fixed penalty, such as ``LogisticRegression``, where the penalty
    would dominate a loss with small weights. Integer weights do not change.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_samples,) or None
        Non-negative weights, not all zero; None weights all samples equally.

    Returns
    -------
    ndarray of shape (n_samples,) or None
        None if ``sample_weight`` is None.
    """
    if sample_weight is None:
        return None
    total, size = math.fsum(sample_weight), effective_size(sample_weight)
    return sample_weight if size <= total else sample_weight * (size / total)
