"""Weights of the members: given, chosen by a selection, or learned for a pool."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitted_combiner import Combination
from ensembles.predictions.log_pool_weights import PoolLoss, PoolWeights
from ensembles.predictions.members.out_of_fold import Held
from ensembles.predictions.metrics.scorer import Scored
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import (
    SelectionResult,
    resolve_weights,
    run_selection,
)
from ensembles.selection.score import CachedScore, Trial
from ensembles.selection.table import named
from ensembles.weights import check_weights

FREE = "free"  # learned pool weights of any sign; not a selection
GIVEN = ("temperature",)  # pool parameters that are redundant with learned weights
# Names of the selections in other libraries and papers.
OTHER_NAMES = {"caruana": "greedy", "hill_climbing": "greedy", "nnls": "convex"}
EQUAL = ("equal", "uniform", "none")
NEAR = 1e-7  # relative tolerance of the loss, far below the sampling error of a score


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
    if not isinstance(weights, str) or not combiner.scaled:
        return False
    selection = named(weights)
    return weights == FREE or (selection is not None and selection.uses_gradient)


def check_choice(
    weights: Any,
    combiner: Combiner,
    n_members: int,
    own: dict[str, Any],
    params: dict[str, Any],
) -> Float64 | str | None:
    """Validate the weights, or the name and the parameters of the selection.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        Value of the ``weights`` parameter; None means equal weights.
    combiner : Combiner
        Combiner of the ``rule`` parameter.
    n_members : int
        Number of members.
    own : dict
        Parameters of the combiner.
    params : dict
        Parameters of the selection.

    Returns
    -------
    ndarray of shape (n_members,), str or None
        Given weights of a log-linear pool are divided by their sum. Names and None are
        returned unchanged.

    Raises
    ------
    ValueError
        If the weights are invalid, the selection or a parameter is unknown, or the
        selection needs a base.
    TypeError
        If the weights are not numbers.
    """
    if isinstance(weights, str):
        _check_name(weights, combiner)
    selections = selection_params(weights, combiner)
    for name in params:
        if name not in selections:
            known = ", ".join([*combiner.params, *selections]) or "none"
            raise ValueError(
                f"params of rule {combiner.name!r} and weights={weights!r} must be "
                f"among these: {known}; found {name!r}"
            )
    if learns_pool(weights, combiner):
        for name in GIVEN:
            if name in own:
                raise ValueError(
                    f"{name} goes with weights that are given, or None: those of "
                    f"weights={weights!r} are learned with their sum"
                )
    if weights is None or isinstance(weights, str):
        return weights
    signed, rule = combiner.signed, combiner.name
    values = check_weights(weights, n_members, signed=signed, rule=rule)
    if not combiner.shared:
        return values
    total = math.fsum(values)
    if total < 0:
        raise ValueError(
            f"weights of {rule!r} must have a positive sum, found {values.tolist()}"
        )
    return np.asarray(values / total)


def _check_name(weights: str, combiner: Combiner) -> None:
    """Raise unless ``weights`` is the name of a selection that supports the rule."""
    has_free = combiner.scaled and combiner.signed
    if weights == FREE and not has_free:
        raise ValueError(
            "weights='free' are learned with rule 'log_pool', found rule "
            f"{combiner.name!r}; weights='convex' go with any"
        )
    selection = named(weights)
    if selection is not None and selection.needs_base:
        raise ValueError(
            f"weights={weights!r} needs a base, which ensembles of predictions have "
            "not; "
            "choose by another selection, such as weights='greedy'"
        )
    known = [name for name, one in SELECTIONS.items() if not one.needs_base]
    known = sorted([*known, *[FREE] * has_free])
    if weights in known:
        return
    if weights.casefold() in EQUAL:
        offer = "; weights=None counts all members alike"
    else:
        names = [*known, *OTHER_NAMES]
        nearest = difflib.get_close_matches(weights.casefold(), names, n=1)
        names = [OTHER_NAMES.get(name, name) for name in nearest]
        offer = f"; did you mean {names[0]!r}?" if names else ""
    raise ValueError(
        f"unknown selection {weights!r}{offer} (known: {', '.join(known)})"
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


class Weighed(NamedTuple):
    """Weights, and the combination that uses them, with intercepts if learned."""

    chosen: SelectionResult
    combination: Combination


def weigh(
    weights: Float64 | str | None,
    combination: Combination,
    n_members: int,
    held: Held | None,
    score: Scored | None,
    *,
    near: PoolWeights | None = None,
    **params: Any,
) -> Weighed:
    """Determine the weights of the ensemble, and score each member alone.

    Parameters
    ----------
    weights : ndarray of shape (n_members,), str or None
        Given weights, the name of a selection, or None for equal weights. For a pool
        whose weights may have any sum, ``"convex"`` learns non-negative weights and
        ``"free"`` learns weights of any sign, both by log-loss.
    combination : Combination
        Rule with its parameters.
    n_members : int
        Number of members.
    held : Held or None
        Held-out predictions that pool weights are learned from; None if no data are
        held out.
    score : Scored or None
        Score of the weights on the held-out predictions; None scores nothing.
    near : PoolWeights or None, default=None
        Pool weights learned from more rows, as the initial point. The history is then
        empty, and the loss is accurate to about six digits. None starts at equal
        weights and keeps the history.
    **params
        Parameters of the selection.

    Returns
    -------
    Weighed
    """
    combiner = combination.combiner
    if isinstance(weights, str) and held is not None and score is not None:
        if learns_pool(weights, combiner):
            signed = weights == FREE
            if near is not None:
                return _pool_again(signed, combination, held, near)
            return _pool(signed, combination, held, score)
        selection = SELECTIONS[weights]
        return Weighed(
            run_selection(selection, n_members, score, **params), combination
        )
    given = combiner.equal(n_members) if weights is None else weights
    chosen = resolve_weights(
        given,
        n_members,
        score,
        signed=combiner.signed,
        scaled=combiner.scaled,
        rule=combiner.name,
    )
    return Weighed(chosen, combination)


def _pool(signed: bool, combination: Combination, held: Held, score: Scored) -> Weighed:
    """Learned weights with intercepts, equal weights, or the best member alone.

    The one with the least log-loss: with the ridge penalty, the learned weights can be
    worse than the others.
    """
    loss = _pool_loss(signed, combination, held)
    own = CachedScore(score).member_scores(held.n_members)
    best = int(np.argmax(own))
    tried = _candidates(loss, loss.minimum(), best)
    least = min(tried, key=loss.unpenalized)
    with_intercepts = [replace(combination, intercepts=one.intercepts) for one in tried]
    history = tuple(
        Trial(one.weights, score.of(combined(held.stacks, one.weights)))
        for one, combined in zip(tried, with_intercepts, strict=True)
    )
    place = next(i for i, one in enumerate(tried) if one is least)
    chosen = SelectionResult(least.weights, own, best, history[place].score, history)
    return Weighed(chosen, with_intercepts[place])


def _pool_again(
    signed: bool, combination: Combination, held: Held, near: PoolWeights
) -> Weighed:
    """Pool weights as in `_pool`, learned to the tolerance `NEAR` and without history.

    The best member is the one with the least log-loss.
    """
    loss = _pool_loss(signed, combination, held)
    own = -loss.alone()
    best = int(np.argmax(own))
    tried = _candidates(loss, loss.minimum(near, NEAR), best)
    least = min(tried, key=loss.unpenalized)
    chosen = SelectionResult(least.weights, own, best, -loss.unpenalized(least), ())
    return Weighed(chosen, replace(combination, intercepts=least.intercepts))


def _pool_loss(signed: bool, combination: Combination, held: Held) -> PoolLoss:
    floor = {**combination.combiner.params, **combination.params}["floor"]
    return PoolLoss(held, floor, signed=signed)


def _candidates(loss: PoolLoss, learned: PoolWeights, best: int) -> list[PoolWeights]:
    n_members = len(learned.weights)
    equal = np.full(n_members, 1 / n_members)
    return [learned, loss.at(equal), loss.at(np.eye(n_members)[best])]
