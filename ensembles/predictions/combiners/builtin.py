"""Combiners: rules for what members say, met one member after the other.

A combiner takes members as they come and keeps a running sum, so that an ensemble holds
one member's predictions at a time. Any elementwise rule of `ensembles.rules`
serves too; it needs all members at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.predictions.combiners.accumulation import (
    Members,
    pooled,
    refuse_nan,
    weighted_mean,
)
from ensembles.predictions.combiners.combiner import Combiner, Whole
from ensembles.registry import Table, lookup, register
from ensembles.rules.builtin import RULES
from ensembles.rules.rule import Rule
from ensembles.selection.table import check_number

# Least probability that has a logarithm here: forests and naive Bayes say 0 where they
# mean seldom. Chosen on other data than is reported.
FLOOR = 1e-5


COMBINERS: Table[Combiner] = Table("rule", Combiner)


def combiner_of(
    rule: str | Combiner | Rule,
    *,
    of: Literal["probabilities", "values"] = "probabilities",
) -> Combiner:
    """Combiner of that name, or what a rule for anything does with predictions.

    Parameters
    ----------
    rule : str, Combiner or Rule
    of : {"probabilities", "values"}, default="probabilities"
        What is to be combined. Where a combiner of classes and a rule for anything
        have one name, as ``"geometric_mean"``, values are combined by the rule.

    Returns
    -------
    Combiner

    Raises
    ------
    ValueError
        If no combiner and no elementwise rule has that name.
    TypeError
        If it is none of these kinds.
    """
    if isinstance(rule, Combiner):
        return rule
    if isinstance(rule, Rule):
        return Whole(rule)
    known: Table[Combiner] = Table(COMBINERS.noun)
    known.update(COMBINERS)
    for name, found in RULES.items():
        own = COMBINERS.get(name)
        serves = own is not None and (of == "probabilities" or own.takes == "values")
        if found.is_elementwise and not serves:
            known[name] = Whole(found)
    return lookup(known, rule)


@register(COMBINERS, takes="values", signed=True)
def mean(members: Members, weights: Float64) -> Float64:
    """Weighted mean, sum(w[i] x[i]) / sum(w[i]): soft voting, the linear pool.

    References
    ----------
    Stone (1961), "The opinion pool", Annals of Mathematical Statistics 32.
    """
    return weighted_mean(members, weights)


@register(COMBINERS)
def geometric_mean(
    members: Members, weights: Float64, *, floor: float = FLOOR
) -> Float64:
    """Weighted geometric mean, prod(p[i] ** (w[i] / sum(w))), rows scaled to sum 1.

    Parameters
    ----------
    floor : float between 0 and 1, default=1e-5
        Smaller probabilities are raised to it: a member that gives a class none does
        not rule it out alone.

    References
    ----------
    Genest & Zidek (1986), "Combining probability distributions: a critique and an
    annotated bibliography", Statistical Science 1, section 3.
    """
    return pooled(members, weights / math.fsum(weights), floor)


@register(COMBINERS, scaled=True)
def product(
    members: Members,
    weights: Float64,
    *,
    floor: float = FLOOR,
    intercept: ArrayLike | None = None,
) -> Float64:
    """Product, prod(p[i] ** w[i]), rows scaled to sum 1: independent experts.

    Equal weights are 1 each, so that what members agree on grows more certain.

    Parameters
    ----------
    floor : float between 0 and 1, default=1e-5
        Smaller probabilities are raised to it.
    intercept : array of shape (n_classes,) or None, default=None
        Added to the logarithm of each class. Estimators learn it with the weights;
        None adds nothing.

    References
    ----------
    Kittler, Hatef, Duin & Matas (1998), "On combining classifiers", IEEE Transactions
    on Pattern Analysis and Machine Intelligence 20: the product rule, classes being
    equally frequent.
    """
    return pooled(members, weights, floor, intercept)


@register(COMBINERS, signed=True, scaled=True, shared=True)
def log_pool(
    members: Members,
    weights: Float64,
    *,
    floor: float = FLOOR,
    temperature: float = 1.0,
    intercept: ArrayLike | None = None,
) -> Float64:
    """Log-linear pool, prod(p[i] ** (w[i] / temperature)) * exp(intercept).

    Rows are scaled to sum 1. Equal weights are 1 / n_members each, which is the
    geometric mean. A larger sum of the weights sharpens the result and a smaller one
    softens it. The estimators divide weights that are given by their sum, so that
    ``[2, 1, 1]`` means what it means for `VotingClassifier`, and ``temperature`` alone
    sharpens or softens; weights that they learn keep their sum.

    Parameters
    ----------
    floor : float between 0 and 1, default=1e-5
        Smaller probabilities are raised to it.
    temperature : float, positive, default=1.0
        Weights are divided by it: less than 1 sharpens, more softens.
    intercept : array of shape (n_classes,) or None, default=None
        Added to the logarithm of each class, as the logarithm of a class prior is.
        Estimators learn it with the weights; None adds nothing.

    References
    ----------
    Genest & Zidek (1986), "Combining probability distributions: a critique and an
    annotated bibliography", Statistical Science 1, section 3; weights of any sum as in
    Satopää et al. (2014), "Combining multiple probability predictions using a simple
    logit model", International Journal of Forecasting 30, where the intercept
    corrects a bias that the members share.
    """
    check_number(temperature=temperature)
    if not temperature > 0:  # NaN is not either
        raise ValueError(f"temperature must be positive, found {temperature!r}")
    return pooled(members, weights / temperature, floor, intercept)


@register(COMBINERS, takes="labels")
def vote(members: Members, weights: Float64) -> Float64:
    """Share of the weight that votes for each class: hard voting.

    Each member votes for the class that it predicts, from probabilities the first of
    the largest. A tie goes to the class that sorts first. Where a member's array is of
    booleans, they are its votes; a row without any abstains.

    References
    ----------
    Lam & Suen (1997), "Application of majority voting to pattern recognition", IEEE
    Transactions on Systems, Man, and Cybernetics A 27.
    """
    return weighted_mean(members, weights, _votes)


def _votes(part: Float64, place: int) -> Float64:
    if part.dtype == bool:
        return part
    refuse_nan(part, place)
    chosen = part.argmax(axis=1)
    return np.asarray(chosen[:, None] == np.arange(part.shape[1]))


@register(COMBINERS)
def borda(members: Members, weights: Float64) -> Float64:
    """Weighted Borda count: the number of classes that each beats, halves for ties.

    References
    ----------
    Ho, Hull & Srihari (1994), "Decision combination in multiple classifier systems",
    IEEE Transactions on Pattern Analysis and Machine Intelligence 16.
    """
    return weighted_mean(members, weights, _beaten)


def _beaten(part: Float64, place: int) -> Float64:
    from scipy.stats import rankdata

    refuse_nan(part, place)
    return np.asarray(rankdata(part, axis=1) - 1)


@register(COMBINERS, ranked=True)
def rank_mean(
    members: Members, weights: Float64, *, training: Sequence[Float64]
) -> Float64:
    """Weighted mean of the shares of training predictions that lie below, per class.

    What members say is replaced by its rank among what they said of the training
    data, so that members on different scales count alike and a row's answer does not
    depend on its batch. Ties count half. The result is a score, not a probability.

    Parameters
    ----------
    training : sequence of n_members arrays of shape (n_training, n_columns)
        Each member's predictions, every column sorted.

    References
    ----------
    Fernández, Vallet & Castells (2006), "Probabilistic score normalization for rank
    aggregation", ECIR: scores by their place in the distribution of earlier ones.
    """
    _check_training(training, len(weights))

    def shares(part: Float64, place: int) -> Float64:
        refuse_nan(part, place)
        known = training[place]
        if part.shape[1:] != known.shape[1:]:
            raise ValueError(
                f"training must have the columns of the members: members[{place}] has "
                f"{part.shape[1]}, training[{place}] has {known.shape[1]}"
            )
        columns = zip(part.T, known.T, strict=True)
        return np.column_stack([_share_below(asked, said) for asked, said in columns])

    return weighted_mean(members, weights, shares)


def _check_training(training: Sequence[Float64], n_members: int) -> None:
    if len(training) != n_members:
        raise ValueError(
            "training must hold the predictions of each member: found "
            f"{len(training)} for {n_members} members"
        )
    for place, known in enumerate(training):
        # NaN, which sorting leaves at the end, is not above anything.
        ascending = len(known) > 0 and (known[:-1] <= known[1:]).all()
        if not ascending or np.isnan(known[-1:]).any():
            raise ValueError(
                "training must be rows of numbers, each column sorted: "
                f"training[{place}], of shape {known.shape}, is not"
            )


def _share_below(asked: Float64, values: Float64) -> Float64:
    """Share of sorted values below each number, halves for those that equal it."""
    order = np.argsort(asked)
    ascending = asked[order]  # sought in their order they are found near each other
    sides = values.searchsorted(ascending, "left") + values.searchsorted(
        ascending, "right"
    )
    shares = np.empty(len(asked))
    shares[order] = sides / (2 * len(values))
    return shares


@register(COMBINERS, takes="quantiles")
def quantile_mean(members: Members, weights: Float64) -> Float64:
    """Weighted mean of quantiles, each member's sorted first so that none cross.

    References
    ----------
    Ratcliff (1979), "Group reaction time distributions and an analysis of distribution
    statistics", Psychological Bulletin 86 (Vincent averaging); sorting after
    Chernozhukov, Fernández-Val & Galichon (2010), "Quantile and probability curves
    without crossing", Econometrica 78.
    """
    return weighted_mean(members, weights, _uncrossed)


def _uncrossed(part: Float64, place: int) -> Float64:
    refuse_nan(part, place)
    return np.sort(part, axis=1)
