"""A base with an adapter, as a checkpoint: nothing is computed before it is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePath

import numpy as np

from ensembles.checkpoints.directories.adapter_files import open_adapter
from ensembles.checkpoints.directories.open import Member, read_layout
from ensembles.checkpoints.directories.quantization import quantized_by
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    Keys,
    Tensor,
    UnsupportedSource,
)
from ensembles.checkpoints.formats.lora.adapter import Adapter, LowRankUpdate
from ensembles.checkpoints.formats.lora.peft import PREFIX
from ensembles.checkpoints.formats.lora.peft_config import (
    BASE_LAYER,
    NONLINEAR,
    ModuleConfig,
    reason_not_merged,
)
from ensembles.checkpoints.views.adapted_source import (
    AdaptedSource,
    ProductCache,
    matrix_shape,
)
from ensembles.checkpoints.views.inputs_first import (
    has_transposed_experts,
    is_conv1d,
)
from ensembles.checkpoints.views.module_names import names_in_base
from ensembles.dtypes import is_float
from ensembles.parallel import chunks

FLOAT64 = np.dtype(np.float64)
SHOWN = 3
PIECE = 1 << 20  # bytes
QUANTIZED = (
    "{base} has quantized weights ({evidence}), to which the updates of {adapter} "
    "cannot be added: take the half-precision model that it was quantized from, or "
    "dequantize it to bfloat16 (dequantize() in transformers), add the adapter to "
    "that, and quantize the result"
)
UNMERGE = "load it with PEFT, and save what merge_and_unload() returns"
# Options with which an update is linear, but not added to a weight of the base.
NOT_ADDED = {
    "alora_invocation_tokens": (
        "aLoRA, whose update is applied to the tokens after its invocation alone; use "
        "it with PEFT, without merging"
    ),
    "use_qalora": (
        "QA-LoRA, whose update is applied to pooled inputs; use it with PEFT, without "
        "merging"
    ),
    "layer_replication": f"a model with replicated layers; {UNMERGE}",
    "trainable_token_indices": f"rows of embeddings, trained alone; {UNMERGE}",
}


@dataclass
class _Changes:
    """Tensors of the base that an adapter changes, and problems, by name."""

    layout: dict[str, Tensor] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def adapted(base: Checkpoint, adapter: Adapter, *, scale: float = 1.0) -> Checkpoint:
    """Base whose tensors have the updates of an adapter added.

    Tensors with an update are read as float64, base + scale * b @ a, so that a merge
    does not lose updates that are small beside the steps of a half-precision base. They
    have the dtype of the base in a result: each is rounded once.

    Parameters
    ----------
    base : Checkpoint
        Checkpoint that the adapter was trained on, or a fine-tuned one with the same
        modules.
    adapter : Adapter
        Updates, and tensors that replace those of the base.
    scale : float, default=1.0
        Factor of the updates, of any sign, besides their own. Tensors that are replaced
        are not scaled.

    Returns
    -------
    Checkpoint
        With the names, files and configuration of the base.

    Raises
    ------
    ValueError
        If the scale is not finite, the base is quantized, lacks modules of the adapter
        or has them with other shapes, or the adapter changes its base in another way;
        the message lists all.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, found {scale}")
    evidence = quantized_by(base)
    if evidence is not None:
        raise ValueError(
            QUANTIZED.format(base=base.name, evidence=evidence, adapter=adapter.name)
        )
    problems = [*_variants(adapter)]
    if not problems:
        changes = _changes(base, adapter, scale)
        problems = [*_absence(base, adapter, changes.absent), *changes.problems]
    if problems:
        raise ValueError("\n".join(problems))
    return replace(
        base,
        name=f"{base.name} + {adapter.name}",
        layout=base.layout | changes.layout,
        metadata={},
        beside={},
        records=[*base.records, *adapter.checkpoint.records],
        adapters=(*base.adapters, adapter.checkpoint),
        notes=[*base.notes, *_notes(base, adapter, scale)],
    )


def open_adapted(member: Member, index: int, *, key: Keys = None) -> Checkpoint:
    """Read the layout of a member, which may be written as base+adapter.

    Parameters
    ----------
    member : path, state dict or Checkpoint
        As in `read_layout`, or two paths with ``+`` between them: of a base, and of an
        adapter whose updates are added to it. A path that exists is read as it is.
    index, key
        As in `read_layout`.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        As `read_layout` and `adapted`.
    """
    text = os.fspath(member) if isinstance(member, str | os.PathLike) else ""
    base, plus, adapter = text.partition("+")
    if not plus or os.path.exists(text):
        return read_layout(member, index, key=key)
    return adapted(
        read_layout(base.strip(), index, key=key), open_adapter(adapter.strip())
    )


