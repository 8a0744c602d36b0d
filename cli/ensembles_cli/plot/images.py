"""Draw displays into image files, and print their numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import printable

if TYPE_CHECKING:
    from ensembles.reports.displays.display import Display

Draw = Callable[[Any], "Display"]


def write_image(draw: Draw, out: Path, *, force: bool) -> Display:
    """Draw a display on a figure of its own size, and write the figure atomically.

    Parameters
    ----------
    draw : callable (axes) -> Display
        Draws a display on the axes.
    out : Path
        Image to write.
    force : bool
        Whether an existing image is replaced.

    Returns
    -------
    Display
        The display that was drawn.
    """
    from matplotlib.figure import Figure

    from ensembles.reports.displays.figures import save_figure

    # Not pyplot, which would open a window where there is a screen.
    figure = Figure(layout="constrained")
    display = draw(figure.add_subplot())
    figure.set_size_inches(display.figsize)
    save_figure(figure, out, force=force)
    return display


def report_image(draw: Draw, out: Path, *, force: bool, as_json: bool) -> None:
    """Write the image of a display, and print its numbers.

    Parameters
    ----------
    draw : callable (axes) -> Display
        Draws a display on the axes.
    out : Path
        Image to write.
    force : bool
        Whether an existing image is replaced.
    as_json : bool
        Whether to print all numbers of the image as JSON, instead of one line.
    """
    display = write_image(draw, out, force=force)
    if as_json:
        click.echo(json.dumps({"out": str(out), **display.to_dict()}, indent=2))
    else:
        click.echo(printable(f"wrote {out}: {display.summary}"))
