"""Plots of the differences between two checkpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.atomic_io import atomic_output
from ensembles.checkpoints.inspection.differences import Difference, TensorDifference
from ensembles.checkpoints.planning.layers import layers_of

SUFFIXES = (".png", ".svg", ".pdf")
MOST_KINDS = 40  # columns of a heat map; with more, layers are drawn as bars
UNCHANGED = "#dddddd"
FROM_ZERO = "#cc3333"  # the tensor of a is 0, so its relative change is infinite
LABELS = 60  # rows or columns that get a label each


def import_figure() -> Any:
    """Import and return matplotlib's class for figures.

    Returns
    -------
    type

    Raises
    ------
    ImportError
        If matplotlib is not installed; the message has the command that installs it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "a plot needs matplotlib: pip install 'ensemble-avg[plot]'"
        ) from None
    return Figure


def check_plot(path: str | os.PathLike[str]) -> Path:
    """Path of a plot, if its format is supported and matplotlib is installed.

    Parameters
    ----------
    path : path
        Path of the image to write.

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the suffix is not .png, .svg or .pdf.
    """
    if not str(path).lower().endswith(SUFFIXES):
        raise ValueError(
            f"a plot must have the suffix {', '.join(SUFFIXES)}, found {path}"
        )
    import_figure()
    return Path(path)


def plot_difference(
    difference: Difference, path: str | os.PathLike[str], *, force: bool = False
) -> None:
    """Draw the relative change of each tensor, by layer and position in the layer.

    A checkpoint without repeated layers is drawn as bars, one for each layer. Unchanged
    tensors are gray.

    Parameters
    ----------
    difference : Difference
        Result of `diff`.
    path : path
        Image to write, with the suffix ``.png``, ``.svg`` or ``.pdf``.
    force : bool, default=False
        Whether an existing file is replaced.

    Raises
    ------
    FileExistsError
        If the file exists, unless ``force``.
    ImportError
        If matplotlib is not installed.
    ValueError
        If the suffix is unknown, or no tensor can be compared.
    """
    out = check_plot(path)
    if not difference.tensors:
        raise ValueError(
            f"{difference.a} and {difference.b} have no tensor of the same name and "
            "shape to plot"
        )
    layers, kinds, changes = _grid(difference.tensors)
    if len(kinds) < len(layers) and len(kinds) <= MOST_KINDS:
        figure = _heat_map(layers, kinds, changes)
    else:
        figure = _bars(difference)
    figure.suptitle(
        f"Relative change ‖b - a‖ / ‖a‖\na: {difference.a}\nb: {difference.b}",
        fontsize=9,
    )
    with atomic_output(out, folder=False, force=force) as temporary:
        metadata = {"Date": None} if out.suffix.lower() == ".svg" else None
        figure.savefig(
            temporary, format=out.suffix[1:].lower(), dpi=150, metadata=metadata
        )


def _grid(
    tensors: Sequence[TensorDifference],
) -> tuple[list[str], list[str], Float64]:
    """Relative changes by layer and by the rest of the name; NaN for absent tensors."""
    by_name = {tensor.name: tensor for tensor in tensors}
    layers = layers_of(by_name)
    kinds: dict[str, int] = {}
    for layer, names in layers.items():
        for name in names:
            kinds.setdefault(_kind(name, layer), len(kinds))
    changes = np.full((len(layers), len(kinds)), np.nan)
    for row, (layer, names) in zip(changes, layers.items(), strict=True):
        for name in names:
            row[kinds[_kind(name, layer)]] = by_name[name].relative
    return list(layers), list(kinds), changes


def _kind(name: str, layer: str) -> str:
    return name.removeprefix(layer).removeprefix(".") or name


def _heat_map(layers: list[str], kinds: list[str], changes: Float64) -> Any:
    """Figure with a row for each layer and a column for each kind of tensor."""
    from matplotlib.colors import ListedColormap, LogNorm

    height = min(max(2.0 + 0.18 * len(layers), 3.0), 30.0)
    figure = import_figure()(
        figsize=(max(3.5 + 0.3 * len(kinds), 5.0), height), layout="constrained"
    )
    axes = figure.add_subplot()
    unchanged = np.where(changes == 0, 0.0, np.nan)
    axes.imshow(unchanged, aspect="auto", cmap=ListedColormap([UNCHANGED]))
    changed = np.where((changes > 0) & np.isfinite(changes), changes, np.nan)
    from_zero = np.where(np.isinf(changes), 0.0, np.nan)
    axes.imshow(from_zero, aspect="auto", cmap=ListedColormap([FROM_ZERO]))
    if np.isfinite(changed).any():
        low, high = np.nanmin(changed), np.nanmax(changed)
        norm = LogNorm(low, high if high > low else low * 1.01)
        image = axes.imshow(changed, aspect="auto", norm=norm, cmap="viridis")
        scale = figure.colorbar(image, ax=axes)
        scale.set_label("relative change (gray: none; red: from 0)", fontsize=8)
    axes.set_xticks(range(len(kinds)), kinds, rotation=90, fontsize=7)
    shown = range(0, len(layers), -(-len(layers) // LABELS))
    axes.set_yticks(shown, [layers[row] for row in shown], fontsize=7)
    return figure


def _bars(difference: Difference) -> Any:
    """Figure with a horizontal bar for each layer, in the order of a."""
    order = layers_of([tensor.name for tensor in difference.tensors])
    modules = {module.name: module for module in difference.modules()}
    values = np.array([modules[name].relative for name in order])
    height = min(max(1.5 + 0.2 * len(order), 2.5), 30.0)
    figure = import_figure()(figsize=(7.0, height), layout="constrained")
    axes = figure.add_subplot()
    drawn = np.where(np.isfinite(values), values, 0.0)
    axes.barh(range(len(order)), drawn)
    if (drawn > 0).any():
        axes.set_xscale("log")
    names = list(order)
    shown = range(0, len(names), -(-len(names) // LABELS))
    axes.set_yticks(shown, [names[row] for row in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("relative change (no bar: unchanged)")
    return figure
