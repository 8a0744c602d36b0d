"""Names, parameters and weights of the selections for model soups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
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


def check_rules(
    selection: Selection | None,
    rules: Sequence[Rule],
    base: Any,
    weights: Any,
    *,
    equal_weights: bool = False,
) -> None:
    """Raise unless the rules suit a soup, its base and the selection of its weights.

    Parameters
    ----------
    selection : Selection or None
        Selection that chooses the weights; None if they are not chosen.
    rules : sequence of Rule
        Rules of the soup.
    base : object or None
        Base; None without a base.
    weights : object
        Weights of the soup, or the name of the selection, for the message.
    equal_weights : bool, default=False
        Whether the selection gives all members the same weight.

    Raises
    ------
    ValueError
        If the base is missing or has no use, or the selection and a rule need it; or if
        a rule needs moments, or takes no weights that could be selected.
    """
    for rule in rules:
        if rule.needs_moments is not None:
            raise ValueError(
                f"rule {rule.name!r} needs moments of the members' data, which a soup "
                "does not have; merge with average(..., moments=PATHS) (ensemble avg "
                "--moments), and score the result"
            )
        if selection is not None and not (rule.weighted or equal_weights):
            raise ValueError(
                f"selection {weights!r} chooses weights, but rule {rule.name!r} takes "
                "none; leave the selection out"
            )
    with_base = [rule.name for rule in rules if rule.needs_base]
    interpolates = selection is not None and selection.needs_base
    if interpolates and with_base:
        raise ValueError(
            f"selection {weights!r} gives the base a weight, but rule "
            f"{with_base[0]!r} takes the base itself; choose another selection, or "
            "combine the members by that rule first, and interpolate between the base "
            "and the result"
        )
    if base is None and interpolates:
        raise ValueError(
            f"selection {weights!r} needs the checkpoint that the members were "
            "fine-tuned from; pass base=PATH (--base PATH)"
        )
    if base is None and with_base:
        raise ValueError(
            f"rule {with_base[0]!r} needs the checkpoint that the members were "
            "fine-tuned from; pass it as base=PATH (--base PATH)"
        )
    if base is not None and not (interpolates or with_base):
        chosen = "weights" if selection is None else "selection"
        raise ValueError(
            f"base=PATH (--base PATH) can be used with selection {needing_base()} or "
            f"a rule that needs a base only, found the base {base!s:.80}, {chosen} "
            f"{weights!r:.80} and rule {rules[0].name!r}; leave the base out, or "
            "choose such a selection or rule"
        )


def single_member(weights: Float64) -> int | None:
    """Index of the member that has all the weight.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Weights of a selection.

    Returns
    -------
    int or None
        None if several members have a weight, or their sum is not 1.
    """
    if weights.ndim > 1:
        return None
    members = np.flatnonzero(weights)
    return int(members[0]) if weights[members].tolist() == [1.0] else None


def scaled_weights(weights: Float64, counts: Counts | None = None) -> Float64:
    """Weights of a selection, scaled to a mean of 1 over the members with a weight.

    The weights of a selection sum to 1, but the result of a rule with a base may depend
    on their sum. Scaled, equal weights give the same as `average` without weights.

    Parameters
    ----------
    weights : ndarray of shape (n_members,), non-negative, sum 1
        Weights of a selection.
    counts : ndarray of shape (n_members,), int64, or None, default=None
        How often each member was added, in the ratio of the weights; None if members
        were not added one by one.

    Returns
    -------
    ndarray of shape (n_members,)

    Examples
    --------
    >>> scaled_weights(np.array([0.5, 0.0, 0.5]))
    array([1., 0., 1.])
    """
    parts = weights if counts is None else counts.astype(np.float64)
    used = parts[parts != 0]
    if len(set(used.tolist())) == 1:
        return np.where(parts != 0, 1.0, 0.0)
    return np.asarray(parts * (len(used) / used.sum()))


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
