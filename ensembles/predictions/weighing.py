"""Weights for what members say: given, chosen by a selection, or learned for a pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensembles.base import Chosen, choose, params_of, select
from ensembles.predictions.combination import Combination
from ensembles.predictions.combiner import Combiner
from ensembles.predictions.held import Held
from ensembles.registry import lookup
from ensembles.selection import SELECTIONS, Record
from ensembles.weighting import Counts, Floats, Score, Trial, check_weights, score_of

POOLED = ("convex", "free")  # learned with a pool whose weights may have any sum
RIDGE = 2.0  # of a pool's weights, in samples: chosen on other data than is reported


def check_choice(
    weights: Any, combiner: Combiner, n_members: int, params: dict[str, Any]
) -> Floats | str | None:
    """Weights as they are given, or how they are to be chosen, known to be right.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
    combiner : Combiner
    n_members : int
    params : dict
        Parameters of the selection.

    Returns
    -------
    ndarray of shape (n_members,), str or None

    Raises
    ------
    ValueError
        If the weights are wrong, the selection or a parameter is unknown, or the
        selection needs a base.
    """
    if (
        isinstance(weights, str)
        and weights == "free"
        and not (combiner.scaled and combiner.signed)
    ):
        raise ValueError(
            "weights='free' are learned with rule 'log_pool', found rule "
            f"{combiner.name!r}; weights='convex' go with any"
        )
    if isinstance(weights, str) and weights == "wise_ft":
        raise ValueError(
            "weights='wise_ft' needs a base, which ensembles of predictions have not; "
            "choose by another selection, such as weights='greedy'"
        )
    selections = selection_params(weights, combiner)
    for name in params:
        if name not in selections:
            known = ", ".join([*combiner.params, *selections]) or "none"
            raise ValueError(
                f"params of rule {combiner.name!r} and weights={weights!r} must be "
                f"among these: {known}; found {name!r}"
            )
    if weights is None or isinstance(weights, str):
        return weights
    return check_weights(weights, n_members, signed=combiner.signed, rule=combiner.name)


def selection_params(weights: Any, combiner: Combiner) -> list[str]:
    """Names of the parameters of what chooses the weights.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
    combiner : Combiner

    Returns
    -------
    list of str
        Empty where nothing chooses, or a pool's weights are learned.

    Raises
    ------
    ValueError
        If there is no selection of that name.
    """
    if not isinstance(weights, str) or (combiner.scaled and weights in POOLED):
        return []
    return params_of(lookup(SELECTIONS, weights))


def weigh(
    weights: Floats | str | None,
    combination: Combination,
    names: Sequence[str],
    held: Held | None,
    score: Score | None,
    **params: Any,
) -> Chosen:
    """Weights for an ensemble's ``weights=``, beside its best single member.

    Parameters
    ----------
    weights : ndarray of shape (n_members,), str or None
        None counts every member alike. A selection's name chooses; of a pool whose
        weights may have any sum, ``"convex"`` learns weights that are not negative
        and ``"free"`` weights of any sign, by their log-loss.
    combination : Combination
    names : sequence of str
        The members'.
    held : Held or None
        What a pool's weights are learned from.
    score : Score or None
    **params
        Parameters of the selection.

    Returns
    -------
    Chosen
    """
    combiner, n_members = combination.combiner, len(names)
    learned = isinstance(weights, str) and combiner.scaled and weights in POOLED
    if held is not None and learned:
        floor = {**combiner.params, **combination.params}["floor"]
        pool = _Pool(held, floor, signed=weights == "free")
        return select(pool, n_members, score, names=names)
    given = combiner.equal(n_members) if weights is None else weights
    return choose(
        given,
        n_members,
        score,
        signed=combiner.signed,
        scaled=combiner.scaled,
        rule=combiner.name,
        names=names,
        **params,
    )


class _Pool:
    """Selection of a log-pool's weights: those of the least log-loss.

    With the logarithms of what the members say as features, shared by all classes, it
    is a multinomial logistic regression with one coefficient a member: convex. A ridge
    draws the weights to equal ones, lest they grow without bound where few samples can
    be told apart without an error.
    """

    def __init__(self, held: Held, floor: float, *, signed: bool) -> None:
        self.__name__ = "free" if signed else "convex"
        self.signed = signed
        self.logs = [np.log(np.maximum(stack, floor)) for stack in held.stacks]
        labels: Any = held.answers
        self.codes = labels.codes(held.y)
        weight = held.sample_weight
        self.shares = np.full(len(held.y), 1.0) if weight is None else weight
        self.ridge = RIDGE / self.shares.sum()
        self.shares = self.shares / (self.shares.sum() * len(self.logs))

    def __call__(self, n_members: int, score: Score, *, record: Record) -> Floats:
        from scipy.optimize import minimize

        def note(point: Floats) -> None:
            record(Trial(point.copy(), score_of(score, point)))

        found = minimize(
            self.loss,
            np.full(n_members, 1 / n_members),
            jac=True,
            method="L-BFGS-B",
            bounds=None if self.signed else [(0, None)] * n_members,
            callback=note,
            options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-7},
        )
        return np.asarray(found.x)

    def loss(self, weights: Floats) -> tuple[float, Floats]:
        """Log-loss of the pool with the ridge, and its gradient."""
        apart = weights - 1 / len(weights)
        loss, slope = float(self.ridge / 2 * apart @ apart), self.ridge * apart
        for logs, codes in zip(self.logs, self.codes, strict=True):
            one, gradient = _log_loss(logs, codes, self.shares, weights)
            loss, slope = loss + one, slope + gradient
        return loss, slope


def _log_loss(
    logs: Floats, codes: Counts, shares: Floats, weights: Floats
) -> tuple[float, Floats]:
    n_members, n_samples, n_classes = logs.shape
    flat = logs.reshape(n_members, -1)
    rows = np.arange(n_samples)
    pooled = (weights @ flat).reshape(n_samples, n_classes)
    pooled -= pooled.max(axis=1, keepdims=True)
    chosen = pooled[rows, codes]
    np.exp(pooled, out=pooled)
    sums = pooled.sum(axis=1)
    loss = float(shares @ (np.log(sums) - chosen))
    pooled *= (shares / sums)[:, None]
    pooled[rows, codes] -= shares
    return loss, flat @ pooled.ravel()
