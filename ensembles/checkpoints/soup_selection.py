"""Names and default parameters of the selections for model soups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensembles.registry import lookup
from ensembles.selection import SELECTIONS

# Hints for the names that papers and other libraries use.
OTHER_NAMES = {
    "learned": "the learned soup is 'convex'",
    "learned_soup": "the learned soup is 'convex'",
    "uniform": "the uniform soup needs no selection: average all members",
    "uniform_soup": "the uniform soup needs no selection: average all members",
    "wise": "'wise_ft' is on the line from a base to the members",
}


PATIENCE = 10  # least number of rounds without improvement before greedy stops


def with_patience(
    select: str, params: Mapping[str, Any], n_members: int
) -> dict[str, Any]:
    """Parameters of a selection, with the soups' default for ``patience``.

    Parameters
    ----------
    select : str
        Name of a selection in `ensembles.selection.SELECTIONS`.
    params : mapping of str to value
        Parameters that replace the defaults.
    n_members : int
        Number of members; ``patience`` is at least as large.

    Returns
    -------
    dict
        A copy of ``params``, with ``patience`` if the selection takes it.
    """
    takes = lookup(SELECTIONS, select).params
    usual = {"patience": max(PATIENCE, n_members)} if "patience" in takes else {}
    return {**usual, **params}


def check_name(select: str) -> None:
    """Raise an error with a hint for names that other libraries use.

    Parameters
    ----------
    select : str
        Name of a selection.

    Raises
    ------
    ValueError
        If ``select`` is such a name. Other unknown names do not raise.
    """
    if select in OTHER_NAMES:
        raise ValueError(f"unknown selection {select!r}: {OTHER_NAMES[select]}")


def needing_base() -> str:
    """Selections that need a base, for messages: ``"select='wise_ft'"``."""
    names = [name for name, selection in SELECTIONS.items() if selection.needs_base]
    return " or ".join(f"select={name!r}" for name in names)


def taken_by(name: str) -> str:
    """End of a message that names the selections with a given parameter.

    Parameters
    ----------
    name : str
        Name of the parameter.

    Returns
    -------
    str
        ``""`` if no selection has it.
    """
    takes = [
        known for known, selection in SELECTIONS.items() if name in selection.params
    ]
    return f", which {' and '.join(takes)} takes" if takes else ""
