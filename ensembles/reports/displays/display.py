"""Base class of the displays."""

from __future__ import annotations

import abc
import math
from typing import Any, Self

import numpy as np

from ensembles._typing import Float64
from ensembles.reports.displays.figures import import_pyplot


class Display(abc.ABC):
    """Base class of the displays: axes to draw on, and numbers to print.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.
    """

    ax_: Any
    figure_: Any

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        return 6.4, 3.8

    @property
    @abc.abstractmethod
    def summary(self) -> str:
        """One line that states the result in numbers."""

    def plot(self, ax: Any = None) -> Self:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        Display
            The display itself, with the attributes ``ax_`` and ``figure_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(figsize=self.figsize, layout="constrained")
        self._draw(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @abc.abstractmethod
    def _draw(self, ax: Any) -> None:
        """Draw on axes."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """


def as_json(values: Any) -> Any:
    """Array as nested lists of JSON values; numbers that are not finite become None.

    Parameters
    ----------
    values : array-like
        Numbers.

    Returns
    -------
    list or number or None
    """
    listed = values.tolist() if isinstance(values, np.ndarray | np.generic) else values
    if isinstance(listed, list | tuple):
        return [as_json(value) for value in listed]
    is_number = isinstance(listed, float)
    return None if is_number and not math.isfinite(listed) else listed


def finite_or_nan(scores: Any) -> Float64:
    """Scores as float64, with NaN for scores that are missing or not finite.

    Parameters
    ----------
    scores : array-like
        Scores; None, NaN and infinity are scores that failed.

    Returns
    -------
    ndarray, float64
    """
    values = np.asarray(scores, np.float64)
    return np.where(np.isfinite(values), values, np.nan)
