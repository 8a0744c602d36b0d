"""The recipe of a result: everything that determines its tensors, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import ensembles
from ensembles.checkpoints.planning.plan import Plan

KEY = "ensembles"


def recipe(plan: Plan, digests: Sequence[str]) -> str:
    """Recipe in JSON: rule, parameters, weights, options and digests.

    Parameters
    ----------
    plan : Plan
        Plan of the result.
    digests : sequence of str
        Digest of each member's tensors, then of the base's, or placeholders of the
        same length.

    Returns
    -------
    str
        JSON object with sorted keys; its length does not depend on the digests.
    """
    read = [f"xxh3-128:{digest}" for digest in digests]
    names = ("dtype", "integers", "missing", "include", "exclude")
    return json.dumps(
        {
            "version": ensembles.__version__,
            "rule": plan.rule.name,
            "params": plan.rule_params,
            "weights": plan.weights.tolist(),
            "members": read[: len(plan.members)],
            "options": {name: getattr(plan.options, name) for name in names},
            **({} if plan.base is None else {"base": read[-1]}),
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
        Digest of each member's tensors, then of the base's, or placeholders of the
        same length.

    Returns
    -------
    dict of str to str
        The format, and the recipe at key "ensembles".
    """
    # transformers rejects files without a format; "pt" is correct for any tensors.
    return {"format": "pt", KEY: recipe(plan, digests)}
