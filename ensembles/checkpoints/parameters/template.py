"""The estimator that receives merged parameters, and checks that members fit it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ensembles._sklearn import unwrap_frozen
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.parameters.access import parameter_access
from ensembles.checkpoints.parameters.compatibility import (
    check_compatible,
    check_settings,
    is_same,
    warn_module_differences,
)
from ensembles.checkpoints.parameters.pipeline_steps import iter_steps

CHECKPOINT_TYPES = (str, os.PathLike, Mapping)  # members without an estimator


def make_template(estimator: Any, members: Sequence[Any], labels: Any) -> Any:
    """Copy of an estimator with parameters of the right shapes, to be replaced.

    Parameters
    ----------
    estimator : object
        Estimator, fitted or not, frozen or not; the copy has its settings.
    members : sequence
        Members; the first one of the same type as the estimator provides all other
        learned attributes.
    labels : array-like or None
        Targets, for estimators that take only their classes from them; None leaves the
        classes unset.

    Returns
    -------
    object

    Raises
    ------
    TypeError
        If the estimator is of a kind that cannot be averaged.
    ValueError
        If the estimator has no parameters and no member provides any.
    """
    inner = unwrap_frozen(estimator)
    access = parameter_access(inner)
    fitted = [member for member in members if type(member) is type(inner)]
    if fitted and hasattr(inner, "get_params"):
        return _like(copy.deepcopy(fitted[0]), inner)
    if access.initialize is not None and inner is estimator:
        return access.initialize(inner, None, labels)
    if not _has_parameters(inner):
        raise ValueError(
            f"{type(inner).__name__} must have parameters, so that those of the "
            "checkpoints can replace them; fit it, and wrap it in "
            "sklearn.frozen.FrozenEstimator"
        )
    return copy.deepcopy(inner)


def _like(template: Any, estimator: Any) -> Any:
    """Give a fitted estimator the settings and output container of another."""
    check_settings(template, estimator)
    settings = template.get_params(deep=True)
    new_settings = {
        name: value
        for name, value in estimator.get_params(deep=True).items()
        if not hasattr(value, "get_params") and not _holds_estimators(value)
        # Skip equal settings: a skorch net would initialize itself again, and print it.
        if name not in settings or not is_same(settings[name], value)
    }
    template.set_params(**copy.deepcopy(new_settings))
    for (_, template_part), (_, part) in zip(
        iter_steps(template), iter_steps(estimator), strict=True
    ):
        output = getattr(part, "_sklearn_output_config", {})
        if output:
            template_part.set_output(**output)
    return template


def _holds_estimators(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(entry, tuple) for entry in value)


def _has_parameters(estimator: Any) -> bool:
    try:
        return bool(parameter_access(estimator).get(estimator))
    except AttributeError:
        return False


def check_type(estimator: Any, member: Any, name: str) -> None:
    """Raise if a member is neither a checkpoint nor of the estimator's type.

    Parameters
    ----------
    estimator : object
        Estimator of the soup, frozen or not.
    member : path, state dict or fitted estimator
        Member to check; modules of different types are accepted.
    name : str
        Name of the member in the message.

    Raises
    ------
    TypeError
        If the types, or the types of pipeline steps, differ.
    """
    inner = unwrap_frozen(estimator)
    if isinstance(member, CHECKPOINT_TYPES) or (
        _has_module(member) and _has_module(inner)
    ):
        return
    expected = [(step, type(part)) for step, part in iter_steps(inner)]
    if [(step, type(part)) for step, part in iter_steps(member)] != expected:
        kinds = ", ".join(kind.__name__ for _, kind in expected)
        found_kinds = ", ".join(type(part).__name__ for _, part in iter_steps(member))
        raise TypeError(
            "members must be paths, state dicts or fitted estimators of one kind, "
            f"{kinds}: {name} is of type {found_kinds}"
        )


def open_member_for(template: Any, member: Any, name: str) -> Checkpoint:
    """Open a member, and check that its parameters fit the estimator.

    Parameters
    ----------
    template : object
        Estimator that receives the parameters, as from `make_template`.
    member : path, state dict or fitted estimator
        Member that passed `check_type`.
    name : str
        Name of the member in messages; a path keeps its own.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If the member is not fitted, or its parameters have another meaning.

    Warns
    -----
    UserWarning
        If a module has another architecture or configuration.
    """
    if isinstance(member, Mapping):
        return state_dict.read(member, name)
    if isinstance(member, CHECKPOINT_TYPES):
        return open_checkpoint(member, 0)
    if not _has_parameters(member):
        raise ValueError(
            f"{name} must be fitted: this {type(member).__name__} has no parameters; "
            "if the soup is cloned, as in GridSearchCV, wrap fitted members in "
            "sklearn.frozen.FrozenEstimator"
        )
    check_compatible(template, member, name)
    if _has_module(member):
        warn_module_differences(_module(template), _module(member), name)
    return state_dict.read(parameter_access(member).get(member), name)


def _has_module(estimator: Any) -> bool:
    try:
        return parameter_access(estimator).module is not None
    except TypeError:
        return False


def _module(estimator: Any) -> Any:
    get_module = parameter_access(estimator).module
    return None if get_module is None else get_module(estimator)
