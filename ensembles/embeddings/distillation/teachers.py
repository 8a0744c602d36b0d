"""Teachers of a distillation: opening them, and their identity in the cache."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import xxhash

from ensembles.embeddings.auto_model import load_model
from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.encoder import SentenceEncoder

BATCH = 64  # texts that a transformer encodes at once; fills the units of one core


def open_teacher(teacher: Any) -> Any:
    """Fitted text transformer of a teacher.

    Parameters
    ----------
    teacher : path, SentenceTransformer or fitted text transformer
        Directory of a model, which is opened by `load_model`, a transformer in bfloat16
        if the processor has instructions for it; or a loaded model, which keeps its
        data type.

    Returns
    -------
    object with ``transform``

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(teacher, str | os.PathLike):
        model = load_model(teacher, n_jobs=-1)
        if isinstance(model, SentenceEncoder) and has_bfloat16():
            model.model_.bfloat16()
        if isinstance(model, SentenceEncoder):
            model.set_params(batch_size=BATCH)
        return model
    if hasattr(teacher, "transform"):
        return teacher
    if hasattr(teacher, "encode") and hasattr(teacher, "modules"):
        return SentenceEncoder(teacher).fit()
    raise TypeError(
        "teacher must be a path, a SentenceTransformer or a fitted text transformer, "
        f"found {type(teacher).__name__}"
    )


def has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16 (AMX, AVX-512 BF16)."""
    import torch

    if torch.get_default_device().type != "cpu":
        return False
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def runs_in_threads(model: Any) -> bool:
    """Whether several threads may encode with replicas of a teacher."""
    if not isinstance(model, SentenceEncoder) or not hasattr(model.model_, "modules"):
        return False
    return bool(getattr(model.model_, "device", None)) and (
        model.model_.device.type == "cpu"
    )


def replica(model: Any) -> Any:
    """Copy of an encoder for another thread, which shares the parameters.

    A Hugging Face tokenizer must not be used by two threads at once.
    """
    network = model.model_
    tensors = [*network.parameters(), *network.buffers()]
    shared = copy.copy(model)
    shared.model_ = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    return shared


def tokenizer_of(model: Any) -> Any:
    """Hugging Face tokenizer of a teacher; None if it has none."""
    candidates: list[Any] = []
    if isinstance(model, SentenceEncoder):
        candidates.append(getattr(model.model_, "tokenizer", None))
    if isinstance(model, SentenceEmbedder):
        candidates.append(model.vectors_.tokenizer)
    candidates.append(getattr(model, "tokenizer", None))
    for tokenizer in candidates:
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if hasattr(backend, "encode_batch_fast"):
            return backend
    return None


def identity(model: Any) -> str:
    """Digest of everything that the vectors of a teacher depend on.

    Parameters
    ----------
    model : fitted text transformer
        Teacher.

    Returns
    -------
    str
        Hexadecimal digest of its parameters and settings.

    Raises
    ------
    ValueError
        If the teacher cannot be pickled.
    """
    digest = xxhash.xxh3_128()
    digest.update(type(model).__qualname__.encode())
    if isinstance(model, SentenceEncoder):
        settings = [model.prompt_, model.n_components, str(model.dtype)]
        settings += [model.normalize, getattr(model.model_, "max_seq_length", None)]
        digest.update(repr(settings).encode())
        _add_modules(model.model_, digest)
        tokenizer = tokenizer_of(model)
        if tokenizer is not None:
            digest.update(json.dumps(plain_config(tokenizer)).encode())
        return digest.hexdigest()
    import joblib

    try:
        digest.update(joblib.hash(model).encode())
    except Exception as error:  # whatever __getstate__ of a class raises
        raise ValueError(
            "a teacher must be picklable for its vectors to be cached, found "
            f"{type(model).__name__}: {error}; pass cache=None, or a path as teacher"
        ) from error
    return digest.hexdigest()


def plain_config(tokenizer: Any) -> dict[str, Any]:
    """Contents of ``tokenizer.json`` without truncation and padding.

    An encoder sets these when it embeds texts; a static model reads texts of any
    length.
    """
    config: dict[str, Any] = json.loads(tokenizer.to_str())
    return {**config, "truncation": None, "padding": None}


def _add_modules(module: Any, digest: Any) -> None:
    """Add the modules and the bits of the parameters to a digest."""
    import torch

    digest.update(str(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(bits.numpy().data)
