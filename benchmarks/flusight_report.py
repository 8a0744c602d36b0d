"""Table of blends of FluSight forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Forecasts of FluSight, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{machine}.",
        "",
        "Mean WIS relative to FluSight-baseline; less is better. The recipe was fixed "
        "on 2023-24 and written down before it was run on the other seasons. Weights "
        "of a round come from earlier rounds, with the truth as it was published "
        "before it. *States* is without the national units, *log* is WIS of log(1 + "
        "count). Differences in relative WIS are on common units, ± the standard "
        "error of a jackknife over rounds, with a 95% interval of a bootstrap over "
        "blocks of four rounds; the best equal-weight blend is the best in that "
        "season, known only afterwards. An ensemble with less than 100% of the units "
        "is scored on those it has.",
        "",
        f"Checked before: {facts['checked']} published numbers of official ensembles "
        "and equal blends agree to three digits. A round takes "
        f"{facts['seconds']['per round']:.2f} s of CPU time, weights included.",
        "",
    ]
    for name, season in facts["seasons"].items():
        lines += [*_season(name, season), *_subsets(facts["subsets"][name]), ""]
    return "\n".join(lines)


def _season(name: str, season: Mapping[str, Any]) -> list[str]:
    head = "tuned on this season" if name == "2023-24" else "held out"
    lines = [
        f"## {name}, {head}: {season['units']:,} units, {season['rounds']} rounds",
        "",
        "| | WIS | states | log | 50% | 95% | units | minus FluSight-ensemble | "
        f"minus {season['best equal']} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one, row in season["rows"].items():
        cells = [f"{row[key]:.3f}" for key in ("rel", "states", "log")]
        cells += [f"{100 * row[key]:.0f}" for key in ("cover50", "cover95", "share")]
        cells += [_difference(row[key]) for key in ("to official", "to best equal")]
        lines.append(f"| {one} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _difference(gap: Mapping[str, float]) -> str:
    if not gap["error"]:
        return ""
    return (
        f"{gap['difference']:+.3f} ± {gap['error']:.3f} "
        f"({gap['low']:+.3f} to {gap['high']:+.3f})"
    )


def _subsets(ratios: Mapping[str, Any]) -> list[str]:
    lines = [
        "Of other members, relative to their linear pool with equal weights:",
        "",
        f"| | without {ratios['best']} | mean of ten random halves | worst half |",
        "|---|--:|--:|--:|",
    ]
    for way, values in ratios.items():
        if way in ("best", "linear pool"):
            continue
        rest, *halves = values
        mean = sum(halves) / len(halves)
        lines.append(f"| {way} | {rest:.3f} | {mean:.3f} | {max(halves):.3f} |")
    return lines