def _variants(adapter: Adapter) -> Iterator[str]:
    """Problems of an adapter whose updates cannot be added to weights of the base."""
    reasons = {option: f"{what}; {UNMERGE}" for option, what in NONLINEAR.items()}
    for option, reason in {**reasons, **NOT_ADDED}.items():
        if option != "use_dora" and adapter.config.get(option):
            yield (
                f"{adapter.name} cannot be added to a base, because of {option}: "
                f"{reason}"
            )
    options = {**adapter.config, **dict.fromkeys(NONLINEAR)}
    reason = reason_not_merged(adapter.name, options, ())
    if reason:
        yield reason


def _changes(base: Checkpoint, adapter: Adapter, scale: float) -> _Changes:
    """Tensors of the base that the adapter changes."""
    wanted = {
        module: update.weight or _parameter(base, adapter, module)
        for module, update in adapter.updates.items()
    }
    whole = adapter.replaced | {
        name.removeprefix(PREFIX).replace(BASE_LAYER, ""): tensor
        for name, tensor in adapter.base_weights.items()
    }
    found = names_in_base([*wanted.values(), *whole], base.names)
    changes, cache = _Changes(), ProductCache()
    # PEFT stores embeddings that it adapts whole, too: their update is added to these.
    for name, tensor in whole.items():
        if name in found:
            _add_replaced(changes, base, found[name], tensor)
    # It stores a tied output layer a second time.
    replaced = [*changes.layout.values()]
    changes.absent += [
        name
        for name, tensor in whole.items()
        if name not in found and not any(_same(tensor, other) for other in replaced)
    ]
    for module, update in adapter.updates.items():
        stored = found.get(wanted[module])
        if stored is None:
            changes.absent.append(module)
        else:
            oriented = _oriented(base, stored, update)
            _add_update(changes, base, module, stored, (oriented, scale, cache))
    return changes


def _parameter(base: Checkpoint, adapter: Adapter, module: str) -> str:
    """Parameter of a module with the shape of its update; the module if not one has it.

    An adapter of several parameters of a module does not say which update is whose.
    """
    if not adapter.config:
        return module
    names = ModuleConfig(adapter.checkpoint).parameters(module)
    found = names_in_base(names, base.names)
    fitting = [
        name
        for name, stored in found.items()
        if _fits(base.layout[base.aliases.get(stored, stored)], adapter.updates[module])
    ]
    return fitting[0] if len(fitting) == 1 else module


def _oriented(base: Checkpoint, name: str, update: LowRankUpdate) -> LowRankUpdate:
    """Update of a weight that the model has with inputs first, if its shape is square.

    PEFT reads it from the layer: a configuration has one ``fan_in_fan_out`` for all.
    """
    if is_conv1d(base.config, name) or (
        update.n_experts > 1 and has_transposed_experts(base.config)
    ):
        return update._replace(is_transposed=True)
    return update


