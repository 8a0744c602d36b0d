"""Checks before the members are fitted, because a fit may take hours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer

from ensembles._typing import Float64
from ensembles.predictions.fitted_combiner import FittedCombiner
from ensembles.predictions.members.fitting import Split
from ensembles.predictions.members.named_estimators import check_accepts_sample_weight
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    Predictions,
    RegressionOutputs,
)
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.registry import lookup
from ensembles.selection import SELECTIONS

# Errors of scorers for targets or predictions that they do not support.
SCORER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
)
# Names of the rules in VotingClassifier and other libraries.
OTHER_NAMES = {
    "soft": "mean",
    "average": "mean",
    "avg": "mean",
    "hard": "vote",
    "majority": "vote",
    "max": "maximum",
    "min": "minimum",
    "ranks": "rank_mean",
}


def check_rule_name(rule: Any) -> None:
    """Raise if ``rule`` is the name of a rule in another library.

    Parameters
    ----------
    rule : str or other
        Value of the ``rule`` parameter; anything but a string passes.

    Raises
    ------
    ValueError
        If the name is in `OTHER_NAMES`; the message gives the name to use.
    """
    if isinstance(rule, str) and rule.casefold() in OTHER_NAMES:
        raise ValueError(
            f"unknown rule {rule!r}; did you mean {OTHER_NAMES[rule.casefold()]!r}?"
        )


def checked_params(params: Any) -> dict[str, Any]:
    """Copy the parameters of rule and selection to a dict.

    Parameters
    ----------
    params : mapping of str to value, or None
        Value of the ``params`` parameter; None means no parameters.

    Returns
    -------
    dict of str to value

    Raises
    ------
    TypeError
        If ``params`` is neither a mapping nor None.
    """
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise TypeError(
            "params must be a dict of parameters of the rule and of the selection, "
            f"such as {{'n_bags': 20}}, or None: found {params!r}"
        )
    return dict(params)


def check_members(
    named: Sequence[tuple[str, Any]], params: Mapping[str, Any], outputs: Any
) -> None:
    """Raise if a member lacks a method to predict with or support of sample weights.

    Parameters
    ----------
    named : sequence of (name, estimator)
        Members by name.
    params : mapping of name to dict
        Keyword arguments of each member's ``fit``.
    outputs : OutputSpec
        Format of the predictions.

    Raises
    ------
    ValueError
        If a member cannot predict in this format.
    TypeError
        If ``fit`` of a member gets ``sample_weight`` and does not accept it.
    """
    for name, member in named:
        outputs.check_methods(name, member)
        check_accepts_sample_weight(name, member, params[name])


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
        If the selection is unknown, or as it raises for its parameters.
    """

    def score(weights: Float64) -> float:
        raise _FirstScore

    with suppress(_FirstScore):
        lookup(SELECTIONS, name)(n_members, score, **params)


def check_scoring(scoring: Any) -> None:
    """Raise unless ``scoring`` is None, the name of a scorer or a callable.

    Parameters
    ----------
    scoring : str, callable or None
        Value of the ``scoring`` parameter; None means the default score.

    Raises
    ------
    ValueError
        If scikit-learn has no scorer of this name.
    TypeError
        If ``scoring`` is of another type.
    """
    if scoring is None or callable(scoring):
        return
    if not isinstance(scoring, str):
        raise TypeError(
            "scoring must be one scorer, by name or a callable, or None: found "
            f"{scoring!r}"
        )
    get_scorer(scoring)  # its error says how to list the names


def check_score(
    combination: FittedCombiner,
    y: Any,
    splits: Sequence[Split],
    sample_weight: Any,
    scoring: Any,
) -> None:
    """Raise if a scorer cannot score predictions of these targets.

    The scorer is run on synthetic predictions. A callable that fails on them, e.g.
    because it requires a minimum quality, is run on better ones.

    Parameters
    ----------
    combination : FittedCombiner
        Rule, parameters and prediction format of the ensemble.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets of all rows.
    splits : sequence of (train, test)
        Row indices; only the test rows are scored.
    sample_weight : array-like of shape (n_samples,) or None
        Sample weights of the score; None means that the scorer gets none.
    scoring : str, callable or None
        Scorer to check; None passes.

    Raises
    ------
    ValueError or another of `SCORER_ERRORS`
        The type of the scorer's error, ValueError for a KeyError; the message adds a
        hint.
    """
    outputs: Any = combination.outputs
    if scoring is None or (
        isinstance(outputs, RegressionOutputs) and outputs.width is None
    ):
        return
    rows = np.unique(np.concatenate([test for _, test in splits]))
    y = np.asarray(y)[rows]
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight)[rows]
    rolled = 1, 0  # predict the target of the row before, or of the row itself
    errors = [
        _error_on(_made_up(outputs, y, by), combination, y, sample_weight, scoring)
        for by in (rolled if callable(scoring) else rolled[:1])
    ]
    error = errors[0]
    if error is None or None in errors:
        return
    notes = [str(error), *getattr(error, "__notes__", [])]
    hint = _hint(outputs, scoring, str(error))
    kind = ValueError if isinstance(error, KeyError) else type(error)
    raise kind(
        f"scoring {scoring!r} failed on predictions of these targets, before any "
        f"member was fitted: {'; '.join(notes)}{hint}"
    ) from error


def _error_on(
    made_up: Predictions, combination: Any, y: Any, sample_weight: Any, scoring: Any
) -> Exception | None:
    """Error of a scorer for these predictions; None if it returns a score."""
    outputs = combination.outputs
    held = OutOfFold([part[None] for part in made_up], y, outputs, sample_weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about synthetic predictions
        try:
            ScorerScore(held, combination, scoring).evaluate(made_up)
        except SCORER_ERRORS as error:
            return error
    return None


def _made_up(outputs: ClassOutputs | RegressionOutputs, y: Any, by: int) -> Predictions:
    """Synthetic predictions, almost all distinct, with every class predicted.

    A blend of the mean and the targets of the rows ``by`` positions before.
    """
    share = np.random.default_rng(0).uniform(0.4, 0.6, (len(y), 1))
    if isinstance(outputs, RegressionOutputs):
        values = np.asarray(y, np.float64).reshape(len(y), -1)
        rolled = np.roll(values, by, axis=0)
        return [rolled + share * (values.mean(axis=0) - rolled)]
    made_up = []
    for codes, classes in zip(outputs.encode(y), outputs.classes, strict=True):
        sure = np.eye(len(classes))[np.roll(codes, by)]
        made_up.append(sure + share * (1 / len(classes) - sure))
    return made_up


def _hint(outputs: ClassOutputs | RegressionOutputs, scoring: Any, error: str) -> str:
    if isinstance(outputs, ClassOutputs) and "pos_label" in error:
        last = outputs.classes[0][-1:].tolist()[0]
        return (
            "; name the positive class, as in make_scorer(f1_score, "
            f"pos_label={last!r}), or average over the classes, as in 'f1_macro'"
        )
    if callable(scoring):
        return (
            "; a callable is given (estimator, predictions, y): the predictions of the "
            "members stand in place of X, which is not kept"
        )
    return ""
