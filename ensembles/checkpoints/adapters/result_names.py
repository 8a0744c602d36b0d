"""Tensor names and configurations of merged adapters, of PEFT, diffusers and kohya."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ensembles.checkpoints.adapters.terms import ModuleSum
from ensembles.checkpoints.formats.lora.adapter import Adapter, Naming
from ensembles.checkpoints.formats.lora.peft import PREFIX

# Options of training, and of initializations that the result does not have.
RESET: dict[str, Any] = {
    **{"use_rslora": False, "init_lora_weights": True, "inference_mode": True},
    **{"loftq_config": {}, "eva_config": None, "corda_config": None},
    **{"lora_ga_config": None, "velora_config": None},
}
TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
PLAIN = re.compile(r"[\w.-]+")


class FactorNames(NamedTuple):
    """Names of the tensors of a module.

    Parameters
    ----------
    a, b : str
        First and second factor.
    bias : str
        Bias of the second factor; empty if the naming has none.
    alpha : str
        Alpha; empty if the naming has it in a configuration.
    """

    a: str
    b: str
    bias: str = ""
    alpha: str = ""


def factor_names(naming: Naming, module: ModuleSum) -> FactorNames:
    """Names of the tensors of a module in the result.

    Parameters
    ----------
    naming : {"peft", "kohya", "diffusers"}
        Naming of the result.
    module : ModuleSum
        Module with the name of the result.

    Returns
    -------
    FactorNames
    """
    if naming == "kohya":
        down, up = (f"{module.name}.lora_{part}.weight" for part in ("down", "up"))
        return FactorNames(down, up, alpha=f"{module.name}.alpha")
    path = (PREFIX if naming == "peft" else "") + module.name
    if module.first.is_embedding:
        return FactorNames(f"{path}.lora_embedding_A", f"{path}.lora_embedding_B")
    b = f"{path}.lora_B"
    return FactorNames(f"{path}.lora_A.weight", f"{b}.weight", f"{b}.bias")


def peft_config(
    adapters: Sequence[Adapter],
    weights: Mapping[str, str],
    ranks: Mapping[str, int],
    scales: Mapping[str, float],
    *,
    has_bias: bool,
) -> dict[str, Any]:
    """Configuration with which PEFT gives each module its rank and scale.

    Parameters
    ----------
    adapters : sequence of Adapter
        Merged adapters, of PEFT or of kohya; the first with a configuration determines
        all options that a merge does not change.
    weights : mapping of str to str
        Name of the weight in the base, by module; empty if unknown.
    ranks : mapping of str to int
        Rank of each module in the result.
    scales : mapping of str to float
        Factor of the product of each module in the result.
    has_bias : bool
        Whether second factors have biases.

    Returns
    -------
    dict
        Contents of ``adapter_config.json``.

    Raises
    ------
    ValueError
        If parameters of one module have different ranks or scales.
    """
    configs = [adapter.config for adapter in adapters if adapter.config]
    config = {**configs[0], **RESET, "lora_bias": has_bias}
    alphas = {name: scale * ranks[name] for name, scale in scales.items()}
    config["r"], config["rank_pattern"] = _with_pattern(ranks, weights)
    config["lora_alpha"], config["alpha_pattern"] = _with_pattern(alphas, weights)
    same_targets = all(_targets(c) == _targets(configs[0]) for c in configs)
    same_modules = all(len(adapter.updates) == len(weights) for adapter in adapters)
    if not (same_targets and same_modules):
        config |= dict.fromkeys(TARGETS)
        config["target_modules"] = [
            name for name, weight in weights.items() if weight == f"{name}.weight"
        ]
    return config


def _targets(config: Mapping[str, Any]) -> list[Any]:
    """Options that say which modules are updated, lists without their order."""
    values = [config.get(option) for option in TARGETS]
    return [sorted(map(str, v)) if isinstance(v, list) else v for v in values]


def _with_pattern(
    values: Mapping[str, float], weights: Mapping[str, str]
) -> tuple[float, dict[str, float]]:
    """The most frequent value, and the values of other weights by pattern.

    PEFT takes the first pattern that matches the end of a path: longer ones go first.
    """
    # Some programs take whole alphas only, and 0.2 * 1.5 * 20 is 6.000000000000001.
    numbers = {
        name: round(value) if math.isclose(value, round(value)) else value
        for name, value in values.items()
    }
    default, _ = next(iter(Counter(numbers.values()).most_common(1)), (1, 0))
    others = [name for name, value in numbers.items() if value != default]
    if any(other.endswith(f".{name}") for name in others for other in numbers):
        others = list(numbers)
    patterns = {}
    for name in sorted(others, key=lambda name: -len(name)):
        path = weights[name].removesuffix(".weight")
        if not path:
            raise ValueError(
                f"the adapters update several parameters of module {name!r}, which "
                f"must have one rank and scale, found {values[name]:g} beside "
                f"{default:g}; pass rank=... (--rank)"
            )
        patterns[path if PLAIN.fullmatch(path) else re.escape(path)] = numbers[name]
    return default, patterns
