"""Linear layers of a model, and the inputs that they get, without padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ensembles.checkpoints.averaging.model_tensors import without_prefixes
from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.moments.collection import parameters_of

if TYPE_CHECKING:
    from torch import Tensor, nn

IGNORED_LABEL = -100  # of padded positions in labels of transformers


class LinearLayer(NamedTuple):
    """A linear layer whose weight belongs to linear layers alone.

    Parameters
    ----------
    module : Module
        ``nn.Linear``, or ``Conv1D`` of transformers.
    name : str
        First name of its weight in the model.
    is_transposed : bool
        Whether the weight has the shape (n_inputs, n_outputs), as in ``Conv1D``.
    """

    module: nn.Module
    name: str
    is_transposed: bool


def linear_layers(model: nn.Module) -> tuple[list[LinearLayer], list[str]]:
    """Linear layers of a model, and notes on the layers that are left out.

    Parameters
    ----------
    model : Module
        Model without wrappers.

    Returns
    -------
    layers : list of LinearLayer
        In the order of the model. Layers with a shared weight are listed one by one.
    notes : list of str
        Messages about weights that are shared with other layers, or not dense floats,
        and about other parameters with two or more axes, without embeddings.
    """
    parameters, aliases = parameters_of(model)
    owners: dict[str, list[nn.Module]] = {}
    candidates: list[tuple[nn.Module, str]] = []
    for prefix, module in model.named_modules(remove_duplicate=True):
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            full_name = without_prefixes(f"{prefix}.{key}" if prefix else key)
            name = aliases.get(full_name, full_name)
            owners.setdefault(name, []).append(module)
            if key == "weight" and (_is_linear(module) or _is_conv1d(module)):
                candidates.append((module, name))
    layers, notes = [], []
    for module, name in candidates:
        if not all(_is_linear(m) or _is_conv1d(m) for m in owners[name]):
            notes.append(f"{name} has no Gram matrix: it is tied to another layer")
        elif not parameters[name].is_floating_point():
            notes.append(f"{name} has no Gram matrix: it is quantized")
        else:
            layers.append(LinearLayer(module, name, _is_conv1d(module)))
    linear = {name for _, name in candidates}
    others = [
        name
        for name, modules in owners.items()
        if name not in linear
        and parameters[name].ndim > 1
        and not any(_is_embedding(module) for module in modules)
    ]
    if others:
        subject = "they are not weights" if len(others) > 1 else "it is not the weight"
        verb = "have" if len(others) > 1 else "has"
        notes.append(
            f"{listed(others)} {verb} no Gram matrix: {subject} of nn.Linear or Conv1D"
        )
    return layers, list(dict.fromkeys(notes))


def _is_linear(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Linear)


def _is_embedding(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Embedding)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is Conv1D of transformers, without importing transformers."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(module).__mro__}
    return ("transformers.pytorch_utils", "Conv1D") in kinds


def padding_masks(model: nn.Module, batch: Any) -> list[Tensor]:
    """Masks of a batch, true where a position is not padding.

    Parameters
    ----------
    model : Module
        Model of the batch; with ``config.is_encoder_decoder``, padding in the decoder
        is known from ``decoder_attention_mask``, else from ``labels``.
    batch : object
        Batch of the model; only a mapping has masks.

    Returns
    -------
    list of Tensor of shape (n_examples, n_positions), bool
        Without masks in which all positions count.

    Raises
    ------
    ValueError
        If encoder and decoder have different masks of one shape, so that inputs of a
        layer cannot be attributed to either.
    """
    import torch

    masks = [mask for mask in masks_of(model, batch) if mask is not None]
    if len(masks) == 2 and masks[0].shape == masks[1].shape:
        if not torch.equal(masks[0], masks[1]):
            raise ValueError(
                "encoder and decoder must have different numbers of positions, or the "
                f"same padding: a batch has masks of shape {tuple(masks[0].shape)} for "
                "both, and they differ; pad the labels to another length"
            )
        masks = masks[:1]
    return [] if all(mask.all() for mask in masks) else masks


def masks_of(model: nn.Module, batch: Any) -> tuple[Tensor | None, Tensor | None]:
    """Masks of the inputs of a model, and of its decoder if that has inputs of its own.

    Parameters
    ----------
    model, batch
        As in `padding_masks`.

    Returns
    -------
    mask, decoder_mask : Tensor of shape (n_examples, n_positions), bool, or None
        None if the batch does not have the mask.
    """
    import torch

    if not isinstance(batch, Mapping):
        return None, None
    masks = [batch.get("attention_mask"), batch.get("decoder_attention_mask")]
    if is_encoder_decoder(model):
        labels = batch.get("labels")
        if masks[1] is None and isinstance(labels, torch.Tensor):
            masks[1] = labels != IGNORED_LABEL
    first, second = (
        m.bool() if isinstance(m, torch.Tensor) and m.ndim == 2 else None for m in masks
    )
    return first, second


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model of transformers has a decoder with inputs of its own."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def counted_rows(inputs: Tensor, masks: list[Tensor]) -> Tensor:
    """Inputs of a layer as rows, without those of padding.

    Parameters
    ----------
    inputs : Tensor of shape (*shape, n_inputs)
        Inputs of a linear layer.
    masks : list of Tensor of shape (n_examples, n_positions), bool
        From `padding_masks`. One with the shape of the inputs' first axes applies,
        also if these are flattened; otherwise, as for pooled inputs, all rows count.

    Returns
    -------
    Tensor of shape (n_rows, n_inputs)
    """
    for mask in masks:
        if inputs.shape[:-1] in (mask.shape, (mask.numel(),)):
            return inputs[mask.to(inputs.device).reshape(inputs.shape[:-1])]
    return inputs.reshape(-1, inputs.shape[-1])
