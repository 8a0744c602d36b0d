"""Formats that are recognized but not read, each with advice for the error message."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ensembles.checkpoints.formats.table import FileHead


class Recognized(NamedTuple):
    """A format that is not read.

    Parameters
    ----------
    advice : str
        Error message after the path: the format, and how to convert it.
    suffixes : tuple of str, default=()
        File name extensions in lowercase.
    matches : callable (FileHead) -> bool or None, default=None
        Whether a file has this format, from its content; None recognizes it by its
        suffix.
    """

    advice: str
    suffixes: tuple[str, ...] = ()
    matches: Callable[[FileHead], bool] | None = None


def _starts(beginning: bytes, head: FileHead) -> bool:
    return head.start.startswith(beginning)


def _has_entry(ending: str, head: FileHead) -> bool:
    return any(name.endswith(ending) for name in head.entries)


STATE_DICTS = "pass state dicts of NumPy arrays instead"
RECOGNIZED = (
    Recognized(
        "is empty: it was not written or not downloaded; write or download it again",
        matches=lambda head: not head.start,
    ),
    Recognized(
        "is a git-LFS pointer, not the weight file; fetch the file with git lfs pull, "
        "or download it again",
        matches=partial(_starts, b"version https://git-lfs"),
    ),
    Recognized(
        "is a GGUF file, which is quantized and not supported; convert it to "
        "safetensors first",
        (".gguf",),
        partial(_starts, b"GGUF"),
    ),
    Recognized(
        f"is an HDF5 file, as written by Keras, which is not supported; {STATE_DICTS}: "
        "average([state_a, state_b])",
        (".h5", ".hdf5"),
        partial(_starts, b"\x89HDF"),
    ),
    Recognized(
        f"is an archive of NumPy arrays, which is not supported; {STATE_DICTS}: "
        "average([dict(np.load(path)) for path in paths])",
        (".npz",),
        partial(_has_entry, ".npy"),
    ),
    Recognized(
        f"is a single NumPy array, which is not supported; {STATE_DICTS}: "
        "average([{'w': np.load(path)} for path in paths])",
        (".npy",),
        partial(_starts, b"\x93NUMPY"),
    ),
    Recognized(
        "is a TorchScript archive, which is not supported; load it with torch.jit.load "
        "and save its state_dict() with torch.save",
        matches=partial(_has_entry, "/constants.pkl"),
    ),
    Recognized(
        f"is a Keras archive, which is not supported; {STATE_DICTS}",
        (".keras",),
        partial(_has_entry, "model.weights.h5"),
    ),
    Recognized(
        "is a NeMo archive, which is not supported; unpack it with tar -xf and average "
        "its model_weights.ckpt",
        (".nemo",),
        lambda head: head.start[257:262] == b"ustar" and head.path.suffix == ".nemo",
    ),
    Recognized(
        "is compressed with gzip; decompress it first",
        matches=partial(_starts, b"\x1f\x8b"),
    ),
    Recognized(
        "is a msgpack file, as written by Flax, which is not supported; restore it "
        f"with flax.serialization and {STATE_DICTS}",
        (".msgpack",),
    ),
    Recognized(
        "is an ONNX graph, which is not supported; average the checkpoints that it was "
        "exported from, and export the result",
        (".onnx",),
    ),
    Recognized(
        "is a TFLite graph, which is not supported; average the checkpoints that it "
        "was converted from, and convert the result",
        (".tflite",),
    ),
)
