"""Train soup members by continuing one fit with different sample orders."""

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
from ensembles.checkpoints.parameters.access import fingerprint, parameter_access

SEEDS = 2**31 - 1  # exclusive upper bound of a random_state


class Training(NamedTuple):
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


def branches(
    estimator: Any,
    training: Training,
    *,
    n_members: int,
    n_epochs: int,
    random_state: Any,
    n_jobs: int | None,
) -> list[Any]:
    """Copies of one fitted estimator, each trained further in a different order.

    Parameters
    ----------
    estimator : estimator
        Estimator to start from; it is not changed. A copy is fitted first, unless it is
        a fitted estimator in a `sklearn.frozen.FrozenEstimator`.
    training : Training
        Data for the first fit and for the further training of the copies.
    n_members : int, at least 1
        Number of copies.
    n_epochs : int, at least 1
        Number of training rounds of each copy. A round is one call of ``partial_fit``
        (one pass, or ``max_epochs`` of a skorch net), or a whole fit by ``warm_start``.
    random_state : int, RandomState or None
        Seeds the first fit and the sample order of each copy; None draws new seeds.
    n_jobs : int or None
        Number of copies trained at the same time, as in joblib.

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
    """Copies of one estimator at regular intervals while its fit is continued.

    Parameters
    ----------
    estimator, training, n_members, random_state
        As in `branches`.
    n_epochs : int, at least 1
        Number of training rounds, as in `branches`, from one copy to the next.

    Returns
    -------
    list of estimators
        In the order of training; a single one if the estimator cannot continue a fit.

    Raises
    ------
    TypeError, ValueError
        As `branches`.

    Warns
    -----
    UserWarning
        If several members were requested and only one can be made.
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
    """Fitted estimator, the function that continues its fit, and a seed per member."""
    from sklearn.base import clone
    from sklearn.utils.validation import check_is_fitted

    rng = np.random.default_rng(as_seed(random_state))
    inner = thawed(estimator)
    parameter_access(inner)  # raises before a fit whose result cannot be averaged
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
        if parameter_access(start).counts:
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


def seeded(estimator: Any, seed: int, *, only_unset: bool = False) -> None:
    """Set every ``random_state`` of an estimator and of its nested estimators.

    Parameters
    ----------
    estimator : estimator
        Changed in place.
    seed : int
        Seed from which a different ``random_state`` is drawn for each.
    only_unset : bool, default=False
        Whether to set only those that are None.
    """
    rng = np.random.default_rng(seed)
    params = estimator.get_params(deep=True)
    for name in sorted(params):
        if name == "random_state" or name.endswith("__random_state"):
            value = int(rng.integers(SEEDS))
            if params[name] is None or not only_unset:
                estimator.set_params(**{name: value})


def _way_on(estimator: Any) -> Any:
    """Function that trains a fitted estimator for one round; None if it cannot."""
    registered = parameter_access(estimator).continue_training
    if registered is not None:
        return lambda member, training, rng: registered(
            member, training.X, training.y, rng
        )
    if parameter_access(estimator).counts:
        return None
    # Early stopping holds out samples, which partial_fit does not support.
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
    """Seed PyTorch, if it is imported; restore its random state afterwards."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _partial_fit(member: Any, training: Training, rng: np.random.Generator) -> None:
    """Train for one pass in a new sample order."""
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
    """Fit again from the current parameters, with a new seed."""
    before = member.get_params(deep=False)["warm_start"]
    seeded(member, int(rng.integers(SEEDS)))
    member.set_params(warm_start=True)
    member.fit(training.X, training.y, **training.params)
    member.set_params(warm_start=before)
