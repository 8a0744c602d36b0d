"""State dicts in memory, of NumPy arrays or torch tensors."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ensembles._typing import Array
from ensembles.checkpoints.formats.checkpoint import Checkpoint, MemorySource, Tensor

# Tensor.numpy() does not support these dtypes: view them as integers to share memory.
EXTRA: dict[str, tuple[np.dtype[Any], str]] = {
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), "int16"),
    "float8_e4m3fn": (np.dtype(ml_dtypes.float8_e4m3fn), "uint8"),
    "float8_e5m2": (np.dtype(ml_dtypes.float8_e5m2), "uint8"),
}
PLAIN = "float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool"


def import_torch(purpose: str) -> Any:
    """Import and return the torch package.

    Parameters
    ----------
    purpose : str
        Operation that requires torch; the error message starts with it.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If torch is not installed; the message has the command that installs it.
    """
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{purpose} needs torch: pip install 'ensemble-avg[torch]'"
        ) from None
    return torch


def dtype_named(name: str, where: str) -> np.dtype[Any]:
    """NumPy dtype that corresponds to a dtype of torch.

    Parameters
    ----------
    name : str
        Name of the dtype, without ``torch.``.
    where : str
        Name of the checkpoint and the tensor, for the error message.

    Returns
    -------
    numpy.dtype

    Raises
    ------
    ValueError
        If the dtype is not supported, such as complex, quantized and 4-bit dtypes.
    """
    if name in EXTRA:
        return EXTRA[name][0]
    if name in PLAIN.split():
        return np.dtype(name)
    advice = "convert the checkpoint first"
    if name.startswith("complex"):
        advice = "store it as real numbers, as torch.view_as_real does"
    elif name.startswith("q"):
        advice = "it is quantized; dequantize it first"
    raise ValueError(f"{where} has dtype {name}, which cannot be averaged; {advice}")


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor, checked without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def read(state: Mapping[str, Any], name: str) -> Checkpoint:
    """Layout of a state dict in memory; contiguous CPU arrays are not copied.

    Parameters
    ----------
    state : mapping of str to ndarray or torch.Tensor
        Arrays or tensors by name. Tensors that share memory, dtype and shape are
        aliases of one tensor.
    name : str
        Name of the member, for messages.

    Returns
    -------
    Checkpoint

    Raises
    ------
    TypeError
        If a name is not a string, or a value neither an array nor a tensor.
    ValueError
        If a tensor's dtype cannot be averaged, or the tensor is not dense.
    """
    layout: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    has_torch = any(map(is_torch, state.values()))
    for key, value in state.items():
        if not isinstance(key, str):
            raise TypeError(f"{name}: tensors must be named by str, found {key!r}")
        array = as_array(value, f"{name}: tensor {key!r}")
        location = place_of(value, array)
        if array.size and location in seen:
            aliases[key] = seen[location]
            continue
        seen[location] = key
        layout[key] = Tensor(array.dtype, array.shape, MemorySource(array, location), 0)
    format_ = "pytorch" if has_torch else "numpy"
    return Checkpoint(name, format_, None, layout, aliases, order=[*state])


def place_of(value: Any, array: Array) -> Hashable:
    """Identifier of the memory of a value, equal for tied tensors.

    Parameters
    ----------
    value : ndarray or torch.Tensor
        Array, or tensor on any device.
    array : ndarray
        Result of `as_array` for ``value``. The caller keeps it alive while identifiers
        are compared, so that its address is not reused.

    Returns
    -------
    hashable
        Unique for a non-contiguous NumPy array, which `as_array` may have copied.
    """
    if is_torch(value):
        sign = value.is_neg()  # a lazy negation shares the storage
        location = (str(value.device), value.data_ptr(), value.stride(), sign)
        return (*location, value.dtype, tuple(value.shape))
    if not array.flags.c_contiguous:  # may be a copy, whose address may be reused
        return object()
    return (array.ctypes.data, array.dtype, array.shape)


def as_array(value: Any, where: str) -> Array:
    """Convert to a NumPy array, without a copy if possible.

    Parameters
    ----------
    value : ndarray or torch.Tensor
        Array, or tensor on any device; it may require gradients.
    where : str
        Name of the member and the tensor, for the error message.

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError
        If the value is neither an array nor a tensor.
    ValueError
        If its dtype cannot be averaged, or the tensor is not dense.
    """
    if is_torch(value):
        return _from_torch(value, where)
    if hasattr(value, "state_dict"):
        raise TypeError(f"{where} is a {type(value).__name__}; pass its .state_dict()")
    if isinstance(value, Mapping):
        raise TypeError(
            f"{where} must be an array or a tensor, found a mapping; pass the "
            "innermost mapping"
        )
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(
            f"{where} must be a NumPy array or a torch tensor, found "
            f"{type(value).__name__}"
        )
    native = value.dtype.newbyteorder("=")
    if str(native) not in [*PLAIN.split(), *EXTRA]:
        raise ValueError(
            f"{where} has dtype {value.dtype}, which cannot be averaged; convert it "
            "first"
        )
    return np.asarray(value, native)


def _from_torch(value: Any, where: str) -> Array:
    dtype = dtype_named(str(value.dtype).removeprefix("torch."), where)
    torch = sys.modules["torch"]
    if value.is_nested or value.is_quantized:
        kind = "nested" if value.is_nested else "quantized"
        raise ValueError(f"{where} is {kind}; convert it to a dense float tensor first")
    if value.layout != torch.strided or value.device.type == "meta":
        raise ValueError(f"{where} is sparse or has no data; convert it to dense first")
    plain = value.detach().cpu().resolve_neg()
    if str(dtype) not in EXTRA:
        return np.asarray(plain.numpy())
    carrier = getattr(torch, EXTRA[str(dtype)][1])
    return np.asarray(plain.contiguous().view(carrier).numpy().view(dtype))


def as_torch(array: Array) -> Any:
    """Convert to a torch tensor that shares the memory of the array.

    Parameters
    ----------
    array : ndarray
        Array of any supported dtype; a bfloat16 or float8 array that is not contiguous
        is copied.

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


def with_aliases(
    tensors: Mapping[str, Any], aliases: Mapping[str, str], order: Iterable[str]
) -> dict[str, Any]:
    """State dict with tied tensors under all their names.

    Parameters
    ----------
    tensors : mapping of str to tensor
        NumPy arrays or torch tensors by name.
    aliases : mapping of str to str
        Additional names for them: alias to name.
    order : iterable of str
        Order of the names; names without a tensor are ignored, and other names follow.

    Returns
    -------
    dict of str to tensor
        Tied names have the same object.
    """
    named = {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}
    return {name: named[name] for name in [*order, *named] if name in named}
