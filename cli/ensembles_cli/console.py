"""Terminal output: tables, progress bars and messages."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

# Parameters with values in messages of the library, such as force=True; not inside a
# path, nor inside text marked by `verbatim`, nor followed by the option in parentheses,
# as in "pass force=True (--force) to replace it".
PARAMETER = re.compile(
    r"\x02([^\x03]*)\x03"
    r"|(?<![^\s(])(base|column|encoding|errors|force|frequencies|integers|key|kind|last"
    r"|missing|normalize|on_error|select|unknown|weights)"
    r"=(True|None|N|NAME|PATH|'[\w.-]+')(?![\w/])(?! \(--)"
)


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
def bar(doing: str, n_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Progress bar of bytes read, on stderr if it is a terminal.

    Parameters
    ----------
    doing : str
        Label of the bar.
    n_bytes : int or None
        Total number of bytes; None if unknown.

    Yields
    ------
    callable (int)
        Advances the bar by a number of bytes.
    """
    if not sys.stderr.isatty():
        yield lambda n_read: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=n_bytes)
        yield lambda n_read: progress.advance(task, n_read)


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


def as_options(message: str) -> str:
    """Rewrite Python parameters in a message of the library as command options.

    Parameters
    ----------
    message : str
        Message of an error or a warning. Text marked by `verbatim` is kept.

    Returns
    -------
    str
        The message without the marks, and without characters that control a terminal.

    Examples
    --------
    >>> as_options("a.pt exists; force=True replaces it")
    'a.pt exists; --force replaces it'
    >>> as_options("a.pt exists; pass force=True (--force) to replace it")
    'a.pt exists; pass force=True (--force) to replace it'
    >>> as_options("missing='skip' leaves such tensors out")
    '--missing skip leaves such tensors out'
    >>> as_options("'ema.model' has the same names (key='ema.model')")
    "'ema.model' has the same names (--key ema.model)"
    >>> as_options("on_error='skip' goes on without it")
    '--on-error skip goes on without it'
    >>> as_options("select='wise_ft' must have a base: base=PATH")
    '--select wise-ft must have a base: --base PATH'
    >>> as_options("force=True/a.pt is not a whole torch file")
    'force=True/a.pt is not a whole torch file'
    >>> as_options("no checkpoint at runs/force=True")
    'no checkpoint at runs/force=True'
    >>> as_options(f"force=True: {verbatim('kind=None')}")
    '--force: kind=None'
    """
    return printable(PARAMETER.sub(_as_option, message))


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


def verbatim(text: str) -> str:
    """Mark text of the user or of another program, so that `as_options` keeps it.

    Parameters
    ----------
    text : str
        Text to mark.

    Returns
    -------
    str
        The text between two control characters, which `as_options` removes.
    """
    return f"\x02{text.translate({2: None, 3: None})}\x03"


def _as_option(found: re.Match[str]) -> str:
    if found[1] is not None:
        return found[1]
    option, value = f"--{found[2].replace('_', '-')}", found[3].strip("'")
    if option == "--select":
        value = value.replace("_", "-")
    return option if value == "True" else f"{option} {value.replace('None', 'none')}"
