"""Members of a soup that is given none: one fit, continued in different orders."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import rows_of, thawed, warn_user
from ensembles.checkpoints.parameters.access import fingerprint, state_of

SEEDS = 2**31 - 1  # what random_state may be, exclusive


class Training(NamedTuple):
    """What an estimator is fitted to.

    Parameters
    ----------
    X, y : array-like of shape (n_samples, ...)
        ``y`` may be None.
    params : mapping of str to value
        What ``fit`` gets besides.
    """

    X: Any
    y: Any
    params: Mapping[str, Any]


def branches(
    estimator: Any,
    training: Training,
    *,
    n_members: int,
    n_epochs: int,
    random_state: Any,
    n_jobs: int | None,
) -> list[Any]:
    """Copies of one fitted estimator, each trained further in an order of its own.

    Parameters
    ----------
    estimator : estimator
        Not changed. It is fitted first, unless it comes in a `FrozenEstimator`, fitted.
    training : Training
    n_members : int, at least 1
    n_epochs : int, at least 1
        How often each copy goes on: by ``partial_fit`` once over the samples, or as a
        net of skorch is told to, by ``warm_start`` through a whole fit.
    random_state : int, RandomState or None
    n_jobs : int or None

    Returns
    -------
    list of estimators
        One, if the estimator can only be fitted anew.

    Raises
    ------
    ValueError
        If a number is no whole one of at least 1.

    Warns
    -----
    UserWarning
        If there is one, though more were asked for, or all are alike.
    """
    from sklearn.utils.parallel import Parallel, delayed

    _check_counts(n_members=n_members, n_epochs=n_epochs)
    start, advance, seeds = _started(estimator, training, n_members, random_state)
    if advance is None:
        return [start]
    found: list[Any] = Parallel(n_jobs=n_jobs)(
        delayed(_continued)(start, advance, training, n_epochs, seed) for seed in seeds
    )
    _warn_if_alike(found)
    return found


def epochs(
    estimator: Any,
    training: Training,
    *,
    n_members: int,
    n_epochs: int,
    random_state: Any,
) -> list[Any]:
    """Copies of one estimator along its last epochs.

    Parameters
    ----------
    estimator, training, n_members, random_state
        As in `branches`.
    n_epochs : int, at least 1
        Passes over the samples from one copy to the next.

    Returns
    -------
    list of estimators

    Raises
    ------
    ValueError
        As `branches`.

    Warns
    -----
    UserWarning
        If there is one, though more were asked for.
    """
    _check_counts(n_members=n_members, n_epochs=n_epochs)
    start, advance, seeds = _started(estimator, training, n_members, random_state)
    if advance is None:
        return [start]
    found = []
    for seed in seeds:
        start = _continued(start, advance, training, n_epochs, seed)
        found.append(start)
    return found


def _check_counts(**given: Any) -> None:
    for name, value in given.items():
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_whole or value < 1:
            raise ValueError(
                f"{name} must be a whole number of at least 1, found {value!r}"
            )


def _started(
    estimator: Any, training: Training, n_members: int, random_state: Any
) -> tuple[Any, Any, list[int]]:
    """Estimator once fitted, how it goes on from there, and a seed for each member."""
    from sklearn.base import clone
    from sklearn.utils.validation import check_is_fitted

    rng = np.random.default_rng(as_seed(random_state))
    inner = thawed(estimator)
    state_of(inner)  # what cannot be averaged need not be fitted
    first, *seeds = rng.integers(SEEDS, size=n_members + 1).tolist()
    if inner is not estimator:
        check_is_fitted(inner)
        start = copy.deepcopy(inner)
    else:
        start = clone(inner)
        seeded(start, first, only_unset=random_state is None)
        with _seeded_torch(first):
            start.fit(training.X, training.y, **training.params)
    advance = _way_on(start)
    if advance is None and n_members > 1:
        name = type(start).__name__
        why = f"{name} has neither partial_fit nor warm_start to go on by"
        if state_of(start).counts:
            why = f"partial_fit of {name} would count the same samples again"
        hint = ""
        if hasattr(start, "steps"):
            hint = (
                "; put the soup into the pipeline, around its last step, to make "
                "members of that"
            )
        warn_user(
            f"{why}: it was fitted once, and the soup is that; members that are fitted "
            f"anew have initializations of their own, and must not be averaged{hint}"
        )
    return start, advance, seeds


def _warn_if_alike(members: list[Any]) -> None:
    if len(members) > 1 and len({fingerprint(member) for member in members}) == 1:
        warn_user(
            f"members are all alike: {type(members[0]).__name__} ends at the same "
            "parameters in any order of the samples, and the soup is that"
        )


def as_seed(random_state: Any) -> int | None:
    """Seed from what scikit-learn takes as random_state, None from None.

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        The middle two are drawn from.

    Returns
    -------
    int or None
    """
    if random_state is None:
        return None
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(SEEDS))
    from sklearn.utils import check_random_state

    return int(check_random_state(random_state).randint(SEEDS))


def seeded(estimator: Any, seed: int, *, only_unset: bool = False) -> None:
    """Set every ``random_state`` of an estimator, those of its parts included.

    Parameters
    ----------
    estimator : estimator
    seed : int
    only_unset : bool, default=False
        Whether those that are not None are left.
    """
    rng = np.random.default_rng(seed)
    params = estimator.get_params(deep=True)
    for name in sorted(params):
        if name == "random_state" or name.endswith("__random_state"):
            value = int(rng.integers(SEEDS))
            if params[name] is None or not only_unset:
                estimator.set_params(**{name: value})


def _way_on(estimator: Any) -> Any:
    """How a fitted estimator makes one more pass, None if it cannot."""
    registered = state_of(estimator).advance
    if registered is not None:
        return lambda member, training, rng: registered(
            member, training.X, training.y, rng
        )
    if state_of(estimator).counts:
        return None
    # Early stopping holds samples out, which one pass at a time cannot.
    stops = getattr(estimator, "early_stopping", False)
    if hasattr(estimator, "partial_fit") and not stops:
        return _partial_fit
    if "warm_start" in estimator.get_params(deep=False):
        return _warm_start
    return None


def _continued(
    start: Any, advance: Any, training: Training, n_epochs: int, seed: int
) -> Any:
    member, rng = copy.deepcopy(start), np.random.default_rng(seed)
    with _seeded_torch(seed):
        for _ in range(n_epochs):
            advance(member, training, rng)
    return member


@contextmanager
def _seeded_torch(seed: int) -> Iterator[None]:
    """Draws of torch, if it is loaded, by a seed; what is drawn later is as before."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _partial_fit(member: Any, training: Training, rng: np.random.Generator) -> None:
    """Make one pass in a new order."""
    from sklearn.utils import _safe_indexing, indexable
    from sklearn.utils.validation import _num_samples

    X, y = indexable(training.X, training.y)
    order = rng.permutation(_num_samples(X))
    accepted = inspect.signature(member.partial_fit).parameters
    params = {name: v for name, v in training.params.items() if name in accepted}
    targets = None if y is None else _safe_indexing(y, order)
    moved = rows_of(params, order, len(order))
    member.partial_fit(_safe_indexing(X, order), targets, **moved)


def _warm_start(member: Any, training: Training, rng: np.random.Generator) -> None:
    """Fit once more, from where it stands and by another seed."""
    before = member.get_params(deep=False)["warm_start"]
    seeded(member, int(rng.integers(SEEDS)))
    member.set_params(warm_start=True)
    member.fit(training.X, training.y, **training.params)
    member.set_params(warm_start=before)
