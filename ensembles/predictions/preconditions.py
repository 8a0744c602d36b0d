"""What must hold before any member is fitted, for a fit may take hours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer

from ensembles._typing import Float64
from ensembles.predictions.fitted_combiner import Combination
from ensembles.predictions.members.fitting import Split
from ensembles.predictions.members.named_estimators import check_weightable
from ensembles.predictions.members.out_of_fold import Held
from ensembles.predictions.members.outputs import Answer, Labels, Values
from ensembles.predictions.metrics.scorer import Scored
from ensembles.registry import lookup
from ensembles.selection import SELECTIONS

# What a scorer raises for targets or predictions that it is not for.
SCORER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
)
# What VotingClassifier and others call them.
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
    """Raise if a rule is called by another library's name.

    Parameters
    ----------
    rule : str or other

    Raises
    ------
    ValueError
    """
    if isinstance(rule, str) and rule.casefold() in OTHER_NAMES:
        raise ValueError(
            f"unknown rule {rule!r}; did you mean {OTHER_NAMES[rule.casefold()]!r}?"
        )


def checked_params(params: Any) -> dict[str, Any]:
    """Parameters of rule and selection, as a dict of their own.

    Parameters
    ----------
    params : mapping of str to value, or None

    Returns
    -------
    dict of str to value

    Raises
    ------
    TypeError
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
    named: Sequence[tuple[str, Any]], params: Mapping[str, Any], answers: Any
) -> None:
    """Raise for members that will fail: without predictions, or for their weights.

    Parameters
    ----------
    named : sequence of (name, estimator)
    params : mapping of name to what its ``fit`` gets
    answers : Answers

    Raises
    ------
    ValueError, TypeError
    """
    for name, member in named:
        answers.check_before(name, member)
        check_weightable(name, member, params[name])


class _FirstScore(Exception):
    """A selection has looked at its parameters, and asks for the first score."""


def check_selection(name: str, n_members: int, params: Mapping[str, Any]) -> None:
    """Raise what a selection raises for its parameters, before it asks for a score.

    Parameters
    ----------
    name : str
    n_members : int
    params : mapping of str to value

    Raises
    ------
    ValueError, TypeError
    """

    def score(weights: Float64) -> float:
        raise _FirstScore

    with suppress(_FirstScore):
        lookup(SELECTIONS, name)(n_members, score, **params)


def check_scoring(scoring: Any) -> None:
    """Raise unless it is None, a scorer's name or a callable.

    Parameters
    ----------
    scoring : str, callable or None

    Raises
    ------
    ValueError, TypeError
    """
    if scoring is None or callable(scoring):
        return
    if not isinstance(scoring, str):
        raise TypeError(
            "scoring must be one scorer, by name or a callable, or None: found "
            f"{scoring!r}"
        )
    get_scorer(scoring)  # whose error says where the names are


def check_score(
    combination: Combination,
    y: Any,
    splits: Sequence[Split],
    sample_weight: Any,
    scoring: Any,
) -> None:
    """Raise if a scorer cannot score predictions of these targets.

    It is asked about predictions that are made up. A callable that fails on some, as
    one does that asks for a certain quality, is asked about others.

    Parameters
    ----------
    combination : Combination
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets of all rows.
    splits : sequence of (train, test)
        Whose test rows are held out.
    sample_weight : array-like of shape (n_samples,) or None
    scoring : str, callable or None

    Raises
    ------
    ValueError or another of `SCORER_ERRORS`
        The scorer's own kind, with what may be meant.
    """
    answers: Any = combination.answers
    if scoring is None or (isinstance(answers, Values) and answers.width is None):
        return
    rows = np.unique(np.concatenate([test for _, test in splits]))
    y = np.asarray(y)[rows]
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight)[rows]
    rolled = 1, 0  # the targets of other rows, or their own, blended
    errors = [
        _error_on(_made_up(answers, y, by), combination, y, sample_weight, scoring)
        for by in (rolled if callable(scoring) else rolled[:1])
    ]
    error = errors[0]
    if error is None or None in errors:
        return
    notes = [str(error), *getattr(error, "__notes__", [])]
    hint = _hint(answers, scoring, str(error))
    kind = ValueError if isinstance(error, KeyError) else type(error)
    raise kind(
        f"scoring {scoring!r} failed on predictions of these targets, before any "
        f"member was fitted: {'; '.join(notes)}{hint}"
    ) from error


def _error_on(
    made_up: Answer, combination: Any, y: Any, sample_weight: Any, scoring: Any
) -> Exception | None:
    """What a scorer raises for predictions, if it does."""
    answers = combination.answers
    held = Held([part[None] for part in made_up], y, answers, sample_weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of predictions that are made up
        try:
            Scored(held, combination, scoring).of(made_up)
        except SCORER_ERRORS as error:
            return error
    return None


def _made_up(answers: Labels | Values, y: Any, by: int) -> Answer:
    """Predictions of the right form, hardly two alike, every class predicted.

    They are the targets, of the rows ``by`` places before, blended with their mean.
    """
    share = np.random.default_rng(0).uniform(0.4, 0.6, (len(y), 1))
    if isinstance(answers, Values):
        values = np.asarray(y, np.float64).reshape(len(y), -1)
        rolled = np.roll(values, by, axis=0)
        return [rolled + share * (values.mean(axis=0) - rolled)]
    made_up = []
    for codes, classes in zip(answers.codes(y), answers.classes, strict=True):
        sure = np.eye(len(classes))[np.roll(codes, by)]
        made_up.append(sure + share * (1 / len(classes) - sure))
    return made_up


def _hint(answers: Labels | Values, scoring: Any, error: str) -> str:
    if isinstance(answers, Labels) and "pos_label" in error:
        last = answers.classes[0][-1:].tolist()[0]
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
