"""Terminal output: tables, progress bars and messages."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

# Characters that are printed as Python escapes in names and texts: control characters,
# line and column separators, direction marks, and surrogates of bytes that are not
# UTF-8, which a stream may be unable to encode.
BYTES = range(0xDC80, 0xDD00)
CONTROLS = {
    code: chr(code).encode("unicode_escape").decode()
    for code in itertools.chain(
        range(32), range(127, 160), range(0x2028, 0x202F), range(0x2066, 0x206A), BYTES
    )
}
IN_LINES = {code: text for code, text in CONTROLS.items() if code != ord("\n")}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; tab-separated if stdout is not a terminal.

    Parameters
    ----------
    header : sequence of str
        Name of each column.
    rows : sequence of sequence of str
        Cells of each row. Characters that control a terminal are escaped.
    """
    lines = [[cell.translate(CONTROLS) for cell in row] for row in [header, *rows]]
    if not sys.stdout.isatty():
        for line in lines:
            click.echo("\t".join(line))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in lines[0]:
        drawn.add_column(Text(name), overflow="fold")
    for line in lines[1:]:
        drawn.add_row(*map(Text, line))  # rich parses markup such as [i] in a str
    Console().print(drawn)


@contextmanager
def bar(
    label: str, total: int | None, *, counts_bytes: bool = True
) -> Iterator[Callable[[int], None]]:
    """Progress bar, on stderr if it is a terminal.

    Parameters
    ----------
    label : str
        Label of the bar.
    total : int or None
        Total number of bytes, or of other units; None if unknown.
    counts_bytes : bool, default=True
        Whether the units are bytes, which are shown with their speed.

    Yields
    ------
    callable (int)
        Advances the bar by a number of units.
    """
    if not sys.stderr.isatty():
        yield lambda n_done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    by_bytes = [DownloadColumn(), TransferSpeedColumn()]
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *(by_bytes if counts_bytes else [TaskProgressColumn()]),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda n_done: progress.advance(task, n_done)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars of the stages of a task, on stderr if it is a terminal.

    Yields
    ------
    callable (str, int, int)
        Sets the number of finished steps of a stage and their total.
    """
    if not sys.stderr.isatty():
        yield lambda stage, n_done, n_steps: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def show(stage: str, n_done: int, n_steps: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=n_steps)
            progress.update(tasks[stage], completed=n_done)

        yield show


def size(n_bytes: int) -> str:
    """Format a number of bytes in decimal units.

    Parameters
    ----------
    n_bytes : int
        Number of bytes.

    Returns
    -------
    str

    Examples
    --------
    >>> size(1_234_567_890)
    '1.23 GB'
    >>> size(12)
    '12 B'
    """
    value, units = float(n_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{n_bytes} B" if units[0] == "B" else f"{value:.3g} {units[0]}"


def printable(text: str) -> str:
    """Escape characters that control a terminal, such as those in names of files.

    Parameters
    ----------
    text : str
        One or several lines to print.

    Returns
    -------
    str
        The text with its line breaks, and Python escapes for all other controls.

    Examples
    --------
    >>> print(printable("member \\x1b[2J.pt"))
    member \\x1b[2J.pt
    """
    return text.translate(IN_LINES)
