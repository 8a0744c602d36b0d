"""Table of `bench_distillation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Rows that others are compared with: the first whose name starts so.
BASES = ("tokens", "model2vec")


@dataclass
class Row:
    """A model; scores and differences are value and ends of the interval, by set."""

    name: str
    dim: int
    seconds: dict[str, float]
    speed: float | None = None
    scores: dict[str, list[float]] = field(default_factory=dict)
    differences: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        "# Distilled tables: Spearman's correlation times 100 with human ratings, "
        f"{facts['date']}",
        "",
        f"`{facts['command']}`, {facts['minutes']:.0f} minutes.",
        "",
        f"{machine}.",
        "",
        "Differences have 95 % bootstrap intervals of 2,000 paired resamples. CPU "
        "seconds are of fitting, without the teacher's vectors, which all rows share: "
        "its own row has the seconds that it needs for all texts, computed from some. "
        "Speed is in thousands of sentences a second of one processor, with warm "
        "caches. `int8` and `binary` are the sentence vectors.",
    ]
    for language, rows in facts["rows"].items():
        sets = list(rows[0]["scores"])
        lines += ["", f"## {language}, {facts['texts'][language]:,} sentences", ""]
        for name in sets:
            found = facts["overlaps"][name]
            lines.append(
                f"{name}: {found['n_equal']} of its {found['n_texts']} sentences, and "
                f"{found['n_shared']} of its {found['n_sequences']} sequences of five "
                "words occur in the text."
            )
        head = ["", "dimensions", *sets]
        head += [f"{name} minus {base}" for base in BASES for name in sets]
        head += ["CPU s", "k sentences/s"]
        lines += [
            "",
            f"| {' | '.join(head)} |",
            "|---" + "|--:" * (len(head) - 1) + "|",
        ]
        lines += [line(row, sets) for row in rows]
        lines += ["", *steps(rows)]
    return "\n".join(lines) + "\n"


def line(row: Mapping[str, Any], sets: Sequence[str]) -> str:
    """Row of the table."""
    cells = [row["name"], str(row["dim"])]
    cells += [f"{row['scores'][name][0]:.2f}" for name in sets]
    for base in BASES:
        for name in sets:
            found = row["differences"].get(base, {}).get(name)
            cells.append("" if found is None else interval(found))
    total = sum(row["seconds"].values())
    cells.append(f"{total:.0f}" if row["seconds"] else "")
    cells.append("" if row["speed"] is None else f"{row['speed'] / 1000:.0f}")
    return f"| {' | '.join(cells)} |"


def interval(found: Sequence[float]) -> str:
    """Difference and the ends of its interval."""
    value, low, high = found
    return f"{value:+.2f} [{low:+.1f}, {high:+.1f}]"


def steps(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """CPU seconds of each step of `distill`."""
    names = list(dict.fromkeys(n for row in rows[1:] for n in row["seconds"]))
    lines = [
        f"| CPU seconds | {' | '.join(names)} |",
        "|---" + "|--:" * len(names) + "|",
    ]
    for row in rows[1:]:
        if len(row["seconds"]) > 1:
            cells = [f"{row['seconds'].get(name, 0):.1f}" for name in names]
            lines.append(f"| {row['name']}, {row['dim']} | {' | '.join(cells)} |")
    return lines
