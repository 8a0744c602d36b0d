"""Options of files of texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--column",
        help=(
            "Text column, by name, or by number in a table without a header.  "
            "[default: the only column, text or sentence]"
        ),
    ),
    click.option(
        "--kind",
        type=click.Choice(["lines", "csv", "tsv", "jsonl", "parquet"]),
        help="Format of FILE.  [default: by its suffix, else one text per line]",
    ),
    click.option(
        "--encoding",
        default="utf-8",
        show_default=True,
        help="Encoding of FILE; latin-1 accepts any bytes.",
    ),
)


def text_options(command: Command) -> Command:
    """Add the options of `read_texts` to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
