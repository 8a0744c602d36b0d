"""The configuration of PEFT adapters: ranks, scales, and variants of LoRA."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ensembles.checkpoints.formats.checkpoint import Checkpoint

BASE_LAYER = ".base_layer"  # the layer inside a wrapper of PEFT
DEFAULT = 8  # r and lora_alpha of LoraConfig
METADATA = "lora_adapter_metadata"  # in files of diffusers: options by component
APPLY_EACH = (
    "apply each adapter to its base model first (ensemble lora apply BASE ADAPTER), "
    "and average the results"
)
# Options with which the update is not scale * b @ a.
NONLINEAR = {
    "use_dora": "DoRA, which rescales each updated weight",
    "kasa_config": "KaSA, which truncates the weights of the base",
    "arrow_config": "Arrow, which chooses adapters by token",
    "monteclora_config": "MonteCLoRA, which samples factors",
    "use_bdlora": "BD-LoRA, which stores blocks of factors",
}
# Initializations with which PEFT changes the weights of the base that it loads.
CHANGES_BASE = re.compile(r"(pissa|olora|corda|lora_ga|loftq).*", re.IGNORECASE)


class ModuleConfig:
    """Rank and scale of each module, from the configuration of an adapter.

    Parameters
    ----------
    checkpoint : Checkpoint
        Adapter with ``adapter_config.json`` as its ``config``, or a file of diffusers,
        whose options are in its metadata; without either the scale is 1.

    Raises
    ------
    ValueError
        If the configuration is of another method, or damaged.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.name = checkpoint.name
        self._by_component: Mapping[str, Any] = {}
        self.options: Mapping[str, Any] = checkpoint.config
        if self.options:
            kind = self.options.get("peft_type")
            if kind != "LORA":
                raise ValueError(
                    f"{self.name} must be an adapter of LoRA, found peft_type {kind!r}"
                )
        elif METADATA in checkpoint.metadata:
            try:
                self._by_component = json.loads(checkpoint.metadata[METADATA])
            except ValueError as error:
                raise ValueError(
                    f"{self.name}: {METADATA} is not JSON: {error}"
                ) from None

    def scale(self, module: str, rank: int) -> float:
        """Factor of the update of a module, from its alpha and its rank."""
        options, paths = self._of(module)
        if not options:
            return 1.0
        alpha = self._of_pattern(options, "alpha_pattern", paths, "lora_alpha")
        return alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)

    def rank(self, module: str, n_rows: int) -> int:
        """Rank of a module, which has several times as many rows with experts."""
        options, paths = self._of(module)
        if not options:
            return n_rows
        rank = int(self._of_pattern(options, "rank_pattern", paths, "r"))
        if n_rows == rank:
            return rank
        if options.get("target_parameters") and rank > 0 and n_rows % rank == 0:
            return rank
        raise ValueError(
            f"{self.name}: module {module!r} must have rank {rank} by r or "
            f"rank_pattern of its configuration, found {n_rows} rows of lora_A"
        )

    def weight(self, module: str) -> str:
        """Name of the weight in the base that a module updates; empty if unknown.

        PEFT wraps a module once for each of its ``target_parameters``, in the order in
        which the model has them, which no file says.
        """
        parameters = self.parameters(module)
        if len(parameters) > 1:
            return ""
        return parameters[0] if parameters else f"{module}.weight"

    def parameters(self, module: str) -> list[str]:
        """Paths of the parameters of a module that ``target_parameters`` names.

        Parameters
        ----------
        module : str
            Name in the file, which has ``base_layer`` for each wrapper inside another.

        Returns
        -------
        list of str
        """
        path = module.replace(BASE_LAYER, "")
        targets = self.options.get("target_parameters") or []
        if not isinstance(targets, list) or not all(
            isinstance(t, str) for t in targets
        ):
            raise ValueError(
                f"{self.name}: target_parameters must be a list of names, found "
                f"{targets!r:.80}"
            )
        return [
            f"{path}.{parameter}"
            for target in targets
            for owner, _, parameter in [target.rpartition(".")]
            if f".{path}".endswith(f".{owner}")
        ]

    def _of(self, module: str) -> tuple[Mapping[str, Any], list[str]]:
        """Options of a module, and the paths that their patterns are compared with."""
        if self.options:
            return self.options, self.parameters(module) or [module]
        component, _, name = module.partition(".")
        prefix = f"{component}."
        options = {
            key.removeprefix(prefix): value
            for key, value in self._by_component.items()
            if key.startswith(prefix)
        }
        return options, [name]

    def _of_pattern(
        self,
        options: Mapping[str, Any],
        pattern: str,
        paths: Iterable[str],
        default: str,
    ) -> float:
        """Value of the first pattern that matches each path, else the default."""
        patterns = options.get(pattern) or {}
        if not isinstance(patterns, Mapping):
            raise ValueError(
                f"{self.name}: {pattern} must be an object with numbers by module, "
                f"found {patterns!r:.80}"
            )
        values = [
            _matched(patterns, path, options.get(default, DEFAULT)) for path in paths
        ]
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(
                    f"{self.name}: {default} and the values of {pattern} must be "
                    f"numbers, found {value!r:.80}"
                )
        if len({*values}) > 1:
            raise ValueError(
                f"{self.name}: the parameters {', '.join(paths)} must have the same "
                f"{default}, found {sorted({*values})} by {pattern}"
            )
        return float(values[0])


def _matched(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    """Value of the first pattern that matches the end of a path, as PEFT matches it."""
    for key, value in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({key})$", path)
        except re.error as error:
            raise ValueError(
                "rank_pattern and alpha_pattern must have regular expressions as keys, "
                f"found {key!r}: {error}"
            ) from None
        if matches:
            return value
    return default


def reason_not_merged(
    name: str, options: Mapping[str, Any], parts: Iterable[str]
) -> str:
    """Why updates have no weighted sum, or need a changed base; empty if they have one.

    Parameters
    ----------
    name : str
        Name of the adapter for the message.
    options : mapping of str to value
        Configuration of the adapter.
    parts : iterable of str
        Parts of updates in the file, such as "A" and "magnitude_vector".

    Returns
    -------
    str
    """
    by_part = {"magnitude_vector": "use_dora", "diag": "kasa_config"}
    found = {by_part[part] for part in parts if part in by_part}
    for option, what in NONLINEAR.items():
        if options.get(option) or option in found:
            return (
                f"{name} uses {what} ({option}): a weighted sum of its factors is not "
                f"the weighted sum of its updates; {APPLY_EACH}"
            )
    init = str(options.get("init_lora_weights"))
    if CHANGES_BASE.fullmatch(init):
        return (
            f"{name} has init_lora_weights={init!r}, with which PEFT changes the base: "
            "its factors include a part of the base's weights; convert it with "
            "save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    return ""
