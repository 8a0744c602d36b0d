"""Scores of blends of FluSight forecasts, and their differences over rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from flusight_data import BASELINE, LEVELS, SEASONS, FluSight

from ensembles.predictions.forecasts import interval_coverage, weighted_interval_score

BLOCK = 4  # rounds: forecasts of neighboring rounds share target weeks
N_RESAMPLES = 2000


class Scores:
    """Losses of blends, official ensembles and the baseline, computed once.

    Parameters
    ----------
    data : FluSight
        Forecasts and truths.
    blends : dict of str to ndarray of shape (n_units, n_levels)
        Quantiles of our blends.
    """

    def __init__(self, data: FluSight, blends: dict[str, Any]) -> None:
        self.data, self.blends = data, blends
        self.quantiles = {**data.forecasts, **blends}
        self.losses: dict[tuple[str, bool], Any] = {}

    def official(self, season: str) -> list[str]:
        """Official ensembles that have forecasts in a season."""
        names = [n for n in self.data.forecasts if n.startswith("FluSight-")]
        return [
            name
            for name in names
            if name != BASELINE and self.has(name)[self.rows(season)].any()
        ]

    def rows(self, season: str) -> Any:
        """Scored units of a season."""
        return self.data.scored & (self.data.seasons == SEASONS.index(season))

    def has(self, name: str) -> Any:
        """Units with a forecast."""
        return ~np.isnan(self.quantiles[name][:, 0])

    def loss(self, name: str, *, logarithms: bool = False) -> Any:
        """WIS of each unit, of the numbers or of log(1 + number)."""
        key = (name, logarithms)
        if key not in self.losses:
            y, quantiles = self.data.y, self.quantiles[name]
            if logarithms:
                y, quantiles = np.log1p(y), np.log1p(np.maximum(quantiles, 0))
            self.losses[key] = weighted_interval_score(y, quantiles, LEVELS)
        return self.losses[key]

    def relative(
        self, name: str, season: str, *, where: Any = True, **scale: Any
    ) -> float:
        """Sum of WIS over the units that it has, relative to the baseline's there."""
        rows = self.rows(season) & self.has(name) & where
        own, other = (self.loss(one, **scale)[rows].sum() for one in (name, BASELINE))
        return float(own / other)


def summarize(scores: Scores, name: str, season: str) -> dict[str, float]:
    """Relative WIS, on the states, on logarithms; coverage; share of the units."""
    rows = scores.rows(season) & scores.has(name)
    y, quantiles = scores.data.y[rows], scores.quantiles[name][rows]
    return {
        "rel": scores.relative(name, season),
        "states": scores.relative(name, season, where=scores.data.places != "US"),
        "log": scores.relative(name, season, logarithms=True),
        "cover50": float(interval_coverage(y, quantiles, LEVELS, coverage=0.5).mean()),
        "cover95": float(interval_coverage(y, quantiles, LEVELS, coverage=0.95).mean()),
        "share": float(rows.sum() / scores.rows(season).sum()),
    }


def compare(scores: Scores, name: str, other: str, season: str) -> dict[str, float]:
    """Difference in relative WIS on common units, with intervals over rounds.

    The standard error is a jackknife over rounds; the interval resamples blocks of
    four consecutive rounds.
    """
    rows = scores.rows(season) & scores.has(name) & scores.has(other)
    index = np.unique(scores.data.rounds[rows], return_inverse=True)[1]
    own, others, base = (
        np.bincount(index, scores.loss(one)[rows]) for one in (name, other, BASELINE)
    )
    n_rounds, gap = len(base), own - others
    without = (gap.sum() - gap) / (base.sum() - base)
    error = np.sqrt((n_rounds - 1) * without.var())
    starts = np.random.default_rng(0).integers(
        n_rounds, size=(N_RESAMPLES, -(-n_rounds // BLOCK))
    )
    drawn = (starts[..., None] + np.arange(BLOCK)) % n_rounds
    drawn = drawn.reshape(N_RESAMPLES, -1)[:, :n_rounds]
    low, high = np.quantile(gap[drawn].sum(1) / base[drawn].sum(1), [0.025, 0.975])
    return {
        "difference": float(gap.sum() / base.sum()),
        "error": float(error),
        "low": float(low),
        "high": float(high),
        "rounds": n_rounds,
    }
