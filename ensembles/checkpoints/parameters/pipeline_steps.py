"""Steps of pipelines: which are fitted, and which are averaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ensembles._sklearn import unwrap_frozen
from ensembles.checkpoints.parameters.table import parameter_access


def iter_steps(estimator: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield an estimator, then the steps of a pipeline and of nested pipelines.

    Parameters
    ----------
    estimator : object
        Estimator or pipeline.
    name : str, default=""
        Name of the estimator, a prefix to the names of its steps.

    Yields
    ------
    name : str
        Names of the steps from the outermost pipeline, with dots between them.
    step : object
        Estimator, or "passthrough".
    """
    yield name, estimator
    if hasattr(estimator, "named_steps"):
        for step_name, step in estimator.steps:
            full_name = f"{name}.{step_name}" if name else step_name
            yield from iter_steps("passthrough" if step is None else step, full_name)


def has_learned_parameters(step: Any) -> bool:
    """Whether a step of a pipeline has to be fitted, and is not frozen.

    Parameters
    ----------
    step : estimator, "passthrough" or None
        Step, as in ``Pipeline.steps``.

    Returns
    -------
    bool
        False for "passthrough" and None.
    """
    if not hasattr(step, "__sklearn_tags__") or unwrap_frozen(step) is not step:
        return False
    return bool(step.__sklearn_tags__().requires_fit)


def is_averaged(step: Any) -> bool:
    """Whether a step of a pipeline is averaged; others must be equal in all members.

    Parameters
    ----------
    step : estimator, "passthrough" or None
        Step, as in ``Pipeline.steps``.

    Returns
    -------
    bool
        False for frozen steps, steps that need no fit, and kinds that cannot be
        averaged or are not registered.
    """
    if not has_learned_parameters(step):
        return False
    if hasattr(step, "steps"):
        return any(is_averaged(inner) for _, inner in step.steps)
    try:
        parameter_access(step)
    except TypeError:
        return False
    return True
