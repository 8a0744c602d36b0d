"""The provenance of a result: everything that determines its tensors, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import ensembles
from ensembles.checkpoints.planning.plan import Plan

KEY = "ensembles"  # of the provenance in the metadata of a weight file


def provenance(plan: Plan, digests: Sequence[str]) -> str:
    """Rule, parameters, weights, options and digests of the members, in JSON.

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
