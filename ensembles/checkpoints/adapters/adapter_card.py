"""Model card of a merged adapter: its members, rule, weights and base."""

from __future__ import annotations

import json
from collections.abc import Sequence

import ensembles
from ensembles.checkpoints.adapters.plan import AdapterPlan
from ensembles.checkpoints.merging.model_card import public_name


def adapter_card(plan: AdapterPlan, digests: Sequence[str]) -> str:
    """Text of the model card; it has no date, so equal results have equal cards.

    Parameters
    ----------
    plan : AdapterPlan
        Plan of the result.
    digests : sequence of str
        Digest of the tensors of each adapter.

    Returns
    -------
    str
        Markdown with YAML metadata.
    """
    bases = dict.fromkeys(
        str(adapter.config["base_model_name_or_path"])
        for adapter in plan.members
        if adapter.config.get("base_model_name_or_path")
    )
    rank = "with stacked factors, which is exact"
    if not plan.rule.is_linear:
        rank = "in the space that their factors span"
    if plan.rank is not None:
        rank = f"compressed to rank {plan.rank}"
    elif plan.energy is not None:
        rank = f"compressed to {plan.energy:g} of the squared singular values"
    params = ", ".join(f"{key}={value!r}" for key, value in plan.rule.params.items())
    rule = plan.rule.name + f" ({params})" * bool(params)
    lines = ["---", "library_name: peft", *(["base_model:"] if bases else [])]
    lines += [f"- {json.dumps(base, ensure_ascii=False)}" for base in bases]
    lines += ["tags:", "- lora", "- merge", "---", "", "# Merged adapter", ""]
    lines += [
        f"The updates of the adapters are combined by the rule `{rule}`, {rank}:",
        "",
        "| adapter | weight | digest of its tensors |",
        "| --- | --- | --- |",
    ]
    for adapter, weight, digest in zip(
        plan.members, plan.rule.weights.tolist(), digests, strict=True
    ):
        name = public_name(adapter.checkpoint).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {weight:g} | `xxh3-128:{digest}` |")
    lines += [
        "",
        "It has not been evaluated: scores of the adapters are not its own.",
        "",
        f"Written by ensembles {ensembles.__version__} (`ensemble avg`); the recipe is "
        "in the metadata of the weights.",
        "",
    ]
    return "\n".join(lines)
