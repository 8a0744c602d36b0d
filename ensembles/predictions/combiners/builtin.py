"""Built-in combiners: rules that combine predictions one member at a time.

A combiner accumulates a sum, so that an ensemble holds the predictions of one member at
a time. The elementwise rules of `ensembles.rules` combine predictions too, but need all
members at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.predictions.combiners.accumulation import (
    Members,
    check_no_nan,
    clipped_logarithm,
    softmax,
    weighted_mean,
    weighted_sum,
)
from ensembles.predictions.combiners.combiner import (
    Combiner,
    ElementwiseCombiner,
    Terms,
)
from ensembles.registry import Table, lookup, register
from ensembles.rules.builtin import RULES
from ensembles.rules.rule import Rule
from ensembles.selection.table import check_real

# Lower bound of probabilities before the logarithm: forests and naive Bayes predict 0
# for classes that are only rare. Chosen on other data sets than those reported.
FLOOR = 1e-5


COMBINERS: Table[Combiner] = Table("rule", Combiner)


def resolve_combiner(
    rule: str | Combiner | Rule,
    *,
    of: Literal["probabilities", "values"] = "probabilities",
) -> Combiner:
    """Combiner of a name, or a combiner made from an elementwise rule.

    Parameters
    ----------
    rule : str, Combiner or Rule
        Name of a combiner or of an elementwise rule, or the object itself.
    of : {"probabilities", "values"}, default="probabilities"
        Kind of predictions. If a combiner of class probabilities and an elementwise
        rule have the same name, e.g. ``"geometric_mean"``, values use the rule.

    Returns
    -------
    Combiner

    Raises
    ------
    ValueError
        If no combiner and no elementwise rule has that name, or a `Rule` is not
        elementwise.
    TypeError
        If ``rule`` is of another type.
    """
    if isinstance(rule, Combiner):
        return rule
    if isinstance(rule, Rule):
        return ElementwiseCombiner(rule)
    combiner = COMBINERS.get(rule) if isinstance(rule, str) else None
    if combiner is not None and (of == "probabilities" or combiner.input == "values"):
        return combiner
    elementwise = {
        name: entry
        for name, entry in RULES.items()
        if entry.is_elementwise
        and entry.n_members is None
        and not entry.weight_sum_matters  # means of probabilities, not sums
    }
    if isinstance(rule, str) and rule in elementwise:
        return ElementwiseCombiner(elementwise[rule])
    # The error names both; a combiner of other input is an error of the estimator.
    table: Table[Any] = Table(COMBINERS.noun)
    table.update({**elementwise, **COMBINERS})
    resolved: Combiner = lookup(table, rule)
    return resolved


def _probabilities() -> Terms:
    return Terms(None, 1.0)


def _logarithms(*, floor: float = FLOOR, temperature: float = 1.0) -> Terms:
    logarithm = clipped_logarithm(floor)
    span = -math.log(floor) / temperature

    def scaled(rows: Float64, index: int) -> Float64:
        return logarithm(rows, index) / temperature

    return Terms(scaled, span, is_logarithmic=True)


def _indicators() -> Terms:
    return Terms(_votes, 1.0)


@register(COMBINERS, input="values", signed=True, terms=_probabilities)
def mean(members: Members, weights: Float64) -> Float64:
    """Weighted mean, sum(w[i] x[i]) / sum(w[i]): soft voting, the linear pool.

    References
    ----------
    Stone (1961), "The opinion pool", Annals of Mathematical Statistics 32.
    """
    total = weighted_sum(members, weights)
    total /= math.fsum(weights)  # once, at the end, so that ties are exact
    return total


@register(COMBINERS, terms=_logarithms)
def geometric_mean(
    members: Members, weights: Float64, *, floor: float = FLOOR
) -> Float64:
    """Weighted geometric mean, prod(p[i] ** (w[i] / sum(w))), rows scaled to sum 1.

    Parameters
    ----------
    members : iterable of n_members arrays of shape (n_rows, n_classes)
        Class probabilities of each member.
    weights : ndarray of shape (n_members,)
        Weights of the members, scaled to sum 1.
    floor : float between 0 and 1, default=1e-5
        Lower bound of the probabilities; smaller ones are raised to it, so that no
        member alone can rule a class out with probability 0.

    References
    ----------
    Genest & Zidek (1986), "Combining probability distributions: a critique and an
    annotated bibliography", Statistical Science 1, section 3.
    """
    shares = weights / math.fsum(weights)
    return softmax(weighted_sum(members, shares, clipped_logarithm(floor)))


@register(COMBINERS, weight_sum_matters=True, terms=_logarithms)
def product(
    members: Members,
    weights: Float64,
    *,
    floor: float = FLOOR,
    intercept: ArrayLike | None = None,
) -> Float64:
    """Product, prod(p[i] ** w[i]), rows scaled to sum 1: independent experts.

    Equal weights are 1 each, so that agreement of the members makes the result more
    certain.

    Parameters
    ----------
    members : iterable of n_members arrays of shape (n_rows, n_classes)
        Class probabilities of each member.
    weights : ndarray of shape (n_members,)
        Weights of the members, used as exponents.
    floor : float between 0 and 1, default=1e-5
        Lower bound of the probabilities; smaller ones are raised to it.
    intercept : array of shape (n_classes,) or None, default=None
        Added to the logarithm of each class; the estimators learn it together with the
        weights. None adds nothing.

    References
    ----------
    Kittler, Hatef, Duin & Matas (1998), "On combining classifiers", IEEE Transactions
    on Pattern Analysis and Machine Intelligence 20: the product rule for equally
    frequent classes.
    """
    logarithm = clipped_logarithm(floor)
    return softmax(weighted_sum(members, weights, logarithm), intercept)


@register(
    COMBINERS,
    signed=True,
    weight_sum_matters=True,
    equal_weights_sum_to_one=True,
    terms=_logarithms,
)
def log_pool(
    members: Members,
    weights: Float64,
    *,
    floor: float = FLOOR,
    temperature: float = 1.0,
    intercept: ArrayLike | None = None,
) -> Float64:
    """Log-linear pool, prod(p[i] ** (w[i] / temperature)) * exp(intercept).

    Rows are scaled to sum 1. Equal weights are 1 / n_members each, which gives the
    geometric mean. A larger sum of the weights sharpens the result, a smaller sum
    softens it. The estimators divide given weights by their sum, so that ``[2, 1, 1]``
    has the same meaning as in `sklearn.ensemble.VotingClassifier` and only
    ``temperature`` sharpens or softens; learned weights keep their sum.

    Parameters
    ----------
    members : iterable of n_members arrays of shape (n_rows, n_classes)
        Class probabilities of each member.
    weights : ndarray of shape (n_members,)
        Weights of the members, of any sign.
    floor : float between 0 and 1, default=1e-5
        Lower bound of the probabilities; smaller ones are raised to it.
    temperature : float, positive, default=1.0
        Divisor of the weights: less than 1 sharpens, more than 1 softens.
    intercept : array of shape (n_classes,) or None, default=None
        Added to the logarithm of each class, like a log-prior; the estimators learn it
        together with the weights. None adds nothing.

    References
    ----------
    Genest & Zidek (1986), "Combining probability distributions: a critique and an
    annotated bibliography", Statistical Science 1, section 3; weights of any sum from
    Satopää et al. (2014), "Combining multiple probability predictions using a simple
    logit model", International Journal of Forecasting 30, where the intercept
    corrects a bias that the members share.
    """
    check_real(temperature=temperature)
    if not temperature > 0:  # also rejects NaN
        raise ValueError(f"temperature must be positive, found {temperature!r}")
    logarithm = clipped_logarithm(floor)
    return softmax(weighted_sum(members, weights / temperature, logarithm), intercept)


@register(COMBINERS, input="labels", terms=_indicators)
def vote(members: Members, weights: Float64) -> Float64:
    """Hard voting: the share of the weight that votes for each class.

    Each member votes for its most probable class, the first in a tie; ties between
    classes go to the class that sorts first. A boolean array contains the votes
    themselves; a row without True is an abstention.

    References
    ----------
    Lam & Suen (1997), "Application of majority voting to pattern recognition", IEEE
    Transactions on Systems, Man, and Cybernetics A 27.
    """
    return weighted_mean(members, weights, _votes)


def _votes(rows: Float64, index: int) -> Float64:
    if rows.dtype == bool:
        return rows
    check_no_nan(rows, index)
    labels = rows.argmax(axis=1)
    return np.asarray(labels[:, None] == np.arange(rows.shape[1]))


@register(COMBINERS)
def borda(members: Members, weights: Float64) -> Float64:
    """Weighted Borda count: mean number of lower-ranked classes, ties counting half.

    References
    ----------
    Ho, Hull & Srihari (1994), "Decision combination in multiple classifier systems",
    IEEE Transactions on Pattern Analysis and Machine Intelligence 16.
    """
    return weighted_mean(members, weights, _n_lower_classes)


def _n_lower_classes(rows: Float64, index: int) -> Float64:
    from scipy.stats import rankdata

    check_no_nan(rows, index)
    return np.asarray(rankdata(rows, axis=1) - 1)


@register(COMBINERS, needs_training_predictions=True)
def rank_mean(
    members: Members, weights: Float64, *, training: Sequence[Float64]
) -> Float64:
    """Weighted mean of the shares of lower training predictions, per class.

    Each prediction is replaced by its normalized rank among the member's predictions
    for the training data, ties counting half. Members on different scales then count
    equally, and the result for a row does not depend on its batch. The result is a
    score, not a probability.

    Parameters
    ----------
    members : iterable of n_members arrays of shape (n_rows, n_classes)
        Class probabilities of each member.
    weights : ndarray of shape (n_members,)
        Weights of the members.
    training : sequence of n_members arrays of shape (n_training, n_columns)
        Training predictions of each member, every column in ascending order.

    References
    ----------
    Fernández, Vallet & Castells (2006), "Probabilistic score normalization for rank
    aggregation", ECIR: scores are replaced by their rank among earlier scores.
    """
    _check_training(training, len(weights))

    def normalized_ranks(rows: Float64, index: int) -> Float64:
        check_no_nan(rows, index)
        if rows.shape[1:] != training[index].shape[1:]:
            raise ValueError(
                f"training must have the columns of the members: members[{index}] has "
                f"{rows.shape[1]}, training[{index}] has {training[index].shape[1]}"
            )
        columns = zip(rows.T, training[index].T, strict=True)
        return np.column_stack([_share_below(*pair) for pair in columns])

    return weighted_mean(members, weights, normalized_ranks)


def _check_training(training: Sequence[Float64], n_members: int) -> None:
    if len(training) != n_members:
        raise ValueError(
            "training must have one array per member: found "
            f"{len(training)} arrays for {n_members} members"
        )
    for index, columns in enumerate(training):
        # NaN sorts to the end, and no comparison with it is true.
        is_sorted = len(columns) > 0 and (columns[:-1] <= columns[1:]).all()
        if not is_sorted or np.isnan(columns[-1:]).any():
            raise ValueError(
                "training must have at least one row, and sorted columns without NaN: "
                f"training[{index}], of shape {columns.shape}, does not"
            )


def _share_below(values: Float64, sorted_values: Float64) -> Float64:
    """Share of the sorted values below each value, equal ones counting half."""
    order = np.argsort(values)
    ascending = values[order]  # searches in ascending order access nearby memory
    below = sorted_values.searchsorted(ascending, "left")
    not_above = sorted_values.searchsorted(ascending, "right")
    shares = np.empty(len(values))
    shares[order] = (below + not_above) / (2 * len(sorted_values))
    return shares


@register(COMBINERS, input="quantiles")
def quantile_mean(members: Members, weights: Float64) -> Float64:
    """Weighted mean of quantiles, sorted for each member so that they do not cross.

    References
    ----------
    Ratcliff (1979), "Group reaction time distributions and an analysis of distribution
    statistics", Psychological Bulletin 86 (Vincent averaging); sorting after
    Chernozhukov, Fernández-Val & Galichon (2010), "Quantile and probability curves
    without crossing", Econometrica 78.
    """
    return weighted_mean(members, weights, _uncrossed)


def _uncrossed(rows: Float64, index: int) -> Float64:
    check_no_nan(rows, index)
    return np.sort(rows, axis=1)
