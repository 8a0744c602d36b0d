"""What users type, turned into values."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    SizeType = click.ParamType[int]
    ParamType = click.ParamType[tuple[str, Any]]
    WeightsType = click.ParamType[list[float]]
else:  # types of parameters are generic from click 8.4 on
    SizeType = ParamType = WeightsType = click.ParamType

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Size(SizeType):
    """A number of bytes, as 5GB or 64MiB."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes for a text."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+) *([a-z]*?)b?", value.strip().lower())
        if found is None or found[2] not in UNITS:
            self.fail(f"must be a size such as 5GB or 64MiB, found {value!r}")
        return int(float(found[1]) * UNITS[found[2]])


class Param(ParamType):
    """A parameter and its value, as p=2."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Name and value; a value that is no JSON is a text."""
        name, equals, text = value.partition("=")
        if not (name and equals):
            self.fail(f"must be name=value, found {value!r}")
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


def as_params(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Parameters by name.

    Parameters
    ----------
    pairs : sequence of (str, value)

    Returns
    -------
    dict of str to value

    Raises
    ------
    click.UsageError
        If one is given twice.

    Examples
    --------
    >>> as_params([("k", 2)])
    {'k': 2}
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise click.UsageError(
                f"each parameter must be given once, found {name}={found[name]} and "
                f"{name}={value}"
            )
        found[name] = value
    return found


class Weights(WeightsType):
    """Numbers with commas between them, as .7,.3."""

    name = "w1,w2,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        """Numbers for a text."""
        try:
            return [float(number) for number in value.split(",")]
        except ValueError:
            self.fail(f"must be numbers with commas between them, found {value!r}")


def split_weights(members: tuple[str, ...]) -> tuple[list[str], list[float] | None]:
    """Paths, and the weights written behind them.

    Parameters
    ----------
    members : tuple of str
        Each a path, or a path and a weight with a colon between them. What exists by
        its whole name is a path.

    Returns
    -------
    paths : list of str
    weights : list of float or None
        None if no member has one.

    Raises
    ------
    click.UsageError
        If some have a weight and others none.

    Examples
    --------
    >>> split_weights(("a.pt:.7", "b.pt:.3"))
    (['a.pt', 'b.pt'], [0.7, 0.3])
    >>> split_weights(("a.pt", "b.pt"))
    (['a.pt', 'b.pt'], None)
    """
    paths, weights = [], []
    for member in members:
        path, colon, text = member.rpartition(":")
        weight = _number(text) if colon and not Path(member).exists() else None
        paths.append(member if weight is None else path)
        weights += [] if weight is None else [weight]
    if weights and len(weights) < len(paths):
        raise click.UsageError(
            f"every member needs a weight or none: found {len(weights)} weights for "
            f"{len(paths)} members"
        )
    return paths, weights or None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def complete_rule(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Names of rules that begin with what is typed."""
    from ensembles.rules import RULES

    return [name for name in sorted(RULES) if name.startswith(incomplete)]


def complete_selection(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Names of selections, as --select takes them, that begin with what is typed."""
    from ensembles.selection import SELECTIONS

    names = [name.replace("_", "-") for name in sorted(SELECTIONS)]
    return [name for name in names if name.startswith(incomplete)]
