"""Weighted sums of updates by concatenation of their factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensembles.checkpoints.formats.lora.adapter import Factors


def concatenated(updates: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Weighted sum of updates: its rank is the sum of their ranks.

    Parameters
    ----------
    updates : sequence of Factors
        Updates of one weight.
    weights : sequence of float
        Factor of each update, of any sign.

    Returns
    -------
    Factors
        With ``b @ a`` equal to the weighted sum of the updates.
    """
    b = [weight * update.b for weight, update in zip(weights, updates, strict=True)]
    return Factors(
        np.concatenate([update.a for update in updates], axis=-2),
        np.concatenate(b, axis=-1),
    )
