"""Plots of differences are images, written atomically."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ensembles._typing import Array
from ensembles.checkpoints import diff, plot_difference

LAYERED = {f"h.{i}.{n}": np.ones(4) for i in range(5) for n in ("fc", "out")}
CHANGED = {**LAYERED, "h.1.fc": np.full(4, 1.5), "h.2.fc": np.zeros(4)}
FLAT = {"fc": np.ones(2), "emb.weight": np.zeros(3)}


@pytest.mark.parametrize(
    ("suffix", "a", "b"),
    [
        ("png", LAYERED, CHANGED),
        ("svg", CHANGED, LAYERED),
        ("png", LAYERED, LAYERED),
        ("svg", FLAT, {"fc": np.full(2, 1.5), "emb.weight": np.ones(3)}),
        ("svg", FLAT, FLAT),
    ],
    ids=["some", "from zero", "none", "bars", "no bars"],
)
def test_a_plot_is_an_image(
    tmp_path: Path,
    suffix: str,
    a: dict[str, Array],
    b: dict[str, Array],
) -> None:
    out = tmp_path / f"x.{suffix}"
    plot_difference(diff(a, b), out)
    start = out.read_bytes()[:5]
    assert start in (b"\x89PNG\r", b"<?xml")
    assert (start == b"<?xml") == (suffix == "svg")


def test_what_cannot_be_plotted_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = diff(LAYERED, CHANGED)
    with pytest.raises(ValueError, match=r"suffix \.png, \.svg, \.pdf, found x\.gif"):
        plot_difference(found, "x.gif")
    with pytest.raises(ValueError, match="no tensor of the same name"):
        plot_difference(diff(LAYERED, {"x": np.ones(2)}), tmp_path / "x.png")
    (tmp_path / "x.png").write_text("kept")
    with pytest.raises(FileExistsError, match=r"x\.png exists"):
        plot_difference(found, tmp_path / "x.png")
    plot_difference(found, tmp_path / "x.png", force=True)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'ensemble-avg\[plot\]'"):
        plot_difference(found, tmp_path / "y.png")
