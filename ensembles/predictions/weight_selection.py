"""Weights of predictions: given, chosen by a selection, or learned for a pool."""

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
from ensembles.selection.choose import Chosen, choose, select_quietly
from ensembles.selection.score import Score, Trial, own_scores
from ensembles.selection.table import named
from ensembles.weights import check_weights

FREE = "free"  # weights of any sign, of a pool; no selection
GIVEN = ("temperature",)  # parameters of a pool that learned weights make up for
# What other libraries and papers call them.
OTHER_NAMES = {"caruana": "greedy", "hill_climbing": "greedy", "nnls": "convex"}
EQUAL = ("equal", "uniform", "none")
NEAR = 1e-7  # of the loss: far less than a score is off by chance


def learns_pool(weights: Any, combiner: Combiner) -> bool:
    """Whether weights are learned for a pool, by log-loss, whatever the scoring.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
    combiner : Combiner

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
    """Weights as they are given, or how they are to be chosen, known to be right.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
    combiner : Combiner
    n_members : int
    own : dict
        Parameters of the combiner.
    params : dict
        Parameters of the selection.

    Returns
    -------
    ndarray of shape (n_members,), str or None
        Given weights of a log-linear pool as shares of their sum.

    Raises
    ------
    ValueError
        If the weights are wrong, the selection or a parameter is unknown, or the
        selection needs a base.
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
    """Raise unless it is the name of a selection that goes with the rule."""
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
    """Names of the parameters of what chooses the weights.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        A name that is known.
    combiner : Combiner

    Returns
    -------
    list of str
        Empty where nothing chooses, or a pool's weights are learned.
    """
    if not isinstance(weights, str) or learns_pool(weights, combiner):
        return []
    return list(SELECTIONS[weights].params)


class Weighed(NamedTuple):
    """Weights, and the combination that they belong to, with intercepts if learned."""

    chosen: Chosen
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
    """Weights for an ensemble's ``weights=``, beside its best single member.

    Parameters
    ----------
    weights : ndarray of shape (n_members,), str or None
        None counts every member alike. A selection's name chooses; of a pool whose
        weights may have any sum, ``"convex"`` learns weights that are not negative
        and ``"free"`` weights of any sign, by their log-loss.
    combination : Combination
    n_members : int
    held : Held or None
        What a pool's weights are learned from.
    score : Scored or None
    near : PoolWeights or None, default=None
        A pool's weights by more rows, to start from: no history is kept then, and the
        search ends where the loss is known to about six digits.
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
            select_quietly(selection, n_members, score, **params), combination
        )
    given = combiner.equal(n_members) if weights is None else weights
    chosen = choose(
        given,
        n_members,
        score,
        signed=combiner.signed,
        scaled=combiner.scaled,
        rule=combiner.name,
    )
    return Weighed(chosen, combination)


def _pool(signed: bool, combination: Combination, held: Held, score: Scored) -> Weighed:
    """Weights and intercepts of the least log-loss, or a member, or all alike.

    The ridge may keep the learned ones from being better than those.
    """
    loss = _pool_loss(signed, combination, held)
    scores: Score = score
    own = own_scores(held.n_members, scores)
    best = int(np.argmax(own))
    tried = _candidates(loss, loss.minimum(), best)
    least = min(tried, key=loss.unpenalized)
    with_intercepts = [replace(combination, intercepts=one.intercepts) for one in tried]
    history = tuple(
        Trial(one.weights, score.of(combined(held.stacks, one.weights)))
        for one, combined in zip(tried, with_intercepts, strict=True)
    )
    place = next(i for i, one in enumerate(tried) if one is least)
    chosen = Chosen(least.weights, own, best, history[place].score, history)
    return Weighed(chosen, with_intercepts[place])


def _pool_again(
    signed: bool, combination: Combination, held: Held, near: PoolWeights
) -> Weighed:
    """Weights as `_pool` learns them, of part of the rows, as exact as a score needs.

    The best member is that of the least log-loss.
    """
    loss = _pool_loss(signed, combination, held)
    own = -loss.alone()
    best = int(np.argmax(own))
    tried = _candidates(loss, loss.minimum(near, NEAR), best)
    least = min(tried, key=loss.unpenalized)
    chosen = Chosen(least.weights, own, best, -loss.unpenalized(least), ())
    return Weighed(chosen, replace(combination, intercepts=least.intercepts))


def _pool_loss(signed: bool, combination: Combination, held: Held) -> PoolLoss:
    floor = {**combination.combiner.params, **combination.params}["floor"]
    return PoolLoss(held, floor, signed=signed)


def _candidates(loss: PoolLoss, learned: PoolWeights, best: int) -> list[PoolWeights]:
    n_members = len(learned.weights)
    equal = np.full(n_members, 1 / n_members)
    return [learned, loss.at(equal), loss.at(np.eye(n_members)[best])]
