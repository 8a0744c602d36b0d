"""Forecasts of FluSight as arrays, with the truth, final and as it was published.

A unit is a round (reference date), a place and a horizon. Levels are ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

LEVELS = np.array(
    [0.01, 0.025, *(np.arange(1, 20) * 0.05).round(2).tolist(), 0.975, 0.99]
)
HORIZONS = 4
BASELINE = "FluSight-baseline"
OFFICIAL = "FluSight-ensemble"
SCORED_WITH = (BASELINE, OFFICIAL, "FluSight-lop_norm")
SEASONS = ("2023-24", "2024-25", "2025-26")
STARTS = np.array(["2024-08-01", "2025-08-01"], "datetime64[D]")
LAST_WEEK = np.datetime64("2024-04-27")  # of 2023-24: then reporting was voluntary
WEEK = np.timedelta64(7, "D")


class FluSight(NamedTuple):
    """Forecasts, units and truths.

    Parameters
    ----------
    forecasts : dict of str to ndarray of shape (n_units, n_levels)
        Quantiles of each file; NaN where it has no forecast.
    members : list of str
        Forecasters, without the baseline and the official ensembles.
    rounds, weeks : ndarray of shape (n_units,), datetime64
        Reference date and target week.
    places : ndarray of shape (n_units,), str
        Location codes.
    y : ndarray of shape (n_units,)
        Final truth; NaN if unknown.
    published : ndarray of shape (n_vintages,), datetime64
        Days of publication.
    vintages : ndarray of shape (n_vintages, n_units)
        Truth as it was published on these days.
    """

    forecasts: dict[str, Any]
    members: list[str]
    rounds: Any
    weeks: Any
    places: Any
    y: Any
    published: Any
    vintages: Any

    @property
    def seasons(self) -> Any:
        """Index of each unit's season."""
        return np.searchsorted(STARTS, self.rounds, "right")

    @property
    def scored(self) -> Any:
        """Units with final truth, the baseline and the official ensembles."""
        has = [~np.isnan(self.forecasts[name][:, 0]) for name in SCORED_WITH]
        is_voluntary = (self.seasons == 0) & (self.weeks > LAST_WEEK)
        return np.logical_and.reduce(has) & ~np.isnan(self.y) & ~is_voluntary

    def stack(self, names: Sequence[str]) -> Any:
        """Forecasts of members, of shape (n_members, n_units, n_levels)."""
        return np.array([self.forecasts[name] for name in names])

    def known(self, now: Any) -> Any:
        """Truth of the newest vintage before a round, for weeks that had ended."""
        newest = np.searchsorted(self.published, now, "left") - 1
        if newest < 0:
            return np.full(len(self.y), np.nan)
        return np.where(self.weeks < now, self.vintages[newest], np.nan)

    def select(self, rows: Any) -> FluSight:
        """The data of some units."""
        return self._replace(
            forecasts={name: table[rows] for name, table in self.forecasts.items()},
            rounds=self.rounds[rows],
            weeks=self.weeks[rows],
            places=self.places[rows],
            y=self.y[rows],
            vintages=self.vintages[:, rows],
        )


def load(folder: Path) -> FluSight:
    """Read all files, and keep the units that a member has."""
    places = pl.read_csv(folder / "locations.csv", infer_schema=False)
    codes = np.sort(places["location"].to_numpy().astype(str))
    paths = sorted(folder.glob("forecasts/*.parquet"))
    official = sorted(folder.glob("official/*.parquet"))
    tables = {path.stem: pl.read_parquet(path) for path in [*paths, *official]}
    dates = np.unique(
        np.concatenate([days(t["reference_date"]) for t in tables.values()])
    )
    shape = (len(dates), len(codes), HORIZONS)
    forecasts = {
        name: _quantiles(table, dates, codes) for name, table in tables.items()
    }
    rounds = np.repeat(dates, len(codes) * HORIZONS)
    weeks = rounds + WEEK * np.tile(np.arange(HORIZONS), len(dates) * len(codes))
    place = np.broadcast_to(np.arange(len(codes))[None, :, None], shape).ravel()
    y = _truths(pl.read_parquet(folder / "targets.parquet"), codes, weeks, place)[1][0]
    vintages = pl.read_parquet(folder / "vintages.parquet")
    published, known = _truths(vintages, codes, weeks, place)
    members = [path.stem for path in paths if path.stem != BASELINE]
    data = FluSight(
        forecasts, members, rounds, weeks, codes[place], y, published, known
    )
    return data.select(~np.isnan(data.stack(members)[..., 0]).all(0))


def days(column: Any) -> Any:
    """Dates of a column."""
    return column.to_numpy().astype("datetime64[D]")


def _quantiles(table: Any, dates: Any, codes: Any) -> Any:
    quantiles = np.full((len(dates), len(codes), HORIZONS, len(LEVELS)), np.nan)
    level = np.searchsorted(LEVELS, table["output_type_id"].to_numpy() - 1e-4)
    quantiles[
        np.searchsorted(dates, days(table["reference_date"])),
        np.searchsorted(
            codes, table["location"].cast(pl.String).to_numpy().astype(str)
        ),
        table["horizon"].to_numpy().astype(np.int64),
        level,
    ] = table["value"].to_numpy()
    return quantiles.reshape(-1, len(LEVELS))


def _truths(table: Any, codes: Any, weeks: Any, place: Any) -> tuple[Any, Any]:
    """Days of publication, and the truth of each unit on each of them."""
    published = np.zeros(1, "datetime64[D]")
    index = np.zeros(len(table), np.int64)
    if "as_of" in table.columns:
        published, index = np.unique(days(table["as_of"]), return_inverse=True)
    first = min(weeks.min(), days(table["target_end_date"]).min())
    week = ((weeks - first) / WEEK).astype(np.int64)
    row = ((days(table["target_end_date"]) - first) / WEEK).astype(np.int64)
    values = np.full(
        (len(published), max(week.max(), row.max()) + 1, len(codes)), np.nan
    )
    code = table["location"].cast(pl.String).to_numpy().astype(str)
    values[index, row, np.searchsorted(codes, code)] = table["value"].to_numpy()
    return published, values[:, week, place]
