"""Parameter types of the command line and shell completion."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    SizeType = click.ParamType[int]
    ParamType = click.ParamType[tuple[str, Any]]
    WeightsType = click.ParamType[list["Weight"]]
else:  # ParamType is generic since click 8.4
    SizeType = ParamType = WeightsType = click.ParamType

# A number for all layers, or several from the first layer to the last.
Weight = float | tuple[float, ...]
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Size(SizeType):
    """Number of bytes, such as 5GB or 64MiB."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse a number of bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+) *([a-z]*?)b?", value.strip().lower())
        if match is None or match[2] not in UNITS:
            self.fail(f"must be a size such as 5GB or 64MiB, found {value!r}")
        return int(float(match[1]) * UNITS[match[2]])


class Param(ParamType):
    """Parameter name and value, such as p=2."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Parse a name and a value: JSON or Python if possible, else a string."""
        name, equals, text = value.partition("=")
        if not (name and equals):
            self.fail(f"must be name=value, found {value!r}")
        for read in (json.loads, float, ast.literal_eval):
            with suppress(ValueError, SyntaxError):
                return name, read(text)
        return name, text


def as_params(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Convert pairs of name and value to a dict.

    Parameters
    ----------
    pairs : sequence of (str, value)
        Parameters as given on the command line.

    Returns
    -------
    dict of str to value

    Raises
    ------
    click.UsageError
        If a name occurs twice.

    Examples
    --------
    >>> as_params([("k", 2)])
    {'k': 2}
    """
    params: dict[str, Any] = {}
    for name, value in pairs:
        if name in params:
            raise click.UsageError(
                f"each parameter must be given once, found {name}={params[name]} and "
                f"{name}={value}"
            )
        params[name] = value
    return params


def split_ranges(
    params: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Split parameters into values and ranges, such as .1:.9.

    Parameters
    ----------
    params : mapping of str to value
        Return value of `as_params`.

    Returns
    -------
    values : dict of str to value
        Parameters with a single value.
    ranges : dict of str to (low, high)
        Parameters with a range of numbers.

    Examples
    --------
    >>> split_ranges({"scale": 0.5, "density": ".1:.9"})
    ({'scale': 0.5}, {'density': (0.1, 0.9)})
    """
    values, ranges = dict(params), {}
    for name, value in params.items():
        low, colon, high = value.partition(":") if isinstance(value, str) else ("",) * 3
        with suppress(ValueError):
            if colon:
                ranges[name] = float(low), float(high)
                del values[name]
    return values, ranges


class Weights(WeightsType):
    """Comma-separated weights, such as .7,.3, or by depth, such as 0..1,1..0."""

    name = "w1,w2,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Weight]:
        """Parse weights separated by commas or whitespace."""
        if not isinstance(value, str):
            return list(value)
        numbers = [
            _weight(text) for text in re.split(r"\s*,\s*|\s+", value.strip(" []()"))
        ]
        weights = [number for number in numbers if number is not None]
        if len(weights) < len(numbers):
            self.fail(f"must be numbers with commas between them, found {value!r}")
        return weights


def split_weights(
    members: tuple[str, ...],
    weights_option: Sequence[Weight] | None = None,
    *,
    is_sorted: bool = False,
) -> tuple[list[str], Sequence[Weight] | None]:
    """Split members of the form PATH:WEIGHT, and merge them with ``--weights``.

    Parameters
    ----------
    members : tuple of str
        Paths, each optionally followed by a colon and a weight: a number, a fraction, a
        percentage, or several of them from the first layer to the last with two dots
        between them. A member that exists as a file is a path without a weight.
    weights_option : sequence of (float or tuple of float) or None, default=None
        Value of ``--weights``; None if not passed.
    is_sorted : bool, default=False
        Whether options such as ``--last`` choose the members and sort them by step.

    Returns
    -------
    paths : list of str
        Path of each member.
    weights : list of (float or tuple of float) or None
        Weight of each member; None if no weights are given.

    Raises
    ------
    click.UsageError
        If a weight is not a number, only some members have one, weights are given in
        both ways, or weights in members are combined with options that sort them.

    Examples
    --------
    >>> split_weights(("a.pt:.7", "b.pt:30%"))
    (['a.pt', 'b.pt'], [0.7, 0.3])
    >>> split_weights(("a.pt:0..1", "b.pt:1..0"))
    (['a.pt', 'b.pt'], [(0.0, 1.0), (1.0, 0.0)])
    >>> split_weights(("a.pt", "b.pt"))
    (['a.pt', 'b.pt'], None)
    """
    split = [_split(member) for member in members]
    paths, bare = [path for path, _ in split], [p for p, w in split if w is None]
    weights = [weight for _, weight in split if weight is not None]
    stray = [path for path in bare if _is_stray(path)]
    if weights_option is not None and stray:
        listed = ",".join(
            "..".join(f"{n:g}" for n in (w if isinstance(w, tuple) else (w,)))
            for w in [*weights_option, *(float(p.strip(",")) for p in stray)]
        )
        raise click.UsageError(
            f"--weights must be one list, with commas and without spaces: found "
            f"{stray[0]} among the members; write --weights {listed}"
        )
    if weights and weights_option is not None:
        raise click.UsageError("weights are given twice: with --weights and with :")
    if weights and is_sorted:
        raise click.UsageError(
            "--last, --best, --steps, --epochs and --tokens sort members by step: pass "
            "--weights, in the order of the steps"
        )
    if weights and bare:
        raise click.UsageError(
            "all members must have a weight, or none: found "
            f"{bare[0]} without a weight, and {len(weights)} of {len(paths)} members "
            "with one"
        )
    return paths, weights or (None if weights_option is None else list(weights_option))


def _split(member: str) -> tuple[str, Weight | None]:
    """Split a member into its path and its weight or None."""
    path, colon, text = member.rpartition(":")
    if not colon or Path(member).exists():
        return member, None
    weight = _weight(text)
    if weight is None and Path(path).exists():
        raise click.UsageError(
            f"the weight of {path} must be a number such as .7, 70% or 1/3, or "
            f"from the first layer to the last such as 0..1, found {text!r}"
        )
    return (member, None) if weight is None else (path, weight)


def _is_stray(path: str) -> bool:
    """Whether a member is a number that belongs to a list of weights with spaces."""
    number = re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", path.strip(","))
    return number is not None and not Path(path).exists()


def _weight(text: str) -> Weight | None:
    """Parse a weight, or several with two dots between them; None if it is neither."""
    points = [_number(point) for point in text.split("..")]
    numbers = [point for point in points if point is not None]
    if len(numbers) < len(points):
        return None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _number(text: str) -> float | None:
    """Parse a number, a fraction or a percentage; None if it is neither."""
    top, slash, bottom = text.strip().removesuffix("%").partition("/")
    try:
        number = float(top) / (float(bottom) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        return None
    return number / 100 if text.strip().endswith("%") else number


def complete_rule(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the name of a rule, or of the last of several with commas."""
    from ensembles.checkpoints.methods.builtin import RULES

    before, comma, last = incomplete.rpartition(",")
    names = [name for name in sorted(RULES) if name.startswith(last)]
    return [f"{before}{comma}{name}" for name in names]


def complete_selection(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the name of a selection, in the spelling of ``--select``."""
    from ensembles.selection import SELECTIONS

    names = [name.replace("_", "-") for name in sorted(SELECTIONS)]
    return [name for name in names if name.startswith(incomplete)]
