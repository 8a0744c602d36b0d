"""Check the recipe and the models of a mixture, from headers alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ensembles.checkpoints.directories.unsupported import unsupported_reasons
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.planning.opening import all_problems
from ensembles.checkpoints.planning.options import float_dtype
from ensembles.checkpoints.recipes.document import Expert, Mixture
from ensembles.checkpoints.recipes.mixtures.architectures import (
    Architecture,
    choose_architecture,
)
from ensembles.dtypes import is_float

EMBEDDING = "model.embed_tokens.weight"
# Outside of the layers; an output layer that is tied is not stored.
OUTSIDE = (EMBEDDING, "model.norm.weight", "lm_head.weight")
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
# Buffers that old versions of transformers stored, and compute from the configuration.
COMPUTED = re.compile(r".*rotary_emb\.inv_freq")
SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
)
RANDOM = ("random", "uniform_random")
GATE_MODES = ("hidden", "hidden_avg", "hidden_last", "cheap_embed", *RANDOM)
SHOWN = 3


def check_mixture(
    mixture: Mixture, models: Mapping[str, Checkpoint]
) -> tuple[Architecture, list[str]]:
    """Architecture of a mixture whose recipe and models are valid.

    Parameters
    ----------
    mixture : Mixture
        The recipe.
    models : mapping of str to Checkpoint
        Base and models of the experts, by their names in the recipe.

    Returns
    -------
    architecture : Architecture
        Architecture of the mixture.
    notes : list of str
        Messages for the user, one sentence each.

    Raises
    ------
    ValueError
        If the models do not make a mixture; the message lists all problems.
    """
    lines = {mixture.base_model: mixture.line}
    for expert in (*mixture.experts, *mixture.shared_experts):
        lines.setdefault(expert.model, expert.line)
    problems = [at_line(mixture, *problem) for problem in recipe_problems(mixture)]
    architecture, reasons = _model_problems(mixture, models, lines)
    if architecture is None or problems or reasons:
        raise ValueError(all_problems([*problems, *reasons]))
    notes = [*_notes(mixture, models)]
    window = _window(models[mixture.base_model].config)
    if window is not None and "sliding_window" in architecture.settings:
        notes.append(
            f"attention of the result is full, without the sliding window of "
            f"{window} tokens of {mixture.base_model}, which {architecture.name} does "
            "not have in the same layers"
        )
    return architecture, notes


def _window(config: Mapping[str, Any]) -> int | None:
    """Sliding window of a dense model; None if its attention is full."""
    is_used = config.get("use_sliding_window", config["model_type"] == "mistral")
    default = 4096 if config["model_type"] == "mistral" else None
    window = config.get("sliding_window", default)
    return int(window) if is_used and window else None


def needs_prompts(mixture: Mixture) -> bool:
    """Whether the router is computed from prompts."""
    return mixture.gate_mode not in RANDOM


def at_line(mixture: Mixture, line: int, message: str) -> str:
    """Message with the line of the recipe, if it was read from a file.

    Parameters
    ----------
    mixture : Mixture
        The recipe.
    line : int
        Line, from 1.
    message : str
        Error message.

    Returns
    -------
    str
    """
    return f"{mixture.path}:{line}: {message}" if mixture.path.name else message


def recipe_problems(mixture: Mixture) -> Iterator[tuple[int, str]]:
    """Problems of a mixture that are seen without its models.

    Parameters
    ----------
    mixture : Mixture
        The recipe.

    Yields
    ------
    line : int
        Line of the recipe.
    message : str
        Error message.
    """
    n_experts, n_used = len(mixture.experts), mixture.experts_per_token
    if not 1 <= n_used <= n_experts:
        yield (
            mixture.line,
            f"experts must be at least as many as experts_per_token, {n_used}, found "
            f"{n_experts}",
        )
    for expert in (*mixture.experts, *mixture.shared_experts):
        for key in ("noise_scale", "residual_scale"):
            value = getattr(expert, key)
            if value is not None and not math.isfinite(value):
                yield expert.line, f"{key} must be a finite number, found {value}"
    if mixture.gate_mode not in GATE_MODES:
        modes, found = ", ".join(GATE_MODES), mixture.gate_mode
        yield mixture.line, f"gate_mode must be one of {modes}, found {found!r:.40}"
    elif needs_prompts(mixture):
        yield from _without_prompts(mixture.experts, mixture.gate_mode)
        prompts = {(e.positive_prompts, e.negative_prompts) for e in mixture.experts}
        if len(prompts) == 1 < n_experts and mixture.experts[0].positive_prompts:
            yield (
                mixture.experts[0].line,
                "the prompts of all experts are equal, so that the router cannot tell "
                "the experts apart; give each prompts of its own",
            )
    if mixture.dtype is not None:
        try:
            float_dtype(mixture.dtype)
        except ValueError as error:
            yield mixture.line, str(error)


def _without_prompts(
    experts: Sequence[Expert], gate_mode: str
) -> Iterator[tuple[int, str]]:
    for expert in experts:
        if not expert.positive_prompts:
            yield (
                expert.line,
                f"an expert must have positive_prompts for gate_mode {gate_mode!r}, "
                "from which its router is computed",
            )
        elif not all(
            prompt.strip()
            for prompt in (*expert.positive_prompts, *expert.negative_prompts)
        ):
            yield expert.line, "prompts must not be empty; leave out those without text"


def _model_problems(
    mixture: Mixture, models: Mapping[str, Checkpoint], lines: Mapping[str, int]
) -> tuple[Architecture | None, list[str]]:
    """Architecture, None if there is none, and problems of the models."""
    base = models[mixture.base_model]
    problems = [
        at_line(mixture, lines[model], reason)
        for model, checkpoint in models.items()
        for reason in (
            *unsupported_reasons(checkpoint),
            *_config_problems(checkpoint, base),
        )
    ]
    if problems:
        return None, problems
    try:
        architecture = choose_architecture(mixture, base.config["model_type"])
    except ValueError as error:
        return None, [at_line(mixture, mixture.line, str(error))]
    for model, checkpoint in models.items():
        messages = _mlp_problems(architecture, checkpoint, base)
        problems += [at_line(mixture, lines[model], message) for message in messages]
    found = [(mixture.line, m) for m in _base_problems(architecture, base)]
    if needs_prompts(mixture):
        found += _without_prompts(mixture.shared_experts, mixture.gate_mode)
    problems += [at_line(mixture, *problem) for problem in found]
    return architecture, problems


def _config_problems(checkpoint: Checkpoint, base: Checkpoint) -> Iterator[str]:
    """Problems of a configuration: lacking sizes, another activation or model type."""
    config = checkpoint.config
    for key in ("model_type", *SIZES):
        value = config.get(key)
        is_text = key == "model_type"
        if not (isinstance(value, str) if is_text else _is_positive(value)):
            found = f", found {value!r:.40}" * (key in config)
            yield (
                f"{checkpoint.name} must be a directory of transformers with {key}, "
                f"{'a text' if is_text else 'a positive number'}, in its config.json"
                f"{found}"
            )
            return
    for key, default in (("model_type", None), ("hidden_act", "silu")):
        value, expected = (c.get(key, default) for c in (config, base.config))
        if value != expected:
            yield (
                f"models of a mixture must have the same {key}: {base.name} has "
                f"{expected!r}, {checkpoint.name} has {value!r}"
            )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _mlp_problems(
    architecture: Architecture, checkpoint: Checkpoint, base: Checkpoint
) -> Iterator[str]:
    """Problems of the tensors that become those of an expert."""
    width, inner = (base.config[k] for k in ("hidden_size", "intermediate_size"))
    for layer in range(base.config["num_hidden_layers"]):
        for part in architecture.parts:
            name = f"model.layers.{layer}.mlp.{part}.weight"
            tensor = checkpoint.tensor(name)
            shape = (width, inner) if part == "down_proj" else (inner, width)
            if tensor is None:
                yield f"{checkpoint.name} lacks the tensor {name!r}"
                return
            if tensor.shape != shape or not is_float(tensor.dtype):
                yield (
                    f"tensor {name!r} must have floats of the shape {shape}, as in "
                    f"{base.name}: {checkpoint.name} has ({tensor.dtype}, "
                    f"{tensor.shape})"
                )
                return
    beyond = f"model.layers.{base.config['num_hidden_layers']}."
    if any(name.startswith(beyond) for name in checkpoint.names):
        yield (
            f"{checkpoint.name} must have {base.config['num_hidden_layers']} layers, "
            f"as {base.name}: it has tensors of {beyond}"
        )


def _base_problems(architecture: Architecture, base: Checkpoint) -> Iterator[str]:
    """Tensors of the base that the architecture lacks or does not have."""
    n_layers = base.config["num_hidden_layers"]
    required = {
        f"model.layers.{layer}.{tensor}"
        for layer in range(n_layers)
        for tensor in architecture.tensors
        if tensor not in architecture.added_biases
    }
    lacking = sorted(({*OUTSIDE[:2]} | required) - {*base.names})
    if lacking:
        yield f"{base.name} lacks {_listed(lacking)}, which {architecture.name} has"
    allowed = {*architecture.tensors, *(f"mlp.{p}.weight" for p in architecture.parts)}
    unused = [
        name
        for name in base.names
        if name not in OUTSIDE
        and not COMPUTED.fullmatch(name)
        and not ((match := LAYER.fullmatch(name)) and match[2] in allowed)
    ]
    if unused:
        yield (
            f"{base.name} has {_listed(unused)}, which {architecture.name} does not "
            "have"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    noun = "tensor" if len(names) == 1 else "tensors"
    return f"the {noun} {', '.join(map(repr, names[:SHOWN]))}{more}"


def _notes(mixture: Mixture, models: Mapping[str, Checkpoint]) -> Iterator[str]:
    """Notes on a mixture that is valid."""
    base = models[mixture.base_model]
    experts = (*mixture.experts, *mixture.shared_experts)
    yield (
        f"of the experts, only the MLPs are used; all else is that of {base.name}, "
        "also the tokenizer"
    )
    if len({_copy_of(expert) for expert in mixture.experts}) == 1 < len(experts):
        yield (
            "all experts are the same model, so that the choice of the router has no "
            "effect before the mixture is trained; noise_scale makes them differ"
        )
    if not needs_prompts(mixture):
        yield (
            f"the router is {mixture.gate_mode.replace('_', ' ')}: the mixture must be "
            "trained before it is used"
        )
        if any(expert.positive_prompts for expert in experts):
            yield f"prompts have no effect with gate_mode: {mixture.gate_mode}"


def _copy_of(expert: Expert) -> tuple[str, float]:
    """Model of an expert; experts with noise are always different."""
    return expert.model, id(expert) if expert.noise_scale else 0
