"""Table of the costs of selections, also as ratios."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import selection_votes
from report import seconds


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Greedy selection, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{machine}.",
        "",
        "CPU seconds of all threads: median (minimum to maximum) of "
        f"{facts['repeats']}. The floor adds up one float32 per member and row in "
        "each round. A candidate is one member tried in one round, preparation "
        "included. All ways selected the same members in the same order, in the rounds "
        "that they ran.",
        "",
        "| score | members x rows x classes | rounds | floor s | preparation s "
        "| selection s | all / floor | ms a candidate | generic ms | AutoGluon ms "
        "| generic / ours | AutoGluon / ours | MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [line(found) for found in facts["results"]]
    for found in facts["results"]:
        if "convex" in found:
            best = found["convex"]
            lines += [
                "",
                f"Best weights of the simplex by log-loss: {best['cpu']:.1f} s of CPU, "
                f"{best['wall']:.1f} s of wall time; their score is "
                f"{best['score']:.6f}, that of {found['rounds']} greedy rounds "
                f"{found['score']:.6f}.",
            ]
        if "peer" in found:
            version = found["peer"]["version"]
            lines += ["", f"{found['scoring']}: autogluon.core {version}."]
    lines += selection_votes.markdown(facts["votes"])
    return "\n".join(lines) + "\n"


def line(found: Mapping[str, Any]) -> str:
    """One score."""
    whole = found["preparation"]["median"] + found["selection"]["median"]
    ours = whole / found["rounds"] / found["shape"][0]
    others = [found["generic"]["cpu_per_candidate"]]
    others.append(found["peer"]["cpu_per_candidate"] if "peer" in found else None)
    cells = [
        found["scoring"],
        " x ".join(f"{size:,}" for size in found["shape"]),
        str(found["rounds"]),
        *(seconds(found[name]) for name in ("floor", "preparation", "selection")),
        f"{whole / found['floor']['median']:.1f}",
        f"{1000 * ours:.3f}",
        *("" if cost is None else f"{1000 * cost:.1f}" for cost in others),
        *("" if cost is None else f"{cost / ours:.0f}" for cost in others),
        f"{found['anonymous_mib']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"
