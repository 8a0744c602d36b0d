"""The provenance of a result: everything that determines its tensors, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import ensembles
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.digests import Digested, digest
from ensembles.checkpoints.planning.plan import Plan

KEY = "ensembles"  # of the provenance in the metadata of a weight file
OPTIONS = ("dtype", "integers", "missing", "include", "exclude")
TENSORS = "ensembles.tensors"  # key of the digests of a weight file's own tensors


def provenance(plan: Plan, digests: Sequence[str], result: str) -> str:
    """Rule, parameters, weights, options and digests, in JSON.

    Parameters
    ----------
    plan : Plan
        Plan of the result.
    digests : sequence of str
        Digest of the tensors of each member, of the base and of the moments, or
        placeholders of the same length.
    result : str
        Digest of the result's tensors, or a placeholder of the same length.

    Returns
    -------
    str
        JSON object with sorted keys; its length does not depend on the digests. A copy
        of the first member has the "key" of its averaged state dict. A conversion has
        the key "conversion", with the recipe of the converted average or null.
    """
    read = [f"xxh3-128:{digest}" for digest in digests]
    return json.dumps(
        {
            "version": ensembles.__version__,
            "rule": plan.rule.name,
            "params": plan.rule_params,
            "weights": plan.weights.tolist(),
            "members": read[: len(plan.members)],
            "result": f"xxh3-128:{result}",
            "options": {name: getattr(plan.options, name) for name in OPTIONS},
            **({} if plan.base is None else {"base": read[len(plan.members)]}),
            **({"moments": read[len(plan.checkpoints) :]} if plan.moments else {}),
            **_settings(plan),
            **({"key": plan.members[0].keys} if plan.templates else {}),
            **(
                {"conversion": average_recipe(plan.members[0])}
                if plan.is_conversion
                else {}
            ),
        },
        sort_keys=True,
        default=list,
    )


def _settings(plan: Plan) -> dict[str, Any]:
    """Weights and parameters of single tensors, with the names that they belong to."""
    groups: dict[str, dict[str, Any]] = {}
    for target in plan.targets:
        if target.settings is not None:
            weights, params = plan.settings_of(target)
            entry = {"weights": weights.tolist(), "params": dict(params)}
            text = json.dumps(entry, sort_keys=True, default=list)
            groups.setdefault(text, entry | {"tensors": []})["tensors"].append(
                target.name
            )
    return {"settings": [*groups.values()]} if groups else {}


def tensor_digests(tensors: Mapping[str, Digested]) -> str:
    """Digest of each tensor of a weight file, for its metadata.

    They name the tensors that differ, and verify a weight file of a directory alone.

    Parameters
    ----------
    tensors : mapping of str to (dtype, shape, iterable of bytes)
        Dtype, shape and block digests of each tensor, by its name in the file.

    Returns
    -------
    str
        32 hexadecimal digits for each tensor, in the order of the names.
    """
    return "".join(digest({name: tensors[name]}) for name in sorted(tensors))


def kept_metadata(plan: Plan) -> dict[str, str]:
    """Metadata of the single member that a conversion keeps; empty for an average.

    Parameters
    ----------
    plan : Plan
        Plan of the result.

    Returns
    -------
    dict of str to str
        Without provenance, and without entries that name tensors.
    """
    if not plan.is_conversion:
        return {}
    (member,) = plan.members
    names = {*member.names}
    return {
        key: value
        for key, value in member.metadata.items()
        if key.partition(".")[0] != KEY and not {key, value} & names
    }


def recipe_of(member: Checkpoint) -> dict[str, Any] | None:
    """Recipe that `average` stored in the metadata of a member.

    Parameters
    ----------
    member : Checkpoint
        Member on disk or in memory.

    Returns
    -------
    dict or None
        Recipe with at least the keys ``rule`` and ``members``, a list; None without a
        valid recipe, as in state dicts and legacy PyTorch files.
    """
    try:
        found = json.loads(member.metadata[KEY])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "rule" not in found:
        return None
    return found if isinstance(found.get("members"), list) else None


def average_recipe(member: Checkpoint) -> dict[str, Any] | None:
    """Recipe of a member that is an average, or of the average that it converts.

    Parameters
    ----------
    member : Checkpoint
        Member on disk or in memory.

    Returns
    -------
    dict or None
        None if it is neither.
    """
    recipe = recipe_of(member)
    return recipe if recipe is None else recipe.get("conversion", recipe)
