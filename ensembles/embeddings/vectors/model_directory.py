"""Reader of the token embedding table and tokenizer of a model directory."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ensembles.embeddings.files.binary_files import INSTALL, check_regular
from ensembles.embeddings.vectors.safetensors import map_tensors
from ensembles.embeddings.vectors.vector_table import (
    Matrix,
    as_stored,
    check_matrix,
    static_table,
    without_last,
)
from ensembles.embeddings.vectors.word_vectors import (
    TokensById,
    WordVectors,
    check_token,
)
from ensembles.file_signatures import SAMPLE, check_no_pointer
from ensembles.regular_files import read_json

STATIC = ("embeddings", "embedding.weight")  # model2vec, sentence-transformers
# Suffixes of the name of the input embedding table in transformers models.
INPUTS = (
    *("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight"),
    *("shared.weight", "wte.weight", "token_embedding.weight"),
)
WORD_EMBEDDINGS = "emb_layer.weight"
INDEX, PICKLED = "model.safetensors.index.json", "pytorch_model.bin"


def read_settings(path: Path) -> dict[str, Any]:
    """Object of a JSON file, empty if the file does not exist.

    Another JSON value is returned as the only value, with the key "".
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    return value if isinstance(value, dict) else {"": value}


def read_modules(path: Path) -> list[dict[str, str]]:
    """Modules of a sentence-transformers directory; empty for other models."""
    modules = read_settings(path / "modules.json").get("", [])
    for module in modules:
        inside = isinstance(module, dict) and ".." not in module.get("path", "..")
        if not inside or Path(module["path"]).is_absolute() or "type" not in module:
            raise ValueError(
                f"{path}/modules.json must list modules with type and path inside "
                f"the directory, found {module!r}"
            )
    return list(modules)


def vector_settings(path: Path) -> list[str]:
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
    settings = read_settings(path / "config_sentence_transformers.json")
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    dim = settings.get("truncate_dim")
    texts = [f"the default prompt {prompt!r}"] if prompt else []
    return texts + ([f"truncate_dim {dim}"] if dim else [])


def read_tensors(folder: Path) -> dict[str, NDArray[Any]]:
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
    single_file, index = folder / "model.safetensors", folder / INDEX
    if single_file.exists():
        check_regular(single_file)
        with single_file.open("rb") as file:
            check_no_pointer(file.read(SAMPLE), str(single_file))
        return map_tensors(single_file)
    if index.exists():
        files = read_settings(index).get("weight_map", {})
        if not isinstance(files, dict):
            raise ValueError(
                f"{index} must have a weight_map of names to files, found {files!r:.60}"
            )
        tensors: dict[str, NDArray[Any]] = {}
        for name in sorted({str(name) for name in files.values()}):
            if Path(name).name != name:
                raise ValueError(f"{index} must name files beside it, found {name!r}")
            tensors |= map_tensors(folder / name)
        return tensors
    if (folder / PICKLED).exists():
        return _read_pytorch(folder / PICKLED)
    raise ValueError(
        f"{folder} must be a model's directory with model.safetensors; found "
        f"{', '.join(sorted(entry.name for entry in folder.iterdir())) or 'nothing'}"
    )


def _read_pytorch(path: Path) -> dict[str, NDArray[Any]]:
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
            f"{path} must be a complete PyTorch file that contains only tensors: "
            f"{error}"
        ) from None
    return {
        name: tensor.float().numpy()
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
        and name.endswith((*INPUTS, *STATIC, WORD_EMBEDDINGS))
    }


