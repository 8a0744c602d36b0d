"""Critical-difference picture of the mean ranks, for `bench_tabular`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tabular_report import TITLES, cliques, critical_difference, matrix, mean_ranks

OURS_COLOR, OTHER_COLOR = "#0072B2", "#404040"  # blue of Okabe and Ito
ROW = 0.24  # inches between two names


def draw(facts: Mapping[str, Any], path: Path) -> None:
    """Draw an axis of mean ranks for each metric, and save the picture."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    metrics = [name for name, table in facts["results"].items() if len(table) > 1]
    sizes = [matrix(facts, metric)[2].shape for metric in metrics]
    heights = [ROW * (n_ways / 2 + 5.5) for _, n_ways in sizes]
    figure = Figure(figsize=(8.4, sum(heights)), layout="constrained")
    panels = figure.subplots(
        len(metrics), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, metric in zip(panels, metrics, strict=True):
        _, ways, errors = matrix(facts, metric)
        _draw_panel(axes, ways, mean_ranks(errors), len(errors))
        difference = critical_difference(len(ways), len(errors))
        axes.set_title(
            f"{TITLES[metric]}, {len(errors)} sets: mean rank, 1 is the best.\n"
            "Bars join ways that do not differ significantly "
            f"(critical difference {difference:.2f}).",
            fontsize=10,
            pad=8,
        )
    with rc_context({"svg.hashsalt": "tabular"}):
        figure.savefig(path, metadata={"Date": None}, facecolor="white")


def _draw_panel(axes: Any, ways: list[str], ranks: Any, n_sets: int) -> None:
    """Ranks on an axis; names left and right; bars join equal ways."""
    order = np.argsort(ranks, kind="stable")
    n_left = (len(ways) + 1) // 2
    difference = critical_difference(len(ways), n_sets)
    low, high = 1.0, float(len(ways))
    runs = cliques(ranks[order].tolist(), difference)
    top = -0.6 * (len(runs) + 1)
    for index, way in enumerate(order):
        is_left = index < n_left
        row = index if is_left else len(ways) - 1 - index
        y = top - 0.9 * (row + 1)
        end = low - 0.15 if is_left else high + 0.15
        color = OURS_COLOR if ways[way].startswith("ours") else OTHER_COLOR
        axes.plot([ranks[way], ranks[way], end], [0, y, y], color=color, linewidth=1)
        axes.text(
            end,
            y,
            f" {ways[way]}  {ranks[way]:.2f} ",
            ha="right" if is_left else "left",
            va="center",
            fontsize=9,
            color=color,
            weight="bold" if ways[way].startswith("ours") else "normal",
        )
    for index, (first, last) in enumerate(runs):
        ends = [ranks[order[first]] - 0.04, ranks[order[last]] + 0.04]
        axes.plot(ends, [-0.6 * (index + 1)] * 2, color="black", linewidth=3.2)
    axes.set(
        xlim=(low - 0.4 * len(ways), high + 0.4 * len(ways)),
        ylim=(top - 0.9 * (n_left + 0.8), 0),
    )
    _draw_axis(axes, low, high)


def _draw_axis(axes: Any, low: float, high: float) -> None:
    """The axis of ranks at the top."""
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(low, high + 1))
    axes.tick_params(labelsize=8, pad=1)
    axes.yaxis.set_visible(False)
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    axes.spines["top"].set_bounds(low, high)
