"""The change of each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles._typing import Array
from ensembles.checkpoints import diff
from ensembles.reports import DifferenceDisplay
from ensembles.reports.displays.figures import BLUE, LIGHT, VERMILLION

LAYERED = {f"h.{i}.{n}": np.ones(4) for i in range(5) for n in ("fc", "out")}
CHANGED = {**LAYERED, "h.1.fc": np.full(4, 1.5), "h.2.fc": np.zeros(4)}
FLAT = {"fc.weight": np.ones(2), "emb.table": np.zeros(3), "ln.scale": np.ones(2)}


def display_of(a: dict[str, Array], b: dict[str, Array]) -> DifferenceDisplay:
    return DifferenceDisplay.from_difference(diff(a, b))


def images(display: DifferenceDisplay) -> list[Any]:
    return [np.ma.filled(image.get_array(), np.nan) for image in display.ax_.images]


def test_layers_are_rows_and_kinds_of_tensors_columns() -> None:
    display = display_of(LAYERED, CHANGED)
    assert display.layers == [f"h.{i}" for i in range(5)]
    assert display.kinds == ["fc", "out"]
    unchanged, from_zero, changed = images(display)
    np.testing.assert_array_equal(changed[1], [0.5, np.nan])
    np.testing.assert_array_equal(changed[2], [1, np.nan])
    assert np.isnan(from_zero).all()
    assert np.isfinite(unchanged).sum() == 8
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == display.layers
    assert display.summary.startswith("5 layers, 3 unchanged; largest relative change")


def test_tensors_that_were_zero_and_unchanged_ones_have_colors_of_their_own() -> None:
    from matplotlib.colors import to_rgba

    display = display_of(CHANGED, LAYERED)
    _, from_zero, _ = images(display)
    np.testing.assert_array_equal(np.argwhere(np.isfinite(from_zero)), [[2, 0]])
    colors = [image.cmap(0) for image in display.ax_.images[:2]]
    assert colors == [to_rgba(LIGHT), to_rgba(VERMILLION)]
    assert display.to_dict()["changes"][2] == [None, 0]


def test_identical_checkpoints_have_no_colored_cell() -> None:
    display = display_of(LAYERED, LAYERED)
    assert len(images(display)) == 2
    assert np.isfinite(images(display)[0]).all()


def test_checkpoints_without_repeated_layers_are_bars() -> None:
    changed = {**FLAT, "fc.weight": np.full(2, 1.5), "emb.table": np.ones(3)}
    display = display_of(FLAT, changed)
    bars = display.ax_.patches
    np.testing.assert_allclose([bar.get_width() for bar in bars], [0.5, 0, 0])
    assert {bar.get_facecolor()[:3] for bar in bars} == {(0, 114 / 255, 178 / 255)}
    assert BLUE == "#0072B2"
    (mark,) = display.ax_.lines  # emb was 0
    np.testing.assert_array_equal(mark.get_ydata(), [1])
    assert display.ax_.get_xscale() == "linear"
    assert display_of(FLAT, FLAT).ax_.get_xscale() == "linear"


def test_bars_of_very_different_changes_are_logarithmic() -> None:
    changed = {**FLAT, "fc.weight": np.full(2, 1.5), "ln.scale": np.full(2, 1.001)}
    ax = display_of(FLAT, changed).ax_
    assert ax.get_xscale() == "log"
    assert 0 < ax.get_xlim()[0] < 0.001 < 0.5 < ax.get_xlim()[1]


def test_a_hundred_layers_have_labels_for_some() -> None:
    a = {f"h.{i}.{n}": np.ones(2) for i in range(100) for n in "wb"}
    b = {name: np.full(2, 1.1) for name in a}
    display = display_of(a, b)
    assert 40 <= len(display.ax_.get_yticks()) <= 60
    assert display.figsize[1] <= 30


def test_what_cannot_be_compared_is_one_error() -> None:
    with pytest.raises(ValueError, match="no tensor of the same name"):
        display_of(LAYERED, {"x": np.ones(2)})
    with pytest.raises(ValueError, match=r"shape \(1, 2\).*found \(2, 2\)"):
        DifferenceDisplay(["x"], ["w", "b"], np.eye(2), [1.0])


def test_tensors_with_nan_do_not_look_unchanged() -> None:
    display = display_of(FLAT, {**FLAT, "fc.weight": np.array([1, np.nan])})
    (marks,) = display.ax_.lines
    assert [display.layers[row] for row in marks.get_ydata()] == ["fc"]
    assert "3 layers, 2 unchanged" in display.summary
    masked = {**FLAT, "fc.weight": np.array([1, -np.inf])}
    assert "3 layers, 3 unchanged" in display_of(masked, masked).summary
    broken = display_of(LAYERED, {**LAYERED, "h.3.out": np.array([1, 1, 1, np.inf])})
    assert np.isfinite(images(broken)[1]).tolist()[3] == [False, True]


def test_layers_are_needed() -> None:
    with pytest.raises(ValueError, match="at least one layer, found none"):
        DifferenceDisplay([], [], np.zeros((0, 0)), [])


def test_a_scale_of_one_value_has_one_number() -> None:
    scale = display_of(LAYERED, {**LAYERED, "h.1.fc": np.full(4, 1.5)}).figure_.axes[1]
    assert [label.get_text() for label in scale.get_yticklabels()] == ["0.5"]
