"""Low-rank adapters (LoRA): updates of weights, stored as factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float
from ensembles.kernels.casting import widen

# Names of tensors in the file: of PEFT, of kohya's sd-scripts and LyCORIS, or those of
# PEFT in a file of diffusers, which has no adapter_config.json.
Naming = Literal["peft", "kohya", "diffusers"]


class Factors(NamedTuple):
    """Factors of an update ``b @ a`` in memory, as stacks of matrices.

    Parameters
    ----------
    a : ndarray of shape (n_experts, rank, n_inputs)
        First factor of each expert; other layers are one expert.
    b : ndarray of shape (n_experts, n_outputs, rank)
        Second factor of each expert.
    """

    a: Float64
    b: Float64

    @property
    def rank(self) -> int:
        """Number of columns of the second factor."""
        return int(self.b.shape[-1])


class LowRankUpdate(NamedTuple):
    """Update of one weight of the base: ``scale * b @ a``.

    Parameters
    ----------
    a : Tensor of shape (n_experts * rank, n_inputs, *kernel)
        First factor, of a convolution with its kernel.
    b : Tensor of shape (n_outputs, rank * n_experts, *ones)
        Second factor, of a convolution with a kernel of size 1.
    scale : float
        Factor of the product, from alpha and rank.
    weight : str
        Name of the weight in the base; empty if the names in the file do not say it.
    n_experts : int, default=1
        Number of experts of a parameter of shape (n_experts, ...); 1 for other weights.
    is_transposed : bool, default=False
        Whether the base stores the weight as (n_inputs, n_outputs): embeddings, and
        layers with ``fan_in_fan_out``.
    is_embedding : bool, default=False
        Whether the weight is that of an embedding: (n_inputs, n_outputs).
    middle : Tensor of shape (rank, rank, *kernel) or None, default=None
        Kernel between the factors (``lora_mid``), which then have kernels of size 1.
    bias : Tensor of shape (n_outputs,) or None, default=None
        Bias of the second factor (``lora_bias``): ``scale * bias`` is added to the bias
        of the layer.
    magnitude : Tensor of shape (n_outputs,) or None, default=None
        Norms of the updated weight that DoRA learns.
    """

    a: Tensor
    b: Tensor
    scale: float
    weight: str = ""
    n_experts: int = 1
    is_transposed: bool = False
    is_embedding: bool = False
    middle: Tensor | None = None
    bias: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Rank of the product, of each expert."""
        return self.b.shape[1] // self.n_experts

    @property
    def n_outputs(self) -> int:
        """Number of rows of the product."""
        return self.b.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel of a convolution; empty for other layers."""
        return (self.a if self.middle is None else self.middle).shape[2:]

    @property
    def n_inputs(self) -> int:
        """Number of columns of the product, with the elements of the kernel."""
        return self.a.shape[1] * math.prod(self.kernel)

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors of the file that the update consists of."""
        stored = (self.a, self.b, self.middle, self.bias, self.magnitude)
        return [tensor for tensor in stored if tensor is not None]

    def read(self) -> Factors:
        """Read the factors into memory, without the scale.

        Experts are stored with the rank as the slow axis of ``b`` and the expert as the
        slow axis of ``a``, as in PEFT's ``ParamWrapper``.
        """
        a = _read_float64(self.a)
        b = _read_float64(self.b).reshape(self.n_outputs, self.rank, self.n_experts)
        if self.middle is not None:
            middle = _read_float64(self.middle)
            a = np.einsum("pq...,qi->pi...", middle, a.reshape(a.shape[:2]))
        a = a.reshape(self.n_experts, self.rank, -1)
        return Factors(a, np.ascontiguousarray(np.moveaxis(b, -1, 0)))


@dataclass(frozen=True)
class Adapter:
    """Updates of the weights of a base.

    Parameters
    ----------
    checkpoint : Checkpoint
        File or directory that the adapter was read from.
    naming : {"peft", "kohya", "diffusers"}
        Naming of the tensors in the file.
    updates : dict of str to LowRankUpdate
        Update of each weight, by the module that has it, such as
        ``model.layers.0.self_attn.q_proj``, or ``lora_unet_mid_block_attn`` in the
        naming of kohya.
    replaced : dict of str to Tensor
        Tensors that replace those of the base: biases, modules and rows of embeddings
        that were trained whole, by their name in the base.
    names : dict of str to str
        Name in the file of each tensor in ``replaced``, by its name in the base.
    base_weights : dict of str to Tensor
        Weights of the base that PEFT stores beside the updates of embeddings, by their
        name in the file; they were not trained.
    reason : str, default=""
        Why the updates of the adapter have no weighted sum, or need a changed base,
        with the fix; empty if they are linear.
    """

    checkpoint: Checkpoint
    naming: Naming
    updates: dict[str, LowRankUpdate]
    replaced: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    base_weights: dict[str, Tensor] = field(default_factory=dict)
    reason: str = ""

    @property
    def name(self) -> str:
        """Name for messages."""
        return self.checkpoint.name

    @property
    def config(self) -> Mapping[str, Any]:
        """Configuration of PEFT; empty for other files."""
        return self.checkpoint.config


def read_array(tensor: Tensor) -> Array:
    """Read a tensor into memory.

    Parameters
    ----------
    tensor : Tensor
        Stored tensor.

    Returns
    -------
    ndarray
        In the dtype and shape of the tensor.
    """
    array = np.empty(tensor.shape, tensor.dtype)
    if tensor.nbytes:
        tensor.source.read_into(array.reshape(-1).view(np.uint8).data, tensor.offset)
    return array


def _read_float64(tensor: Tensor) -> Float64:
    return widen(read_array(tensor).reshape(1, -1)).reshape(tensor.shape)


def checked(update: LowRankUpdate, where: str) -> LowRankUpdate:
    """Return an update whose factors and scale fit together.

    Parameters
    ----------
    update : LowRankUpdate
        Update to check.
    where : str
        File and module for messages.

    Returns
    -------
    LowRankUpdate

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit, or the scale is not finite.
    """
    a, b = update.a, update.b
    shapes = f"{a.shape} and {b.shape}"
    for tensor in update.tensors:
        if not is_float(tensor.dtype):
            raise ValueError(
                f"{where} must have factors of floats, found {tensor.dtype}"
            )
    if min(len(a.shape), len(b.shape)) < 2 or 0 in (*a.shape, *b.shape):
        raise ValueError(
            f"{where} must have matrices as factors, found the shapes {shapes}; gather "
            "the factors of a sharded run before they are saved"
        )
    if b.shape[1] != a.shape[0]:
        raise ValueError(
            f"{where} must have factors of the same rank, found the shapes {shapes}; "
            "factors of grouped convolutions are not supported"
        )
    if any(size != 1 for size in b.shape[2:]):
        raise ValueError(
            f"{where} must have a second factor with a kernel of size 1, found the "
            f"shapes {shapes}"
        )
    if not math.isfinite(update.scale):
        raise ValueError(f"{where} must have a finite scale, found {update.scale}")
    return update


def read_scalar(tensor: Tensor) -> float:
    """Read a tensor with one element, such as the alpha of a module.

    Parameters
    ----------
    tensor : Tensor
        Stored tensor.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it has several elements.
    """
    if tensor.size != 1:
        raise ValueError(f"alpha must have one element, found shape {tensor.shape}")
    return float(read_array(tensor).reshape(-1)[0])
