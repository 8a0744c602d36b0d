"""Weights and parameters of single tensors: checked, by depth, and summarized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.compatibility.layers import layer_depths, layer_stacks
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.directories.open import Member, read_layout
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys
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
    missing: str,
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
    missing : str
        Treatment of tensors that some members lack, see `match_layouts`; with "present"
        the settings are those of the members that have the tensor.
    problems : list of str
        Problems found so far, to which others are added.

    Returns
    -------
    dict of str to TensorSettings
        Valid settings by tensor name, with weights as float64 arrays.

    Raises
    ------
    TypeError
        If ``settings`` or an entry has another type.
    """
    checked: dict[str, TensorSettings] = {}
    tried: dict[str, TensorSettings | None] = {}
    if not isinstance(settings, Mapping):
        raise TypeError(
            "settings must be a mapping of tensor names to TensorSettings, found a "
            f"{type(settings).__name__}"
        )
    for name, entry in settings.items():
        if not isinstance(entry, TensorSettings):
            raise TypeError(
                "settings must be a mapping of tensor names to TensorSettings: "
                f"settings[{name!r}] has type {type(entry).__name__}"
            )
        holders = [member for member in members if member.tensor(name)]
        n_members = len(holders) if missing == "present" else len(members)
        if members[0] not in holders and not (holders and missing == "present"):
            problems.append(
                f"settings must name tensors of {members[0].name}, found {name!r}"
            )
            continue
        text = repr((n_members, np.asarray(entry.weights).tolist(), entry.rule_params))
        if text not in tried:
            tried[text] = None
            try:
                tried[text] = _checked(entry, rule, n_members, base)
            except ValueError as error:
                problems.append(f"settings of tensor {name!r}: {error}")
        valid = tried[text]
        if valid is not None:
            checked[name] = valid
    return checked


def _checked(
    entry: TensorSettings, rule: Rule, n_members: int, base: Checkpoint | None
) -> TensorSettings:
    """Settings with float64 weights, after a trial of the rule with them."""
    params = plain_params(entry.rule_params)
    rule.check(n_members, params, has_base=base is not None)
    weights = rule.check_weights(entry.weights, n_members)
    rule.try_out(weights, params, has_base=base is not None)
    return TensorSettings(weights, params)


def subset_problems(
    targets: Sequence[TensorPlan],
    rule: Rule,
    weights: Float64,
    params: Mapping[str, Any],
) -> list[str]:
    """Problems of tensors that some members lack, with the settings of the plan.

    Parameters
    ----------
    targets : sequence of TensorPlan
        Tensors of the result.
    rule : Rule
        Rule that combines the members.
    weights : ndarray of shape (n_members,)
        Weight of each member.
    params : mapping of str to value
        Parameters of the rule.

    Returns
    -------
    list of str
        One message for each set of members that the rule rejects, with a tensor.
    """
    problems: list[str] = []
    subsets = {
        target.holders: target
        for target in reversed(targets)
        if target.action == "combine"
        if target.holders is not None and target.settings is None
    }
    for holders, target in subsets.items():
        try:
            own = weights[[*(holders or ())]]
            rule.check(len(own), params, has_base=target.base is not None)
            checked = rule.check_weights(own, len(own))
            rule.try_out(checked, params, has_base=target.base is not None)
        except ValueError as error:
            problems.append(
                f"tensor {target.name!r} has {len(own)} of {len(weights)} members: "
                f"{error}"
            )
    return problems


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


