"""Members fitted, on all data and on the folds whose rest they then answer."""

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
from ensembles.predictions.members.callbacks import told
from ensembles.predictions.members.named_estimators import check_weightable
from ensembles.predictions.members.outputs import Answer

Named = Sequence[tuple[str, Any]]
Split = tuple[Counts, Counts]


class Asking(Protocol):
    """What fitted members are asked."""

    def fitted(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """A member fitted by ``fit(y)``."""
        ...

    def check(self, name: str, member: Any) -> None:
        """Raise if a member cannot answer."""
        ...

    def of(self, name: str, member: Any, X: Any) -> Any:
        """Answer of a member to ``X``."""
        ...


class Fitted(NamedTuple):
    """A member that is fitted on all data, and what it said before.

    Parameters
    ----------
    name : str
    member : estimator
    folds : list of answers
        One for each split, of the member fitted on its first half to its second.
    """

    name: str
    member: Any
    folds: list[Answer]


class Fitting(NamedTuple):
    """How members are fitted.

    Parameters
    ----------
    owner : estimator
        Whose ``memory``, ``n_jobs``, ``on_error`` and callbacks they are.
    params : mapping of str to mapping
        What each member's ``fit`` gets besides X and y.
    answers : Asking
    prefit : bool, default=False
        Whether members are taken as they are.
    fit : callable, default=fit_clone
        ``(name, member, X, y, params) -> fitted member``; ``memory`` keeps its results.
    """

    owner: Any
    params: Mapping[str, Mapping[str, Any]]
    answers: Asking
    prefit: bool = False
    fit: Callable[..., Any] | None = None

    def __call__(
        self,
        named: Named,
        X: Any,
        y: Any,
        splits: Sequence[Split] = (),
        held_out: Collection[str] | None = None,
    ) -> list[Fitted]:
        """Members fitted, without those that failed where they may.

        With ``held_out`` only members of these names are fitted in the folds, too.
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
        done = each(self.owner.n_jobs, attempt, tasks)
        names = [name for name, _ in named]
        results: dict[str, list[Any]] = {name: [] for name in names}
        titles = []
        for name, _, split in parts:
            results[name].append(None)
            fold = len(results[name]) - 1
            titles.append(name if split is None else f"{name}, fold {fold}")
        found = told(self.owner, titles, done)
        for name in names:
            results[name] = [next(found) for _ in results[name]]
        for _ in found:  # the end of the fit is told after the last result
            pass
        left = without_failures(names, list(results.values()))
        return [
            Fitted(names[i], results[names[i]][0], results[names[i]][1:]) for i in left
        ]

    def _of(self, name: str) -> tuple[Any, Any]:
        return self.params[name], self.answers

    @staticmethod
    def _splits_of(
        name: str, splits: Sequence[Split], held_out: Collection[str] | None
    ) -> Sequence[Split]:
        return splits if held_out is None or name in held_out else ()


def each(
    n_jobs: int | None, do: Callable[..., Any], tasks: Iterable[Any]
) -> Iterator[Any]:
    """Results of tasks in their order, each as soon as it is ready.

    One job alone is not handed to joblib, which takes longer than a light member
    takes to predict a row.

    Parameters
    ----------
    n_jobs : int or None
    do : callable
    tasks : iterable of tuples
        Arguments.

    Returns
    -------
    iterator
    """
    if effective_n_jobs(n_jobs) == 1:
        return (do(*task) for task in tasks)
    found: Iterator[Any] = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(do)(*task) for task in tasks
    )
    return found


def attempt(on_error: str, name: str, do: Callable[..., Any], args: Any) -> Any:
    """What a member's task gives; its error where ``on_error`` is "drop".

    Parameters
    ----------
    on_error : {"raise", "drop"}
    name : str
        The member's, told in a note of the error.
    do : callable
    args : tuple

    Returns
    -------
    result or Exception
    """
    try:
        return do(*args)
    except Exception as error:
        error.add_note(f"raised by member {name!r}")
        if on_error == "raise":
            raise
        return error


def without_failures(names: Sequence[str], found: Sequence[Sequence[Any]]) -> list[int]:
    """Places of members that did not fail; each that did is warned of.

    Parameters
    ----------
    names : sequence of str
    found : sequence of sequences
        Each member's results, errors among them.

    Returns
    -------
    list of int

    Raises
    ------
    ValueError
        If every member failed.

    Warns
    -----
    UserWarning
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
    """A clone of a member, fitted.

    Parameters
    ----------
    name : str
        Part of the key under which ``memory`` keeps the result: members of equal
        parameters whose ``random_state`` is None are different fits.
    member : estimator
    X, y : array-like
    params : mapping of str to value

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
    answers: Asking,
) -> Any:
    """A member fitted on all data, or its answer to what a split holds out."""
    check_weightable(name, member, params)
    if split is None:
        fitted = answers.fitted(partial(_fitted, fit, name, member, X, params), y)
        answers.check(name, fitted)
        return fitted
    train, test = split
    if fit is _as_it_is:
        return answers.of(name, member, _rows(X, test, len(y)))
    part = rows_of(params, train, len(y))
    of_train = partial(_fitted, fit, name, member, _safe_indexing(X, train), part)
    fitted = answers.fitted(of_train, _safe_indexing(y, train))
    return answers.of(name, fitted, _safe_indexing(X, test))


def _fitted(
    fit: Any, name: str, member: Any, X: Any, params: Mapping[str, Any], y: Any
) -> Any:
    return fit(name, member, X, y, params)


def _rows(X: Any, rows: Counts, n_samples: int) -> Any:
    """Rows of X; all of them without a copy."""
    every = len(rows) == n_samples and np.array_equal(rows, np.arange(n_samples))
    return X if every else _safe_indexing(X, rows)
