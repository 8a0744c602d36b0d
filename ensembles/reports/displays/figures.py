"""Colors, labels and image files of displays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensembles.atomic_io import atomic_output, check_absent

SUFFIXES = (".png", ".svg", ".pdf")
# Colors by Okabe and Ito, which remain distinct with color vision deficiencies.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY = "#E69F00", "#CC79A7", "#56B4E9"
CURVES = (VERMILLION, GREEN, PURPLE, ORANGE, SKY)  # after a first curve in blue
GRAY, LIGHT = "#6E6E6E", "#D9D9D9"
COLOR_MAP = "cividis"
LONGEST = 32  # characters of a label
DPI = 150
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def import_pyplot() -> Any:
    """Import and return ``matplotlib.pyplot``.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If matplotlib is not installed; the message has the command that installs it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "a display needs matplotlib: pip install 'ensemble-avg[plot]'"
        ) from None
    return plt


def check_image(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Path of an image that can be written.

    Parameters
    ----------
    path : path
        Path of the image to write.
    force : bool, default=False
        Whether an existing file is replaced.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If the file exists, unless ``force``.
    ImportError
        If matplotlib is not installed.
    ValueError
        If the suffix is not .png, .svg or .pdf.
    """
    if not str(path).lower().endswith(SUFFIXES):
        raise ValueError(
            f"an image must have the suffix {', '.join(SUFFIXES)}, found {path}"
        )
    import_pyplot()
    check_absent(Path(path), force=force, folder=False)
    return Path(path)


def save_figure(
    figure: Any, path: str | os.PathLike[str], *, force: bool = False
) -> None:
    """Write a figure to an image, atomically.

    The same figure gives the same bytes: an SVG has neither a date nor random ids.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Figure to write.
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
        If the suffix is unknown.
    """
    out = check_image(path, force=force)
    from matplotlib import rc_context

    suffix = out.suffix[1:].lower()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with (
        atomic_output(out, folder=False, force=force) as temporary,
        rc_context({"svg.hashsalt": "ensembles"}),
    ):
        figure.savefig(temporary, format=suffix, dpi=DPI, metadata=dates.get(suffix))


def short_names(names: Sequence[str]) -> list[str]:
    """Labels of members: paths without their common folder, long ones shortened.

    Parameters
    ----------
    names : sequence of str
        Names of members, such as paths.

    Returns
    -------
    list of str
        At most `LONGEST` characters each, unless shortened names would be equal.

    Examples
    --------
    >>> short_names(["runs/1/model.pt", "runs/2/model.pt"])
    ['1/model.pt', '2/model.pt']
    """
    relative = without_common_folder(names)
    shortened = [shorten(name) for name in relative]
    return shortened if len(set(shortened)) == len(set(relative)) else relative


def member_names(
    members: Sequence[Any], names: Sequence[str] | None = None
) -> list[str]:
    """Labels of members: given names, else paths, else letters.

    Parameters
    ----------
    members : sequence of paths, state dicts or fitted estimators
        Members.
    names : sequence of str or None, default=None
        Names to use; None uses the paths, if all members are paths.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If the number of names is not that of the members.

    Examples
    --------
    >>> member_names(["runs/a.pt", "runs/b.pt"]), member_names([{}, {}])
    (['a.pt', 'b.pt'], ['a', 'b'])
    """
    if names is not None:
        if len(names) != len(members):
            raise ValueError(
                f"names must have an entry for each of {len(members)} members, found "
                f"{len(names)}"
            )
        return list(names)
    if all(isinstance(member, str | os.PathLike) for member in members):
        return short_names([os.fspath(member) for member in members])
    return [LETTERS[n % 26] + str(n // 26 or "") for n in range(len(members))]


def without_common_folder(names: Sequence[str]) -> list[str]:
    """Paths relative to their common folder.

    Parameters
    ----------
    names : sequence of str
        Paths.

    Returns
    -------
    list of str

    Examples
    --------
    >>> without_common_folder(["runs/1/model.pt", "runs/2/model.pt"])
    ['1/model.pt', '2/model.pt']
    >>> without_common_folder([])
    []
    """
    if not names:
        return []
    paths = [os.path.abspath(name) for name in names]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, common) for path in paths]


def shorten(text: str, longest: int = LONGEST) -> str:
    """Text without its middle, if it is too long.

    Parameters
    ----------
    text : str
        Text of one line.
    longest : int, default=32
        Maximum number of characters.

    Returns
    -------
    str

    Examples
    --------
    >>> shorten("learning-rate-0.0001-seed-3", 15)
    'learn…01-seed-3'
    """
    if len(text) <= longest:
        return text
    start = (longest - 1) // 3 + 1
    return f"{text[:start]}…{text[len(text) - (longest - 1 - start) :]}"


def mark_missing(ax: Any, x: Any) -> None:
    """Mark positions without a score by crosses at the bottom of the axes.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to draw on.
    x : array-like of shape (n,)
        Positions on the x axis; nothing is drawn if there are none.
    """
    if len(x):
        ax.plot(
            x,
            [0.03] * len(x),
            "x",
            color=VERMILLION,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            label="no score",
        )


def clear_spines(ax: Any) -> None:
    """Hide the top and right edges of axes, which hold no scale.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to change.
    """
    ax.spines[["top", "right"]].set_visible(False)
