"""An estimator to put parameters into, and members held against it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ensembles._sklearn import thawed
from ensembles.checkpoints.directories.open import open_member
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.parameters.access import state_of
from ensembles.checkpoints.parameters.compatibility import (
    check_alike,
    check_settings,
    is_same,
    warn_of_modules,
)
from ensembles.checkpoints.parameters.pipeline_steps import parts_of

STATES = (str, os.PathLike, Mapping)  # what is no estimator


def members_of(checkpoints: Sequence[Any], base: Any) -> list[Any]:
    """Members as they are, the base first where there is one.

    Parameters
    ----------
    checkpoints : sequence
    base : object or None

    Returns
    -------
    list
    """
    found = [] if base is None else [base]
    return [thawed(member) for member in [*found, *checkpoints]]


def home_of(estimator: Any, members: Sequence[Any], labels: Any) -> Any:
    """Copy of an estimator that has parameters, to put others into.

    Parameters
    ----------
    estimator : object
        Fitted or not, frozen or not; its settings are those of the copy.
    members : sequence
        What a fit learns besides parameters comes from the first that is of its kind.
    labels : array-like or None
        For what learns its classes from them alone.

    Returns
    -------
    object

    Raises
    ------
    TypeError
        If the kind cannot be averaged.
    ValueError
        If there are no parameters to replace.
    """
    inner = thawed(estimator)
    state = state_of(inner)
    fitted = [member for member in members if type(member) is type(inner)]
    if fitted and hasattr(inner, "get_params"):
        return _like(copy.deepcopy(fitted[0]), inner)
    if state.start is not None and inner is estimator:
        return state.start(inner, None, labels)
    if not _has_parameters(inner):
        raise ValueError(
            f"{type(inner).__name__} has no parameters yet that those of checkpoints "
            "could replace; fit it, and wrap it in sklearn.frozen.FrozenEstimator"
        )
    return copy.deepcopy(inner)


def _like(held: Any, estimator: Any) -> Any:
    """A fitted estimator with the settings of another, and its output."""
    check_settings(held, estimator)
    own = held.get_params(deep=True)
    given = {
        name: value
        for name, value in estimator.get_params(deep=True).items()
        if not hasattr(value, "get_params") and not _holds_estimators(value)
        # Not what is set already: a net of skorch would begin anew, aloud.
        if name not in own or not is_same(own[name], value)
    }
    held.set_params(**copy.deepcopy(given))
    for (_, own_part), (_, part) in zip(
        parts_of(held), parts_of(estimator), strict=True
    ):
        output = getattr(part, "_sklearn_output_config", {})
        if output:
            own_part.set_output(**output)
    return held


def _holds_estimators(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, tuple) for one in value)


def _has_parameters(estimator: Any) -> bool:
    try:
        return bool(state_of(estimator).get(estimator))
    except AttributeError:
        return False


def check_kind(estimator: Any, member: Any, name: str) -> None:
    """Raise if a member is no checkpoint, and of another kind than an estimator.

    Parameters
    ----------
    estimator, member : object
    name : str
        The member's.

    Raises
    ------
    TypeError
    """
    inner = thawed(estimator)
    if isinstance(member, STATES) or (_has_module(member) and _has_module(inner)):
        return
    wanted = [(place, type(part)) for place, part in parts_of(inner)]
    if [(place, type(part)) for place, part in parts_of(member)] != wanted:
        kinds = ", ".join(kind.__name__ for _, kind in wanted)
        found = ", ".join(type(part).__name__ for _, part in parts_of(member))
        raise TypeError(
            "members must be paths, state dicts or fitted estimators of one kind, "
            f"{kinds}: {name} is of type {found}"
        )


def opened_for(held: Any, member: Any, name: str) -> Checkpoint:
    """Layout of a member, known to be of the kind of an estimator.

    Parameters
    ----------
    held : object
    member : path, state dict or fitted estimator
    name : str

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If it is not fitted, or what its parameters mean differs.

    Warns
    -----
    UserWarning
        If it is a module of other parts, or another configuration.
    """
    if isinstance(member, Mapping):
        return state_dict.read(member, name)
    if isinstance(member, STATES):
        return open_member(member, 0)
    if not _has_parameters(member):
        raise ValueError(
            f"{name} must be fitted: this {type(member).__name__} has no parameters; "
            "where clones are made, as in GridSearchCV, wrap it in "
            "sklearn.frozen.FrozenEstimator"
        )
    check_alike(held, member, name)
    if _has_module(member):
        warn_of_modules(_module(held), _module(member), name)
    return state_dict.read(state_of(member).get(member), name)


def _has_module(estimator: Any) -> bool:
    try:
        return state_of(estimator).module is not None
    except TypeError:
        return False


def _module(estimator: Any) -> Any:
    found = state_of(estimator).module
    return None if found is None else found(estimator)
