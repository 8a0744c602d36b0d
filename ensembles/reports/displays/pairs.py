"""Heat maps of a value for each pair of members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.reports.displays.figures import COLOR_MAP, LIGHT, shorten

MOST_NUMBERS = 12  # members; with more, cells have no number
SHORT = 4  # characters of a name that fits above a column


def pairs_figsize(names: Sequence[str]) -> tuple[float, float]:
    """Width and height in inches of a figure with a heat map of pairs.

    Parameters
    ----------
    names : sequence of str
        Names of the members.

    Returns
    -------
    tuple of float
    """
    size = min(max(1.4 + 0.36 * len(names), 3.2), 12.0)
    longest = max(len(shorten(name)) for name in names)
    return size + 1.2 + 0.08 * longest, size


def draw_pairs(
    ax: Any,
    values: Float64,
    names: Sequence[str],
    *,
    limits: tuple[float, float],
    label: str,
    diagonal: Sequence[str] = (),
) -> None:
    """Draw a heat map of pairs, without the diagonal.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to draw on.
    values : ndarray of shape (n_members, n_members)
        Values of the pairs; NaN is written as "none".
    names : sequence of str
        Names of the members.
    limits : tuple of float
        Values with the first and the last color.
    label : str
        Name of the values, beside the colors.
    diagonal : sequence of str, default=()
        Texts of the cells on the diagonal; empty leaves them empty.
    """
    n_members = len(names)
    low, high = limits
    shown = np.where(np.eye(n_members, dtype=bool), np.nan, values)
    ax.set_facecolor(LIGHT)
    image = ax.imshow(shown, cmap=COLOR_MAP, vmin=low, vmax=high)
    ax.figure.colorbar(image, ax=ax).set_label(label)
    columns = rows = [shorten(name) for name in names]
    if max(map(len, rows)) > SHORT:  # columns are numbered, as the rows are
        columns = [f"({number})" for number in range(1, n_members + 1)]
        rows = [f"{name} {n}" for name, n in zip(rows, columns, strict=True)]
    size = 9 if n_members <= MOST_NUMBERS else 7
    ax.set_xticks(range(n_members), columns, fontsize=size)
    ax.set_yticks(range(n_members), rows, fontsize=size)
    if n_members > MOST_NUMBERS:
        return
    for row, column in np.argwhere(~np.eye(n_members, dtype=bool)):
        value = values[row, column]
        is_dark = value < (low + high) / 2
        text = "none" if np.isnan(value) else f"{value:.2f}"
        _write(ax, row, column, text, "white" if is_dark else "black")
    for member, text in enumerate(diagonal):
        _write(ax, member, member, text, "black")


def _write(ax: Any, row: int, column: int, text: str, color: str) -> None:
    """Write a text in the middle of a cell."""
    ax.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
