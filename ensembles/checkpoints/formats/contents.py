"""Detect the format of a weight file from its content, and read it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from ensembles.checkpoints.formats import pytorch, safetensors
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.regular_files import open_regular

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
BEGINNINGS = {
    b"PK\x03\x04": "zip",
    b"version https://git-lfs": "lfs",
    b"GGUF": "gguf",
    b"\x89HDF": "hdf5",
    b"\x93NUMPY": "npy",
    b"\x1f\x8b": "gzip",
    b"\x80": "pickle",
}
ARRAYS = "pass state dicts instead: average([dict(np.load(path)) for path in paths])"
WAYS = {
    "lfs": (
        "is a git-LFS pointer, not the file that it points to; fetch that by git lfs "
        "pull, or download it again"
    ),
    "gguf": "is GGUF; GGUF is quantized, convert it back first",
    "hdf5": (
        "is HDF5, as Keras writes it, which is not read; pass state dicts instead, of "
        "numpy arrays by name: average([state_a, state_b])"
    ),
    "npz": f"is an archive of numpy arrays, which is not read; {ARRAYS}",
    "npy": "is one numpy array; pass state dicts: average([{'w': np.load(path)}])",
    "torchscript": (
        "is a TorchScript archive; load it with torch.jit.load and save its "
        "state_dict() with torch.save"
    ),
    "nemo": (
        "is an archive of a NeMo model; unpack it with tar -xf and average its "
        "model_weights.ckpt"
    ),
    "msgpack": (
        "is msgpack, as Flax writes it, which is not read; restore it with "
        "flax.serialization and pass state dicts of numpy arrays by name"
    ),
    "onnx": (
        "is an ONNX graph, which is not read; average the checkpoints that it was "
        "exported from, and export the result"
    ),
    "keras": "is a Keras archive, which is not read; pass state dicts of numpy arrays",
    "tflite": "is a TFLite graph, which is not read; average what it was made from",
    "gzip": "is compressed; unpack it first",
    "empty": "is empty: it was not written, or not downloaded",
}
# Formats recognized by suffix if their first bytes do not identify them.
BY_SUFFIX = {
    **{".gguf": "gguf", ".h5": "hdf5", ".hdf5": "hdf5", ".keras": "keras"},
    **{".npz": "npz", ".npy": "npy", ".msgpack": "msgpack", ".onnx": "onnx"},
    **{".nemo": "nemo", ".tflite": "tflite"},
}


def read(path: Path, key: str | None = None) -> Checkpoint:
    """Layout of a safetensors file or a PyTorch checkpoint.

    Parameters
    ----------
    path : Path
        Path of the weight file; its content decides about the format, then its suffix.
    key : str or None, default=None
        Key of the state dict in a PyTorch checkpoint, with dots between nested keys;
        None finds it, see `state_dict_in`. Ignored for safetensors.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If the file has another format, or is damaged.
    """
    contents = contents_of(path)
    if contents == "safetensors":
        return safetensors.read(path)
    if contents == "torch":
        return pytorch.read(path, key)
    if contents in WAYS and (contents != "empty" or path.suffix not in SUFFIXES):
        raise ValueError(f"{path} {WAYS[contents]}")
    if path.suffix == ".safetensors":
        return safetensors.read(path)
    if path.suffix in TORCH_SUFFIXES or contents == "pickle":
        return pytorch.read(path, key)
    hint = WAYS.get(BY_SUFFIX.get(path.suffix, ""), "")
    raise ValueError(
        f"{path} has a suffix that says nothing of its format (known: "
        f"{', '.join(SUFFIXES)}, or a directory)"
        + (f"; by its name it {hint}" * bool(hint))
    )


def contents_of(path: Path) -> str:
    """Format of a file, detected from its first bytes.

    Parameters
    ----------
    path : Path
        Path of a regular file. Its suffix is used only for archives: to tell NeMo from
        other tar files, and for zip files that cannot be opened.

    Returns
    -------
    {"safetensors", "torch", "torchscript", "npz", "keras", "zip", "lfs", "gguf", \
"hdf5", "npy", "gzip", "pickle", "nemo", "empty", "other"}
    """
    with open(open_regular(path), "rb") as file:
        start = file.read(512)
        size = os.fstat(file.fileno()).st_size
    if not start:
        return "empty"
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    if start[257:262] == b"ustar":
        return "nemo" if path.suffix == ".nemo" else "other"
    kind = next((k for b, k in BEGINNINGS.items() if start.startswith(b)), "other")
    return _inside(path) if kind == "zip" else kind


def _inside(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return BY_SUFFIX.get(path.suffix, "torch")
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    return "keras" if "model.weights.h5" in names else "zip"
