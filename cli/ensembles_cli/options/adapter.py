"""Options of merges of low-rank adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def ranks(command: Command) -> Command:
    """Add ``--rank`` and ``--energy``."""
    command = click.option(
        "--energy",
        type=float,
        metavar="FRACTION",
        help=(
            "Of adapters (LoRA): the smallest rank of each module that keeps this "
            "fraction of the squared singular values, such as .99."
        ),
    )(command)
    return click.option(
        "--rank",
        "largest_rank",
        type=int,
        help=(
            "Of adapters (LoRA): largest rank of the result.  [default: the exact sum, "
            "whose rank is the sum of the ranks]"
        ),
    )(command)
