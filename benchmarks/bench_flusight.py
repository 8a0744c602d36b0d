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

BOTH = ("quantile_mean", "linear_pool")
RULES: dict[str, str | tuple[str, ...]] = {
    "mean": "quantile_mean",
    "median": "quantile_median",
    "linear pool": "linear_pool",
    "mean of pools": BOTH,
}
WAYS: dict[str, str | tuple[str, ...]] = {
    "ours": BOTH,
    "mean": "quantile_mean",
    "median": "quantile_median",
    "linear pool": "linear_pool",
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
    started = time.process_time()
    ours = combine_rounds(stack, data.rounds, data.known, levels=LEVELS)
    seconds = (time.process_time() - started) / len(ours.rounds)
    blends["ours"] = ours.quantiles
    for name, rule in RULES.items():
        for weights in (None, "skill"):
            if (rule, weights) == (BOTH, "skill"):
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
    blends["ours, weights from final truth (leak)"] = combine_rounds(
        stack,
        data.rounds,
        lambda now: np.where(data.weeks < now, data.y, np.nan),
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


def subsets(data: FluSight, name: str) -> dict[str, Any]:
    """WIS of ours and of equal blends relative to the equal linear pool, on members.

    First without the member that is best in the season, then on random halves.
    """
    best = best_member(data, name)
    rng, everyone = np.random.default_rng(0), np.arange(len(data.members))
    chosen = [np.delete(everyone, best)]
    chosen += [
        rng.permutation(everyone)[: len(everyone) // 2] for _ in range(N_SUBSETS)
    ]
    sums = [
        {way: loss_of(data, name, members, rule) for way, rule in WAYS.items()}
        for members in chosen
    ]
    pools = [row["linear pool"] for row in sums]
    ratios = {
        way: [float(row[way] / pool) for row, pool in zip(sums, pools, strict=True)]
        for way in WAYS
    }
    return {"best": data.members[best], **ratios}


def best_member(data: FluSight, name: str) -> int:
    """Member with at least 80 % of a season's units and the lowest relative WIS."""
    rows = data.scored & (data.seasons == SEASONS.index(name))
    baseline = weighted_interval_score(data.y, data.forecasts[BASELINE], LEVELS)[rows]
    losses = weighted_interval_score(data.y, data.stack(data.members), LEVELS)[:, rows]
    has = ~np.isnan(losses)
    relative = np.nansum(losses, 1) / np.maximum((has * baseline).sum(1), 1e-9)
    return int(np.argmin(np.where(has.mean(1) < 0.8, np.inf, relative)))


def loss_of(data: FluSight, name: str, members: Any, rule: Any) -> float:
    """Sum of the WIS of a blend over a season; ours uses the seasons before it."""
    stack = data.stack([data.members[index] for index in members])
    season_index, weights = SEASONS.index(name), "skill" if rule == BOTH else None
    units = ~np.isnan(stack[..., 0]).all(0) & (data.seasons <= season_index)
    if weights is None:
        units &= data.seasons == season_index
    part = data.select(units)
    blend = combine_rounds(
        stack[:, units],
        part.rounds,
        part.known,
        levels=LEVELS,
        rule=rule,
        weights=weights,
    )
    rows = part.scored & (part.seasons == season_index)
    losses = weighted_interval_score(part.y, blend.quantiles, LEVELS)
    return float(losses[rows].sum())


if __name__ == "__main__":
    main()
