"""Model card of a merged adapter: its members, rule, weights and base."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

import ensembles
from ensembles.checkpoints.adapters.plan import AdapterPlan
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.model_card import CACHED, public_name

REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # on the Hugging Face Hub


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
        _public_base(str(adapter.config["base_model_name_or_path"]))
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
    lines = [*_metadata(bases, "merge"), "# Merged adapter", ""]
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


def extraction_card(tuned: Checkpoint, base: Checkpoint, ranks: Iterable[int]) -> str:
    """Text of the model card of an extracted adapter; it has no date.

    Parameters
    ----------
    tuned, base : Checkpoint
        Fine-tuned model, and the model that it was fine-tuned from.
    ranks : iterable of int
        Rank of each module.

    Returns
    -------
    str
        Markdown with YAML metadata.
    """
    sizes = sorted(ranks)
    rank = " to ".join(map(str, sorted({sizes[0], sizes[-1]}))) if sizes else "0"
    lines = [
        *_metadata([public_name(base)], "extracted"),
        "# Extracted adapter",
        "",
        f"The difference of {public_name(tuned)} from {public_name(base)}, "
        f"approximated with rank {rank} in {len(sizes)} modules.",
        "",
        "It has not been evaluated: scores of the fine-tuned model are not its own.",
        "",
        f"Written by ensembles {ensembles.__version__} (`ensemble lora extract`).",
        "",
    ]
    return "\n".join(lines)


def _metadata(bases: Iterable[str], tag: str) -> list[str]:
    """Lines of the YAML metadata, with an empty line after it."""
    named = [f"- {json.dumps(base, ensure_ascii=False)}" for base in bases]
    lines = ["---", "library_name: peft", *(["base_model:"] if named else []), *named]
    return [*lines, "tags:", "- lora", f"- {tag}", "---", ""]


def _public_base(name: str) -> str:
    """Name of a base for publication, without its local path."""
    cached = CACHED.search(name)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    return name if REPOSITORY.fullmatch(name) else PurePath(name).name
