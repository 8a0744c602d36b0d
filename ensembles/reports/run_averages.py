"""Weights of averages along a run: windows at its end, and exponential averages."""

from __future__ import annotations

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.runs.schedules.builtin import schedule_weights


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
    positions = np.arange(n_members)
    weights: dict[str, Float64] = {}
    window, half_life = 2, 1
    while window < n_members:
        weights[f"mean of the last {window}"] = schedule_weights(
            positions, "uniform", n=window
        )
        window *= 2
    while 4 * half_life <= n_members:
        unit = "checkpoint" if half_life == 1 else "checkpoints"
        weights[f"EMA, half-life {half_life} {unit}"] = schedule_weights(
            positions, "ema", half_life=half_life
        )
        half_life *= 2
    return weights
