"""The provenance of a result: everything that determines its tensors, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import ensembles
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
        Digest of each member's tensors, then of the base's, or placeholders of the
        same length.
    result : str
        Digest of the result's tensors, or a placeholder of the same length.

    Returns
    -------
    str
        JSON object with sorted keys; its length does not depend on the digests.
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
            **({} if plan.base is None else {"base": read[-1]}),
        },
        sort_keys=True,
        default=list,
    )


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
