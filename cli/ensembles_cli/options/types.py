"""What users type, turned into values."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
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
        """Name and value; a value that is neither JSON nor a number is a text."""
        name, equals, text = value.partition("=")
        if not (name and equals):
            self.fail(f"must be name=value, found {value!r}")
        for read in (json.loads, float):
            with suppress(ValueError):
                return name, read(text)
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
        if not isinstance(value, str):
            return list(value)
        found = [
            _number(text) for text in re.split(r"\s*,\s*|\s+", value.strip(" []()"))
        ]
        weights = [number for number in found if number is not None]
        if len(weights) < len(found):
            self.fail(f"must be numbers with commas between them, found {value!r}")
        return weights


def split_weights(
    members: tuple[str, ...],
    given: Sequence[float] | None = None,
    *,
    last: int | None = None,
) -> tuple[list[str], list[float] | None]:
    """Paths, and weights written behind them or given as a list.

    Parameters
    ----------
    members : tuple of str
        Each a path, or a path and a weight with a colon between them: a number, a
        fraction or a percentage. What exists by its whole name is a path.
    given : sequence of float or None, default=None
        By ``--weights``.
    last : int or None, default=None
        As ``--last``, by which members are sorted.

    Returns
    -------
    paths : list of str
    weights : list of float or None
        None if no member has one.

    Raises
    ------
    click.UsageError
        If a weight is no number, some members have one and others none, or weights
        are given in two ways.

    Examples
    --------
    >>> split_weights(("a.pt:.7", "b.pt:30%"))
    (['a.pt', 'b.pt'], [0.7, 0.3])
    >>> split_weights(("a.pt", "b.pt"))
    (['a.pt', 'b.pt'], None)
    """
    split = [_split(member) for member in members]
    paths, bare = [path for path, _ in split], [p for p, w in split if w is None]
    weights = [weight for _, weight in split if weight is not None]
    stray = [path for path in bare if _is_stray(path)]
    if given is not None and stray:
        listed = ",".join(
            f"{number:g}" for number in [*given, *(float(p.strip(",")) for p in stray)]
        )
        raise click.UsageError(
            f"--weights must be one list, with commas and without spaces: found "
            f"{stray[0]} among the members; write --weights {listed}"
        )
    if weights and given is not None:
        raise click.UsageError("weights are given twice: with --weights and with :")
    if weights and last:
        raise click.UsageError(
            "--last sorts by step: give weights in that order, with --weights"
        )
    if weights and bare:
        one = len(weights) == 1
        raise click.UsageError(
            f"every member needs a weight or none: found {len(weights)} "
            f"weight{'s' * (not one)} for {len(paths)} members, none behind {bare[0]}"
        )
    return paths, weights or (None if given is None else list(given))


def _split(member: str) -> tuple[str, float | None]:
    """Path and weight of a member."""
    path, colon, text = member.rpartition(":")
    if not colon or Path(member).exists():
        return member, None
    weight = _number(text)
    if weight is None and Path(path).exists():
        raise click.UsageError(
            f"the weight of {path} must be a number such as .7, 70% or 1/3, found "
            f"{text!r}"
        )
    return (member, None) if weight is None else (path, weight)


def _is_stray(path: str) -> bool:
    """Whether it is a number of a list of weights that was written with spaces."""
    number = re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", path.strip(","))
    return number is not None and not Path(path).exists()


def _number(text: str) -> float | None:
    """Number, also as a fraction or a percentage."""
    top, slash, bottom = text.strip().removesuffix("%").partition("/")
    try:
        number = float(top) / (float(bottom) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        return None
    return number / 100 if text.strip().endswith("%") else number


def complete_rule(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Names of rules that begin with what is typed."""
    from ensembles.rules.builtin import RULES

    return [name for name in sorted(RULES) if name.startswith(incomplete)]


def complete_selection(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Names of selections, as --select takes them, that begin with what is typed."""
    from ensembles.selection import SELECTIONS

    names = [name.replace("_", "-") for name in sorted(SELECTIONS)]
    return [name for name in names if name.startswith(incomplete)]
