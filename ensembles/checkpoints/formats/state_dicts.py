"""State dicts in memory, of numpy arrays or torch tensors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Memory, Tensor
from ensembles.floats import Array

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
        If it has none: complex, quantised, or of four bits.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    if name in EXTRA:
        return EXTRA[name][0]
    if name in PLAIN.split():
        return np.dtype(name)
    raise ValueError(
        f"{where} is of dtype {name}, which cannot be averaged; convert the "
        "checkpoint first"
    )


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
        If a value is neither an array nor a tensor.
    """
    layout: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    torch_found = any(map(is_torch, state.values()))
    for key, value in state.items():
        array = _as_array(value, f"{name}: tensor {key!r}")
        place = (array.ctypes.data, array.dtype, array.shape)
        if array.size and array.flags.c_contiguous and place in seen:
            aliases[key] = seen[place]
            continue
        seen[place] = key
        layout[key] = Tensor(array.dtype, array.shape, Memory(array), 0)
    kind = "torch" if torch_found else "numpy"
    return Checkpoint(name, kind, None, layout, aliases)


def _as_array(value: Any, where: str) -> Array:
    if is_torch(value):
        dtype = dtype_of(value, where)
        plain = value.detach().cpu()
        torch = sys.modules["torch"]
        for name, (extra, carrier) in EXTRA.items():
            if extra == dtype and name in str(value.dtype):
                bits = plain.contiguous().view(getattr(torch, carrier)).numpy()
                return np.asarray(bits.view(dtype))
        return np.asarray(plain.numpy())
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    raise TypeError(
        f"{where} must be a numpy array or a torch tensor, found {type(value).__name__}"
    )


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
        bits = np.ascontiguousarray(array).view(EXTRA[name][1])
        return torch.from_numpy(bits).view(getattr(torch, name))
    return torch.from_numpy(array)
