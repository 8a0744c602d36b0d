"""Checkpoints made by hand, and their bytes read back without the library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]
NAMES = {
    np.dtype(dtype): name
    for dtype, name in {
        np.float64: "F64",
        np.float32: "F32",
        np.float16: "F16",
        ml_dtypes.bfloat16: "BF16",
        ml_dtypes.float8_e4m3fn: "F8_E4M3",
        ml_dtypes.float8_e5m2: "F8_E5M2",
        np.int64: "I64",
        np.int32: "I32",
        np.int8: "I8",
        np.uint8: "U8",
        np.bool_: "BOOL",
    }.items()
}
FLOATS = tuple(dtype for dtype in NAMES if NAMES[dtype].startswith(("F", "BF")))


def save(
    path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None
) -> Path:
    """Write a safetensors file, its tensors in the order given."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, value in tensors.items():
        array = np.asarray(value)
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    return save_raw(path, json.dumps(header).encode(), data)


def save_raw(path: Path, header: bytes, data: bytes = b"") -> Path:
    """Write what may or may not be a safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def header_of(path: Path) -> dict[str, Any]:
    """Header of a safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert isinstance(header, dict)
    return header


def load(path: Path) -> Tensors:
    """Tensors of a safetensors file by name."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    dtypes = {name: dtype for dtype, name in NAMES.items()}
    found = {}
    for name, entry in header_of(path).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(
                content[start + begin : start + end], dtypes[entry["dtype"]]
            )
            found[name] = flat.reshape(entry["shape"])
    return found


def save_shards(path: Path, shards: Sequence[Mapping[str, Any]]) -> Path:
    """Write a directory of numbered shards and their index."""
    path.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save(path / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
    save_index(path, weight_map)
    return path


def save_index(path: Path, weight_map: Mapping[str, str]) -> Path:
    """Write the index of a directory of shards."""
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict(weight_map)}))
    return index


def same_bytes(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two sets of tensors have the same names, dtypes, shapes and bytes."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


def floats(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: Any = np.float32,
    *,
    wide: bool = True,
) -> NDArray[Any]:
    """Numbers around one; if wide, half are of any finite bits the dtype has."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape))
    bits = rng.integers(0, 256, (size, dtype.itemsize), np.uint8).view(dtype)[:, 0]
    usual = rng.normal(size=size).astype(np.float32).astype(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        values = bits.astype(np.float64)
        # A sum of members must not overflow float64 itself.
        kept = np.isfinite(values) & (np.abs(values) < 1e300)
        kept &= rng.random(size) < 0.5 * wide
    return np.asarray(np.where(kept, bits, usual).reshape(shape))


def pair(folder: Path, **values: Any) -> list[Path]:
    """Two small members that differ in one float tensor, ``w``, and share the rest."""
    first = {"w": np.array([1.0, 2.0, 3.0], np.float32), **values}
    second = {"w": np.array([3.0, 4.0, 8.0], np.float32), **values}
    return [
        save(folder / "a.safetensors", first),
        save(folder / "b.safetensors", second),
    ]
