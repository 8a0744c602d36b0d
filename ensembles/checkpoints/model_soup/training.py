"""Train soup members by continuing one fit with different sample orders."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import (
    check_n_jobs,
    index_fit_params,
    unwrap_frozen,
    warn_caller,
)
from ensembles.checkpoints.formats.state_dict import as_array
from ensembles.checkpoints.parameters.access import parameter_access

SEEDS = 2**31 - 1  # exclusive upper bound of a random_state


class FitData(NamedTuple):
    """Training data, and further arguments of ``fit``.

    Parameters
    ----------
    X, y : array-like of shape (n_samples, ...)
        Samples and targets; ``y`` may be None.
    params : mapping of str to value
        Keyword arguments of ``fit``, such as ``sample_weight``.
    """

    X: Any
    y: Any
    params: Mapping[str, Any]


# Trains a fitted estimator for one round, in place.
Continuation = Callable[[Any, FitData, np.random.Generator], object]


def train_members(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    n_members: int = 5,
    n_epochs: int = 5,
    random_state: Any = None,
    n_jobs: int | None = None,
    **fit_params: Any,
) -> list[Any]:
    """Copies of one fitted estimator, each trained further in a different order.

    Parameters
    ----------
    estimator : estimator
        Estimator to start from; it is not changed. A copy is fitted first, unless it is
        a fitted estimator in a `sklearn.frozen.FrozenEstimator`.
    X : array-like of shape (n_samples, ...)
        Samples for the first fit and for the further training of the copies.
    y : array-like of shape (n_samples, ...) or None, default=None
        Targets; None if the estimator does not need any.
    n_members : int, at least 1, default=5
        Number of copies.
    n_epochs : int, at least 1, default=5
        Number of training rounds of each copy. A round is one call of ``partial_fit``
        (one pass, or ``max_epochs`` of a skorch net), or a whole fit by ``warm_start``.
    random_state : int, RandomState or None, default=None
        Seeds the first fit and the sample order of each copy; None draws new seeds.
    n_jobs : int or None, default=None
        Number of copies trained at the same time; None is 1, as in joblib.
    **fit_params
        Keyword arguments of ``fit``, such as ``sample_weight``.

    Returns
    -------
    list of estimators
        A single one if the estimator cannot continue a fit.

    Raises
    ------
    TypeError
        If the estimator is of a kind that cannot be averaged.
    ValueError
        If a count is not an integer of at least 1.

    Warns
    -----
    UserWarning
        If several members were requested and only one can be made, or all are equal.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import SGDClassifier
    >>> from ensembles.checkpoints import ModelSoup
    >>> X, y = load_iris(return_X_y=True)
    >>> members = train_members(SGDClassifier(), X, y, n_members=3, random_state=0)
    >>> ModelSoup(SGDClassifier(), members).fit().weights_
    array([1., 1., 1.])
    """
    from sklearn.utils.parallel import Parallel, delayed

    check_counts(n_members=n_members, n_epochs=n_epochs)
    check_n_jobs(n_jobs)
    data = FitData(X, y, fit_params)
    start, advance, seeds = _first_fit(estimator, data, n_members, random_state)
    if advance is None:
        return [start]
    members: list[Any] = Parallel(n_jobs=n_jobs)(
        delayed(_train_further)(start, advance, data, n_epochs, seed) for seed in seeds
    )
    _warn_if_equal(members)
    return members


def train_snapshots(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    n_members: int = 5,
    n_epochs: int = 5,
    random_state: Any = None,
    **fit_params: Any,
) -> list[Any]:
    """Copies of one estimator at regular intervals while its fit is continued.

    Parameters
    ----------
    estimator : estimator
        Estimator to start from, as in `train_members`.
    X : array-like of shape (n_samples, ...)
        Samples for the first fit and for the further training.
    y : array-like of shape (n_samples, ...) or None, default=None
        Targets; None if the estimator does not need any.
    n_members : int, at least 1, default=5
        Number of copies.
    n_epochs : int, at least 1, default=5
        Number of training rounds from one copy to the next, as in `train_members`.
    random_state : int, RandomState or None, default=None
        Seeds the first fit and the sample orders; None draws new seeds.
    **fit_params
        Keyword arguments of ``fit``, such as ``sample_weight``.

    Returns
    -------
    list of estimators
        In the order of training; a single one if the estimator cannot continue a fit.

    Raises
    ------
    TypeError
        If the estimator is of a kind that cannot be averaged.
    ValueError
        If a count is not an integer of at least 1.

    Warns
    -----
    UserWarning
        If several members were requested and only one can be made.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import SGDClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> len(train_snapshots(SGDClassifier(), X, y, n_members=3, n_epochs=1))
    3
    """
    check_counts(n_members=n_members, n_epochs=n_epochs)
    data = FitData(X, y, fit_params)
    start, advance, seeds = _first_fit(estimator, data, n_members, random_state)
    if advance is None:
        return [start]
    snapshots = [start]
    for seed in seeds:
        snapshots.append(_train_further(snapshots[-1], advance, data, n_epochs, seed))
    return snapshots[1:]


def check_counts(**counts: Any) -> None:
    """Raise unless parameters are integers of at least 1.

    Parameters
    ----------
    **counts
        Parameters by name.

    Raises
    ------
    ValueError
        If a parameter is not such an integer.
    """
    for name, value in counts.items():
        is_integer = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_integer or value < 1:
            raise ValueError(
                f"{name} must be an integer of at least 1, found {value!r}"
            )


def _first_fit(
    estimator: Any, data: FitData, n_members: int, random_state: Any
) -> tuple[Any, Continuation | None, list[int]]:
    """Fitted estimator, the function that continues its fit, and a seed per member."""
    from sklearn.base import clone
    from sklearn.utils.validation import check_is_fitted

    rng = np.random.default_rng(to_seed(random_state))
    inner = unwrap_frozen(estimator)
    access = parameter_access(inner)  # raises before a fit that would be useless
    first, *seeds = rng.integers(SEEDS, size=n_members + 1).tolist()
    if inner is not estimator:
        check_is_fitted(inner)
        start = copy.deepcopy(inner)
    else:
        start = clone(inner)
        _set_random_states(start, first, only_unset=random_state is None)
        with _seeded_torch(first):
            start.fit(data.X, data.y, **data.params)
    advance = _continuation(start)
    if advance is None and n_members > 1:
        name = type(start).__name__
        reason = f"{name} has neither partial_fit nor warm_start to continue its fit"
        if access.counts:
            reason = f"partial_fit of {name} would count the same samples again"
        hint = ""
        if hasattr(start, "steps"):
            hint = (
                "; to train members of its last step, put the soup into the pipeline, "
                "around that step"
            )
        warn_caller(
            f"{reason}, so it was fitted once, and the soup has a single member; "
            "members must not be fitted separately, because then their initializations "
            f"differ{hint}"
        )
    return start, advance, seeds


def _warn_if_equal(members: list[Any]) -> None:
    first, *others = (_arrays(member) for member in members)
    if others and all(
        other.keys() == first.keys()
        and all(np.array_equal(other[name], first[name]) for name in first)
        for other in others
    ):
        warn_caller(
            f"all members are equal: {type(members[0]).__name__} ends at the same "
            "parameters for any order of the samples, so the soup equals each member"
        )


def _arrays(member: Any) -> dict[str, Any]:
    parameters = parameter_access(member).get(member)
    return {name: as_array(value, name) for name, value in parameters.items()}


def to_seed(random_state: Any) -> int | None:
    """Draw an integer seed from a ``random_state``.

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        As in scikit-learn. The call advances a RandomState or a Generator.

    Returns
    -------
    int or None
        None for None.
    """
    if random_state is None:
        return None
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(SEEDS))
    from sklearn.utils import check_random_state

    return int(check_random_state(random_state).randint(SEEDS))


def _set_random_states(estimator: Any, seed: int, *, only_unset: bool = False) -> None:
    """Set every ``random_state`` of an estimator and of its nested estimators."""
    rng = np.random.default_rng(seed)
    params = estimator.get_params(deep=True)
    for name in sorted(params):
        if name == "random_state" or name.endswith("__random_state"):
            value = int(rng.integers(SEEDS))
            if params[name] is None or not only_unset:
                estimator.set_params(**{name: value})


def _continuation(estimator: Any) -> Continuation | None:
    """Function that trains a fitted estimator for one round; None if it cannot."""
    access = parameter_access(estimator)
    registered = access.continue_training
    if registered is not None:
        return lambda member, data, rng: registered(member, data.X, data.y, rng)
    if access.counts:
        return None
    # Early stopping holds out samples, which partial_fit does not support.
    stops_early = getattr(estimator, "early_stopping", False)
    if hasattr(estimator, "partial_fit") and not stops_early:
        return _partial_fit
    if "warm_start" in estimator.get_params(deep=False):
        return _warm_start
    return None


def _train_further(
    start: Any, advance: Continuation, data: FitData, n_epochs: int, seed: int
) -> Any:
    member, rng = copy.deepcopy(start), np.random.default_rng(seed)
    with _seeded_torch(seed):
        for _ in range(n_epochs):
            advance(member, data, rng)
    return member


@contextmanager
def _seeded_torch(seed: int) -> Iterator[None]:
    """Seed PyTorch, if it is imported; restore its random state afterwards."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _partial_fit(member: Any, data: FitData, rng: np.random.Generator) -> None:
    """Train for one pass in a new sample order."""
    from sklearn.utils import _safe_indexing, indexable
    from sklearn.utils.validation import _num_samples

    X, y = indexable(data.X, data.y)
    order = rng.permutation(_num_samples(X))
    accepted = inspect.signature(member.partial_fit).parameters
    params = {name: v for name, v in data.params.items() if name in accepted}
    targets = None if y is None else _safe_indexing(y, order)
    permuted = index_fit_params(params, order, len(order))
    member.partial_fit(_safe_indexing(X, order), targets, **permuted)


def _warm_start(member: Any, data: FitData, rng: np.random.Generator) -> None:
    """Fit again from the current parameters, with a new seed."""
    before = member.get_params(deep=False)["warm_start"]
    _set_random_states(member, int(rng.integers(SEEDS)))
    member.set_params(warm_start=True)
    member.fit(data.X, data.y, **data.params)
    member.set_params(warm_start=before)
