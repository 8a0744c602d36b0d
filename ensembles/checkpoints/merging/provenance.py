"""The recipe of a result: everything that determines its tensors, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import ensembles
from ensembles.checkpoints.planning.plan import Plan

KEY = "ensembles"


def recipe(plan: Plan, digests: Sequence[str]) -> str:
    """Recipe in JSON: rule, parameters, weights, options and digests of the members.

    Parameters
    ----------
    plan : Plan
        Plan of the result.
    digests : sequence of str
        Digest of each member's tensors, or placeholders of the same length.

    Returns
    -------
    str
        JSON object with sorted keys; its length does not depend on the digests.
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
        Plan of the result.
    digests : sequence of str
        Digest of each member's tensors, or placeholders of the same length.

    Returns
    -------
    dict of str to str
        The format, and the recipe at key "ensembles".
    """
    # transformers rejects files without a format; "pt" is correct for any tensors.
    return {"format": "pt", KEY: recipe(plan, digests)}
