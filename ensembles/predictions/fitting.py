"""Members fitted, on all data and on the folds whose rest they then answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sklearn import get_config
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from ensembles.base import rows_of, warn_user
from ensembles.predictions.answers import Answer
from ensembles.predictions.progress import told
from ensembles.weighting import Counts

Named = Sequence[tuple[str, Any]]
Split = tuple[Counts, Counts]


class Asking(Protocol):
    """What fitted members are asked."""

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
    """

    owner: Any
    params: Mapping[str, Mapping[str, Any]]
    answers: Asking
    prefit: bool = False

    def __call__(
        self, named: Named, X: Any, y: Any, splits: Sequence[Split] = ()
    ) -> list[Fitted]:
        """Members fitted, without those that failed where they may."""
        fit = _as_it_is if self.prefit else check_memory(self.owner.memory).cache(_fit)
        on_error = getattr(self.owner, "on_error", "raise")
        tasks = [(*pair, split) for pair in named for split in (None, *splits)]
        done = Parallel(n_jobs=self.owner.n_jobs, return_as="generator")(
            delayed(attempt)(
                on_error,
                name,
                _task,
                (fit, name, member, X, y, split, self.params[name], self.answers),
            )
            for name, member, split in tasks
        )
        titles = [
            f"{name}, fold {fold}" if fold else name
            for name, _ in named
            for fold in range(len(splits) + 1)
        ]
        found = list(told(self.owner, titles, done))
        size = len(splits) + 1
        parts = [found[i : i + size] for i in range(0, len(found), size)]
        names = [name for name, _ in named]
        left = without_failures(names, parts)
        return [Fitted(names[i], parts[i][0], parts[i][1:]) for i in left]


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


def _fit(member: Any, X: Any, y: Any, params: Mapping[str, Any]) -> Any:
    return clone(member).fit(X, y, **params)


def _as_it_is(member: Any, X: Any, y: Any, params: Mapping[str, Any]) -> Any:
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
    _check_weightable(name, member, params)
    if split is None:
        fitted = fit(member, X, y, params)
        answers.check(name, fitted)
        return fitted
    train, test = split
    part = rows_of(params, train, len(y))
    fitted = fit(member, _safe_indexing(X, train), _safe_indexing(y, train), part)
    return answers.of(name, fitted, _safe_indexing(X, test))


def _check_weightable(name: str, member: Any, params: Mapping[str, Any]) -> None:
    if "sample_weight" not in params:
        return
    way_out = "leave out the weights, or this member"
    accepted = inspect.signature(member.fit).parameters.values()
    taken = any(p.name == "sample_weight" or p.kind == p.VAR_KEYWORD for p in accepted)
    if isinstance(member, Pipeline) and not get_config()["enable_metadata_routing"]:
        taken = False
        way_out += ", or sklearn.set_config(enable_metadata_routing=True) for its steps"
    if not taken:
        raise TypeError(
            f"member {name!r} must take sample_weight in fit, "
            f"{type(member).__name__} does not; {way_out}"
        )