def _same(first: Tensor, second: Tensor | None) -> bool:
    """Whether two tensors of an adapter have the same bytes."""
    if second is None or (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    buffers = [memoryview(bytearray(PIECE)) for _ in range(2)]
    for start, stop in chunks(first.nbytes, PIECE):
        parts = [buffer[: stop - start] for buffer in buffers]
        for tensor, part in zip((first, second), parts, strict=True):
            tensor.source.read_into(part, tensor.offset + start)
        if parts[0] != parts[1]:
            return False
    return True


def _add_update(
    changes: _Changes,
    base: Checkpoint,
    module: str,
    name: str,
    how: tuple[LowRankUpdate, float, ProductCache],
) -> None:
    """Add a weight with its update, and its bias, or the problem with them."""
    stored, (update, *_) = base.aliases.get(name, name), how
    tensor = changes.layout.get(stored, base.layout[stored])
    if isinstance(tensor.source, UnsupportedSource):
        changes.problems.append(tensor.source.message)
    elif isinstance(tensor.source, AdaptedSource) and stored in changes.layout:
        changes.problems.append(
            f"the adapter changes tensor {stored!r} of {base.name} twice: it is tied; "
            "save the base with separate tensors (tie_word_embeddings false) first"
        )
    elif not is_float(tensor.dtype) or not _fits(tensor, update):
        changes.problems.append(
            f"the update of {module!r} has shape "
            f"{(update.n_outputs, update.n_inputs)}, {base.name} has {name!r} with "
            f"({tensor.dtype}, {tensor.shape}); is it an adapter of another base?"
        )
    elif not _fits_magnitude(update):
        assert update.magnitude is not None  # it fits otherwise
        changes.problems.append(
            f"the magnitudes of {module!r} (DoRA) must be one for each of "
            f"{update.n_outputs} outputs, found the shape {update.magnitude.shape}; "
            "merge this adapter with the program that trained it"
        )
    else:
        changes.layout[stored] = _sum(tensor, *how)
    if update.bias is not None:
        _add_bias(changes, base, name.removesuffix("weight") + "bias", how)


def _add_bias(
    changes: _Changes,
    base: Checkpoint,
    name: str,
    how: tuple[LowRankUpdate, float, ProductCache],
) -> None:
    tensor, bias = changes.layout.get(name, base.tensor(name)), how[0].bias
    if tensor is None or bias is None or tensor.size != bias.size:
        changes.problems.append(
            f"the adapter adds to the bias {name!r}, which {base.name} lacks or has "
            "in another shape"
        )
    else:
        changes.layout[name] = _sum(tensor, *how)


def _sum(
    tensor: Tensor, update: LowRankUpdate, scale: float, cache: ProductCache
) -> Tensor:
    source = AdaptedSource(tensor, update, scale, cache)
    return Tensor(FLOAT64, tensor.shape, source, 0, tensor.result_dtype)


def _fits(tensor: Tensor, update: LowRankUpdate) -> bool:
    """Whether the update has the shape of the tensor, or that of its transpose."""
    n_axes = len(tensor.shape) - (update.n_experts > 1)
    if n_axes < 2 or (update.n_experts > 1 and tensor.shape[0] != update.n_experts):
        return False
    product = update.n_outputs, update.n_inputs
    kernel = tensor.shape[-len(update.kernel) :] if update.kernel else ()
    if n_axes > 2 and kernel != update.kernel and {*tensor.shape[2:]} != {1}:
        return False
    shape = matrix_shape(tensor, update)
    is_transposed = n_axes == 2 and (update.is_transposed or update.n_experts > 1)
    return shape == product or (is_transposed and shape == product[::-1])


def _fits_magnitude(update: LowRankUpdate) -> bool:
    """Whether DoRA has one norm for each output.

    PEFT stores norms of convolutions as (1, n_outputs, 1, 1); LyCORIS, whose modules
    have no names of weights, stores norms over the inputs as (1, n_inputs).
    """
    if update.magnitude is None:
        return True
    shape = update.magnitude.shape
    is_of_outputs = bool(update.weight) or shape[:1] == (update.n_outputs,)
    return is_of_outputs and math.prod(shape) == update.n_outputs


def _add_replaced(
    changes: _Changes, base: Checkpoint, name: str, tensor: Tensor
) -> None:
    stored = base.aliases.get(name, name)
    replaced = base.layout[stored]
    if tensor.shape != replaced.shape or is_float(tensor.dtype) != is_float(
        replaced.dtype
    ):
        changes.problems.append(
            f"the adapter replaces {name!r} with ({tensor.dtype}, {tensor.shape}), "
            f"{base.name} has ({replaced.dtype}, {replaced.shape}); resize the "
            "embeddings of the base to the tokenizer of the adapter first, if tokens "
            "were added"
        )
        return
    changes.layout[stored] = tensor._replace(narrow=replaced.result_dtype)


def _absence(base: Checkpoint, adapter: Adapter, names: list[str]) -> Iterator[str]:
    """One problem for all modules that the base lacks."""
    if not names:
        return
    n_changes = len(adapter.updates) + len(adapter.replaced)
    shown = ", ".join(map(repr, names[:SHOWN])) + ", ..." * (len(names) > SHOWN)
    if adapter.config.get("target_parameters"):
        shown += (
            "; several parameters of one module are distinguished by their shapes "
            "(target_parameters)"
        )
    trained_on = adapter.config.get("base_model_name_or_path")
    hint = f", {trained_on!r} by its configuration" if trained_on else ""
    if base.config.get("tie_word_embeddings") and any("head" in name for name in names):
        hint += (
            "; an output layer that is tied to the embeddings must be stored apart "
            "(tie_word_embeddings false)"
        )
    yield (
        f"{adapter.name} is an adapter of another base{hint}: {base.name} lacks "
        f"{len(names)} of its {n_changes} modules, {shown}"
    )


def _notes(base: Checkpoint, adapter: Adapter, scale: float) -> Iterator[str]:
    """Notes on the base that the adapter names, and on tensors that are replaced."""
    trained_on = str(adapter.config.get("base_model_name_or_path") or "")
    known = [str(base.config.get("_name_or_path") or ""), str(base.path or "")]
    if trained_on and _last(trained_on) not in map(_last, known):
        yield f"the adapter was trained on {trained_on!r}, by its configuration"
    if adapter.replaced:
        names = [*adapter.replaced]
        unscaled = "" if scale == 1 else ", which the scale does not change"
        yield (
            f"the adapter replaces {len(names)} tensors of the base, such as "
            f"{names[0]}{unscaled}"
        )
    for note in adapter.checkpoint.notes:
        yield f"adapter: {note}"


def _last(path: str) -> str:
    """Last part of a path or of a repository's name, also in the cache of the Hub."""
    parts = PurePath(path).parts
    cached = [part for part in parts if part.startswith("models--")]
    return (cached[0].split("--")[-1] if cached else PurePath(path).name).lower()
