"""Adapter for Hugging Face tokenizers, and analysis of their pre-tokenization."""

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

# Whitespace for every normalizer and pre-tokenizer. Other ASCII control characters are
# excluded: some tokenizers delete them, which joins the neighboring characters.
SPACES = " \t\n\r"
# Normalizers that change each character independently, so splits at ASCII stay valid.
PLAIN = {"BertNormalizer", "Lowercase", "NFD", "NFKD", "StripAccents"}
# Normalizers that may compose an ASCII punctuation sign with a following accent, but
# never whitespace.
COMPOSING = {"NFC", "NFKC"}
# Pre-tokenizers that split at whitespace, and the ones that may follow them.
FIRST = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
LATER = {*FIRST, "Punctuation", "Digits"}


class Pieces:
    """Rows of subword tokens, without special tokens, truncation or padding.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Tokenizer; it is copied, so its own settings do not change.
    vocabulary : mapping from token to row, or None
        Rows of the tokens in the vector table; other tokens get -1. None uses the
        token ids as rows.
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
        except Exception as error:  # the Rust binding raises no narrower type
            raise ValueError(
                "tokenizer must have a token for unknown text (unk_token, unk_id): "
                f"{error}; found among {', '.join(texts)[:60]!r}"
            ) from None
        lists = [encoding.ids for encoding in found]
        ends = ends_of(np.fromiter(map(len, lists), np.int64, len(lists)))
        ids = np.fromiter(chain.from_iterable(lists), np.int64, ends[-1])
        return self._row_of[ids], ends


def cuts_of(config: Mapping[str, Any]) -> Cuts | None:
    """Determine characters at which a tokenizer splits every text.

    Whitespace qualifies if the first pre-tokenizer splits at it, later ones only split
    further, and all normalizers work character by character or compose characters;
    ASCII punctuation qualifies with BERT's pre-tokenizer and without composition. Texts
    that contain an added token are not split; if added tokens are matched after
    normalization, or the model has dropout, no text is split.

    Parameters
    ----------
    config : mapping
        Contents of ``tokenizer.json``.

    Returns
    -------
    Cuts or None
        None if no such characters are known.
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
    # Composition may apply to a capital but not to its lowercase letter, so words must
    # not be case-folded before it.
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
    """Build the compiled WordPiece for words of ASCII letters and digits.

    Parameters
    ----------
    config : mapping
        Contents of ``tokenizer.json``.
    cuts : Cuts or None
        Result of `cuts_of` for the same tokenizer.
    row_of : ndarray of shape (n_ids,), int32
        Row of each token id; -1 for none.

    Returns
    -------
    WordPieces or None
        None if the tokenizer may tokenize such words differently.
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
    # The cache folds case exactly if the normalizer lowercases.
    if lowers != bool(cuts.folded[ord("A")] == ord("a")):
        return None
    if model["unk_token"] not in model["vocab"]:
        return None  # the tokenizer itself raises the error, which names the word
    return WordPieces(model, row_of)
