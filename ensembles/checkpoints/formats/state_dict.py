"""State dicts in memory, of numpy arrays or torch tensors."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Memory, Tensor

# Torch shares no memory with numpy for these; their bits travel as integers.
EXTRA: dict[str, tuple[np.dtype[Any], str]] = {
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), "int16"),
    "float8_e4m3fn": (np.dtype(ml_dtypes.float8_e4m3fn), "uint8"),
    "float8_e5m2": (np.dtype(ml_dtypes.float8_e5m2), "uint8"),
}
PLAIN = "float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool"


def import_torch(purpose: str) -> Any:
    """The torch package.

    Parameters
    ----------
    purpose : str
        What needs it, for the error.

    Raises
    ------
    ImportError
        If it is not installed; the message names the line that installs it.
    """
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{purpose} needs torch: pip install 'ensemble-avg[torch]'"
        ) from None
    return torch


def dtype_of(tensor: Any, where: str) -> np.dtype[Any]:
    """Numpy's dtype for a torch tensor's.

    Parameters
    ----------
    tensor : torch.Tensor
    where : str
        Which tensor it is, for the error.

    Raises
    ------
    ValueError
        If it has none: complex, quantized, or of four bits.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    if name in EXTRA:
        return EXTRA[name][0]
    if name in PLAIN.split():
        return np.dtype(name)
    way = "convert the checkpoint first"
    if name.startswith("complex"):
        way = "store it as real numbers, as torch.view_as_real does"
    elif name.startswith("q"):
        way = "it is quantized; dequantize it first"
    raise ValueError(f"{where} is of dtype {name}, which cannot be averaged; {way}")


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor, found without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def read(state: Mapping[str, Any], name: str) -> Checkpoint:
    """Layout of a state dict in memory; nothing is copied that is in order.

    Parameters
    ----------
    state : mapping of str to ndarray or torch.Tensor
    name : str
        Which member it is, for messages.

    Returns
    -------
    Checkpoint

    Raises
    ------
    TypeError
        If a name is not a string, or a value neither an array nor a tensor.
    ValueError
        If a tensor's dtype cannot be averaged, or it is not dense.
    """
    layout: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    torch_found = any(map(is_torch, state.values()))
    for key, value in state.items():
        if not isinstance(key, str):
            raise TypeError(f"{name}: tensors must be named by str, found {key!r}")
        array = as_array(value, f"{name}: tensor {key!r}")
        place = place_of(value, array)
        if array.size and place in seen:
            aliases[key] = seen[place]
            continue
        seen[place] = key
        layout[key] = Tensor(array.dtype, array.shape, Memory(array), 0)
    kind = "torch" if torch_found else "numpy"
    return Checkpoint(name, kind, None, layout, aliases)


def place_of(value: Any, array: Array) -> Hashable:
    """Where the elements of a value lie: tied ones lie at the same place.

    Parameters
    ----------
    value : ndarray or torch.Tensor
        On any device.
    array : ndarray
        What `as_array` makes of it, to be kept for as long as places are compared.

    Returns
    -------
    hashable
    """
    if is_torch(value):
        sign = value.is_neg()  # told by a bit, not by the elements
        place = (str(value.device), value.data_ptr(), value.stride(), sign)
        return (*place, value.dtype, tuple(value.shape))
    if not array.flags.c_contiguous:  # it may be a copy, whose place is used again
        return object()
    return (array.ctypes.data, array.dtype, array.shape)


def as_array(value: Any, where: str) -> Array:
    """Numpy array of a value, over the same memory where that can be.

    Parameters
    ----------
    value : ndarray or torch.Tensor
    where : str
        Which it is, for the error.

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError, ValueError
        As `read`.
    """
    if is_torch(value):
        return _from_torch(value, where)
    if hasattr(value, "state_dict"):
        raise TypeError(f"{where} is a {type(value).__name__}; pass its .state_dict()")
    if isinstance(value, Mapping):
        raise TypeError(
            f"{where} is a mapping; pass the innermost one, of names and arrays"
        )
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(
            f"{where} must be a numpy array or a torch tensor, found "
            f"{type(value).__name__}"
        )
    native = value.dtype.newbyteorder("=")
    if str(native) not in [*PLAIN.split(), *EXTRA]:
        raise ValueError(
            f"{where} is of dtype {value.dtype}, which cannot be averaged; convert it "
            "first"
        )
    return np.asarray(value, native)


def _from_torch(value: Any, where: str) -> Array:
    dtype = dtype_of(value, where)
    torch = sys.modules["torch"]
    if value.is_nested or value.is_quantized:
        kind = "nested" if value.is_nested else "quantized"
        raise ValueError(f"{where} is {kind}; make it a dense tensor of floats first")
    if value.layout != torch.strided or value.device.type == "meta":
        raise ValueError(f"{where} is sparse or has no data; make it dense first")
    plain = value.detach().cpu().resolve_neg()
    if str(dtype) not in EXTRA:
        return np.asarray(plain.numpy())
    carrier = getattr(torch, EXTRA[str(dtype)][1])
    return np.asarray(plain.contiguous().view(carrier).numpy().view(dtype))


def as_torch(array: Array) -> Any:
    """Torch tensor over the same memory.

    Parameters
    ----------
    array : ndarray

    Returns
    -------
    torch.Tensor
    """
    torch = import_torch("a torch state dict")
    name = str(array.dtype)
    if name in EXTRA:
        bits = np.asarray(array, order="C").view(EXTRA[name][1])
        return torch.from_numpy(bits).view(getattr(torch, name))
    return torch.from_numpy(array)
