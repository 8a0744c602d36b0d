"""Comparison of two models by the same samples, with a standard error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NOISE = 2.0  # standard errors; a smaller difference may be chance


class Gain(NamedTuple):
    """Mean gain of a model over another one, and its standard error.

    Parameters
    ----------
    mean : float
        Mean of the gains of all samples; positive if the model is better.
    error : float
        Standard error of the mean.
    """

    mean: float
    error: float

    @property
    def outcome(self) -> str:
        """Words between the names of the model and the other one."""
        if abs(self.mean) <= NOISE * self.error:
            return "is within noise of"
        return "beats" if self.mean > 0 else "is worse than"

    def __neg__(self) -> Gain:
        """Loss instead of a gain, with the same error."""
        return Gain(-self.mean, self.error)

    def __str__(self) -> str:
        """Format the gain with its standard error."""
        return f"{self.mean:+.3f} ± {self.error:.3f}"


def gain_of(gains: np.ndarray) -> Gain:
    """Mean of paired gains, and its standard error.

    Parameters
    ----------
    gains : ndarray of shape (n_samples,)
        Gain of a model over another one on each sample.

    Returns
    -------
    Gain
    """
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.inf
    return Gain(float(gains.mean()), float(error))
