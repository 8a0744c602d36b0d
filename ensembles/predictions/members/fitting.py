"""Fits and predictions of the members, in parallel, with failures and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple, Protocol

import numpy as np
from joblib import effective_n_jobs
from joblib.parallel import get_active_backend
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from ensembles._sklearn import index_fit_params, warn_caller
from ensembles.predictions.members.adapters import DecisionProbabilities, fit_link
from ensembles.predictions.members.out_of_fold import Split
from ensembles.predictions.members.outputs import Predictions
from ensembles.predictions.members.sample_weight import check_accepts_sample_weight

try:
    from sklearn import callback
except ImportError:  # scikit-learn 1.8
    callback = None

Named = Sequence[tuple[str, Any]]


class _NoCallbacks:
    """Empty base class, without ``set_callbacks``."""


CallbackSupport: Any = callback.CallbackSupportMixin if callback else _NoCallbacks
with_callbacks: Any = callback.with_callbacks if callback else (lambda fit: fit)


class MemberOutputs(Protocol):
    """Protocol of the output formats: how members are fitted, checked and run."""

    def fit(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Fit a member by ``fit(y)``."""
        ...

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member lacks the required methods or classes."""
        ...

    def predict(self, name: str, member: Any, X: Any) -> Any:
        """Output of a fitted member for ``X``."""
        ...


class FittedMember(NamedTuple):
    """A member fitted on all samples, with its out-of-fold predictions.

    Parameters
    ----------
    name : str
        Name of the member in ``estimators``.
    estimator : estimator
        Fitted on all samples.
    folds : list of Predictions
        Predictions for the test rows of each split, by a clone fitted on its training
        rows; empty if the member was not fitted on folds.
    """

    name: str
    estimator: Any
    folds: list[Predictions]


def fit_members(
    ensemble: Any,
    named_members: Named,
    X: Any,
    y: Any,
    *,
    params: Mapping[str, Mapping[str, Any]],
    outputs: MemberOutputs,
    splits: Sequence[Split] = (),
    on_splits: Collection[str] = (),
    fit: Callable[..., Any] | None = None,
) -> list[FittedMember]:
    """Fit the members on all samples and on the training rows of each split.

    Parameters
    ----------
    ensemble : estimator
        Its ``memory``, ``n_jobs``, ``on_error`` and callbacks are used.
    named_members : sequence of (name, estimator)
        Members by name.
    X, y : array-like
        Training data.
    params : mapping of name to mapping
        Keyword arguments of each member's ``fit``, such as ``sample_weight``.
    outputs : MemberOutputs
        Output format of the members.
    splits : sequence of (train, test), default=()
        Row indices of each split.
    on_splits : collection of str, default=()
        Names of the members to fit on the splits.
    fit : callable or None, default=None
        ``(name, member, X, y, params) -> fitted member``, cached by ``memory``. None
        uses the members as they are, because they are fitted already.

    Returns
    -------
    list of FittedMember
        With ``on_error="drop"``, without the members that failed to fit or predict.
    """
    on_error = getattr(ensemble, "on_error", "raise")
    if fit is not None:
        fit = check_memory(ensemble.memory).cache(fit)
    tasks, titles = [], []
    for name, member in named_members:
        for fold, split in enumerate((None, *(splits if name in on_splits else ()))):
            args = (name, member, X, y, params[name], fit, outputs, split)
            tasks.append((on_error, name, _fit_member, args))
            titles.append(name if fold == 0 else f"{name}, fold {fold}")
    done = run_tasks(ensemble.n_jobs, call_member, tasks)
    results: dict[str, list[Any]] = {name: [] for name, _ in named_members}
    for task, result in zip(
        tasks, _with_callbacks(ensemble, titles, done), strict=True
    ):
        results[task[1]].append(result)
    kept = drop_failed(list(results), list(results.values()))
    members = [(list(results)[index], list(results.values())[index]) for index in kept]
    return [FittedMember(name, fits[0], fits[1:]) for name, fits in members]


def _fit_member(
    name: str,
    member: Any,
    X: Any,
    y: Any,
    params: Mapping[str, Any],
    fit: Callable[..., Any] | None,
    outputs: MemberOutputs,
    split: Split | None,
) -> Any:
    """Member fitted on all samples, or predictions for the test rows of a split."""
    check_accepts_sample_weight(name, member, params)
    if split is None:
        if fit is not None:
            member = outputs.fit(partial(fit, name, member, X, params=params), y)
        outputs.check(name, member)
        return member
    train, test = split
    if fit is None:
        # Without a copy if the test rows are all rows in order.
        is_all = len(test) == len(y) and np.array_equal(test, np.arange(len(y)))
        return outputs.predict(name, member, X if is_all else _safe_indexing(X, test))
    params = index_fit_params(params, train, len(y))
    fit_on_rows = partial(fit, name, member, _safe_indexing(X, train), params=params)
    fitted = outputs.fit(fit_on_rows, _safe_indexing(y, train))
    return outputs.predict(name, fitted, _safe_indexing(X, test))


def with_probabilities(
    member: FittedMember,
    splits: Sequence[Split],
    y: Any,
    outputs: Any,
    sample_weight: Any,
) -> FittedMember:
    """Add probabilities to a member that has only decision values.

    Parameters
    ----------
    member : FittedMember
        Member, with its decision values of the test rows of each split.
    splits : sequence of (train, test)
        Row indices of each split.
    y : array-like of shape (n_samples,)
        True labels.
    outputs : ClassOutputs
        Classes of the single target.
    sample_weight : ndarray of shape (n_samples,) or None
        Sample weights; None weights all samples equally.

    Returns
    -------
    FittedMember
        The estimator in a `DecisionProbabilities`, with probabilities in ``folds``.
    """
    codes, classes = outputs.encode(y)[0], outputs.classes[0]
    link, folds = fit_link(member.folds, splits, codes, classes, sample_weight)
    estimator = DecisionProbabilities(member.estimator, link)
    return FittedMember(member.name, estimator, folds)


def fit_clone(name: str, member: Any, X: Any, y: Any, params: Mapping[str, Any]) -> Any:
    """Clone a member and fit the clone.

    Parameters
    ----------
    name : str
        Name of the member. Not used here, but part of the ``memory`` cache key: two
        members with equal parameters and ``random_state=None`` are different fits.
    member : estimator
        Left unchanged.
    X, y : array-like
        Training data.
    params : mapping of str to value
        Keyword arguments of ``fit``, such as ``sample_weight``.

    Returns
    -------
    fitted estimator
    """
    return clone(member).fit(X, y, **params)


def run_tasks(
    n_jobs: int | None, function: Callable[..., Any], tasks: Iterable[Any]
) -> Iterator[Any]:
    """Results of parallel tasks, in order, each as soon as it is ready.

    A single job on this machine runs without joblib, whose overhead is larger than the
    time of a light member to predict one row. Backends without generators, such as
    "multiprocessing" and that of Ray, return all results at the end.

    Parameters
    ----------
    n_jobs : int or None
        Number of parallel jobs, as in joblib; None means 1, unless a
        `joblib.parallel_config` context sets another number.
    function : callable
        Function that each task calls.
    tasks : iterable of tuples
        Positional arguments of ``function``, one tuple per task.

    Returns
    -------
    iterator
        Return values of ``function``, one per task.
    """
    backend, _ = get_active_backend()
    # Backends of clusters, which may have one core, are defined elsewhere.
    is_local = type(backend).__module__ == "joblib._parallel_backends"
    if effective_n_jobs(n_jobs) == 1 and is_local:
        return starmap(function, tasks)
    return_as = "generator" if backend.supports_return_generator else "list"
    results = Parallel(n_jobs=n_jobs, return_as=return_as)(
        delayed(function)(*task) for task in tasks
    )
    return iter(results)


def call_member(
    on_error: str, name: str, function: Callable[..., Any], args: Any
) -> Any:
    """Run the task of a member and return its result or its exception.

    Parameters
    ----------
    on_error : {"raise", "drop"}
        "raise" raises an exception of the task, "drop" returns it.
    name : str
        Name of the member, added to the exception as a note.
    function : callable
        Function that the task calls.
    args : tuple
        Positional arguments of ``function``.

    Returns
    -------
    result or Exception
        Return value of ``function``, or its exception.
    """
    try:
        return function(*args)
    except Exception as error:
        error.add_note(f"raised by member {name!r}")
        if on_error == "raise":
            raise
        return error


def drop_failed(names: Sequence[str], results: Sequence[Sequence[Any]]) -> list[int]:
    """Indices of the members that did not fail, with a warning for each failure.

    Parameters
    ----------
    names : sequence of str
        Names of the members.
    results : sequence of sequences
        Results of each member; an exception marks a failure.

    Returns
    -------
    list of int
        Indices into ``names``, in increasing order.

    Raises
    ------
    ValueError
        If every member failed.

    Warns
    -----
    UserWarning
        For each member that failed, with its error.
    """
    errors = {
        index: next(r for r in member_results if isinstance(r, Exception))
        for index, member_results in enumerate(results)
        if any(isinstance(r, Exception) for r in member_results)
    }
    if len(errors) == len(names):
        raise ValueError(
            f"at least one member must succeed, but all failed: {names[0]!r} with "
            f"{type(errors[0]).__name__}: {errors[0]}"
        ) from errors[0]
    for index, error in errors.items():
        warn_caller(
            f"member {names[index]!r} failed and is left out: {type(error).__name__}: "
            f"{error}"
        )
    return [index for index in range(len(names)) if index not in errors]


def _with_callbacks(
    estimator: Any, names: Sequence[str], results: Iterable[Any]
) -> Iterator[Any]:
    """Pass task results on and report each one to the callbacks of an estimator.

    ``fit`` of the estimator, decorated with ``with_callbacks``, must be running. The
    end of the fit is reported after the last result, so the iterator must be exhausted.
    """
    if callback is None:
        yield from results
        return
    context = estimator._init_callback_context(max_subtasks=len(names))
    context.call_on_fit_task_begin(estimator=estimator)
    remaining = iter(results)
    for name in names:
        task = context.subcontext(task_name=name)
        task.call_on_fit_task_begin(estimator=estimator)
        result = next(remaining)
        task.call_on_fit_task_end(estimator=estimator)
        yield result
    context.call_on_fit_task_end(estimator=estimator)
