"""Adapters with the tensor names of kohya's sd-scripts, musubi-tuner and LyCORIS."""

from __future__ import annotations

import re

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.formats.lora.adapter import (
    Adapter,
    LowRankUpdate,
    checked,
    read_scalar,
)
from ensembles.checkpoints.formats.lora.peft_config import APPLY_EACH

PART = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<factor>up|down|mid)\.weight|(?P<other>alpha|dora_scale))"
)


def read_kohya(checkpoint: Checkpoint) -> Adapter:
    """Adapter in a checkpoint with the names of kohya: lora_up, lora_down and alpha.

    The scale is alpha / rank. A module without alpha, or with alpha 0, has the scale 1,
    as in sd-scripts.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights of an adapter.

    Returns
    -------
    Adapter

    Raises
    ------
    ValueError
        If a factor lacks the other one, their shapes do not fit, or a tensor is not of
        LoRA, such as those of LoHa and LoKr.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.layout.items():
        match = PART.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{checkpoint.name}: tensor {name!r} is not of LoRA (lora_up, "
                f"lora_down, lora_mid, alpha); {APPLY_EACH}"
            )
        part = match["factor"] or match["other"]
        modules.setdefault(match["module"], {})[part] = tensor
    updates = {
        module: _update(f"{checkpoint.name}: module {module!r}", parts)
        for module, parts in modules.items()
    }
    reason = ""
    if any(update.magnitude is not None for update in updates.values()):
        reason = (
            f"{checkpoint.name} uses DoRA, which rescales each updated weight "
            "(dora_scale): a weighted sum of its factors is not that of its updates; "
            f"{APPLY_EACH}"
        )
    return Adapter(checkpoint, "kohya", updates, reason=reason)


def _update(where: str, parts: dict[str, Tensor]) -> LowRankUpdate:
    """Update of a module, after its factors were checked."""
    if not {"up", "down"} <= parts.keys():
        raise ValueError(
            f"{where} must have lora_up and lora_down, found {', '.join(sorted(parts))}"
        )
    down, up = parts["down"], parts["up"]
    rank = max(down.shape[0] if down.shape else 0, 1)
    alpha = read_scalar(parts["alpha"]) if "alpha" in parts else rank
    update = LowRankUpdate(
        down,
        up,
        (alpha or rank) / rank,
        middle=parts.get("mid"),
        magnitude=parts.get("dora_scale"),
    )
    return checked(update, where)


def kohya_name(module: str) -> str:
    """Name of a module in the naming of kohya: its path, with underscores.

    Parameters
    ----------
    module : str
        Path of the module in its model, such as ``mid_block.attentions.0.proj_in``; in
        a file of diffusers with the component first: ``text_encoder_2.layers.0.fc1``.

    Returns
    -------
    str

    Examples
    --------
    >>> kohya_name("unet.mid_block.attentions.0.proj_in")
    'lora_unet_mid_block_attentions_0_proj_in'
    >>> kohya_name("blocks.0.attn.q")
    'lora_unet_blocks_0_attn_q'
    """
    component, _, path = module.partition(".")
    prefix = COMPONENTS.get(component)
    if prefix is None:
        prefix, path = COMPONENTS["unet"], module
    return f"{prefix}_{path.replace('.', '_')}"


# Prefix in sd-scripts by component in diffusers; sd-scripts calls the network that is
# trained lora_unet in all architectures, and so does musubi-tuner.
COMPONENTS = {
    "unet": "lora_unet",
    "transformer": "lora_unet",
    "diffusion_model": "lora_unet",
    "text_encoder": "lora_te",
    "text_encoder_1": "lora_te1",
    "text_encoder_2": "lora_te2",
    "text_encoder_3": "lora_te3",
}