def read_tokenizer(folder: Path) -> Any:
    """Read the tokenizer of a directory; raise a ValueError with a hint if it fails."""
    path = folder / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError(f"{path} needs the package tokenizers: {INSTALL}") from None
    if not path.exists():
        raise ValueError(
            f"{folder} must have a tokenizer.json; to write one: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    check_regular(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust binding raises plain Exception
        raise ValueError(f"{path} is not a complete tokenizer: {error}") from None


# Section of config.json and name of the table that only a saved SentenceEmbedder has.
OWN, TABLE = "ensembles", "table"
VERSION = 2  # of that section; the keys of version 1 had other names
# Values of `WordVectors.format`.
STATIC_MODEL, TOKEN_TABLE = "static model", "token table of a transformer"
SAVED = "saved SentenceEmbedder"
MEAN_FLAG = "pooling_mode_mean_tokens"
CHANGING = ("stop_words", "do_lower_case")  # settings of a WordEmbeddings tokenizer


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read the token embedding table and the tokenizer of a model directory.

    Parameters
    ----------
    path : Path
        Directory of a model2vec, sentence-transformers or transformers model, or of a
        saved `SentenceEmbedder`.
    limit : None
        Must be None, because token ids refer to all rows.
    errors : str
        Not used; tokens of a tokenizer are already decoded.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If ``limit`` is not None, the table or the tokenizer is missing, or they do not
        fit together.
    ImportError
        If tokenizers is not installed, or PyTorch for a file of PyTorch tensors.

    Warns
    -----
    UserWarning
        If the model has settings or modules that the table does not include.
    """
    if limit is not None:
        raise ValueError(
            f"limit must be None for {path}, because token ids refer to all rows"
        )
    saved_config = read_settings(path / "config.json").get(OWN)
    if saved_config is not None:
        check_version(path, saved_config)
        return _read_saved(path, saved_config)
    modules = read_modules(path)
    folder = path / modules[0]["path"] if modules else path
    tensors = read_tensors(folder)
    if WORD_EMBEDDINGS in tensors or any(name in tensors for name in STATIC):
        _warn_incomplete(path, folder, modules)
    if WORD_EMBEDDINGS in tensors:
        return _word_embeddings(folder, tensors[WORD_EMBEDDINGS])
    normalize: bool | None = None
    table_name = next((name for name in STATIC if name in tensors), None)
    if table_name is not None:
        matrix = static_table(tensors, table_name, str(path))
        normalize = bool(read_settings(path / "config.json").get("normalize", False))
    else:
        matrix = as_stored(_inputs(tensors, path))
    if modules:
        normalize = any(module["type"].endswith("Normalize") for module in modules)
    return with_tokenizer(
        matrix,
        read_tokenizer(folder),
        preweighted=table_name is not None,
        normalize=normalize,
        source=str(path),
        format=TOKEN_TABLE if table_name is None else STATIC_MODEL,
    )


def _warn_incomplete(path: Path, folder: Path, modules: list[dict[str, str]]) -> None:
    """Warn of modules and settings of a model that its table does not include."""
    missing = vector_settings(path)
    for module in modules[1:]:
        module_type = module["type"].rpartition(".")[2]
        config = read_settings(path / module["path"] / "config.json")
        if module_type != "Normalize" and not (
            module_type == "Pooling" and _is_mean(config)
        ):
            missing.append(f"the module {module_type}")
    words = read_settings(folder / "whitespacetokenizer_config.json")
    missing += [f"{key} of its tokenizer" for key in CHANGING if words.get(key)]
    if missing:
        warnings.warn(
            f"only the table of vectors of {path} is read, without "
            f"{', '.join(missing)}; SentenceEncoder(path) runs the whole model",
            stacklevel=6,
        )


def _is_mean(config: dict[str, Any]) -> bool:
    """Whether a Pooling module is mean pooling; old configs have a flag per mode."""
    flags = {key for key, value in config.items() if value is True}
    others = {key for key in flags if key.startswith("pooling_mode_")} - {MEAN_FLAG}
    return config.get("pooling_mode", "mean") in ("mean", ["mean"]) and not others


def is_static(path: Path) -> bool:
    """Whether a directory has a readable table of a static model."""
    try:
        tensors = read_tensors(path)
    except (FileNotFoundError, ValueError):
        return False
    return any(name in tensors for name in STATIC)


def _word_embeddings(folder: Path, matrix: NDArray[Any]) -> WordVectors:
    """Read a WordEmbeddings module of sentence-transformers."""
    config_path = folder / "whitespacetokenizer_config.json"
    words = read_settings(config_path).get("vocab")
    if not isinstance(words, list) or len(words) != len(matrix):
        raise ValueError(f"{config_path} must have a vocab of {len(matrix)} words")
    tokens = [check_token(word, str(config_path)) for word in words]
    source, format_name = str(folder), "WordEmbeddings of sentence-transformers"
    return WordVectors(tokens, as_stored(matrix), source=source, format=format_name)


def check_version(path: Path, config: Any) -> None:
    """Raise a ValueError if this version cannot read a saved SentenceEmbedder."""
    version = config.get("version") if isinstance(config, dict) else None
    if version != VERSION:
        raise ValueError(
            f"{path} must have version {VERSION} of the format of "
            f"SentenceEmbedder.save, found {version!r}; fit the embedder again, and "
            "save it with this version of ensembles"
        )


def _read_saved(path: Path, config: dict[str, Any]) -> WordVectors:
    """Read the table of a saved SentenceEmbedder, of words or of subword tokens."""
    tensors = read_tensors(path)
    name = "embeddings" if "embeddings" in tensors else TABLE
    if name not in tensors:
        raise ValueError(f"{path}/model.safetensors must have the tensor {name!r}")
    matrix = static_table(tensors, name, str(path))
    folded = bool(config.get("folded", False))
    normalize = bool(read_settings(path / "config.json").get("normalize", False))
    if config.get("subword_tokenizer"):
        return with_tokenizer(
            matrix,
            read_tokenizer(path),
            preweighted=folded,
            normalize=normalize,
            source=str(path),
            format=SAVED,
        )
    try:
        ids = read_settings(path / "tokenizer.json")["model"]["vocab"]
        tokens = sorted(ids, key=ids.get)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}/tokenizer.json must have a vocabulary of words: {error!r}"
        ) from None
    # The last row is that of the unknown token, which other libraries require.
    return WordVectors(
        tokens[:-1],
        without_last(matrix),
        preweighted=folded,
        normalize=normalize,
        source=str(path),
        format=SAVED,
    )


def with_tokenizer(
    matrix: Matrix,
    tokenizer: Any,
    *,
    preweighted: bool,
    normalize: bool | None = None,
    source: str,
    format: str = STATIC_MODEL,
) -> WordVectors:
    """Word vectors whose rows are the token ids of a Hugging Face tokenizer.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, dim) or VectorTable
        Vector of each token id.
    tokenizer : tokenizers.Tokenizer
        Tokens that the token ids belong to.
    preweighted : bool
        Whether word weights are already part of the vectors.
    normalize : bool or None, default=None
        Whether the model L2-normalizes sentence vectors; None means unspecified.
    source : str
        Name of the origin, for messages.
    format : str, default="static model"
        Name of the format, for display.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If a token id is not below ``n_rows``.
    """
    check_matrix(matrix, source)
    tokens = TokensById(tokenizer, len(matrix))
    _check_ids(tokens, source)
    return WordVectors(
        tokens,
        matrix,
        tokenizer=tokenizer,
        preweighted=preweighted,
        normalize=normalize,
        unk_index=unknown_id(tokenizer),
        source=source,
        format=format,
    )


def _check_ids(tokens: TokensById, source: str) -> None:
    """Raise a ValueError if a token of the tokenizer has no row in the table."""
    tokenizer, n_rows = tokens.tokenizer, len(tokens)
    token_of = tokenizer.id_to_token
    n_found = sum(token_of(number) is not None for number in range(n_rows))
    if n_found == tokenizer.get_vocab_size(with_added_tokens=True):
        return
    # A dict of all tokens takes much memory, which some allocators do not return.
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        if number >= n_rows:
            raise ValueError(
                f"{source}: its tokenizer has the id {number} ({token!r}), but "
                f"its table has only {n_rows} rows; they do not belong together"
            )


def unknown_id(tokenizer: Any) -> int | None:
    """Id of the unknown token of a tokenizer; None if there is none."""
    model = tokenizer.model
    if hasattr(model, "unk_token"):
        unknown = model.unk_token
        token_id = None if unknown is None else tokenizer.token_to_id(unknown)
    else:  # Unigram
        token_id = json.loads(tokenizer.to_str())["model"].get("unk_id")
    return None if token_id is None else int(token_id)


def _inputs(tensors: dict[str, NDArray[Any]], path: Path) -> NDArray[Any]:
    for end in INPUTS:
        for name, tensor in tensors.items():
            if name.endswith(end) and tensor.ndim == 2:
                return tensor
    raise ValueError(
        f"{path} must have a table of tokens ({', '.join((*STATIC, *INPUTS))}), found "
        f"{', '.join(list(tensors)[:8]) or 'no tensor'}"
    )
