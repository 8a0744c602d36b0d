"""Names and parameters of the selections for model soups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensembles.checkpoints.methods.builtin import RULES
from ensembles.registry import lookup
from ensembles.rules.rule import Rule
from ensembles.selection import SELECTIONS, Selection

# Hints for the names that papers and other libraries use.
OTHER_NAMES = {
    "learned": "the learned soup is 'convex'",
    "learned_soup": "the learned soup is 'convex'",
    "uniform": "the uniform soup needs no selection: average all members",
    "uniform_soup": "the uniform soup needs no selection: average all members",
    "wise": "'wise_ft' interpolates between a base and the members",
}

PATIENCE = 10  # least number of rounds without improvement before greedy stops


def resolve_selection(weights: Any) -> Selection | None:
    """Selection that the parameter ``weights`` of a soup names.

    Parameters
    ----------
    weights : array-like, str or None
        Weights, or the name of a selection.

    Returns
    -------
    Selection or None
        None if ``weights`` is not a name.

    Raises
    ------
    ValueError
        If the name is unknown; the message has a hint for names in other libraries.
    """
    if not isinstance(weights, str):
        return None
    if weights in OTHER_NAMES:
        raise ValueError(f"unknown selection {weights!r}: {OTHER_NAMES[weights]}")
    return lookup(SELECTIONS, weights)


def check_rule(rule: str | Rule) -> None:
    """Raise if a rule needs a base, which soups have for selections only.

    Parameters
    ----------
    rule : str or Rule
        Rule of a soup, or its name; unknown names are accepted here.

    Raises
    ------
    ValueError
        If the rule needs a base.
    """
    resolved = RULES.get(rule) if isinstance(rule, str) else rule
    if isinstance(resolved, Rule) and resolved.needs_base:
        raise ValueError(
            f"the rule of a soup must not need a base, found {resolved.name!r}; to "
            "combine all members by it, use average(members, base=PATH, rule=...) "
            "(ensemble avg --base PATH)"
        )


def with_patience(
    selection: Selection, params: Mapping[str, Any], n_members: int
) -> dict[str, Any]:
    """Parameters of a selection, with the soups' default for ``patience``.

    Parameters
    ----------
    selection : Selection
        Selection that the parameters are for.
    params : mapping of str to value
        Parameters that replace the defaults.
    n_members : int
        Number of members; ``patience`` is at least as large.

    Returns
    -------
    dict
        A copy of ``params``, with ``patience`` if the selection takes it.
    """
    if "patience" in selection.params:
        return {"patience": max(PATIENCE, n_members), **params}
    return dict(params)


def needing_base() -> str:
    """Names of the selections that need a base, for messages.

    Returns
    -------
    str
        Such as ``"'wise_ft'"``; several names are joined by "or".
    """
    names = [name for name, selection in SELECTIONS.items() if selection.needs_base]
    return " or ".join(map(repr, names))
