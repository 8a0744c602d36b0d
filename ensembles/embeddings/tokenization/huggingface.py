"""Hugging Face tokenizers: adapter, split analysis, and compiled WordPiece."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from ensembles.embeddings.tokenization.cached_tokenizer import (
    BoundaryTable,
    Int32,
    RaggedRows,
    WordSpans,
    WordTable,
    boundary_table,
    to_offsets,
    word_table,
)
from ensembles.embeddings.tokenization.word_loops import split_into_pieces

# Whitespace for every normalizer and pre-tokenizer. Other ASCII control characters are
# excluded: some tokenizers delete them, which joins the neighboring characters.
SPACES = " \t\n\r"
# Normalizers that change each character independently, so splits at ASCII stay valid.
CHARACTERWISE = {"BertNormalizer", "Lowercase", "NFD", "NFKD", "StripAccents"}
# Normalizers that may compose an ASCII punctuation sign with a following accent, but
# never whitespace.
COMPOSING = {"NFC", "NFKC"}
# Pre-tokenizers that split at whitespace, and the ones that may follow them.
SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
LATER_SPLITTERS = {*SPLITTERS, "Punctuation", "Digits"}


class HuggingFaceTokenizer:
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
        self.boundaries = find_boundaries(config)
        self.fast = make_fast_wordpiece(config, self.boundaries, self._row_of)

    def __call__(self, texts: list[str]) -> RaggedRows:
        try:
            encodings = self.tokenizer.encode_batch_fast(
                texts, add_special_tokens=False
            )
        except Exception as error:  # the Rust binding raises no narrower type
            raise ValueError(
                "tokenizer must have a token for unknown text (unk_token, unk_id): "
                f"{error}; found among {', '.join(texts)[:60]!r}"
            ) from None
        ids_by_text = [encoding.ids for encoding in encodings]
        offsets = to_offsets(
            np.fromiter(map(len, ids_by_text), np.int64, len(ids_by_text))
        )
        ids = np.fromiter(chain.from_iterable(ids_by_text), np.int64, offsets[-1])
        return RaggedRows(self._row_of[ids], offsets)


def find_boundaries(config: Mapping[str, Any]) -> BoundaryTable | None:
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
    BoundaryTable or None
        None if no such characters are known.
    """
    normalizers = _steps(config["normalizer"], "normalizers")
    splitters = [
        step["type"] for step in _steps(config["pre_tokenizer"], "pretokenizers")
    ]
    kinds = {step["type"] for step in normalizers}
    added = config["added_tokens"]
    if not kinds <= CHARACTERWISE | COMPOSING or any(
        token["normalized"] for token in added
    ):
        return None
    if (
        not splitters
        or splitters[0] not in SPLITTERS
        or not set(splitters) <= LATER_SPLITTERS
    ):
        return None
    if config["model"].get("dropout"):
        return None
    # Composition may apply to a capital but not to its lowercase letter, so words must
    # not be case-folded before it.
    is_characterwise = not kinds & COMPOSING
    signs = (
        string.punctuation
        if is_characterwise and splitters[0] == "BertPreTokenizer"
        else ""
    )
    fold = is_characterwise and any(
        step["type"] == "Lowercase" or step.get("lowercase") for step in normalizers
    )
    special_tokens = [token["content"] for token in added]
    return boundary_table(SPACES, signs, fold=fold, special_tokens=special_tokens)


def _steps(step: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [part for inner in step[name] for part in _steps(inner, name)]


def make_fast_wordpiece(
    config: Mapping[str, Any], boundaries: BoundaryTable | None, row_of: Int32
) -> FastWordPiece | None:
    """Build the compiled WordPiece for words of ASCII letters and digits.

    Parameters
    ----------
    config : mapping
        Contents of ``tokenizer.json``.
    boundaries : BoundaryTable or None
        Result of `find_boundaries` for the same tokenizer.
    row_of : ndarray of shape (n_ids,), int32
        Row of each token id; -1 for none.

    Returns
    -------
    FastWordPiece or None
        None if the tokenizer may tokenize such words differently.
    """
    model = config["model"]
    splitters = {
        step["type"] for step in _steps(config["pre_tokenizer"], "pretokenizers")
    }
    lowers = any(
        step["type"] == "Lowercase" or step.get("lowercase")
        for step in _steps(config["normalizer"], "normalizers")
    )
    if boundaries is None or model["type"] != "WordPiece" or not splitters <= SPLITTERS:
        return None
    # Case must be folded exactly if the normalizer lowercases.
    if lowers != bool(boundaries.folded[ord("A")] == ord("a")):
        return None
    if model["unk_token"] not in model["vocab"]:
        return None  # the tokenizer itself raises the error, which names the word
    return FastWordPiece(model, row_of)


class FastWordPiece:
    """WordPiece for words that need no normalization but case folding.

    Parameters
    ----------
    model : mapping
        The ``"model"`` object of a ``tokenizer.json`` of type WordPiece.
    row_of : ndarray of shape (n_ids,), int32
        Row of each token id; -1 for none.

    References
    ----------
    Schuster & Nakajima (2012), "Japanese and Korean voice search"; greedy longest match
    as in Devlin et al. (2019), "BERT", and in ``tokenizers``' WordPiece: a word without
    a complete segmentation is unknown as a whole.
    """

    def __init__(self, model: Mapping[str, Any], row_of: Int32) -> None:
        vocabulary: Mapping[str, int] = model["vocab"]
        prefix: str = model["continuing_subword_prefix"]
        self._max_bytes = int(model["max_input_chars_per_word"])
        self._unknown = row_of[vocabulary[model["unk_token"]]]
        self._first = _piece_table(vocabulary, "", row_of)
        self._later = _piece_table(vocabulary, prefix, row_of)
        self._longest_piece = max(
            (len(piece) for piece in vocabulary if piece.isascii()), default=0
        )

    def __call__(self, words: WordSpans) -> RaggedRows:
        """Tokenize words of ASCII letters and digits."""
        rows = np.empty(words.n_bytes, np.int32)
        offsets = np.empty(len(words.spans) + 1, np.int64)
        tables = [
            *(self._first.slots, self._first.words, self._first.text),
            self._first.n_words,
            *(self._later.slots, self._later.words, self._later.text),
            self._later.n_words,
        ]
        sizes = (self._longest_piece, self._max_bytes, self._unknown)
        n_rows: int = split_into_pieces(*words, *sizes, *tables, rows, offsets)
        return RaggedRows(rows[:n_rows], offsets)


def _piece_table(
    vocabulary: Mapping[str, int], prefix: str, row_of: Int32
) -> WordTable:
    """Hash table of the alphanumeric ASCII pieces that start with a prefix."""
    start = len(prefix)
    row_of_piece = {
        piece[start:].encode(): row_of[number]
        for piece, number in vocabulary.items()
        if piece.startswith(prefix) and piece.isascii() and piece[start:].isalnum()
    }
    rows = np.fromiter(row_of_piece.values(), np.int32, len(row_of_piece))
    return word_table(list(row_of_piece), rows)
