"""Hugging Face tokenizers: adapter, split analysis, and compiled WordPiece."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np

from ensembles.embeddings.tokenization.byte_pairs import FastBytePairs, can_merge
from ensembles.embeddings.tokenization.cached_tokenizer import (
    BoundaryTable,
    Int32,
    RaggedRows,
    WordTable,
    boundary_table,
    concatenate,
    word_table,
)
from ensembles.embeddings.tokenization.patterns import (
    PatternTable,
    find_pattern,
    steps_of,
)
from ensembles.embeddings.tokenization.texts import (
    WordSpans,
    join_words,
    to_offsets,
)
from ensembles.embeddings.tokenization.tokenizer_file import TokenizerFile
from ensembles.embeddings.tokenization.unigram import (
    KEEP,
    PREPEND,
    REPLACE,
    FastUnigram,
    Pieces,
    can_segment,
    pieces_of,
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

    The model of Unigram and BPE tokenizers is compiled; the package tokenizers then
    only normalizes and splits texts, and its tables of the vocabulary are not kept.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Tokenizer; it is copied, so its own settings do not change.
    vocabulary : mapping from token to row, or None
        Rows of the tokens in the vector table; other tokens get -1. None uses the
        token ids as rows.
    unknown : int or None, default=None
        Token id that gets -1 all the same, if ``vocabulary`` is None.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocabulary: Mapping[str, int] | None,
        unknown: int | None = None,
    ) -> None:
        from tokenizers import Tokenizer

        if isinstance(tokenizer, TokenizerFile) and vocabulary is not None:
            tokenizer = tokenizer.load()
        pieces: Pieces | None = None
        if isinstance(tokenizer, TokenizerFile):
            config, pieces = tokenizer.copy_config(), tokenizer.take_pieces()
            row_of = np.arange(tokenizer.n_ids, dtype=np.int32)
        else:
            config = json.loads(tokenizer.to_str())
            if config["model"]["type"] == "Unigram" and config["model"]["vocab"]:
                pieces = pieces_of(config["model"]["vocab"])
            row_of = _rows_of_ids(config, vocabulary)
        if vocabulary is None and unknown is not None:
            row_of[unknown] = -1
        self.boundaries: BoundaryTable | PatternTable | None
        self.fast: Callable[[WordSpans], RaggedRows] | None
        self._model = make_fast_model(config, pieces, row_of)
        if self._model is None:
            self.boundaries = find_boundaries(config)
            self.fast = make_fast_wordpiece(config, self.boundaries, row_of)
        else:
            self.boundaries = find_pattern(config) or find_boundaries(config)
            is_pattern = isinstance(self.boundaries, PatternTable)
            self.fast = self._model if is_pattern else None
            row_of = _shorten(config, row_of)
        self._row_of = row_of
        self.tokenizer = Tokenizer.from_str(json.dumps(config))
        self.tokenizer.encode_special_tokens = tokenizer.encode_special_tokens
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def __call__(self, texts: list[str]) -> RaggedRows:
        if self._model is not None:
            return self._tokenize(texts, self._model)
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

    def _tokenize(
        self, texts: list[str], model: FastUnigram | FastBytePairs
    ) -> RaggedRows:
        """Tokenize by the compiled model the parts into which texts are split."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        numbers: dict[bytes, int] = {}
        order: list[int] = []
        n_parts = np.empty(len(texts), np.int64)
        for index, encoding in enumerate(encodings):
            n_before = len(order)
            for number, part in zip(encoding.ids, encoding.tokens, strict=True):
                if number:  # an added token
                    order.append(-number)
                else:
                    order.append(numbers.setdefault(model.encode(part), len(numbers)))
            n_parts[index] = len(order) - n_before
        parts = concatenate(
            [
                model.segment(join_words(list(numbers))),
                RaggedRows(self._row_of, np.arange(self._row_of.size + 1)),
            ]
        )
        where = np.array(order, np.int64)
        where = np.where(where < 0, len(numbers) - where, where)
        counts = np.diff(parts.offsets)[where]
        ends = to_offsets(counts)
        shifts = np.repeat(parts.offsets[where] - ends[:-1], counts)
        rows = parts.rows[shifts + np.arange(ends[-1])]
        return RaggedRows(rows, ends[to_offsets(n_parts)])


def _rows_of_ids(
    config: Mapping[str, Any], vocabulary: Mapping[str, int] | None
) -> Int32:
    """Row of each token id; -1 for none."""
    pieces = config["model"]["vocab"]
    if not isinstance(pieces, dict):
        pieces = {piece: number for number, (piece, _) in enumerate(pieces)}
    ids = {token["content"]: token["id"] for token in config["added_tokens"]}
    row_of = np.full(max(chain(pieces.values(), ids.values()), default=-1) + 1, -1)
    for piece, number in chain(pieces.items(), ids.items()):
        row = number if vocabulary is None else vocabulary.get(piece, -1)
        row_of[number] = row
    return row_of.astype(np.int32)


def make_fast_model(
    config: Mapping[str, Any], pieces: Pieces | None, row_of: Int32
) -> FastUnigram | FastBytePairs | None:
    """Build the compiled model of a Unigram or BPE tokenizer.

    Parameters
    ----------
    config : mapping
        Contents of ``tokenizer.json``.
    pieces : Pieces or None
        Vocabulary of a Unigram tokenizer; None for others.
    row_of : ndarray of shape (n_ids,), int32
        Row of each token id; -1 for none.

    Returns
    -------
    FastUnigram, FastBytePairs or None
        None if the compiled model may differ from the original.
    """
    model = config["model"]
    splitters = steps_of(config["pre_tokenizer"], "pretokenizers")
    last = splitters[-1] if splitters else {"type": None}
    if pieces is not None:
        if not can_segment(model, pieces):
            return None
        is_meta = last["type"] == "Metaspace"
        space = PREPEND if is_meta and last["prepend_scheme"] != "never" else REPLACE
        return FastUnigram(model, pieces, row_of, space if is_meta else KEEP)
    is_byte_level = last["type"] == "ByteLevel"
    if not can_merge(model, is_byte_level):
        return None
    # Otherwise a space is only put before the text.
    adds_space = is_byte_level and bool(
        last["add_prefix_space"] and not last["use_regex"]
    )
    return FastBytePairs(model, row_of, is_byte_level, adds_space=adds_space)


def _shorten(config: dict[str, Any], row_of: Int32) -> Int32:
    """Replace the model by one that returns the parts of a text as they are.

    Returns the row of each token id that is left: 0 for a part, then the added tokens.
    """
    # The unknown token of this Unigram model is each part as a whole.
    name = "\ue000part"
    config["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [[name, 0.0]]}
    config["post_processor"] = None
    rows = [-1]
    for number, token in enumerate(config["added_tokens"], 1):
        rows.append(int(row_of[token["id"]]))
        token["id"] = number
    return np.array(rows, np.int32)


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
    normalizers = steps_of(config["normalizer"], "normalizers")
    splitters = [
        step["type"] for step in steps_of(config["pre_tokenizer"], "pretokenizers")
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
        step["type"] for step in steps_of(config["pre_tokenizer"], "pretokenizers")
    }
    lowers = any(
        step["type"] == "Lowercase" or step.get("lowercase")
        for step in steps_of(config["normalizer"], "normalizers")
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
