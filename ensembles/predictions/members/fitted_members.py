"""Predictions of fitted members, with calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ensembles._typing import Float64
from ensembles.predictions.members.adapters import DecisionProbabilities, fit_link
from ensembles.predictions.members.fitting import FittedMember, Split, call_member, each
from ensembles.predictions.members.outputs import OutputSpec, Predictions


def predicted(
    members: Mapping[str, Any],
    calibrators: Sequence[Any],
    outputs: OutputSpec,
    X: Any,
    *,
    on_error: str,
    n_jobs: int | None,
) -> Iterator[Any]:
    """Predictions of the members, in order, each as soon as it is ready.

    Parameters
    ----------
    members : mapping of name to fitted estimator
        Members to predict with.
    calibrators : sequence of n_members callables or None
        Calibrator of each member's predictions; None leaves them as they are.
    outputs : OutputSpec
        Format of the predictions.
    X : array-like of shape (n_samples, ...)
        Samples, passed to the members unchanged.
    on_error : {"raise", "drop"}
        "drop" returns the exception of a member that fails instead of raising it.
    n_jobs : int or None
        Number of parallel jobs, as in joblib; None means 1, unless a
        `joblib.parallel_config` context sets another number.

    Returns
    -------
    iterator of Answer or Exception
        One entry per member.
    """
    tasks = (
        (on_error, name, _calibrated, (outputs, name, member, calibrator, X))
        for (name, member), calibrator in zip(members.items(), calibrators, strict=True)
    )
    return each(n_jobs, call_member, tasks)


def _calibrated(
    outputs: OutputSpec, name: str, member: Any, calibrator: Any, X: Any
) -> Predictions:
    answer = outputs.of(name, member, X)
    return answer if calibrator is None else calibrator(answer)


def with_probabilities(
    one: FittedMember,
    splits: Sequence[Split],
    y: Any,
    labels: Any,
    weight: Float64 | None,
) -> FittedMember:
    """Add probabilities to a member that has only decision values.

    Parameters
    ----------
    one : FittedMember
        Member, with its decision values of the test rows of each split.
    splits : sequence of (train, test)
        Row indices of each split.
    y : array-like of shape (n_samples,)
        True labels.
    labels : ClassOutputs
        Classes of the single target.
    weight : ndarray of shape (n_samples,) or None
        Sample weights; None weights all samples equally.

    Returns
    -------
    FittedMember
        The member in a `DecisionProbabilities`, with probabilities in ``folds``.
    """
    codes, classes = labels.encode(y)[0], labels.classes[0]
    link, folds = fit_link(one.folds, splits, codes, classes, weight)
    return FittedMember(one.name, DecisionProbabilities(one.member, link), folds)
