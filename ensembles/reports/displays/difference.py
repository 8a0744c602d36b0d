"""Display of the change of each layer between two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.compatibility.layers import layers_of
from ensembles.checkpoints.inspection.differences import Difference, TensorDifference
from ensembles.reports.displays.display import Display, as_json
from ensembles.reports.displays.figures import (
    BLUE,
    COLOR_MAP,
    LIGHT,
    VERMILLION,
    clear_spines,
    import_pyplot,
    shorten,
)

MOST_KINDS = 40  # columns of a heat map; with more, layers are drawn as bars
WIDE = 30  # ratio of the changes of layers from which bars are logarithmic
LABELS = 60  # rows that get a label each


class DifferenceDisplay(Display):
    """Relative change of each layer between two checkpoints.

    A heat map has a row for each layer and a column for each kind of tensor in it. A
    checkpoint without repeated layers is drawn as bars, one for each layer. Unchanged
    tensors are gray, and tensors that were 0 are vermillion.

    Parameters
    ----------
    layers : sequence of str
        Names of the layers.
    kinds : sequence of str
        Names of the tensors inside of a layer.
    changes : array-like of shape (n_layers, n_kinds)
        Relative change of each tensor, the L2 norm of b - a divided by that of a; NaN
        if a layer has no such tensor, infinity if only a is 0, or if the tensor has
        changed and has NaN or infinity.
    layer_changes : array-like of shape (n_layers,)
        Relative change of all tensors of each layer together.
    names : pair of str, default=("a", "b")
        Names of the two checkpoints.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If the shapes do not fit together, or there are no layers.
    """

    def __init__(
        self,
        layers: Sequence[str],
        kinds: Sequence[str],
        changes: ArrayLike,
        layer_changes: ArrayLike,
        *,
        names: tuple[str, str] = ("a", "b"),
    ) -> None:
        self.layers, self.kinds = list(layers), list(kinds)
        self.changes = np.asarray(changes, np.float64)
        self.layer_changes = np.asarray(layer_changes, np.float64)
        self.names = names
        if not self.layers:
            raise ValueError("layers must have at least one layer, found none")
        shape = len(self.layers), len(self.kinds)
        if self.changes.shape != shape or self.layer_changes.shape != shape[:1]:
            raise ValueError(
                f"changes must have the shape {shape}, (n_layers, n_kinds), and "
                f"layer_changes {shape[:1]}; found {self.changes.shape} and "
                f"{self.layer_changes.shape}"
            )

    @classmethod
    def from_difference(
        cls,
        difference: Difference,
        *,
        names: tuple[str, str] | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the difference of two checkpoints.

        Parameters
        ----------
        difference : Difference
            Result of `ensembles.checkpoints.diff`.
        names : pair of str or None, default=None
            Names of the two checkpoints; None uses their paths.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        DifferenceDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the checkpoints have no tensor of the same name and shape.
        """
        import_pyplot()
        if not difference.tensors:
            raise ValueError(
                f"{difference.a} and {difference.b} have no tensor of the same name "
                "and shape to plot"
            )
        layers, kinds, changes = _grid(difference.tensors)
        by_layer = {module.name: module.relative for module in difference.modules()}
        with_nan = {t.name for t in difference.tensors if _has_new_nan(t)}
        for layer, tensor_names in layers_of(
            {t.name: t for t in difference.tensors}
        ).items():
            if with_nan.intersection(tensor_names):
                by_layer[layer] = np.inf
        display = cls(
            layers,
            kinds,
            changes,
            [by_layer[layer] for layer in layers],
            names=(difference.a, difference.b) if names is None else names,
        )
        return display.plot(ax)

    @property
    def is_heat_map(self) -> bool:
        """Whether layers repeat, so that a heat map is drawn instead of bars."""
        return 1 < len(self.kinds) < len(self.layers) and len(self.kinds) <= MOST_KINDS

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        n_layers = len(self.layers)
        if self.is_heat_map:
            height = min(max(2.4 + 0.18 * n_layers, 3.4), 30.0)
            return max(4.4 + 0.3 * len(self.kinds), 6.0), height
        return 7.0, min(max(1.5 + 0.2 * n_layers, 2.5), 30.0)

    @property
    def summary(self) -> str:
        """One line with the most changed layer and the number of unchanged ones."""
        top = int(np.argmax(self.layer_changes))
        n_same = int((self.layer_changes == 0).sum())
        return (
            f"{len(self.layers)} layers, {n_same} unchanged; largest relative change "
            f"{self.layer_changes[top]:.3g} in {self.layers[top]}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "names": list(self.names),
            "layers": self.layers,
            "kinds": self.kinds,
            "changes": as_json(self.changes),
            "layer_changes": as_json(self.layer_changes),
        }

    def _draw(self, ax: Any) -> None:
        if self.is_heat_map:
            self._draw_heat_map(ax)
        else:
            self._draw_bars(ax)
        shown = range(0, len(self.layers), -(-len(self.layers) // LABELS))
        labels = [shorten(self.layers[row], 40) for row in shown]
        ax.set_yticks(shown, labels, fontsize=8)
        first, second = (shorten(name, 60) for name in self.names)
        ax.set_title(f"a: {first}\nb: {second}", fontsize=9, loc="left")

    def _draw_heat_map(self, ax: Any) -> None:
        """Draw a row for each layer and a column for each kind of tensor."""
        from matplotlib.colors import ListedColormap, LogNorm

        changes = self.changes
        for cells, color in ((changes == 0, LIGHT), (np.isinf(changes), VERMILLION)):
            image = np.where(cells, 0.0, np.nan)
            ax.imshow(image, aspect="auto", cmap=ListedColormap([color]))
        changed = np.where((changes > 0) & np.isfinite(changes), changes, np.nan)
        if np.isfinite(changed).any():
            low, high = np.nanmin(changed), np.nanmax(changed)
            high = max(high, low * 1.01)
            image = ax.imshow(
                changed, aspect="auto", norm=LogNorm(low, high), cmap=COLOR_MAP
            )
            scale = ax.figure.colorbar(image, ax=ax)
            ticks = np.geomspace(low, high, 5 if high > 1.5 * low else 1)
            scale.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
            scale.minorticks_off()
            scale.set_label(
                "relative change ‖b - a‖ / ‖a‖\n(gray: none; red: from 0, or NaN)"
            )
        ax.set_xticks(
            range(len(self.kinds)),
            [shorten(kind) for kind in self.kinds],
            rotation=90,
            fontsize=8,
        )

    def _draw_bars(self, ax: Any) -> None:
        """Draw a horizontal bar for each layer, in the order of a."""
        changes = self.layer_changes
        drawn = np.where(np.isfinite(changes), changes, 0.0)
        ax.barh(range(len(self.layers)), drawn, color=BLUE)
        changed = drawn[drawn > 0]
        if len(changed) and changed.max() > WIDE * changed.min():
            ax.set_xscale("log")
            ax.set_xlim(changed.min() / 2, changed.max() * 1.5)
        marked = np.flatnonzero(~np.isfinite(changes))
        if len(marked):
            ax.plot(
                [0.01] * len(marked),
                marked,
                "D",
                color=VERMILLION,
                markersize=5,
                transform=ax.get_yaxis_transform(),
                label="from 0, or NaN",
            )
            ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        ax.invert_yaxis()
        ax.set_xlabel("relative change ‖b - a‖ / ‖a‖ (no bar: unchanged)")
        clear_spines(ax)


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
            tensor = by_name[name]
            has_nan = _has_new_nan(tensor)
            row[kinds[_kind(name, layer)]] = np.inf if has_nan else tensor.relative
    return list(layers), list(kinds), changes


def _has_new_nan(tensor: TensorDifference) -> bool:
    """Whether a tensor differs and has NaN or infinity, which its change leaves out."""
    return bool(tensor.sums.n_nonfinite) and not tensor.is_identical


def _kind(name: str, layer: str) -> str:
    return name.removeprefix(layer).removeprefix(".") or name
