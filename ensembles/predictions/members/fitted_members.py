"""Predictions of fitted members, calibrated where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ensembles._typing import Float64
from ensembles.predictions.members.adapters import ByDecision, linked
from ensembles.predictions.members.fitting import Fitted, Split, attempt, each
from ensembles.predictions.members.outputs import Answer, Answers


def predicted(
    members: Mapping[str, Any],
    calibrators: Sequence[Any],
    answers: Answers,
    X: Any,
    *,
    on_error: str,
    n_jobs: int | None,
) -> Iterator[Any]:
    """Predictions of members in their order, each as soon as it is ready.

    Parameters
    ----------
    members : mapping of name to fitted estimator
    calibrators : sequence of n_members callables or None
    answers : Answers
    X : array-like of shape (n_samples, ...)
    on_error : {"raise", "drop"}
        With "drop" an error takes the place of predictions.
    n_jobs : int or None

    Returns
    -------
    iterator of Answer or Exception
    """
    tasks = (
        (on_error, name, _calibrated, (answers, name, member, calibrator, X))
        for (name, member), calibrator in zip(members.items(), calibrators, strict=True)
    )
    return each(n_jobs, attempt, tasks)


def _calibrated(
    answers: Answers, name: str, member: Any, calibrator: Any, X: Any
) -> Answer:
    answer = answers.of(name, member, X)
    return answer if calibrator is None else calibrator(answer)


def with_probabilities(
    one: Fitted, splits: Sequence[Split], y: Any, labels: Any, weight: Float64 | None
) -> Fitted:
    """A member whose decision values are turned into probabilities.

    Parameters
    ----------
    one : Fitted
        With decision values of the rows that each split holds out.
    splits : sequence of (train, test)
    y : array-like of shape (n_samples,)
    labels : Labels
    weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    Fitted
    """
    codes, classes = labels.codes(y)[0], labels.classes[0]
    link, folds = linked(one.folds, splits, codes, classes, weight)
    return Fitted(one.name, ByDecision(one.member, link), folds)
