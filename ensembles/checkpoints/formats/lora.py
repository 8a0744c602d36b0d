"""Low-rank adapters (LoRA): updates of weights, stored as two factors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor

PEFT = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<factor>[AB])\.weight"
)


class LowRankUpdate(NamedTuple):
    """Update of a weight: ``scale * b @ a``.

    Parameters
    ----------
    a : Tensor of shape (rank, n_inputs)
        First factor.
    b : Tensor of shape (n_outputs, rank)
        Second factor.
    scale : float
        Factor of the product, from alpha and rank.
    """

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Number of rows of the first factor."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """Updates of the weights of a base.

    Parameters
    ----------
    checkpoint : Checkpoint
        File or directory that the adapter was read from.
    updates : dict of str to LowRankUpdate
        Update of each weight, by the module that has it, such as
        ``model.layers.0.self_attn.q_proj``.
    replaced : dict of str to Tensor
        Tensors that replace those of the base: biases and modules that were trained
        whole, by their name in the base.
    """

    checkpoint: Checkpoint
    updates: dict[str, LowRankUpdate]
    replaced: dict[str, Tensor] = field(default_factory=dict)


def adapter_of(checkpoint: Checkpoint) -> Adapter:
    """Updates in a checkpoint with the names and the configuration of PEFT.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights of an adapter, with ``adapter_config.json`` as its ``config``.

    Returns
    -------
    Adapter

    Raises
    ------
    ValueError
        If a factor lacks the other one, or their shapes do not fit.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.layout.items():
        match = PEFT.fullmatch(name)
        if match is None:
            raise ValueError(f"{checkpoint.name}: tensor {name!r} is not of LoRA")
        factors.setdefault(match["module"], {})[match["factor"]] = tensor
    updates = {
        module: LowRankUpdate(pair["A"], pair["B"], _scale(checkpoint.config, pair))
        for module, pair in factors.items()
    }
    return Adapter(checkpoint, updates)


def _scale(config: Mapping[str, Any], pair: Mapping[str, Tensor]) -> float:
    rank = pair["A"].shape[0]
    return float(config.get("lora_alpha", rank)) / rank
