"""Do weights from earlier rounds beat the official ensembles of FluSight?

The recipe, fixed on 2023-24, is in `benchmarks/README.md`; the parameters are the
defaults of `ensembles.predictions.forecasts.combine_rounds`. Every round is blended
with weights from earlier rounds, and with the truth as it was published before it.

Before that, the equal mean, median and linear pool of the same forecasters, and the
official ensembles, are compared with published numbers, `anchors.csv`.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import csv
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import flusight_report
import measuring
import numpy as np
from flusight_data import BASELINE, LEVELS, OFFICIAL, SEASONS, FluSight, load
from flusight_scores import Scores, compare, summarize

from ensembles.predictions.forecasts import (
    combine_rounds,
    weighted_interval_score,
)

RULES = {
    "mean": "quantile_mean",
    "median": "quantile_median",
    "linear pool": "linear_pool",
    "mean of pools": "mean_of_pools",
}
ANCHORED = ("mean", "median", "linear pool")
TOLERANCE = 0.0006  # anchors take a linear pool at 200 points, and have four digits
N_SUBSETS = 10
Blends = dict[str, Any]  # quantiles of each blend, of shape (n_units, n_levels)


def main() -> None:
    """Check, blend, and save the results."""
    options = parse()
    data = load(measuring.data() / "flusight")
    if options.seasons:
        kept = [SEASONS.index(name) for name in options.seasons]
        data = data.select(np.isin(data.seasons, kept))
    blends, seconds = blended(data)
    scores = Scores(data, blends)
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "checked": check(data, scores),
        "seconds": seconds,
        "seasons": {name: season(scores, name) for name in present(data)},
        "subsets": {name: subsets(data, name) for name in present(data)},
    }
    text = flusight_report.markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "flusight.md").write_text(text)
        (options.results / "flusight.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seasons", nargs="+", choices=SEASONS, help="the others are not looked at"
    )
    parser.add_argument("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


def present(data: FluSight) -> list[str]:
    """Names of the seasons in the data."""
    return [SEASONS[index] for index in np.unique(data.seasons)]


def blended(data: FluSight) -> tuple[Blends, dict[str, float]]:
    """Blends of all members, with the time of a round of ours."""
    stack, blends = data.stack(data.members), {}
    started = time.perf_counter()
    ours = combine_rounds(stack, data.rounds, data.known, levels=LEVELS)
    seconds = (time.perf_counter() - started) / len(ours.rounds)
    blends["ours"] = ours.quantiles
    for name, rule in RULES.items():
        for weights in (None, "skill"):
            if (rule, weights) == ("mean_of_pools", "skill"):
                continue
            blends[f"{name}, {'equal' if weights is None else 'our'} weights"] = (
                combine_rounds(
                    stack,
                    data.rounds,
                    data.known,
                    levels=LEVELS,
                    rule=rule,
                    weights=weights,
                ).quantiles
            )
    final = np.where(np.isnan(data.y), np.nan, data.y)
    blends["ours, weights from final truth (leak)"] = combine_rounds(
        stack,
        data.rounds,
        lambda now: np.where(data.weeks < now, final, np.nan),
        levels=LEVELS,
    ).quantiles
    return blends, {"per round": seconds}


def check(data: FluSight, scores: Scores) -> int:
    """Compare with the published numbers; return how many agree."""
    with (measuring.data() / "flusight" / "anchors.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == "all rounds"]
    n_checked = 0
    for row in rows:
        name = row["name"]
        is_ours = name in [f"{rule}, equal weights" for rule in ANCHORED]
        if row["season"] not in present(data) or not (
            row["kind"] == "official" or is_ours
        ):
            continue
        value = scores.relative(name, row["season"])
        if not abs(value - float(row["rel"])) < TOLERANCE:
            raise AssertionError(f"{name}, {row['season']}: {value}, not {row['rel']}")
        n_checked += 1
    return n_checked


def season(scores: Scores, name: str) -> dict[str, Any]:
    """Scores of all blends and official ensembles in a season."""
    names = [*scores.blends, *scores.official(name)]
    equal = [one for one in names if one.endswith("equal weights")]
    best = min(equal, key=lambda one: scores.relative(one, name))
    return {
        "units": int(scores.rows(name).sum()),
        "rounds": len(np.unique(scores.data.rounds[scores.rows(name)])),
        "best equal": best,
        "rows": {
            one: summarize(scores, one, name)
            | {
                "to official": compare(scores, one, OFFICIAL, name),
                "to best equal": compare(scores, one, best, name),
            }
            for one in names
        },
    }


def subsets(data: FluSight, name: str) -> dict[str, list[float]]:
    """WIS of ours and of equal blends relative to the equal linear pool, on members.

    First without the member that is best in the season, then on random halves.
    """
    rows = data.scored & (data.seasons == SEASONS.index(name))
    stack = data.stack(data.members)
    losses = weighted_interval_score(data.y, stack, LEVELS)
    baseline = weighted_interval_score(data.y, data.forecasts[BASELINE], LEVELS)
    has = ~np.isnan(losses[:, rows])
    relative = np.nansum(losses[:, rows], 1) / (has * baseline[rows]).sum(1)
    relative[has.mean(1) < 0.8] = np.inf
    best, rng = int(np.argmin(relative)), np.random.default_rng(0)
    everyone = np.arange(len(stack))
    chosen = [np.delete(everyone, best)]
    chosen += [rng.permutation(everyone)[: len(stack) // 2] for _ in range(N_SUBSETS)]
    ways: list[tuple[str, str, str | None]] = [
        ("ours", "mean_of_pools", "skill"),
        ("mean", "quantile_mean", None),
        ("median", "quantile_median", None),
        ("linear pool", "linear_pool", None),
    ]
    ratios: dict[str, list[float]] = {way: [] for way, _, _ in ways}
    until = data.seasons <= SEASONS.index(name)
    for members in chosen:
        part = stack[members]
        units = until & ~np.isnan(part[..., 0]).all(0)
        own = data.select(units)
        totals = {}
        for way, rule, weights in ways:
            blend = combine_rounds(
                part[:, units],
                own.rounds,
                own.known,
                levels=LEVELS,
                rule=rule,
                weights=weights,
            )
            wis = weighted_interval_score(own.y, blend.quantiles, LEVELS)
            totals[way] = wis[rows[units]].sum()
        for way, total in totals.items():
            ratios[way].append(float(total / totals["linear pool"]))
    return {"best": [float(best)], **ratios}


if __name__ == "__main__":
    main()
