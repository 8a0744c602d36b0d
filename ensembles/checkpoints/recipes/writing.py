"""Averages written as recipes in mergekit's format."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ensembles.atomic_io import atomic_output
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.planning.plan import Plan
from ensembles.checkpoints.recipes.method import Method, Values
from ensembles.checkpoints.recipes.methods import METHODS, method_of

# Options that choose tensors or their values, and their default; no recipe has them.
OPTIONS = {
    "integers": "error",
    "missing": "error",
    "include": (),
    "exclude": (),
    "key": None,
}


class _Average(NamedTuple):
    """Rule of a plan, with its weights and all of its parameters."""

    rule: str
    weights: list[float]
    params: Mapping[str, Any]


def _weight(average: _Average) -> list[float]:
    scale = average.params["scale"] if average.rule == "linear_combination" else 1.0
    return [weight * scale for weight in average.weights]


def _position(average: _Average) -> Any:
    share = average.weights[-1] / sum(average.weights)
    return average.params.get("t", share)


# Values of mergekit's parameters where the rule has another name or value for them.
VALUES: dict[str, Callable[[_Average], Any]] = {
    "weight": _weight,
    "t": _position,
    "lambda": lambda average: average.params["scale"],
    "normalize": lambda a: a.params.get("normalize", a.rule == "mean"),
    "normalize_weights": lambda average: average.params["normalize"],
    "rescale": lambda average: average.params.get("rescale") is not None,
    "select_topk": lambda average: average.params["density"],
    "filter_wise": lambda average: average.params["vectors"] == "row",
    "nuslerp_row_wise": lambda average: average.params["vectors"] == "column",
    "nuslerp_flatten": lambda average: average.params["vectors"] == "tensor",
}


def recipe_text(plan: Plan) -> str:
    """Recipe of an average, for ``ensemble merge`` and mergekit.

    Parameters
    ----------
    plan : Plan
        Plan of an average of files or directories.

    Returns
    -------
    str
        A YAML document. Rules that mergekit has are written as its merge methods; other
        rules under their own names, which only ``ensemble merge`` reads.

    Raises
    ------
    ValueError
        If the format has no way to say the rule, a parameter or an option; the message
        lists all.
    """
    problems = _option_problems(plan)
    average = _Average(
        plan.rule.name, plan.weights.tolist(), plan.rule.params | plan.rule_params
    )
    names = [name for name in METHODS if name != "passthrough"]
    names = [name for name in names if average.rule in _rules(METHODS[name])]
    if not names and method_of(average.rule) is not None:
        names = [average.rule]
    found, misfits = None, []
    for name in names:
        values = _values(name, average)
        misfits = _misfits(name, values, plan, average)
        if not misfits:
            found = name, values
            break
    if found is None:
        problems += misfits or [f"rule {average.rule!r}"]
    if problems:
        raise ValueError(
            "a recipe in mergekit's format cannot say "
            f"{', '.join(problems)}; leave --save-recipe out, or the option"
        )
    assert found is not None
    return _document(*found, plan)


def save_recipe(
    plan: Plan, path: str | os.PathLike[str], *, force: bool = False
) -> None:
    """Write the recipe of an average, for ``ensemble merge`` and mergekit.

    Parameters
    ----------
    plan : Plan
        Plan of an average of files or directories.
    path : path
        Path of the YAML file.
    force : bool, default=False
        Whether an existing file is replaced.

    Raises
    ------
    FileExistsError
        If the file exists, unless ``force``.
    ValueError
        If the format has no way to say the rule, a parameter or an option; the message
        lists all.
    """
    text = recipe_text(plan)
    with atomic_output(Path(path), folder=False, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _rules(method: Method) -> tuple[str, ...]:
    return method.rule, method.rule_with_base, method.rule_of_sums


def _option_problems(plan: Plan) -> list[str]:
    problems = [
        f"--{name} {getattr(plan.options, name)!r}"
        for name, default in OPTIONS.items()
        if (getattr(plan.options, name) or default) != default
    ]
    checkpoints = [*plan.members, *([] if plan.base is None else [plan.base])]
    problems += [
        f"the path {checkpoint.name!r}"
        for checkpoint in checkpoints
        if checkpoint.path is None or "+" in str(checkpoint.path)
    ]
    paths = [member.path for member in plan.members if member.path is not None]
    problems += [
        f"{str(path)!r} as {paths.count(path)} members"
        for path in dict.fromkeys(paths)
        if paths.count(path) > 1
    ]
    if plan.moments:
        problems.append("--moments")
    if any(target.settings is not None for target in plan.targets):
        problems.append("weights of single tensors")
    return problems


def _values(name: str, average: _Average) -> Values:
    """Values of the parameters of a method, as they would be read from its recipe."""
    method = method_of(name)
    assert method is not None
    n_members = len(average.weights)
    shared, of_models = {}, {}
    for parameter in method.parameters:
        is_own = name not in METHODS and parameter.name != "weight"
        value = VALUES.get(parameter.name) if not is_own else None
        if value is not None:
            result = value(average)
        else:
            result = average.params.get(parameter.name, parameter.default)
        if parameter.of_model:
            of_models[parameter.name] = np.broadcast_to(result, n_members).tolist()
        else:
            shared[parameter.name] = result
    return Values(average.rule, shared, of_models)


def _misfits(name: str, values: Values, plan: Plan, average: _Average) -> list[str]:
    """Parameters that a recipe with these values would not set as the plan has them."""
    method = method_of(name)
    assert method is not None
    try:
        settings = method.settings(values)
    except (ValueError, TypeError) as error:
        return [str(error)]
    read = plan.rule.params | dict(settings.rule_params)
    if average.rule == "linear_combination":
        read["scale"] = average.params["scale"]  # it is a factor of the weights
    problems = [
        f"{key}={average.params[key]!r} of {average.rule!r}"
        + f" ({name} has {key}={value!r}: --param {key}={value})" * (name in METHODS)
        for key, value in read.items()
        if not _equal(value, average.params[key])
    ]
    if not _same_weights(settings, plan, average):
        problems.append(f"weights of {average.rule!r}, which {name} does not have")
    if name not in METHODS:
        problems += [
            f"{key}={value!r} of {name!r}, one value for each member"
            for key, value in values.shared.items()
            if isinstance(value, list | tuple | np.ndarray)
        ]
    return problems


def _equal(first: Any, second: Any) -> bool:
    """Whether parameters are equal; a list of equal values is that value."""
    if isinstance(first, list | tuple) or isinstance(second, list | tuple):
        return bool(np.all(np.asarray(first) == np.asarray(second)))
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def _same_weights(settings: TensorSettings, plan: Plan, average: _Average) -> bool:
    weights = np.asarray(average.weights)
    read = np.ones(len(weights)) if settings.weights is None else settings.weights
    read = np.asarray(read, np.float64)
    if average.rule == "linear_combination":
        return True
    if not plan.rule.weight_sum_matters:
        read, weights = read / read.sum(), weights / weights.sum()
    return bool(np.allclose(read, weights, rtol=1e-15, atol=0))


def _document(name: str, values: Values, plan: Plan) -> str:
    method = method_of(name)
    assert method is not None
    paths = [str(member.path) for member in plan.members]
    entries: dict[str, Any] = {"merge_method": name}
    if method.base == "first":
        entries["base_model"] = paths[0]
    elif plan.base is not None:
        entries["base_model"] = str(plan.base.path)
    models = []
    for index, path in enumerate(paths):
        own = {
            parameter.name: values.of_models[parameter.name][index]
            for parameter in method.parameters
            if parameter.of_model
            if values.of_models[parameter.name][index] != parameter.default
        }
        models.append({"model": path, **({"parameters": own} if own else {})})
    entries["models"] = models
    defaults = {} if name in METHODS else plan.rule.params
    shared = {
        parameter.name: values.shared[parameter.name]
        for parameter in method.parameters
        if not parameter.of_model
        if values.shared[parameter.name]
        != defaults.get(parameter.name, parameter.default)
    }
    if shared:
        entries["parameters"] = shared
    if plan.options.dtype is not None:
        entries["out_dtype"] = plan.options.dtype
    return yaml.safe_dump(entries, sort_keys=False, default_flow_style=False)
