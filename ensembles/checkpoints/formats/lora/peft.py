"""Adapters with the tensor names of PEFT, and the same names in files of diffusers."""

from __future__ import annotations

import re
from typing import NamedTuple

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.formats.lora.adapter import (
    Adapter,
    LowRankUpdate,
    checked,
    read_scalar,
)
from ensembles.checkpoints.formats.lora.peft_config import (
    BASE_LAYER,
    ModuleConfig,
    reason_not_merged,
)

PREFIX = "base_model.model."
# The name of the adapter, such as "default", is left out by PEFT's save_pretrained.
PART = re.compile(
    r"(?P<module>.+)\.lora_"
    r"(?:(?P<embedding>embedding_)?(?P<factor>[AB])|(?P<other>magnitude_vector|diag))"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.weight|(?P<bias>\.bias))?"
)
ALPHA = re.compile(r"(?P<module>.+)\.alpha")
SAVED = re.compile(r"\.modules_to_save(\.[^.]+(?=\..))?")


class PartName(NamedTuple):
    """Meaning of a tensor name of LoRA.

    Parameters
    ----------
    module : str
        Module with the update, without PEFT's prefix.
    part : str
        "A", "B", "bias", "magnitude_vector", "diag" or "alpha".
    is_embedding : bool
        Whether the module is an embedding.
    adapter : str or None
        Name of the adapter; None if it is left out.
    """

    module: str
    part: str
    is_embedding: bool
    adapter: str | None


def parse(name: str) -> PartName | None:
    """Meaning of a tensor name; None if it is not of LoRA.

    Parameters
    ----------
    name : str
        Name in the file.

    Returns
    -------
    PartName or None
    """
    match = PART.fullmatch(name)
    if match is None:
        return None
    part = match["factor"] or match["other"]
    return PartName(
        match["module"].removeprefix(PREFIX),
        "bias" if match["bias"] else part,
        match["embedding"] is not None,
        match["adapter"],
    )


def read_peft(checkpoint: Checkpoint) -> Adapter:
    """Adapter in a checkpoint with the names of PEFT.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights of an adapter, with ``adapter_config.json`` as its ``config``; without
        one, the names are those of a file of diffusers.

    Returns
    -------
    Adapter

    Raises
    ------
    ValueError
        If a factor lacks the other one, their shapes do not fit, the configuration
        contradicts them, or a tensor is not of LoRA.
    """
    config = ModuleConfig(checkpoint)
    if not checkpoint.layout:
        raise ValueError(f"{checkpoint.name} must have tensors, found a file with none")
    modules: dict[str, dict[str, Tensor]] = {}
    embeddings, replaced, names = set(), {}, {}
    adapters: dict[str | None, str] = {}
    for stored, tensor in checkpoint.layout.items():
        alpha = None if config.options else ALPHA.fullmatch(stored)
        name = parse(stored)
        if alpha is not None:
            modules.setdefault(alpha["module"], {})["alpha"] = tensor
        elif name is not None:
            adapters.setdefault(name.adapter, stored)
            modules.setdefault(name.module, {})[name.part] = tensor
            embeddings |= {name.module} if name.is_embedding else set()
        elif config.options:
            base_name = SAVED.sub("", stored.removeprefix(PREFIX))
            base_name = base_name.replace(BASE_LAYER, "")
            replaced[base_name], names[base_name] = tensor, stored
        else:
            raise ValueError(
                f"{checkpoint.name}: tensor {stored!r} is not of LoRA; if the adapter "
                "has an adapter_config.json, put it into the same folder"
            )
    if len(adapters) > 1:
        raise ValueError(
            f"{checkpoint.name} must have one adapter, found the tensors "
            f"{' and '.join(map(repr, adapters.values()))}; save each adapter alone"
        )
    base_weights = {
        names[name]: replaced.pop(name)
        for name in [*replaced]
        if names[name].endswith(f"{BASE_LAYER}.weight")
        and name.removesuffix(".weight") in modules
    }
    updates = {
        module: _update(config, module, parts, module in embeddings)
        for module, parts in modules.items()
    }
    found = {part for parts in modules.values() for part in parts}
    return Adapter(
        checkpoint,
        "peft" if config.options else "diffusers",
        updates,
        replaced,
        {name: names[name] for name in replaced},
        base_weights,
        reason_not_merged(checkpoint.name, config.options, found),
    )


def _update(
    config: ModuleConfig, module: str, parts: dict[str, Tensor], is_embedding: bool
) -> LowRankUpdate:
    """Update of a module, after its factors were checked."""
    where = f"{config.name}: module {module!r}"
    if not {"A", "B"} <= parts.keys():
        raise ValueError(
            f"{where} must have lora_A and lora_B, found "
            f"{', '.join(f'lora_{part}' for part in sorted(parts))}"
        )
    a, b = parts["A"], parts["B"]
    n_rows = a.shape[0] if a.shape else 0
    rank = config.rank(module, n_rows)
    scale = config.scale(module, rank)
    if "alpha" in parts:
        scale = (read_scalar(parts["alpha"]) or rank) / rank
    update = LowRankUpdate(
        a,
        b,
        scale,
        weight=config.weight(module),
        n_experts=max(n_rows // rank, 1),
        is_transposed=is_embedding or bool(config.options.get("fan_in_fan_out")),
        is_embedding=is_embedding,
        bias=parts.get("bias"),
        magnitude=parts.get("magnitude_vector"),
    )
    return checked(update, where)
