"""Draws the figure of the README from benchmarks/results, for light and dark pages."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STATIC = ROOT / "docs" / "_static"
# Text, bars of ensembles, bars of others.
COLORS = {
    "light": ("#24292f", "#0969da", "#afb8c1"),
    "dark": ("#e6edf3", "#4493f8", "#6e7681"),
}
WIDTH, PANEL, ROW, LABEL = 840, 270, 26, 112
SETS = ["iris", "wine", "breast cancer", "digits", "diabetes above median"]
SETS += ["five classes, hard", "one in ten, noisy", "shells"]


class Panel(NamedTuple):
    """A bar chart: title, unit, and bars by name, the first of ensembles."""

    title: str
    unit: str
    bars: dict[str, float]
    form: str


def _results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _log_loss(ways: Any, way: str) -> float:
    """Mean over the sets of the log-loss relative to the best single member."""
    relative: list[float] = [
        mean(ways[name][way]["loss"]) / mean(ways[name]["best single"]["loss"])
        for name in SETS
    ]
    return mean(relative)


def panels() -> list[Panel]:
    """Panels of the figure, from the committed results.

    Returns
    -------
    list of Panel
    """
    seconds = {
        row["way"]: row["wall"]["median"]
        for row in _results("checkpoints")["results"]
        if row["members"] == 3 and row["cache"] == "warm"
    }
    ways = _results("predictions")["ways"]
    speed = _results("embedding_speed")["results"]
    return [
        Panel(
            "Average 3 checkpoints of 1.2 GB",
            "seconds",
            {
                "ensembles": seconds["ensemble mean"],
                "NumPy loop": seconds["numpy loop"],
                "PyTorch loop": seconds["torch loop"],
                "mergekit": seconds["mergekit linear"],
            },
            ".1f",
        ),
        Panel(
            "Ensemble five classifiers",
            "log-loss, best member = 1",
            {
                "ensembles": _log_loss(ways, "ours, default"),
                "stacking": _log_loss(ways, "StackingClassifier"),
                "AutoGluon": _log_loss(ways, "AutoGluon EnsembleSelection"),
                "soft voting": _log_loss(ways, "VotingClassifier, soft"),
            },
            ".2f",
        ),
        Panel(
            "Embed a sentence",
            "microseconds of CPU",
            {
                "ensembles": speed["ensembles, warm"]["cpu"]["median"],
                "model2vec": speed["model2vec"]["cpu"]["median"],
            },
            ".1f",
        ),
    ]


def _bars(panel: Panel, left: int, colors: tuple[str, str, str]) -> list[str]:
    _, own, other = colors
    lines = [
        f'<text x="{left}" y="20" font-weight="600">{escape(panel.title)}</text>',
        f'<text x="{left}" y="38" font-size="11" opacity=".75">{escape(panel.unit)}'
        "</text>",
    ]
    longest = max(panel.bars.values())
    for row, (name, value) in enumerate(panel.bars.items()):
        top = 52 + row * ROW
        width = max(value / longest * (PANEL - LABEL - 52), 1)
        start, color = left + LABEL - 24, other if row else own
        lines += [
            f'<text x="{left}" y="{top + 13}">{escape(name)}</text>',
            f'<rect x="{start}" y="{top}" width="{width:.1f}" height="17" rx="2" '
            f'fill="{color}"/>',
            f'<text x="{start + width + 5:.1f}" y="{top + 13}">{value:{panel.form}}'
            "</text>",
        ]
    return lines


def figure(theme: str) -> str:
    """The figure as SVG.

    Parameters
    ----------
    theme : {"light", "dark"}
        Theme of the page that shows the figure.

    Returns
    -------
    str
    """
    charts = panels()
    height = 56 + ROW * max(len(panel.bars) for panel in charts)
    colors = COLORS[theme]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" fill="{colors[0]}" font-size="13" '
        'font-family="system-ui, sans-serif" role="img">',
        "<title>Time and log-loss beside other tools; shorter bars are better</title>",
    ]
    for index, panel in enumerate(charts):
        lines += _bars(panel, 4 + index * (PANEL + 14), colors)
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    for theme in COLORS:
        path = STATIC / f"peers-{theme}.svg"
        path.write_text(figure(theme), encoding="utf-8")
        print(f"wrote {path}")
