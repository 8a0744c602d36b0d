"""Fits of the members: on all samples, and on folds for out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from ensembles._sklearn import rows_of, warn_user
from ensembles._typing import Counts
from ensembles.predictions.members.callbacks import iter_with_callbacks
from ensembles.predictions.members.named_estimators import check_accepts_sample_weight
from ensembles.predictions.members.outputs import Predictions

Named = Sequence[tuple[str, Any]]
Split = tuple[Counts, Counts]


class MemberOutputs(Protocol):
    """Protocol of the output formats: how members are fitted, checked and run."""

    def fitted(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Member fitted by ``fit(y)``."""
        ...

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member lacks the required methods or classes."""
        ...

    def of(self, name: str, member: Any, X: Any) -> Any:
        """Output of a fitted member for ``X``."""
        ...


class FittedMember(NamedTuple):
    """A member fitted on all samples, with its out-of-fold predictions.

    Parameters
    ----------
    name : str
        Name of the member in ``estimators``.
    member : estimator
        Fitted on all samples.
    folds : list of outputs
        Predictions for the test rows of each split, by a clone fitted on its training
        rows; empty if the member was not fitted on folds.
    """

    name: str
    member: Any
    folds: list[Predictions]


class Fitting(NamedTuple):
    """Settings of the fits of the members; a call runs the fits.

    Parameters
    ----------
    owner : estimator
        Ensemble; its ``memory``, ``n_jobs``, ``on_error`` and callbacks are used.
    params : mapping of str to mapping
        Keyword arguments of each member's ``fit``, such as ``sample_weight``.
    outputs : MemberOutputs
        Output format of the members.
    prefit : bool, default=False
        Whether the members are fitted already and used without a clone or fit.
    fit : callable or None, default=None
        ``(name, member, X, y, params) -> fitted member``, cached by ``memory``. None
        means `fit_clone`.
    """

    owner: Any
    params: Mapping[str, Mapping[str, Any]]
    outputs: MemberOutputs
    prefit: bool = False
    fit: Callable[..., Any] | None = None

    def __call__(
        self,
        named: Named,
        X: Any,
        y: Any,
        splits: Sequence[Split] = (),
        held_out: Collection[str] | None = None,
    ) -> list[FittedMember]:
        """Fit the members on all samples and on the training rows of each split.

        With ``on_error="drop"`` members whose fit fails are left out of the result.
        ``held_out`` names the members to fit on the splits; None means all of them.
        """
        fit: Any = _as_it_is
        if not self.prefit:
            fit = check_memory(self.owner.memory).cache(self.fit or fit_clone)
        on_error = getattr(self.owner, "on_error", "raise")
        parts = [
            (name, member, split)
            for name, member in named
            for split in (None, *self._splits_of(name, splits, held_out))
        ]
        tasks = [
            (on_error, name, _task, (fit, name, member, X, y, split, *self._of(name)))
            for name, member, split in parts
        ]
        done = each(self.owner.n_jobs, call_member, tasks)
        names = [name for name, _ in named]
        results: dict[str, list[Any]] = {name: [] for name in names}
        titles = []
        for name, _, split in parts:
            results[name].append(None)
            fold = len(results[name]) - 1
            titles.append(name if split is None else f"{name}, fold {fold}")
        found = iter_with_callbacks(self.owner, titles, done)
        for name in names:
            results[name] = [next(found) for _ in results[name]]
        for _ in found:  # callbacks get the end of the fit after the last result
            pass
        left = drop_failed(names, list(results.values()))
        return [
            FittedMember(names[i], results[names[i]][0], results[names[i]][1:])
            for i in left
        ]

    def _of(self, name: str) -> tuple[Any, Any]:
        return self.params[name], self.outputs

    @staticmethod
    def _splits_of(
        name: str, splits: Sequence[Split], held_out: Collection[str] | None
    ) -> Sequence[Split]:
        return splits if held_out is None or name in held_out else ()


def each(
    n_jobs: int | None, do: Callable[..., Any], tasks: Iterable[Any]
) -> Iterator[Any]:
    """Results of parallel tasks, in order, each as soon as it is ready.

    A single job runs without joblib, whose overhead is larger than the time of a light
    member to predict one row.

    Parameters
    ----------
    n_jobs : int or None
        Number of parallel jobs, as in joblib; None means 1, unless a
        `joblib.parallel_config` context sets another number.
    do : callable
        Function that each task calls.
    tasks : iterable of tuples
        Positional arguments of ``do``, one tuple per task.

    Returns
    -------
    iterator
        Return values of ``do``, one per task.
    """
    if effective_n_jobs(n_jobs) == 1:
        return (do(*task) for task in tasks)
    found: Iterator[Any] = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(do)(*task) for task in tasks
    )
    return found


def call_member(on_error: str, name: str, do: Callable[..., Any], args: Any) -> Any:
    """Run the task of a member and return its result or its exception.

    Parameters
    ----------
    on_error : {"raise", "drop"}
        "raise" raises an exception of the task, "drop" returns it.
    name : str
        Name of the member, added to the exception as a note.
    do : callable
        Function that the task calls.
    args : tuple
        Positional arguments of ``do``.

    Returns
    -------
    result or Exception
        Return value of ``do``, or its exception.
    """
    try:
        return do(*args)
    except Exception as error:
        error.add_note(f"raised by member {name!r}")
        if on_error == "raise":
            raise
        return error


def drop_failed(names: Sequence[str], found: Sequence[Sequence[Any]]) -> list[int]:
    """Indices of the members that did not fail, with a warning for each failure.

    Parameters
    ----------
    names : sequence of str
        Names of the members.
    found : sequence of sequences
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
    errors = [
        next((one for one in results if isinstance(one, Exception)), None)
        for results in found
    ]
    left = [place for place, error in enumerate(errors) if error is None]
    if not left:
        raise ValueError(
            f"at least one member must be left, all failed: {names[0]!r} by "
            f"{type(errors[0]).__name__}: {errors[0]}"
        ) from errors[0]
    for name, error in zip(names, errors, strict=True):
        if error is not None:
            warn_user(
                f"member {name!r} failed and is left out: {type(error).__name__}: "
                f"{error}"
            )
    return left


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


def _as_it_is(name: str, member: Any, X: Any, y: Any, params: Mapping[str, Any]) -> Any:
    return member


def _task(
    fit: Any,
    name: str,
    member: Any,
    X: Any,
    y: Any,
    split: Split | None,
    params: Mapping[str, Any],
    outputs: MemberOutputs,
) -> Any:
    """Member fitted on all samples, or predictions for the test rows of a split."""
    check_accepts_sample_weight(name, member, params)
    if split is None:
        fitted = outputs.fitted(partial(_fitted, fit, name, member, X, params), y)
        outputs.check(name, fitted)
        return fitted
    train, test = split
    if fit is _as_it_is:
        return outputs.of(name, member, _rows(X, test, len(y)))
    part = rows_of(params, train, len(y))
    of_train = partial(_fitted, fit, name, member, _safe_indexing(X, train), part)
    fitted = outputs.fitted(of_train, _safe_indexing(y, train))
    return outputs.of(name, fitted, _safe_indexing(X, test))


def _fitted(
    fit: Any, name: str, member: Any, X: Any, params: Mapping[str, Any], y: Any
) -> Any:
    return fit(name, member, X, y, params)


def _rows(X: Any, rows: Counts, n_samples: int) -> Any:
    """Rows of X, without a copy if they are all rows in order."""
    every = len(rows) == n_samples and np.array_equal(rows, np.arange(n_samples))
    return X if every else _safe_indexing(X, rows)
