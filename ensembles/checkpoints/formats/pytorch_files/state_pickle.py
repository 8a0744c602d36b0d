"""The pickle of a plain state dict, as ``torch.save`` writes it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ensembles.checkpoints.formats.output import Layout

# Class of the storage of each dtype, and the dtype's name if the storage has no dtype.
STORAGES: dict[np.dtype[Any], tuple[str, str | None]] = {
    np.dtype(dtype): (f"torch {name}Storage", None)
    for dtype, name in (
        (np.float64, "Double"),
        (np.float32, "Float"),
        (np.float16, "Half"),
        (ml_dtypes.bfloat16, "BFloat16"),
        (np.int64, "Long"),
        (np.int32, "Int"),
        (np.int16, "Short"),
        (np.int8, "Char"),
        (np.uint8, "Byte"),
        (np.bool_, "Bool"),
    )
} | {
    np.dtype(dtype): ("torch.storage UntypedStorage", f"torch {np.dtype(dtype)}")
    for dtype in (
        *(np.uint16, np.uint32, np.uint64),
        *(ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn),
    )
}
ORDERED_DICT = "collections OrderedDict"


def encode_state_dict(layout: Layout, names: Mapping[str, str]) -> bytes:
    """Pickle of a dict of contiguous tensors, one storage for each stored tensor.

    Parameters
    ----------
    layout : mapping of str to (dtype, shape)
        Dtype and shape of each stored tensor.
    names : mapping of str to str
        Name in the dict to the name of the stored tensor, in the order of the dict.

    Returns
    -------
    bytes
        Pickle of protocol 2. The storages are numbered as in `storage_order`.

    Raises
    ------
    ValueError
        If PyTorch has no such dtype; the message does not name the file.
    """
    keys = {name: f"{i}" for i, name in enumerate(storage_order(names))}
    pickle = _Pickle()
    pickle.add(b"}(")
    for name, stored in names.items():
        dtype, shape = layout[stored]
        if dtype not in STORAGES:
            raise ValueError(
                f"tensor {name!r} has dtype {dtype}, which a PyTorch file cannot store"
            )
        pickle.add(pickle.text(name))
        _add_tensor(pickle, dtype, shape, keys[stored])
    pickle.add(b"u.")
    return pickle.content()


def storage_order(names: Mapping[str, str]) -> list[str]:
    """Stored tensors in the order of their numbers: by their first name in the dict."""
    return list(dict.fromkeys(names.values()))


def _add_tensor(
    pickle: _Pickle, dtype: np.dtype[Any], shape: tuple[int, ...], key: str
) -> None:
    """Add the call of torch's function that makes a tensor of a storage."""
    storage, untyped = STORAGES[dtype]
    size = math.prod(shape)
    n_elements = size if untyped is None else size * dtype.itemsize
    pickle.add_global(f"torch._utils _rebuild_tensor_v{2 if untyped is None else 3}")
    pickle.add(b"((")
    pickle.add_constant(pickle.text("storage"))
    pickle.add_global(storage)
    pickle.add(pickle.text(key))
    pickle.add_constant(pickle.text("cpu"))
    pickle.add(pickle.integer(n_elements) + b"tQ")
    pickle.add(pickle.integer(0) + pickle.tuple_(shape) + pickle.tuple_(strides(shape)))
    pickle.add(b"\x89")  # requires_grad
    pickle.add_global(ORDERED_DICT)
    pickle.add(b")R")  # backward hooks
    if untyped is not None:
        pickle.add_global(untyped)
    pickle.add(b"tR")


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements."""
    steps = [1]
    for n in reversed(shape[1:]):
        steps.append(steps[-1] * max(n, 1))
    return tuple(reversed(steps)) if shape else ()


class _Pickle:
    """Operations of a pickle; constants are stored once."""

    def __init__(self) -> None:
        self._parts = [b"\x80\x02"]
        self._constants: dict[bytes, int] = {}

    def content(self) -> bytes:
        return b"".join(self._parts)

    def add(self, operations: bytes) -> None:
        self._parts.append(operations)

    def add_constant(self, operations: bytes) -> None:
        """Add operations whose value is stored, or fetch it if it was stored before."""
        number = self._constants.get(operations)
        if number is None:
            number = self._constants[operations] = len(self._constants)
            self.add(operations + b"q" + bytes([number]))
        else:
            self.add(b"h" + bytes([number]))

    def add_global(self, name: str) -> None:
        """Add a class or function, by its module and name."""
        self.add_constant(b"c" + name.replace(" ", "\n").encode() + b"\n")

    @staticmethod
    def text(value: str) -> bytes:
        encoded = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(encoded)) + encoded

    @staticmethod
    def integer(value: int) -> bytes:
        if value < 1 << 8:
            return b"K" + struct.pack("<B", value)
        if value < 1 << 16:
            return b"M" + struct.pack("<H", value)
        if value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        return b"\x8a\x08" + struct.pack("<q", value)

    def tuple_(self, values: Iterable[int]) -> bytes:
        return b"(" + b"".join(map(self.integer, values)) + b"t"
