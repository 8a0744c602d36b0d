"""Whether the same numbers mean the same in two estimators."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from ensembles.base import warn_user
from ensembles.checkpoints.comparing import config_differences
from ensembles.checkpoints.delegating import thawed

# Settings that say what parameters mean, and what a fit learns of that besides.
SETTINGS = ("activation", "link", "power")
MEANING = (*SETTINGS, "out_activation_", "feature_names_in_", "classes_")
SHOWN = 10  # entries of an array, in a message


def parts_of(estimator: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """An estimator, and the steps of a pipeline, by the names of the steps.

    Parameters
    ----------
    estimator : object
    place : str, default=""
        Of the estimator itself.

    Yields
    ------
    str, object
    """
    yield place, estimator
    if hasattr(estimator, "named_steps"):
        for name, step in estimator.steps:
            yield from parts_of(step, f"{place}.{name}" if place else name)


def check_settings(held: Any, estimator: Any) -> None:
    """Raise if an estimator is set to take parameters for something else.

    Parameters
    ----------
    held : estimator
        The first member.
    estimator : estimator
        Of the same steps.

    Raises
    ------
    ValueError
    """
    for (place, first), (_, wanted) in _pairs(held, estimator):
        for name in SETTINGS:
            ours, theirs = (getattr(one, name, None) for one in (wanted, first))
            if ours != theirs:
                raise ValueError(
                    f"members must have the estimator's {name}{_of(place)}, {ours!r}: "
                    f"the first has {theirs!r}"
                )


def check_alike(held: Any, member: Any, name: str) -> None:
    """Raise if parameters of a member mean something else than those of the first.

    Parameters
    ----------
    held, member : object
        Of the same kind, or modules.
    name : str
        The member's.

    Raises
    ------
    ValueError
    """
    if type(held) is not type(member):
        return
    for (place, first), (_, other) in _pairs(held, member):
        for trait in MEANING:
            ours, theirs = (getattr(one, trait, None) for one in (first, other))
            if not np.array_equal(np.asarray(ours), np.asarray(theirs)):
                raise ValueError(
                    f"members must agree in {trait}{_of(place)}: "
                    f"{_told(name, theirs, ours)}"
                )
        if place and not learns(first) and not _says_the_same(first, other):
            raise ValueError(
                f"members must agree in step {place!r}, which is not averaged: {name} "
                f"has another {type(thawed(other)).__name__} than the first"
            )


def _pairs(one: Any, other: Any) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    return zip(parts_of(one), parts_of(other), strict=True)


def _of(place: str) -> str:
    return f" of step {place!r}" if place else ""


def _told(name: str, theirs: Any, ours: Any) -> str:
    """What differs; of long arrays the first entry that does."""
    long = np.ndim(theirs) == np.ndim(ours) == 1 and max(len(theirs), len(ours)) > SHOWN
    if not long:
        return f"{name} has {theirs}, the first {ours}"
    if len(theirs) != len(ours):
        return f"{name} has {len(theirs)} of them, the first {len(ours)}"
    place = int(np.flatnonzero(np.asarray(theirs) != np.asarray(ours))[0])
    return f"{name} has {theirs[place]!r} at place {place}, the first {ours[place]!r}"


def learns(step: Any) -> bool:
    """Whether a step of a pipeline learns something, and is not frozen.

    Parameters
    ----------
    step : estimator, "passthrough" or None

    Returns
    -------
    bool
    """
    if not hasattr(step, "__sklearn_tags__") or thawed(step) is not step:
        return False
    return bool(step.__sklearn_tags__().requires_fit)


def _says_the_same(one: Any, other: Any) -> bool:
    """Whether steps that are not averaged are set alike, and have learned the same."""
    one, other = thawed(one), thawed(other)
    if one is other or not hasattr(one, "get_params"):
        return bool(one is other or one == other)
    ours, theirs = vars(one), vars(other)
    return ours.keys() == theirs.keys() and all(
        is_same(ours[name], theirs[name]) for name in ours
    )


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are one, or hold the same.

    Parameters
    ----------
    one, other : object

    Returns
    -------
    bool
        False where it cannot be told.
    """
    import joblib

    try:
        return one is other or joblib.hash(one) == joblib.hash(other)
    except Exception:  # whatever a pickle of something foreign raises
        return False


def warn_of_modules(held: Any, member: Any, name: str) -> None:
    """Warn if a module has other parts than the estimator, or is configured otherwise.

    Parameters
    ----------
    held, member : torch.nn.Module
    name : str
        The member's.

    Warns
    -----
    UserWarning
    """
    ours, theirs = (_lines(module) for module in (held, member))
    if type(held) is type(member) and ours != theirs:
        pairs = zip_longest(ours, theirs, fillvalue="nothing more")
        one, other = next(pair for pair in pairs if pair[0] != pair[1])
        warn_user(f"{name} is another network: it has {other}, the estimator {one}")
    differ = config_differences(_config(held), _config(member))
    if differ:
        warn_user(
            f"{name} is configured otherwise than the estimator, in {', '.join(differ)}"
        )


def _lines(module: Any) -> list[str]:
    """Parts of a module, without those that do nothing where it is used."""
    lines = (line.strip() for line in repr(module).splitlines())
    return [line for line in lines if "Dropout" not in line]


def _config(module: Any) -> dict[str, Any]:
    tell = getattr(getattr(module, "config", None), "to_dict", None)
    return {} if tell is None else dict(tell())
