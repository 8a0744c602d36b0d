"""Tables of merges on several tasks, and the published order beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import t

LEVEL = 0.95
# Accuracies on eight vision tasks with CLIP ViT-B/32, as FusionBench reports them.
PUBLISHED = {
    "mean": 66.5,
    "task arithmetic": 68.0,
    "Fisher": 70.6,
    "TIES": 72.2,
    "prediction ensemble": 75.8,
    "RegMean": 82.4,
    "ISO-C": 82.8,
    "RegMean++": 84.4,
    "WUDI": 84.5,
    "multi-task training": 88.6,
    "fine-tuned": 90.3,
}
TITLES = {
    "digits": "Digits, a network of linear layers",
    "texts": "Texts, all-MiniLM-L6-v2 with frozen token embeddings",
}


def markdown(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Results as Markdown, from the facts of each backbone."""
    dates = sorted({each["date"] for each in facts.values()})
    lines = [
        f"# Merges of fine-tunes on eight tasks, {', '.join(dates)}",
        "",
        "Accuracy on test data, times 100, mean over the seeds. Normalized accuracies "
        "are divided by those of the model that was fine-tuned on the task. Each seed "
        f"has its own data and members; intervals are {LEVEL:.0%} (Student's t) over "
        "the seeds. The last column has the values of `scale`, and of WUDI's learning "
        "rate, that were the best on validation data.",
    ]
    for name, each in facts.items():
        lines += section(TITLES[name], each)
    return "\n".join(lines) + "\n"


def section(title: str, facts: Mapping[str, Any]) -> list[str]:
    """Tables of a backbone."""
    rows = facts["results"]
    scored = Scores(rows)
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    described = ", ".join(
        f"{name} {value}" for name, value in facts["settings"].items()
    )
    n_seeds = f"{len(scored.seeds)} seed{'s' if len(scored.seeds) > 1 else ''}"
    left_out = facts["left_out"]
    return [
        "",
        f"## {title}",
        "",
        f"`{facts['command']}`",
        "",
        f"{machine}.",
        "",
        f"{n_seeds}; {described}.",
        *(["", f"Not registered: {', '.join(left_out)}."] if left_out else []),
        "",
        *scored.table(),
        "",
        *scored.order(),
        "",
        *geometry(rows),
    ]


class Scores:
    """Accuracies by method, seed and task."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        results = [row for row in rows if "accuracies" in row]
        self.seeds = sorted({row["seed"] for row in results})
        self.tasks = results[0]["tasks"]
        self.by_method = {
            name: np.array(
                [row["accuracies"] for row in results if row["name"] == name]
            )
            for name in dict.fromkeys(row["name"] for row in results)
        }
        self.chosen = {
            name: [row["chosen"] for row in results if row["name"] == name]
            for name in self.by_method
        }

    def normalized(self, name: str) -> np.ndarray:
        """Normalized accuracy of each seed, mean over the tasks."""
        own = self.by_method["fine-tuned"]
        return np.asarray(100 * (self.by_method[name] / own).mean(1))

    def table(self) -> list[str]:
        """Table with a row for each method, in the order of their mean."""
        lines = [
            f"| method | {' | '.join(self.tasks)} | mean | normalized | chosen |",
            f"|---|{'--:|' * (len(self.tasks) + 2)}---|",
        ]
        means = {name: float(rows.mean()) for name, rows in self.by_method.items()}
        for name in sorted(means, key=means.__getitem__):
            rows = self.by_method[name]
            cells = [name, *(f"{value:.1f}" for value in rows.mean(0))]
            cells += [f"{means[name]:.1f}", interval(self.normalized(name))]
            chosen = sorted({f"{s:g}" for s in self.chosen[name] if s is not None})
            lines.append(f"| {' | '.join(cells)} | {', '.join(chosen)} |")
        return lines

    def order(self) -> list[str]:
        """Differences of methods that are neighbors in the published order."""
        names = [name for name in PUBLISHED if name in self.by_method]
        lines = [
            "| published order | published difference | difference here |",
            "|---|--:|--:|",
        ]
        for first, second in pairwise(names):
            difference = (self.by_method[second] - self.by_method[first]).mean(1)
            published = f"{PUBLISHED[second] - PUBLISHED[first]:+.1f}"
            here = interval(difference, "+")
            lines.append(f"| {first} < {second} | {published} | {here} |")
        return lines


def interval(values: np.ndarray, sign: str = "") -> str:
    """Mean with its interval; without one for a single seed."""
    mean = f"{values.mean():{sign}.1f}"
    if len(values) < 2:
        return mean
    error = values.std(ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {t.ppf((1 + LEVEL) / 2, len(values) - 1) * error:.1f}"


def geometry(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sizes and angles of the task vectors, mean over the seeds."""
    described = [row["geometry"] for row in rows if "geometry" in row]
    return [
        "; ".join(
            f"{name}: {np.mean([each[name] for each in described]):.3f}"
            for name in described[0]
        )
        + "."
    ]
