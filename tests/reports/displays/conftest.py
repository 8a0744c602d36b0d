"""Figures of displays are closed after each test."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close all figures, whose number is limited."""
    import matplotlib.pyplot as plt

    yield
    plt.close("all")
