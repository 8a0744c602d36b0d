"""Tensors of a mixture: copies of those of dense models, and the router."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.compatibility.configuration import CONFIG, is_card
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    MemorySource,
    Source,
    Tensor,
)
from ensembles.checkpoints.merging.model_card import public_name
from ensembles.checkpoints.recipes.document import Expert, Mixture
from ensembles.checkpoints.recipes.mixtures.architectures import Architecture
from ensembles.checkpoints.recipes.mixtures.checks import COMPUTED, LAYER
from ensembles.checkpoints.views.perturbation import PerturbedSource

Dtype = np.dtype[Any]


class MixtureTensors:
    """Tensors of a mixture, with routers that are computed later.

    Parameters
    ----------
    mixture : Mixture
        The recipe.
    models : mapping of str to Checkpoint
        Base and models of the experts, by their name in the recipe.
    architecture : Architecture
        Architecture of the mixture.
    dtype : dtype
        Dtype of the result.

    Attributes
    ----------
    layout : dict of str to Tensor
        All tensors, by name.
    routers : list of dict of str to ndarray
        For each layer, the router and the gate of shared experts, by name, of shape
        (n_experts, hidden_size); zeros, in which the caller writes.
    """

    def __init__(
        self,
        mixture: Mixture,
        models: Mapping[str, Checkpoint],
        architecture: Architecture,
        *,
        dtype: Dtype,
    ) -> None:
        self.layout: dict[str, Tensor] = {}
        self.routers: list[dict[str, Array]] = []
        self._sources: set[Source] = set()  # of experts
        self._mixture, self._models = mixture, models
        self._architecture, self._dtype = architecture, dtype
        base = models[mixture.base_model]
        for name, tensor in base.layout.items():
            match = LAYER.fullmatch(name)
            is_mlp = match is not None and match[2].startswith("mlp.")
            if not is_mlp and not COMPUTED.fullmatch(name):
                self.layout[name] = tensor
        for layer in range(base.config["num_hidden_layers"]):
            self._add_layer(f"model.layers.{layer}")

    def _add_layer(self, layer: str) -> None:
        block = f"{layer}.{self._architecture.block}"
        mixture, width = self._mixture, self._base.config["hidden_size"]
        for index, expert in enumerate(mixture.experts):
            self._add_expert(layer, f"{block}.experts.{index}", expert)
        routers = {f"{block}.gate.weight": len(mixture.experts)}
        for expert in mixture.shared_experts:
            self._add_expert(layer, f"{block}.shared_expert", expert)
            routers[f"{block}.shared_expert_gate.weight"] = 1
        rows = {n: np.zeros((size, width), np.float32) for n, size in routers.items()}
        self.routers.append(rows)
        self.layout |= {name: _in_memory(array) for name, array in rows.items()}
        for bias in self._architecture.added_biases:
            name = f"{layer}.{bias}"
            weight = self.layout[f"{layer}.{bias.removesuffix('bias')}weight"]
            zeros = np.zeros(weight.shape[0], weight.dtype)
            self.layout.setdefault(name, _in_memory(zeros))

    def _add_expert(self, layer: str, target: str, expert: Expert) -> None:
        """Add the matrices of an expert, with its noise and scale."""
        for part, new_part in self._architecture.parts.items():
            tensor = self._models[expert.model].tensor(f"{layer}.mlp.{part}.weight")
            assert tensor is not None  # it was checked
            self._sources.add(tensor.source)
            name = f"{target}.{new_part}.weight"
            noise = expert.noise_scale or 0.0
            is_last = part == "down_proj" and expert.residual_scale is not None
            factor = float(expert.residual_scale or 0) if is_last else 1.0
            if noise or factor != 1:
                source = PerturbedSource(
                    tensor,
                    self._dtype,
                    name=name,
                    seed=self._mixture.seed,
                    noise_scale=noise,
                    factor=factor,
                )
                tensor = Tensor(self._dtype, tensor.shape, source, 0)
            self.layout[name] = tensor

    @property
    def _base(self) -> Checkpoint:
        return self._models[self._mixture.base_model]

    def checkpoint(self) -> Checkpoint:
        """Mixture with the configuration and files of the base."""
        mixture, base = self._mixture, self._base
        names = [public_name(self._models[e.model]) for e in mixture.experts]
        view = replace(
            base,
            name=f"mixture of {', '.join(names)} on {public_name(base)}",
            layout=self.layout,
            order=[],
            parts={},
            extras={},
            whole_files=set(),
            files=[name for name in base.files if not is_card(name)],
            training_files=[],
            metadata={"mixture": self._description()},
            records=self._records(),
            keys=(),
            beside={},
            notes=list(base.notes),
            made_from=tuple(self._models.values()),
        )
        config = self._architecture.config(base.config, mixture)
        text = json.dumps(config, indent=2) + "\n"
        return view.with_files({CONFIG: text.encode()})

    def _description(self) -> str:
        """Recipe in JSON, for the metadata of the result."""
        mixture = self._mixture
        described = {
            "base_model": public_name(self._base),
            "gate_mode": mixture.gate_mode,
            "seed": mixture.seed,
        }
        for key in ("experts", "shared_experts"):
            described[key] = [
                {k: v for k, v in asdict(expert).items() if v and k != "line"}
                | {"model": public_name(self._models[expert.model])}
                for expert in getattr(mixture, key)
            ]
        return json.dumps(described, sort_keys=True)

    def _records(self) -> list[Any]:
        """Checksums of the files that experts and base are read from."""
        read = self._sources | {tensor.source for tensor in self.layout.values()}
        return [
            record
            for model in self._models.values()
            for record in model.records
            if record.file in read
        ]


def _in_memory(array: Array) -> Tensor:
    return Tensor(array.dtype, array.shape, MemorySource(array), 0)
