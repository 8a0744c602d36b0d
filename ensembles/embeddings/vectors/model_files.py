"""Files of a model's directory: JSON, modules, tensors, a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ensembles.embeddings.files.file_signatures import SAMPLE, check_no_pointer
from ensembles.embeddings.files.mapped_files import INSTALL, check_regular
from ensembles.embeddings.vectors.safetensors import arrays
from ensembles.regular_files import read_json

STATIC = ("embeddings", "embedding.weight")  # model2vec, sentence-transformers
# How transformers call their input table, by the end of its name.
INPUTS = (
    *("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight"),
    *("shared.weight", "wte.weight", "token_embedding.weight"),
)
WORD_EMBEDDINGS = "emb_layer.weight"
INDEX, PICKLED = "model.safetensors.index.json", "pytorch_model.bin"


def json_of(path: Path) -> dict[str, Any]:
    """Object that a JSON file holds, empty where there is no file."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {"": found}


def modules_of(path: Path) -> list[dict[str, str]]:
    """Modules of a sentence-transformers directory, none where it is another."""
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
    """Settings of sentence-transformers that change its vectors, beside the modules.

    Parameters
    ----------
    path : Path
        A directory; other programs' have none.

    Returns
    -------
    list of str
        The default prompt and the number of dimensions to truncate to, for messages.
    """
    settings = json_of(path / "config_sentence_transformers.json")
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    dim = settings.get("truncate_dim")
    texts = [f"the default prompt {prompt!r}"] if prompt else []
    return texts + ([f"truncate_dim {dim}"] if dim else [])


def tensors_of(folder: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a directory by name, in one file or several.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        If there are none, or a file is broken.
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
    """Tables of a torch file, which cannot run code when it is read like this."""
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
    """Tokenizer of a directory, with the reason in a sentence where it has none."""
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
    except Exception as error:  # the Rust binding raises nothing more narrow
        raise ValueError(f"{path} is not a whole tokenizer: {error}") from None
