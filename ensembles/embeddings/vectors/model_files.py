"""Files of a model directory: JSON settings, modules, tensors and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ensembles.embeddings.files.file_signatures import SAMPLE, check_no_pointer
from ensembles.embeddings.files.mapped_files import INSTALL, check_regular
from ensembles.embeddings.vectors.safetensors import arrays
from ensembles.regular_files import read_json

STATIC = ("embeddings", "embedding.weight")  # model2vec, sentence-transformers
# Suffixes of the name of the input embedding table in transformers models.
INPUTS = (
    *("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight"),
    *("shared.weight", "wte.weight", "token_embedding.weight"),
)
WORD_EMBEDDINGS = "emb_layer.weight"
INDEX, PICKLED = "model.safetensors.index.json", "pytorch_model.bin"


def json_of(path: Path) -> dict[str, Any]:
    """Object of a JSON file, empty if the file does not exist.

    Another JSON value is returned as the only value, with the key "".
    """
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {"": found}


def modules_of(path: Path) -> list[dict[str, str]]:
    """Modules of a sentence-transformers directory; empty for other models."""
    found = json_of(path / "modules.json").get("", [])
    for module in found:
        inside = isinstance(module, dict) and ".." not in module.get("path", "..")
        if not inside or Path(module["path"]).is_absolute() or "type" not in module:
            raise ValueError(
                f"{path}/modules.json must list modules with type and path inside "
                f"the directory, found {module!r}"
            )
    return list(found)


def settings_of(path: Path) -> list[str]:
    """Settings of a sentence-transformers model that change its vectors.

    Parameters
    ----------
    path : Path
        Directory of the model.

    Returns
    -------
    list of str
        Default prompt and truncation dimension, for messages; empty if neither is set.
    """
    settings = json_of(path / "config_sentence_transformers.json")
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    dim = settings.get("truncate_dim")
    texts = [f"the default prompt {prompt!r}"] if prompt else []
    return texts + ([f"truncate_dim {dim}"] if dim else [])


def tensors_of(folder: Path) -> dict[str, NDArray[Any]]:
    """Read the tensors of a model directory.

    Parameters
    ----------
    folder : Path
        Directory with ``model.safetensors``, its shards, or ``pytorch_model.bin``.

    Returns
    -------
    dict of str to ndarray
        Tensors by name; only embedding tables from ``pytorch_model.bin``.

    Raises
    ------
    ValueError
        If the directory has none of these files, or one is malformed.
    ImportError
        If PyTorch is needed and not installed.
    """
    whole, index = folder / "model.safetensors", folder / INDEX
    if whole.exists():
        check_regular(whole)
        with whole.open("rb") as file:
            check_no_pointer(file.read(SAMPLE), str(whole))
        return arrays(whole)
    if index.exists():
        files = json_of(index).get("weight_map", {})
        if not isinstance(files, dict):
            raise ValueError(
                f"{index} must have a weight_map of names to files, found {files!r:.60}"
            )
        found: dict[str, NDArray[Any]] = {}
        for name in sorted({str(name) for name in files.values()}):
            if Path(name).name != name:
                raise ValueError(f"{index} must name files beside it, found {name!r}")
            found |= arrays(folder / name)
        return found
    if (folder / PICKLED).exists():
        return _unpickled(folder / PICKLED)
    raise ValueError(
        f"{folder} must be a model's directory with model.safetensors; found "
        f"{', '.join(sorted(one.name for one in folder.iterdir())) or 'nothing'}"
    )


def _unpickled(path: Path) -> dict[str, NDArray[Any]]:
    """Read embedding tables from a PyTorch file, without executing code."""
    import pickle

    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{path} needs the package torch: pip install 'ensemble-avg[torch]'"
        ) from None
    check_regular(path)
    try:
        state = torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a whole torch file of tensors alone: {error}"
        ) from None
    return {
        name: tensor.float().numpy()
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
        and name.endswith((*INPUTS, *STATIC, WORD_EMBEDDINGS))
    }


def tokenizer_of(folder: Path) -> Any:
    """Read the tokenizer of a directory; raise a ValueError with a hint if it fails."""
    path = folder / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError(f"{path} needs the package tokenizers: {INSTALL}") from None
    if not path.exists():
        raise ValueError(
            f"{folder} must have a tokenizer.json; transformers writes one: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    check_regular(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust binding raises plain Exception
        raise ValueError(f"{path} is not a whole tokenizer: {error}") from None
