"""Selections for soups: their names, parameters and patience."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensembles.registry import lookup
from ensembles.selection import SELECTIONS

# Selections by the names that papers and other libraries have for them.
OTHER_NAMES = {
    "learned": "the learned soup is 'convex'",
    "learned_soup": "the learned soup is 'convex'",
    "uniform": "the uniform soup needs no selection: average all members",
    "uniform_soup": "the uniform soup needs no selection: average all members",
    "wise": "'wise_ft' is on the line from a base to the members",
}


PATIENCE = 10  # rounds of greedy without a better score, at least


def with_patience(
    select: str, params: Mapping[str, Any], n_members: int
) -> dict[str, Any]:
    """Parameters of a selection, with those that soups set: patience of greedy.

    Parameters
    ----------
    select : str
    params : mapping of str to value
    n_members : int

    Returns
    -------
    dict
    """
    takes = lookup(SELECTIONS, select).params
    usual = {"patience": max(PATIENCE, n_members)} if "patience" in takes else {}
    return {**usual, **params}


def check_name(select: str) -> None:
    """Raise if a selection is named as people name it elsewhere.

    Parameters
    ----------
    select : str

    Raises
    ------
    ValueError
    """
    if select in OTHER_NAMES:
        raise ValueError(f"unknown selection {select!r}: {OTHER_NAMES[select]}")


def needing_base() -> str:
    """Selections that need a base, as they are asked for: "select='wise_ft'"."""
    names = [name for name, selection in SELECTIONS.items() if selection.needs_base]
    return " or ".join(f"select={name!r}" for name in names)


def taken_by(name: str) -> str:
    """End of a sentence that names the selections that take a parameter.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
        ``""`` if there are none.
    """
    takes = [
        known for known, selection in SELECTIONS.items() if name in selection.params
    ]
    return f", which {' and '.join(takes)} takes" if takes else ""
