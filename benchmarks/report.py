"""Table of the costs of averaging checkpoints, as ratios to the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from measuring import Cost, spread

Key = tuple[int, str]
FLOORS = ("floor", "floor + fsync")
MIB = 1 << 20


def row(
    cache: str,
    n_members: int,
    way: str,
    whole: Mapping[Key, Sequence[Cost]],
    start: Mapping[Key, Sequence[Cost]],
) -> dict[str, Any]:
    """Costs of one way, and of the floors with the same number of members."""
    key = (n_members, way)
    found: dict[str, Any] = {"cache": cache, "members": n_members, "way": way}
    for kind in ("wall", "cpu"):
        found[kind] = spread([getattr(cost, kind) for cost in whole[key]])
        found[f"{kind}_start"] = spread([getattr(cost, kind) for cost in start[key]])
        own = beyond(whole[key], start[key], kind)
        for floor in FLOORS:
            other = (n_members, floor)
            if other in whole:
                base = beyond(whole[other], start[other], kind)
                ratios = [a / b for a, b in zip(own, base, strict=True)]
                found[f"{kind} / {floor}"] = spread(ratios)
                found[f"least {kind} / {floor}"] = min(own) / min(base)
    found["anonymous_mib"] = max(cost.anonymous for cost in whole[key]) / MIB
    return found


def beyond(whole: Sequence[Cost], start: Sequence[Cost], kind: str) -> list[float]:
    """Seconds beyond start-up, round by round."""
    return [
        getattr(cost, kind) - getattr(less, kind)
        for cost, less in zip(whole, start, strict=True)
    ]


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Averaging checkpoints, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['parameters']:,} parameters in bfloat16, "
        f"{facts['bytes_per_member']:,} bytes per member in three shards. "
        f"{facts['rounds']} rounds. {facts['elements_checked']:,} elements of the "
        "means were equal, bit for bit, to the float64 mean rounded once.",
        "",
        f"{machine}.",
        "",
        "Seconds of whole commands: median (minimum to maximum). Ratios to the floor "
        "of the same number of members exclude start-up, and are computed in each "
        "round. Start-up is that of two members of 1 MB, which do not load the "
        "compiled loops; loading them counts as a part of the average. `ensemble` and "
        "`floor + fsync` wait until the result is on the disk, the others do not. "
        "Memory is the peak of anonymous memory.",
        *table(facts["results"], "warm"),
    ]
    if facts.get("cold"):
        lines += ["", f"Page cache dropped by {facts['cold']} before each command:"]
        lines += table(facts["results"], "cold")
    elif "cold" in facts:
        lines += ["", "The page cache could not be dropped."]
    for name, values in facts["start"].items():
        lines += ["", f"{name.replace('_', ' ')}: {seconds(values)} s, 10 runs."]
    if "big" in facts:
        peak = facts["big"]["anonymous"] / MIB
        lines += ["", f"Two members of one tensor of 4 GiB: peak {peak:.0f} MiB."]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]], cache: str) -> list[str]:
    """Table with a row for each way."""
    lines = [
        "",
        f"| members, {cache} | way | wall s | CPU s | start-up CPU s | wall / floor "
        "| CPU / floor | wall / floor + fsync | CPU / floor + fsync | MiB |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for found in rows:
        if found["cache"] != cache:
            continue
        cells = [str(found["members"]), found["way"]]
        cells += [seconds(found["wall"]), seconds(found["cpu"])]
        cells.append(f"{found['cpu_start']['median']:.2f}")
        for floor in FLOORS:
            for kind in ("wall", "cpu"):
                cells.append(seconds(found.get(f"{kind} / {floor}")))
        cells.append(f"{found['anonymous_mib']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def seconds(values: Mapping[str, float] | None) -> str:
    """Median, minimum and maximum."""
    if values is None:
        return ""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"
