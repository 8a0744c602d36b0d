"""Check the weights and parameters of single tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.rules.rule import Rule


@contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Add the message of a `ValueError` to the problems instead of raising it.

    Parameters
    ----------
    problems : list of str
        Problems found so far.
    """
    try:
        yield
    except ValueError as error:
        problems.append(str(error))


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with numbers of Python in place of those of NumPy.

    Parameters
    ----------
    params : mapping of str to value
        Parameters of a rule.

    Returns
    -------
    dict
    """
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in params.items()
    }


def check_settings(
    settings: Mapping[str, TensorSettings],
    rule: Rule,
    members: Sequence[Checkpoint],
    base: Checkpoint | None,
    problems: list[str],
) -> dict[str, TensorSettings]:
    """Validate the settings of single tensors.

    Parameters
    ----------
    settings : mapping of str to TensorSettings
        Settings by tensor name.
    rule : Rule
        Rule that combines the members.
    members : sequence of Checkpoint
        Opened members, with the tensor names of the first.
    base : Checkpoint or None
        Opened base.
    problems : list of str
        Problems found so far, to which others are added.

    Returns
    -------
    dict of str to TensorSettings
        Valid settings by tensor name, with weights as float64 arrays.
    """
    checked: dict[str, TensorSettings] = {}
    tried: dict[str, TensorSettings | None] = {}
    for name, entry in settings.items():
        if members[0].tensor(name) is None:
            problems.append(
                f"settings must name tensors of {members[0].name}, found {name!r}"
            )
            continue
        text = repr((np.asarray(entry.weights).tolist(), entry.rule_params))
        if text not in tried:
            tried[text] = None
            with collected(problems):
                params = plain_params(entry.rule_params)
                rule.check(len(members), params, has_base=base is not None)
                weights = rule.check_weights(entry.weights, len(members))
                rule.try_out(weights, params, has_base=base is not None)
                tried[text] = TensorSettings(weights, params)
        valid = tried[text]
        if valid is not None:
            checked[name] = valid
    return checked


def with_settings(
    targets: list[TensorPlan], settings: Mapping[str, TensorSettings]
) -> list[TensorPlan]:
    """Add the settings of single tensors to the targets that the rule combines.

    Parameters
    ----------
    targets : list of TensorPlan
        Tensors of the result.
    settings : mapping of str to TensorSettings
        Validated settings by tensor name.

    Returns
    -------
    list of TensorPlan
    """
    return [
        target._replace(settings=settings[target.name])
        if target.action in ("combine", "average") and target.name in settings
        else target
        for target in targets
    ]


def any_spans_model(
    rule: Rule, params: Mapping[str, Any], settings: Mapping[str, TensorSettings]
) -> bool:
    """Whether the rule needs the statistics of the whole model for any tensor.

    Parameters
    ----------
    rule : Rule
        Rule that combines the members.
    params : mapping of str to value
        Parameters of the plan.
    settings : mapping of str to TensorSettings
        Validated settings by tensor name.

    Returns
    -------
    bool
    """
    every = [params, *(entry.rule_params for entry in settings.values())]
    return any(rule.spans_model(entry) for entry in every)
