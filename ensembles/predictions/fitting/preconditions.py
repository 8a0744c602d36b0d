"""Checks of the parameters before the members are fitted, which may take hours."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles._typing import Float64
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.forecasts.pool import Pool
from ensembles.selection import SELECTIONS
from ensembles.weights import check_weights

# Names of the rules in VotingClassifier and other libraries.
OTHER_RULE_NAMES = {
    "soft": "mean",
    "average": "mean",
    "avg": "mean",
    "hard": "vote",
    "majority": "vote",
    "max": "maximum",
    "min": "minimum",
    "ranks": "rank_mean",
}
# Names of the selections in other libraries and papers.
OTHER_SELECTION_NAMES = {
    "caruana": "greedy",
    "hill_climbing": "greedy",
    "nnls": "convex",
}
EQUAL = ("equal", "uniform", "none")
LOG_LOSS = (None, "neg_log_loss")
FREE = "free"  # learned pool weights of any sign; not a selection


def check_rule_name(rule: Any) -> None:
    """Raise if ``rule`` is the name of a rule in another library.

    Parameters
    ----------
    rule : str or other
        Value of the ``rule`` parameter; anything but a string passes.

    Raises
    ------
    ValueError
        If the name is in `OTHER_RULE_NAMES`; the message gives the name to use.
    """
    if isinstance(rule, str) and rule.casefold() in OTHER_RULE_NAMES:
        name = OTHER_RULE_NAMES[rule.casefold()]
        raise ValueError(f"unknown rule {rule!r}; did you mean {name!r}?")


def check_param_names(
    combiner: Combiner,
    weights: Any,
    rule_params: Mapping[str, Any],
    weights_params: Mapping[str, Any],
) -> None:
    """Raise if the rule or the selection lacks one of its parameters.

    Parameters
    ----------
    combiner : Combiner
        Combiner of the ``rule`` parameter.
    weights : array-like, str or None
        Value of the ``weights`` parameter; a name must be known.
    rule_params, weights_params : mapping of str to value
        Parameters of the rule, and of the selection.

    Raises
    ------
    ValueError
        If a name is unknown. The message lists the known names, and names the other
        mapping if the parameter belongs there.
    """
    if not rule_params and not weights_params:
        return
    names = {
        "rule_params": list(combiner.params),
        "weights_params": selection_params(weights, combiner),
    }
    owner = {
        "rule_params": f"rule {combiner.name!r}",
        "weights_params": f"weights={weights!r} of rule {combiner.name!r}",
    }
    counterparts = {"rule_params": "weights_params", "weights_params": "rule_params"}
    params = {"rule_params": rule_params, "weights_params": weights_params}
    for parameter, counterpart in counterparts.items():
        for name in params[parameter]:
            if name in names[parameter]:
                continue
            fix = ""
            if name in names[counterpart]:
                fix = (
                    f"; it is a parameter of {owner[counterpart]}: pass it in "
                    f"{counterpart} instead"
                )
            raise ValueError(
                f"{parameter} must be parameters of {owner[parameter]} "
                f"(known: {', '.join(names[parameter]) or 'none'}): found {name!r}{fix}"
            )
    if "temperature" in rule_params and learns_pool(weights, combiner):
        raise ValueError(
            "rule_params must not set temperature if weights are learned with their "
            f"sum, as by weights={weights!r}; pass weights=None or an array"
        )


def learns_pool(weights: Any, combiner: Combiner) -> bool:
    """Whether pool weights are learned by minimizing the log-loss, for any scoring.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        Value of the ``weights`` parameter.
    combiner : Combiner
        Combiner of the ``rule`` parameter.

    Returns
    -------
    bool
    """
    if not isinstance(weights, str) or not combiner.weight_sum_matters:
        return False
    selection = SELECTIONS.get(weights)
    return weights == FREE or (selection is not None and selection.uses_gradient)


def warn_if_only_reported(scoring: Any, weights: Any, combiner: Combiner) -> None:
    """Warn if the weights do not depend on the scoring.

    Parameters
    ----------
    scoring : str, callable or None
        Score of the ensemble; None means the default score.
    weights : array-like of shape (n_members,), str or None
        Value of the ``weights`` parameter.
    combiner : Combiner
        Combiner of the ``rule`` parameter.

    Warns
    -----
    UserWarning
    """
    if learns_pool(weights, combiner) and scoring not in LOG_LOSS:
        warn_caller(
            f"scoring={scoring!r} is only reported, in scores_ and oof_score_: "
            f"weights={weights!r} of rule {combiner.name!r} minimize the log-loss; use "
            "weights='greedy' to select weights by the scoring"
        )


def selection_params(weights: Any, combiner: Combiner) -> list[str]:
    """Names of the parameters of the selection.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        Value of the ``weights`` parameter; a name must be known.
    combiner : Combiner
        Combiner of the ``rule`` parameter.

    Returns
    -------
    list of str
        Empty if the weights are given, equal, or learned for a pool.
    """
    if not isinstance(weights, str) or learns_pool(weights, combiner):
        return []
    return list(SELECTIONS[weights].params)


def check_weights_parameter(
    weights: Any, combiner: Combiner | Pool, n_members: int
) -> Float64 | str | None:
    """Validate the weights, or the name of the selection.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        Value of the ``weights`` parameter; None means equal weights.
    combiner : Combiner or Pool
        Combiner of the ``rule`` parameter, or pool of forecasts.
    n_members : int
        Number of members.

    Returns
    -------
    ndarray of shape (n_members,), str or None
        Given weights of a log-linear pool are divided by their sum. Names and None are
        returned unchanged.

    Raises
    ------
    ValueError
        If the weights are invalid, the selection is unknown, or it needs a base.
    TypeError
        If the weights are not numbers.
    """
    if isinstance(weights, str):
        _check_selection_name(weights, combiner)
    if weights is None or isinstance(weights, str):
        return weights
    signed, rule = combiner.signed, combiner.name
    values = check_weights(weights, n_members, signed=signed, rule=rule)
    if not combiner.equal_weights_sum_to_one:
        return values
    total = math.fsum(values)
    if total < 0:
        raise ValueError(
            f"weights of {rule!r} must have a positive sum, found {values.tolist()}"
        )
    return np.asarray(values / total)


def _check_selection_name(weights: str, combiner: Combiner | Pool) -> None:
    """Raise unless ``weights`` is the name of a selection that supports the rule."""
    has_free = combiner.weight_sum_matters and combiner.signed
    if weights == FREE and not has_free:
        raise ValueError(
            "weights='free' must be used with rule 'log_pool', found rule "
            f"{combiner.name!r}; use weights='convex' with this rule"
        )
    selection = SELECTIONS.get(weights)
    if selection is not None and selection.needs_base:
        raise ValueError(
            f"weights={weights!r} needs a base, which an ensemble of predictions does "
            "not have; use another selection, such as weights='greedy'"
        )
    allowed = [name for name, entry in SELECTIONS.items() if not entry.needs_base]
    allowed = sorted([*allowed, *[FREE] * has_free])
    if weights in allowed:
        return
    if weights.casefold() in EQUAL:
        suggestion = "; use weights=None for equal weights"
    else:
        names = [*allowed, *OTHER_SELECTION_NAMES]
        nearest = difflib.get_close_matches(weights.casefold(), names, n=1)
        names = [OTHER_SELECTION_NAMES.get(name, name) for name in nearest]
        suggestion = f"; did you mean {names[0]!r}?" if names else ""
    raise ValueError(
        f"unknown selection {weights!r}{suggestion} (known: {', '.join(allowed)})"
    )


class _FirstScore(Exception):
    """Raised at the first score of a selection, after it has checked its parameters."""


def check_selection(name: str, n_members: int, params: Mapping[str, Any]) -> None:
    """Raise if a selection rejects its parameters; stops before the first score.

    Parameters
    ----------
    name : str
        Name of the selection.
    n_members : int
        Number of members.
    params : mapping of str to value
        Parameters of the selection.

    Raises
    ------
    ValueError, TypeError
        As the selection raises for its parameters.
    """

    def score(weights: Float64) -> float:
        raise _FirstScore

    with suppress(_FirstScore):
        SELECTIONS[name](n_members, score, **params)
