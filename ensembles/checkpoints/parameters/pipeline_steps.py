"""Steps of pipelines: which of them learn, and which are averaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ensembles._sklearn import thawed
from ensembles.checkpoints.parameters.table import state_of


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
            found = "passthrough" if step is None else step
            yield from parts_of(found, f"{place}.{name}" if place else name)


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


def is_averaged(step: Any) -> bool:
    """Whether a step of a pipeline is averaged; any other must be the same in all.

    Parameters
    ----------
    step : estimator, "passthrough" or None

    Returns
    -------
    bool
        False for kinds that cannot be averaged, or are unknown.
    """
    if not learns(step):
        return False
    if hasattr(step, "steps"):
        return any(is_averaged(inner) for _, inner in step.steps)
    try:
        state_of(step)
    except TypeError:
        return False
    return True
