"""Hugging Face tokenizers: their ids, and where they cut any text."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from ensembles.embeddings.tokenization.hash_table import Int32, Rows, ends_of
from ensembles.embeddings.tokenization.word_cache import Cuts, cuts
from ensembles.embeddings.tokenization.wordpiece import WordPieces

# White space to every normalizer and pre-tokenizer; the rest of ASCII's controls are
# not: some drop them, and join what stands around.
SPACES = " \t\n\r"
# What changes characters one by one, so that a cut at ASCII stays where it is.
PLAIN = {"BertNormalizer", "Lowercase", "NFD", "NFKD", "StripAccents"}
# What may join a sign of ASCII with an accent after it, but never white space.
COMPOSING = {"NFC", "NFKC"}
# What cuts at white space first, and what then cuts further.
FIRST = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
LATER = {*FIRST, "Punctuation", "Digits"}


class Pieces:
    """Rows of texts by a tokenizer: of all pieces, nothing added, nothing cut off.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
    vocabulary : mapping from piece to row, or None
        With None a piece's row is its id.
    """

    def __init__(self, tokenizer: Any, vocabulary: Mapping[str, int] | None) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.encode_special_tokens = tokenizer.encode_special_tokens
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        ids = self.tokenizer.get_vocab(with_added_tokens=True)
        n_ids = max(ids.values(), default=-1) + 1
        self._row_of = np.full(n_ids, -1, np.int32)
        for piece, number in ids.items():
            row = number if vocabulary is None else vocabulary.get(piece, -1)
            self._row_of[number] = row
        config = json.loads(self.tokenizer.to_str())
        self.cuts = cuts_of(config)
        self.plain = word_piece_of(config, self.cuts, self._row_of)

    def __call__(self, texts: list[str]) -> Rows:
        try:
            found = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the Rust binding raises nothing more narrow
            raise ValueError(
                "tokenizer must have a token for unknown text (unk_token, unk_id): "
                f"{error}; found among {', '.join(texts)[:60]!r}"
            ) from None
        lists = [encoding.ids for encoding in found]
        ends = ends_of(np.fromiter(map(len, lists), np.int64, len(lists)))
        ids = np.fromiter(chain.from_iterable(lists), np.int64, ends[-1])
        return self._row_of[ids], ends


def cuts_of(config: Mapping[str, Any]) -> Cuts | None:
    """Where a tokenizer cuts any text, None where that is not known.

    White space cuts if it does so first and what normalizes text goes by characters;
    so do signs of ASCII under BERT's pre-tokenizer. An added token in a text makes
    the text one that is not cut; if it is looked for after normalization, no text is.

    Parameters
    ----------
    config : mapping
        What ``tokenizer.json`` holds.

    Returns
    -------
    Cuts or None
    """
    normalizers = _steps(config["normalizer"], "normalizers")
    cutters = [
        step["type"] for step in _steps(config["pre_tokenizer"], "pretokenizers")
    ]
    kinds = {step["type"] for step in normalizers}
    added = config["added_tokens"]
    if not kinds <= PLAIN | COMPOSING or any(token["normalized"] for token in added):
        return None
    if not cutters or cutters[0] not in FIRST or not set(cutters) <= LATER:
        return None
    if config["model"].get("dropout"):
        return None
    # A capital that composes where the small letter does not: no folding before it.
    plain = not kinds & COMPOSING
    signs = string.punctuation if plain and cutters[0] == "BertPreTokenizer" else ""
    fold = plain and any(
        step["type"] == "Lowercase" or step.get("lowercase") for step in normalizers
    )
    asides = [token["content"] for token in added]
    return cuts(SPACES, signs, fold=fold, asides=asides)


def _steps(step: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [part for inner in step[name] for part in _steps(inner, name)]


def word_piece_of(
    config: Mapping[str, Any], cuts: Cuts | None, row_of: Int32
) -> WordPieces | None:
    """How words of ASCII letters and digits fall into pieces, None where not known.

    Parameters
    ----------
    config : mapping
        What ``tokenizer.json`` holds.
    cuts : Cuts or None
        Of the tokenizer.
    row_of : ndarray, int32
        Rows of ids.

    Returns
    -------
    WordPieces or None
    """
    model = config["model"]
    cutters = {
        step["type"] for step in _steps(config["pre_tokenizer"], "pretokenizers")
    }
    lowers = any(
        step["type"] == "Lowercase" or step.get("lowercase")
        for step in _steps(config["normalizer"], "normalizers")
    )
    if cuts is None or model["type"] != "WordPiece" or not cutters <= FIRST:
        return None
    # Where capitals matter to the cache, the normalizer must not take them away.
    if lowers != bool(cuts.folded[ord("A")] == ord("a")):
        return None
    if model["unk_token"] not in model["vocab"]:
        return None  # the tokenizer says so, with the word
    return WordPieces(model, row_of)