def weights_by_depth(
    member: Member,
    weights: Sequence[float | Sequence[float]],
    *,
    rule_params: Mapping[str, Any] | None = None,
    key: Keys = None,
) -> dict[str, TensorSettings]:
    """Settings with weights that change from the first layer to the last.

    Parameters
    ----------
    member : path, state dict or Checkpoint
        First member, whose tensor names have the numbers of the layers.
    weights : sequence of (float or sequence of float)
        Weight of each member: a number for all layers, or several at equal distances
        from the first layer to the last, which are interpolated between them. Tensors
        that are used before the layers, such as embeddings, have the weights of the
        first layer, and tensors after them, such as final norms and output layers,
        those of the last.
    rule_params : mapping of str to value or None, default=None
        Parameters of the rule; None means the defaults.
    key : str, sequence of str or None, default=None
        Key of the state dict in a PyTorch checkpoint, see `average`.

    Returns
    -------
    dict of str to TensorSettings
        For the parameter ``settings`` of `average` and `plan`.

    Raises
    ------
    ValueError
        If the member has no numbered layers.

    Examples
    --------
    >>> names = ["emb.weight", "h.0.bias", "h.1.bias", "h.2.bias"]
    >>> member = {name: np.zeros(1) for name in names}
    >>> settings = weights_by_depth(member, [[0, 1], 1])
    >>> settings["h.1.bias"].weights
    [0.5, 1.0]
    """
    opened = read_layout(member, 0, key=key)
    if not layer_stacks(opened.names):
        raise ValueError(
            f"weights by depth need numbered layers, such as model.layers.0.weight: "
            f"{opened.name} has none; pass one weight for each member"
        )
    points = [np.atleast_1d(np.asarray(entry, np.float64)) for entry in weights]
    depths = layer_depths(opened.names, after=1.0)
    at = {
        t: [float(np.interp(t, np.linspace(0, 1, len(p)), p)) for p in points]
        for t in {*depths.values()}
    }
    return {n: TensorSettings(at[t], rule_params or {}) for n, t in depths.items()}


def weight_ranges(
    targets: Sequence[TensorPlan], weights: Float64
) -> list[tuple[float, float]]:
    """Smallest and largest weight of each member in the tensors of a result.

    Parameters
    ----------
    targets : sequence of TensorPlan
        Tensors of the result.
    weights : ndarray of shape (n_members,)
        Weight of each member in tensors without settings.

    Returns
    -------
    list of (float, float)
    """
    ranges: list[set[float]] = [set() for _ in weights]
    for target in targets:
        entry = target.settings
        own = None if entry is None else np.asarray(entry.weights).tolist()
        if target.action in ("combine", "average"):
            for place, index in enumerate(target.by_member):
                ranges[index].add(float(weights[index]) if own is None else own[place])
    return [
        (min(r, default=float(w)), max(r, default=float(w)))
        for r, w in zip(ranges, weights, strict=True)
    ]


def common_params(
    targets: Sequence[TensorPlan], params: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Parameters of the rule that are equal for all tensors, and names of the others.

    Parameters
    ----------
    targets : sequence of TensorPlan
        Tensors of the result.
    params : mapping of str to value
        Parameters of the rule for tensors without settings.

    Returns
    -------
    (dict, list of str)
    """
    combined = [t for t in targets if t.action == "combine"]
    every = [t.params(params) for t in combined] or [params]
    names = dict.fromkeys(name for entry in every for name in entry)
    equal = {
        name: every[0][name]
        for name in names
        if all(name in entry and entry[name] == every[0][name] for entry in every)
    }
    return equal, [name for name in names if name not in equal]


def scope_problems(
    rule: Rule,
    params: Mapping[str, Any],
    settings: Mapping[str, TensorSettings],
    targets: Sequence[TensorPlan],
) -> Iterator[str]:
    """Problems of statistics of the whole model if tensors are combined differently.

    Parameters
    ----------
    rule : Rule
        Rule that combines the members.
    params : mapping of str to value
        Parameters of the plan.
    settings : mapping of str to TensorSettings
        Validated settings by tensor name.
    targets : sequence of TensorPlan
        Tensors of the result.

    Yields
    ------
    str
        One message each.
    """
    every = [params, *(entry.rule_params for entry in settings.values())]
    if not any(rule.spans_model(entry) for entry in every):
        return
    if settings:
        yield (
            "scope='model' (--param scope=model) needs the same weights and "
            "parameters for all tensors; pass scope='tensor' in rule_params and in all "
            "settings, or leave settings out"
        )
    subsets = [t for t in targets if t.action == "combine" and t.holders is not None]
    if subsets:
        yield (
            f"scope='model' of rule {rule.name!r} needs each tensor in all members, "
            f"and {len(subsets)} tensors are in some of them, such as "
            f"{subsets[0].name!r}; pass scope='tensor' (--param scope=tensor)"
        )
