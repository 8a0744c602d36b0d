"""Validate the arguments of a soup before the first score, which may take minutes."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensembles._typing import Float64
from ensembles.atomic_io import check_free
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.soup_selection import needing_base, resolve_selection
from ensembles.registry import lookup
from ensembles.selection import SELECTIONS, Selection
from ensembles.selection.table import named

FOREIGN = (
    "base",
    "rule",
    "weights",
    "rule_params",
    "force",
)  # options that the soup sets itself


def paths_of(members: Any, base: Any, select: str) -> list[Any]:
    """Paths of the members, after the base if there is one.

    Parameters
    ----------
    members : sequence of paths
        Paths of the members.
    base : path or None
        Path of the base; required if and only if the selection needs one.
    select : str
        Name of the selection.

    Returns
    -------
    list of paths

    Raises
    ------
    TypeError
        If ``members`` is not a sequence, or a member is not a path.
    ValueError
        If there are fewer than two paths, two are the same, or ``base`` and ``select``
        do not fit together.
    """
    if isinstance(members, str | os.PathLike | Mapping):
        raise TypeError(f"members must be a sequence of paths, found {members!r:.80}")
    selection = named(select)
    needs_base = selection is not None and selection.needs_base
    if base is None and needs_base:
        raise ValueError(
            f"select={select!r} must have what the members were fine-tuned from; "
            "base=PATH names it"
        )
    if base is not None and not needs_base:
        raise ValueError(
            f"base=PATH must go with {needing_base('select')}, found the base {base} "
            f"and select={select!r}; leave the base out, or choose that"
        )
    paths = [*members] if base is None else [base, *members]
    known: dict[str, Any] = {}
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"members of a soup must be paths, found {type(path).__name__}"
            )
        place = os.path.realpath(path)
        if place in known:
            raise ValueError(
                f"members must be different, found {known[place]} and {path}; name it "
                "once"
            )
        known[place] = path
    if len(paths) < 2:
        found = ", ".join(map(str, paths)) or "none"
        raise ValueError(f"a soup needs at least two members, found {found}")
    return paths


# An exception, because a selection cannot be stopped otherwise: with some parameters it
# requests scores for days. It validates them all before it requests that many.
class _Enough(Exception):
    """Ends a run without scores."""


def rehearsed(select: str, params: Mapping[str, Any], n_members: int) -> Selection:
    """Look up a selection, and validate its parameters in a run with constant scores.

    Parameters
    ----------
    select : str
        Name of a selection in `ensembles.selection.SELECTIONS`.
    params : mapping of str to value
        Parameters of the selection.
    n_members : int
        Number of members, without the base.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        If the selection is unknown, or a parameter is unknown or invalid.
    ImportError
        If the selection needs a package that is not installed.
    """
    selection = resolve_selection(select) or lookup(SELECTIONS, select)
    selection.check_names(params)
    left = iter(range(2 * n_members + 10))

    def score(weights: Float64) -> float:
        if next(left, None) is None:
            raise _Enough
        return 0.0

    try:
        selection(n_members, score, **copy.deepcopy(dict(params)))
    except _Enough:
        pass
    except TypeError as error:
        raise ValueError(
            f"parameters of the selection {select!r} must be of the kinds that it "
            f"takes: {error}"
        ) from None
    return selection


def options_for(options: Mapping[str, Any] | None, *, force: bool) -> dict[str, Any]:
    """Options of every mean that a soup writes.

    Parameters
    ----------
    options : mapping of str to value or None
        Options of the user; None means defaults.
    force : bool
        Whether an existing output is replaced.

    Returns
    -------
    dict of str to value

    Raises
    ------
    TypeError
        If ``options`` contains base, rule, weights, rule_params or force.
    """
    given = dict(options or {})
    for name in FOREIGN:
        if name in given:
            raise TypeError(
                f"options of a soup's means must leave out {name}, found {given}"
            )
    return {**given, "force": force}


def plan_of_all(
    paths: Sequence[Any], out: str | os.PathLike[str], given: Mapping[str, Any]
) -> tuple[Plan, Path]:
    """Plan the mean of all members, and check that soup and candidates can be written.

    Parameters
    ----------
    paths : sequence of paths
        Paths of the members, after the base if there is one.
    out : path
        Output of the soup.
    given : mapping of str to value
        Options of the mean, with ``force``.

    Returns
    -------
    plan : Plan
        Plan of the mean of all members.
    place : Path
        Path of the output.

    Raises
    ------
    FileExistsError
        If the output exists and ``force`` is False.
    ValueError
        If the members do not match, or the disk has too little space.
    """
    planned = plan(paths, out, **given)
    place = planned.out or Path(out)
    check_free(place, force=given["force"])
    floats = [t for t in planned.targets if t.action == "combine"]
    # Running sums, in float64, are on disk while a candidate is written.
    n_bytes = planned.write_bytes + 8 * sum(t.size for t in floats) * (len(paths) > 2)
    if n_bytes > planned.free_bytes:
        raise ValueError(
            f"{place} needs {n_bytes} bytes beside it for candidates and running sums, "
            f"its disk has {planned.free_bytes} left; choose another place"
        )
    return planned, place


def check_apart(places: Sequence[Path], members: Sequence[Checkpoint]) -> None:
    """Check that no output is inside the directory of a member.

    Parameters
    ----------
    places : sequence of Path
        Paths of the output and the journal.
    members : sequence of Checkpoint
        Members on disk.

    Raises
    ------
    ValueError
        If a path is inside the directory of a member.
    """
    folders = {
        member.path.resolve(): member.name
        for member in members
        if member.path is not None and member.is_directory
    }
    for place in places:
        for folder in place.resolve().parents:
            if folder in folders:
                raise ValueError(
                    f"{place} is inside the member {folders[folder]}, of which nothing "
                    "may change; choose a place outside of it"
                )
