"""Picture of the losses along the runs, for `bench_runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import run_training
from run_averages import LAST
from run_report import LEVEL, Losses, n_seeds, wsd
from run_training import Settings
from scipy.stats import t

# Colors of Okabe and Ito, which the color-blind can tell apart, and line styles.
STYLES: dict[str, dict[str, Any]] = {
    "constant rate": {"color": "#7f7f7f", "linewidth": 1.2},
    "constant rate, averaged (LAWA)": {"color": "#0072B2", "marker": "o"},
    "decay over the last fifth (WSD)": {"color": "#D55E00", "linestyle": "--"},
    "cosine decay over the whole run": {"color": "#009E73", "linestyle": "-."},
}
FIRST = 0.4  # share of the run that is left out at the start


def draw(facts: Mapping[str, Any], path: Path) -> None:
    """Draw a panel for each text, and save the picture."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings = Settings(**facts["settings"])
    texts = facts["texts"]
    figure = Figure(figsize=(max(4.6 * len(texts), 6.5), 4.2), layout="constrained")
    panels = figure.subplots(1, len(texts), squeeze=False)[0]
    for axes, (text, entry) in zip(panels, texts.items(), strict=True):
        draw_panel(axes, Losses(entry["losses"]), settings)
        axes.set_title(f"{text}, {n_seeds(entry)}", fontsize=10)
        axes.set_xlabel("characters trained on, millions")
    panels[0].set_ylabel("test loss, nats per character")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    with rc_context({"svg.hashsalt": "runs"}):
        figure.savefig(path, metadata={"Date": None}, facecolor="white")


def draw_panel(axes: Any, losses: Losses, settings: Settings) -> None:
    """Lines of one text, with bands of the means over seeds."""
    first = FIRST * settings.n_steps
    lines: list[tuple[str, Sequence[int], list[Any]]] = []
    names = list(STYLES)
    for name, run in ((names[0], "constant"), (names[3], "cosine")):
        steps = [step for step in losses.steps(run) if step >= first]
        lines.append((name, steps, [losses.last(run, step) for step in steps]))
    steps = [step for step in losses.steps("constant", "LAWA") if step >= first]
    merged = [losses.choose([("constant", step)], ["LAWA"]).test for step in steps]
    lines.append((names[1], steps, merged))
    for length in (settings.n_steps // 2, settings.n_steps):
        branches = wsd(length)
        steps = losses.steps(branches[0][0])
        start = round((1 - run_training.DECAY) * length)
        values = [losses.last("constant", start)]
        for step in steps:
            ways = [(run, step) for run, _ in branches]
            values.append(losses.choose(ways, [LAST]).test)
        lines.append((names[2], [start, *steps], values))
    drawn = set()
    for name, steps, values in sorted(lines, key=lambda line: names.index(line[0])):
        label = None if name in drawn else name
        drawn.add(name)
        draw_line(axes, steps, np.array(values), label, STYLES[name])
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_line(
    axes: Any, steps: Sequence[int], values: Any, label: str | None, style: Any
) -> None:
    """Mean over seeds, with a band of its confidence interval."""
    tokens = run_training.N_WINDOWS * run_training.Size(0).context
    x = np.array(steps) * tokens / 1e6
    mean = values.mean(axis=1)
    axes.plot(x, mean, label=label, markersize=3.5, **style)
    n = values.shape[1]
    if n > 1:
        error = values.std(axis=1, ddof=1) / np.sqrt(n)
        half = t.ppf((1 + LEVEL) / 2, n - 1) * error
        axes.fill_between(
            x, mean - half, mean + half, color=style["color"], alpha=0.15, linewidth=0
        )
