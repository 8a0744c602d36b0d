"""Weights of averages along a run: windows at its end, and exponential averages."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64


def run_averages(n_members: int) -> dict[str, Float64]:
    """Weights of averages over checkpoints of one run, in the order of training.

    Parameters
    ----------
    n_members : int
        Number of checkpoints.

    Returns
    -------
    dict of str to ndarray of shape (n_members,)
        Means of the last 2, 4, 8, … checkpoints, without the mean of all; exponential
        averages whose half-life is 1, 2, 4, … checkpoints, up to a quarter of the run.
        Each sums to 1.
    """
    age = np.arange(n_members)[::-1]
    weights: dict[str, Float64] = {}
    window, half_life = 2, 1
    while window < n_members:
        weights[f"mean of the last {window}"] = (age < window) / window
        window *= 2
    while 4 * half_life <= n_members:
        decayed = 0.5 ** (age / half_life)
        unit = "checkpoint" if half_life == 1 else "checkpoints"
        name = f"EMA, half-life {half_life} {unit}"
        weights[name] = decayed / decayed.sum()
        half_life *= 2
    return weights
