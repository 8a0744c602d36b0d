"""Table of the costs of merging with a base, as ratios to the floor and to mergekit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from report import seconds


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Merging checkpoints, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['parameters']:,} parameters in bfloat16, "
        f"{facts['bytes_per_member']:,} bytes per checkpoint in three shards. "
        f"{facts['rounds']} rounds, page cache warm. {facts['elements_checked']:,} "
        "elements were compared with float64 results, rounded once.",
        "",
        f"{machine}.",
        "",
        "Medians (minimum to maximum) of the rounds. Ratios exclude start-up, and are "
        "computed in each round: to the floor that reads the same number of "
        "checkpoints, with fsync for `ensemble`, without for mergekit, which does not "
        "wait for the disk. The last column is the CPU time of mergekit, divided by "
        "that of `ensemble`, start-up included.",
    ]
    if facts["left_out"]:
        lines += ["", f"Not registered: {', '.join(facts['left_out'])}."]
    for kind in dict.fromkeys(row["cache"] for row in facts["results"]):
        lines += table(facts, kind)
    return "\n".join(lines) + "\n"


def table(facts: Mapping[str, Any], kind: str) -> list[str]:
    """Table with a row for each way, and the aim of each method."""
    rows = [row for row in facts["results"] if row["cache"] == kind]
    lines = [
        "",
        f"| changes {kind} | inputs | wall s | CPU s | wall / floor | CPU / floor "
        "| aim | MiB | CPU mergekit / ensemble |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return lines + [f"| {' | '.join(cells(row, rows, facts))} |" for row in rows]


def cells(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> list[str]:
    """Cells of a way."""
    tool, _, name = row["way"].partition(" ")
    method = facts["methods"].get(name, {}) if tool in ("ensemble", "mergekit") else {}
    floor = "floor + fsync" if tool == "ensemble" else "floor"
    params = ", ".join(
        f"{key}={value}" for key, value in method.get("params", {}).items()
    )
    limit = method.get("limit") if tool == "ensemble" else None
    return [
        f"{row['way']} {params}".strip(),
        str(row["members"]),
        seconds(row["wall"]),
        seconds(row["cpu"]),
        seconds(row.get(f"wall / {floor}")),
        seconds(row.get(f"cpu / {floor}")),
        f"{limit:g}" if limit else "",
        f"{row['anonymous_mib']:.0f}",
        peer_ratio(row, rows) if tool == "ensemble" else "",
    ]


def peer_ratio(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """CPU time of mergekit for the same method, divided by ours."""
    name = row["way"].replace("ensemble", "mergekit")
    for other in rows:
        if other["way"] == name:
            return f"{other['cpu']['median'] / row['cpu']['median']:.1f}"
    return ""
