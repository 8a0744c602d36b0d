"""Choose the member weights of a model soup, and validate its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensembles.checkpoints.model_soup.learned import Learned
from ensembles.checkpoints.model_soup.merged_estimator import Merged
from ensembles.checkpoints.model_soup.soup_score import SoupScore
from ensembles.checkpoints.soup_selection import check_name, taken_by, with_patience
from ensembles.registry import lookup
from ensembles.rules.rule import Rule
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import Chosen, choose, select
from ensembles.selection.table import named

CHOICES = {"shared_init": ("error", "warn"), "on_error": ("stop", "skip")}
GENERAL = ("integers", *CHOICES, "finish")  # parameters of every soup


def divided(
    params: Mapping[str, Any] | None, rule: Rule, weights: Any, *, makes: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Validate the parameters of a soup, and separate those of its rule.

    Parameters
    ----------
    params : mapping of str to value, or None
        Parameters by name; None means none.
    rule : Rule
        Rule that combines the members.
    weights : array-like, str or None
        Weights as given to `ModelSoup`. If it names a selection, the parameters of
        that selection are valid too.
    makes : bool
        Whether the soup trains its members, so that ``n_epochs`` is valid.

    Returns
    -------
    own : dict
        Parameters of the rule.
    others : dict
        Parameters of the selection and of the soup.

    Raises
    ------
    TypeError
        If ``params`` is not a mapping, or ``finish`` is not callable.
    ValueError
        If a parameter or the selection is unknown, or a value is not one of the
        allowed choices.
    """
    if not isinstance(params, Mapping | None):
        raise TypeError(f"params must be a dict or None, found {params!r}")
    others = dict(params or {})
    own = {name: others.pop(name) for name in rule.params if name in others}
    known = [*GENERAL, *["n_epochs"] * makes]
    if isinstance(weights, str):
        check_name(weights)
        selection = lookup(SELECTIONS, weights)
        known += selection.params
        if selection.uses_gradient:
            known += Learned.parameter_names()
    for name, choices in CHOICES.items():
        if others.get(name, choices[0]) not in choices:
            raise ValueError(
                f"params[{name!r}] must be {' or '.join(map(repr, choices))}, found "
                f"{others[name]!r}"
            )
    finish = others.get("finish")
    if not (finish is None or callable(finish)):
        raise TypeError(f"params['finish'] must be a callable, found {finish!r}")
    for name in others:
        if name not in known:
            listed = ", ".join([*rule.params, *known]) or "none"
            raise ValueError(
                f"params of rule {rule.name!r} and weights={weights!r} must be among "
                f"these: {listed}; found {name!r}{taken_by(name)}"
            )
    return own, others


def is_counted(weights: Any) -> bool:
    """Whether the weights come from adding members one at a time.

    Parameters
    ----------
    weights : array-like, str or None
        Weights as given to `ModelSoup`.

    Returns
    -------
    bool
        True for None and for selections with ``adds_members``, such as greedy ones,
        which can reuse a running sum.
    """
    selection = named(weights)
    return weights is None or (selection is not None and selection.adds_members)


def chosen_for(
    weights: Any,
    merged: Merged,
    score: SoupScore | None,
    rule: Rule,
    params: dict[str, Any],
    seed: int | None,
) -> Chosen:
    """Weights of the members, as given or chosen by a selection.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        The weights, the name of a selection, or None for equal weights.
    merged : Merged
        Members, and the estimator that receives their combined parameters.
    score : SoupScore or None
        Score of weights on held-out data. With None nothing is scored, and the name of
        a selection raises an error.
    rule : Rule
        Rule that combines the members.
    params : dict
        Parameters of the selection.
    seed : int or None
        Default for the ``random_state`` of selections that have one.

    Returns
    -------
    Chosen

    Raises
    ------
    ValueError
        If weights are invalid, a selection has no score, a score is not finite, or
        the rule of a learned soup is not ``"mean"``.

    Warns
    -----
    UserWarning
        If the chosen weights do not beat the best single member.
    """
    n_members = len(merged.members)
    if not isinstance(weights, str):
        return choose(weights, n_members, score, signed=rule.signed, rule=rule.name)
    selection: Any = lookup(SELECTIONS, weights)
    known = list(selection.params)
    if selection.uses_gradient and merged.has_module and score is not None:
        if rule.name != "mean":
            raise ValueError(
                f"rule must be 'mean' for a learned soup, weights={weights!r} of a "
                f"torch module; found {rule.name!r}"
            )
        selection = Learned(merged, score)
        known = Learned.parameter_names()
    params = with_patience(weights, params, n_members)
    if "random_state" in known:
        params = {"random_state": seed} | params
    names = [member.name for member in merged.members]
    return select(selection, n_members, score, names=names, **params)
