"""Read the tokenizer of a model directory: its tokens, their ids and its files."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.regular_files import read_regular

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
# Files that a tokenizer is loaded from; the second group repeats the vocabulary.
FILES = re.compile(
    r"(tokenizer(_config)?|special_tokens_map|chat_template)\.json|chat_template\.jinja"
    r"|additional_chat_templates/.*|(added_tokens|vocab)\.json|merges\.txt|vocab\.txt"
    r"|[\w.-]*\.(model|tiktoken)|tekken\.json"
)
COPIES = re.compile(
    r"(added_tokens|vocab|tekken)\.json|(merges|vocab)\.txt|[\w.-]*\.(model|tiktoken)"
)
INSTALL = "pip install 'ensemble-avg[sentence]' sentencepiece protobuf"
# Properties of a token that is added without settings, as in `tokenizers`.
PLAIN = {
    **dict.fromkeys(("single_word", "lstrip", "rstrip"), False),
    "normalized": True,
    "special": False,
}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and its files.

    Parameters
    ----------
    name : str
        Path of its directory, for messages.
    ids : dict of str to int
        Id of each token, including added tokens.
    added : dict of str to dict
        Properties of the added tokens, by token.
    files : dict of str to bytes
        Files that it is loaded from, by name.
    """

    name: str
    ids: dict[str, int]
    added: dict[str, dict[str, Any]]
    files: dict[str, bytes]

    @property
    def data(self) -> dict[str, Any]:
        """Content of ``tokenizer.json``, which is large: it is parsed each time."""
        data: dict[str, Any] = json.loads(self.files[TOKENIZER])
        return data

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``tokenizer_config.json``; empty without the file."""
        config: dict[str, Any] = json.loads(self.files.get(CONFIG, b"{}"))
        return config

    @property
    def n_rows(self) -> int:
        """Number of rows of a table with a row for each token."""
        return max(self.ids.values(), default=-1) + 1


def read_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """Tokenizer of a model, from its auxiliary files.

    Parameters
    ----------
    checkpoint : Checkpoint
        Opened model, or a directory with a tokenizer alone.

    Returns
    -------
    Tokenizer or None
        None if it has no files of a tokenizer.

    Raises
    ------
    ImportError
        If there is no ``tokenizer.json``, and transformers is not installed, which
        converts the other files.
    ValueError
        If the files are damaged, or cannot be converted.
    """
    names = sorted(filter(FILES.fullmatch, checkpoint.files))
    if TOKENIZER in names:
        files = {name: checkpoint.read_file(name) for name in names}
    elif any(COPIES.fullmatch(name) for name in names):
        files = _converted(Path(str(checkpoint.path)))
    else:
        return None
    return parse_tokenizer(checkpoint.name, files)


def parse_tokenizer(name: str, files: Mapping[str, bytes]) -> Tokenizer:
    """Tokenizer from its files.

    Parameters
    ----------
    name : str
        Path of its directory, for messages.
    files : mapping of str to bytes
        Files by name; one is ``tokenizer.json``.

    Returns
    -------
    Tokenizer

    Raises
    ------
    ValueError
        If ``tokenizer.json`` is not that of a tokenizer.
    """
    try:
        data = json.loads(files[TOKENIZER])
        added = {entry["content"]: entry for entry in data.get("added_tokens", [])}
        return Tokenizer(name, token_ids(data), added, dict(files))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name}/{TOKENIZER} must have a model with a vocabulary, as the package "
            f"tokenizers writes it: {error!r:.200}"
        ) from None


def token_ids(data: Mapping[str, Any]) -> dict[str, int]:
    """Ids of all tokens, as the package ``tokenizers`` numbers them.

    Parameters
    ----------
    data : mapping
        Content of ``tokenizer.json``.

    Returns
    -------
    dict of str to int
        Added tokens that the model does not have follow it, whatever id is stored.
    """
    vocab = data["model"]["vocab"]
    if isinstance(vocab, list):  # of a Unigram model: tokens with their scores
        vocab = {token: index for index, (token, *_) in enumerate(vocab)}
    ids: dict[str, int] = dict(vocab)
    n_model = len(ids)
    last = -1
    for entry in data.get("added_tokens", []):
        token = entry["content"]
        if token not in ids:
            ids[token] = last + 1 if last >= n_model else n_model
        last = max(last, ids[token])
    return ids


def _converted(path: Path) -> dict[str, bytes]:
    """Files of a tokenizer without ``tokenizer.json``, converted by transformers."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ImportError(
            f"{path} has no {TOKENIZER}: its other files are converted by "
            f"transformers: {INSTALL}"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
            tokenizer.save_pretrained(folder)
        except Exception as error:
            raise ValueError(
                f"the tokenizer of {path} has no {TOKENIZER}, and transformers cannot "
                f"convert its files: {error!s:.300}\nIt may need further packages "
                f"({INSTALL}); or save it once with "
                f"AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            ) from None
        files = {p.name: read_regular(p) for p in Path(folder).iterdir()}
    if TOKENIZER not in files:
        raise ValueError(
            f"the tokenizer of {path} has no {TOKENIZER}, and its class "
            f"{type(tokenizer).__name__} cannot be converted to one"
        )
    return files
