"""What commands print: tables on a terminal, plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header; in a pipe, with tabs between the columns.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequence of str
    """
    if not sys.stdout.isatty():
        for row in [header, *rows]:
            click.echo("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in header:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)


def size(n_bytes: int) -> str:
    """Number of bytes for people, in decimal units.

    Parameters
    ----------
    n_bytes : int

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
