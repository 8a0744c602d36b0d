"""Tables of losses, also as ratios to the best single member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import prediction_priors
from prediction_ways import BEST, SCORES
from scipy.stats import rankdata

TOLERATED = 1.02
Facts = Mapping[str, Any]


def ratio(found: Facts, way: str, base: str = BEST) -> float:
    """Mean loss of a way over that of the best single member."""
    return float(np.mean(found[way]["loss"]) / np.mean(found[base]["loss"]))


def standard_error(found: Facts, way: str, base: str = BEST) -> float:
    """Of the difference of mean losses: over the splits, as if they were independent.

    Repeats share rows, so it is too small rather than too large.
    """
    apart = np.subtract(found[way]["loss"], found[base]["loss"])
    return float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else 0.0


def is_worse(found: Facts, way: str) -> bool:
    """Whether a way is worse than the best single member beyond 2 % and the noise."""
    apart = np.mean(found[way]["loss"]) - np.mean(found[BEST]["loss"])
    return ratio(found, way) > TOLERATED and apart > 2 * standard_error(found, way)


def summary(facts: Facts, *, classes: bool) -> dict[str, dict[str, Any]]:
    """Summary of each way over all sets of a task."""
    sets = [one["name"] for one in facts["sets"] if one["classes"] == classes]
    if not sets:
        return {}
    found = [facts["ways"][name] for name in sets]
    ways = list(found[0])
    out: dict[str, dict[str, Any]] = {way: {} for way in ways}
    for key, sign in (("loss", 1), ("right", -1)):
        kept = [way for way in ways if _is_known(found, way, key)]
        means = np.array([[np.mean(one[w][key]) for w in kept] for one in found])
        for way, rank in zip(kept, rankdata(sign * means, axis=1).mean(0), strict=True):
            out[way][f"{key} rank"] = float(rank)
    for way in ways:
        out[way].update(_of_one(sets, found, way))
    return out


def _is_known(found: Sequence[Facts], way: str, key: str) -> bool:
    scored = key == "right" or way not in SCORES
    return scored and not any(np.isnan(one[way][key]).any() for one in found)


def _of_one(sets: Sequence[str], found: Sequence[Facts], way: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if _is_known(found, way, "loss"):
        ratios = [ratio(one, way) for one in found]
        out["ratio"] = float(np.mean(ratios))
        out["spread"] = float(np.std(ratios, ddof=1)) if len(ratios) > 1 else 0.0
        out["worst"] = max(ratios)
        out["worst set"] = sets[int(np.argmax(ratios))]
        out["n_worse"] = sum(is_worse(one, way) for one in found)
    for key in ("right", "fit", "predict"):
        out[key] = float(np.mean([np.mean(one[way][key]) for one in found]))
    return out


def markdown(facts: Facts) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Combining predictions, {facts['date']}",
        "",
        f"`{facts['command']}`, {facts['minutes']:.0f} minutes.",
        "",
        f"{machine}.",
        "",
        f"{facts['checked']:,} predictions were verified to 1e-12: equal weights "
        "against scikit-learn's voting, weighted means and pools against their "
        "formulas, and recorded members against the members themselves.",
        "",
        "The best single member is chosen out of fold, as weights are. Ratio: mean "
        "loss divided by that of the best single member, ± the standard deviation over "
        "the sets. Worse: number of sets with a loss that is higher by more than 2 % "
        "and two standard errors of the difference over the splits. Seconds: CPU time "
        "per split without the members, mean over the sets.",
    ]
    for classes in (True, False):
        found = summary(facts, classes=classes)
        if found:
            lines += _table(found, facts.get("memory"), classes=classes)
            lines += _by_set(facts, classes=classes)
    lines += prediction_priors.markdown(dict(facts))
    lines += _sizes(facts) + _leaks(facts)
    return "\n".join(lines) + "\n"


def _table(found: Facts, memory: Any, *, classes: bool) -> list[str]:
    loss, right = ("log-loss", "accuracy") if classes else ("squared error", "R²")
    lines = [
        "",
        f"## {'Classes' if classes else 'Values'}",
        "",
        f"| way | {loss} ratio | worst | worse | mean rank, {loss} | {right} "
        f"| mean rank, {right} | fit CPU s | predict CPU s |"
        + (" MiB |" if classes else ""),
        "|---|--:|---|--:|--:|--:|--:|--:|--:|" + ("--:|" if classes else ""),
    ]
    for way, one in found.items():
        cells = [way] + [""] * 4
        if "ratio" in one:
            cells[1] = f"{one['ratio']:.3f} ± {one['spread']:.3f}"
            cells[2] = f"{one['worst']:.3f} {one['worst set']}"
            cells[3], cells[4] = str(one["n_worse"]), f"{one['loss rank']:.1f}"
        cells += [f"{one['right']:.4f}", f"{one['right rank']:.1f}"]
        cells += [
            "" if np.isnan(one[k]) else f"{one[k]:.4f}" for k in ("fit", "predict")
        ]
        if classes:
            peak = memory["peaks"].get(way)
            cells.append("" if peak is None else f"{peak:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    if classes:
        lines += [
            "",
            f"MiB: peak allocation on '{memory['set']}', whose held-out predictions "
            f"take {memory['held_mib']:.1f}.",
        ]
    return lines


def _by_set(facts: Facts, *, classes: bool) -> list[str]:
    """Losses, and below them accuracies, of the ways on each set."""
    sets = [one["name"] for one in facts["sets"] if one["classes"] == classes]
    lines: list[str] = []
    if len(sets) > 20:  # development: too many to look at
        return lines
    titles = ("Log-loss", "Accuracy") if classes else ("Squared error", "R²")
    for key, title in zip(("loss", "right"), titles, strict=True):
        lines += [
            "",
            f"{title}, mean ± standard error of the difference to the best "
            "single member:"
            if key == "loss"
            else f"{title}:",
            "",
        ]
        lines += [f"| way | {' | '.join(sets)} |", "|---" + "|--:" * len(sets) + "|"]
        for way in facts["ways"][sets[0]]:
            cells = [_cell(facts["ways"][name], way, key) for name in sets]
            if any(cells):
                lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def _cell(found: Facts, way: str, key: str) -> str:
    mean = float(np.mean(found[way][key]))
    if np.isnan(mean) or (key == "loss" and way in SCORES):
        return ""
    if key == "right" or way == BEST:
        return f"{mean:.4g}"
    mark = "**" if is_worse(found, way) else ""
    return f"{mark}{mean:.4g}{mark} ± {standard_error(found, way):.2g}"


def _sizes(facts: Facts) -> list[str]:
    if len(facts["sets"]) > 40:
        return []
    lines = [
        "",
        "## Sets",
        "",
        "| set | rows | classes | splits | CPU s of the members per split |",
        "|---|--:|--:|--:|--:|",
    ]
    for one in facts["sets"]:
        kind = one["n_columns"] if one["classes"] else ""
        cells = [one["name"], f"{one['n_rows']:,}", str(kind), str(one["n_splits"])]
        lines.append(f"| {' | '.join(cells)} | {one['members_cpu']:.1f} |")
    return lines


def _leaks(facts: Facts) -> list[str]:
    """Log-loss after learning out of fold, and on what members were fitted on."""
    lines = [
        "",
        "## Weights learned on training data",
        "",
        "Log-loss on test rows with weights learned out of fold → on the rows that "
        'the members were fitted on (`cv="prefit"` with the training data).',
        "",
    ]
    if not facts["leaks"] or len(facts["leaks"]) > 20:
        return []
    ways = list(next(iter(facts["leaks"].values())))
    lines += [f"| set | {' | '.join(ways)} |", "|---" + "|--:" * len(ways) + "|"]
    ratios = []
    for name, found in facts["leaks"].items():
        honest = [np.mean(facts["ways"][name][way]["loss"]) for way in ways]
        leaked = [np.mean(found[way]) for way in ways]
        ratios.append(np.divide(leaked, honest))
        cells = [f"{a:.3f} → {b:.3f}" for a, b in zip(honest, leaked, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = [f"{value:.2f}" for value in np.median(ratios, axis=0)]
    return [*lines, f"| median ratio, leaked / honest | {' | '.join(cells)} |"]
