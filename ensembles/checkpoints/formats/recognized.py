"""Formats that are recognized but not read, each with advice for the error message."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ensembles.checkpoints.formats.table import FileHead

# Files of tf.train.Checkpoint and its predecessor.
TENSORFLOW = re.compile(r".*\.data-\d+-of-\d+|.*ckpt(-\d+)?\.(index|meta)")
HTML = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)


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


EXPORTED = "average the checkpoints that it was {} from, and {} the result"
KERAS = (
    "load the model with Keras, save its arrays with numpy.savez('a.npz', **{w.path: "
    "w.numpy() for w in model.weights}), and average the .npz files"
)
GZIP = b"\x1f\x8b"
COMPRESSED = {
    "gzip": GZIP,
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "Zstandard": b"\x28\xb5\x2f\xfd",
}
RECOGNIZED = (
    Recognized(
        "is empty; write or download it again",
        matches=lambda head: not head.start,
    ),
    Recognized(
        "is a git-LFS pointer, not the weight file; fetch the file with git lfs pull, "
        "or download it again",
        matches=partial(_starts, b"version https://git-lfs"),
    ),
    Recognized(
        "is an HTML page, not the weight file; download it again, with a token if the "
        "model is gated",
        matches=lambda head: bool(HTML.match(head.start)),
    ),
    Recognized(
        "is an index of shards; pass the directory that it is in",
        (".index.json",),
    ),
    Recognized(
        f"is an HDF5 file, as written by Keras, which is not supported; {KERAS}",
        (".h5", ".hdf5"),
        partial(_starts, b"\x89HDF"),
    ),
    Recognized(
        f"is a Keras archive, which is not supported; {KERAS}",
        (".keras",),
        partial(_has_entry, "model.weights.h5"),
    ),
    Recognized(
        "is part of a TensorFlow checkpoint, which is not supported; save its arrays "
        "with numpy.savez('a.npz', **{name: reader.get_tensor(name) for name in "
        "reader.get_variable_to_shape_map()}), where reader is "
        "tf.train.load_checkpoint(PREFIX), and average the .npz files",
        matches=lambda head: bool(TENSORFLOW.fullmatch(head.path.name)),
    ),
    Recognized(
        f"is a TensorFlow graph, which is not supported; "
        f"{EXPORTED.format('exported', 'export')}",
        (".pb",),
    ),
    Recognized(
        "is a msgpack file, as written by Flax, which is not supported; save its "
        "arrays with numpy.savez('a.npz', **flax.traverse_util.flatten_dict(params, "
        "sep='/')), where params is flax.serialization.msgpack_restore(open(path, "
        "'rb').read()), and average the .npz files",
        (".msgpack",),
    ),
    Recognized(
        "is a PaddlePaddle checkpoint, which is not supported; save its arrays with "
        "numpy.savez('a.npz', **paddle.load(path, return_numpy=True)), and average the "
        ".npz files",
        (".pdparams", ".pdopt"),
        partial(_starts, b"\x80"),
    ),
    Recognized(
        "is a single NumPy array, which is not supported; pass state dicts of NumPy "
        "arrays instead: average([{'w': np.load(path)} for path in paths])",
        (".npy",),
        partial(_starts, b"\x93NUMPY"),
    ),
    Recognized(
        "is a skops file, which is not supported; load the estimators with skops.io, "
        "and average them with ModelSoup",
        (".skops",),
        partial(_has_entry, "schema.json"),
    ),
    Recognized(
        "is a Stable-Baselines3 archive, which is not supported; unpack it and average "
        "its policy.pth",
        matches=partial(_has_entry, "policy.pth"),
    ),
    Recognized(
        "is a TorchScript archive, which is not supported; load it with torch.jit.load "
        "and save its state_dict() with torch.save",
        matches=partial(_has_entry, "/constants.pkl"),
    ),
    Recognized(
        "is a NeMo archive compressed with gzip, which is not supported; decompress it "
        "with gzip -dc, and pass the result, with the suffix .nemo",
        matches=lambda head: head.path.suffix == ".nemo" and _starts(GZIP, head),
    ),
    *(
        Recognized(
            f"is compressed with {name}; decompress it first",
            matches=partial(_starts, beginning),
        )
        for name, beginning in COMPRESSED.items()
    ),
    Recognized(
        "is a GGML file, the format of llama.cpp before GGUF, which is not supported; "
        "convert the original checkpoint to GGUF",
        matches=lambda head: head.start[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"),
    ),
    *(
        Recognized(
            f"is {name}, which is not supported; {EXPORTED.format(done, do)}", suffixes
        )
        for name, done, do, suffixes in (
            ("an ONNX graph", "exported", "export", (".onnx", ".onnx_data", ".ort")),
            ("a TFLite graph", "converted", "convert", (".tflite",)),
            ("a Core ML model", "converted", "convert", (".mlmodel",)),
            ("an ExecuTorch program", "exported", "export", (".pte",)),
            ("a TensorRT engine", "built", "build", (".engine", ".plan", ".trt")),
            ("a Paddle graph", "exported", "export", (".pdmodel", ".pdiparams")),
        )
    ),
)
