"""The recipe of a result: what determines its tensors, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

import ensembles
from ensembles.checkpoints.planning.plan import Plan

KEY = "ensembles"


def recipe(plan: Plan, digests: Sequence[str]) -> str:
    """JSON of the rule, its weights and parameters, and the members' digests.

    Parameters
    ----------
    plan : Plan
    digests : sequence of str
        One a member, each as long as any other, so that they can be filled in later.

    Returns
    -------
    str
    """
    names = ("dtype", "integers", "missing", "include", "exclude")
    return json.dumps(
        {
            "version": ensembles.__version__,
            "rule": plan.rule.name,
            "params": plan.params,
            "weights": plan.weights.tolist(),
            "members": [f"xxh3-128:{digest}" for digest in digests],
            "options": {name: plan.options[name] for name in names},  # type: ignore[literal-required]
        },
        sort_keys=True,
        default=list,
    )


def metadata(plan: Plan, digests: Sequence[str]) -> dict[str, str]:
    """Metadata of a safetensors file of the result.

    Parameters
    ----------
    plan : Plan
    digests : sequence of str

    Returns
    -------
    dict of str to str
    """
    # transformers refuses files without a format, and pt is right for tensors of any.
    return {"format": "pt", KEY: recipe(plan, digests)}
