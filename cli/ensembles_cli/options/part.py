"""Option ``--part``: which of several processes this one is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    PartType = click.ParamType["Part"]
else:  # ParamType is generic since click 8.4
    PartType = click.ParamType

# Set by torchrun for each process that it starts, besides RANK and WORLD_SIZE.
TORCHRUN = "TORCHELASTIC_RUN_ID"


class Part(NamedTuple):
    """Number of a process among several, from 0, and their number."""

    rank: int = 0
    world_size: int | None = None

    def __str__(self) -> str:
        """Format as ``--part`` takes it, counted from 1."""
        return f"{self.rank + 1}/{self.world_size}"


class _PartType(PartType):
    """Number of a process from 1, and the number of processes, such as 2/4."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Part:
        """Parse two numbers with a slash between them."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value).strip(), re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"must be between 1/n and n/n, such as 2/4, found {value!r}")
        return Part(int(match[1]) - 1, int(match[2]))


part_option = click.option(
    "--part",
    type=_PartType(),
    help=(
        "Write the weight files of process i of n, counted from 1; n processes write a "
        "directory together, and the last one completes it.  [default: the rank, if "
        "torchrun started the process, else all files]"
    ),
)


def part_of_launcher(environment: Mapping[str, str]) -> tuple[Part, list[str]]:
    """Part from the environment variables of a launcher, with notes about them.

    Parameters
    ----------
    environment : mapping of str to str
        Environment variables. Only ``RANK`` and ``WORLD_SIZE`` of torchrun are used:
        the ones of a training script's launcher may not be meant for the command.

    Returns
    -------
    part : Part
        Rank and number of processes; without torchrun, one process alone.
    notes : list of str
        Notes on the variables that were used or ignored.
    """
    ranks = environment.get("RANK", ""), environment.get("WORLD_SIZE", "")
    if not all(re.fullmatch(r"\d{1,9}", number, re.ASCII) for number in ranks):
        return Part(), []
    part = Part(*map(int, ranks))
    if not part.rank < int(ranks[1]):
        return Part(), []
    variables = f"RANK={ranks[0]} and WORLD_SIZE={ranks[1]}"
    if TORCHRUN in environment:
        return part, [
            f"{variables} are set by torchrun: this process writes part {part}; pass "
            "--part 1/1 to write everything in one process"
        ]
    if part.world_size == 1:
        return Part(), []
    return Part(), [
        f"{variables} are set, but not by torchrun, and have no effect; pass --part "
        f"{part} to write only this part"
    ]
