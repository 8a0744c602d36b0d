"""Lookup of text tokens in a vector table, with out-of-vocabulary handling."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple
from unicodedata import is_normalized, normalize

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows
from ensembles.embeddings.tokenization.coverage import split_tokens
from ensembles.embeddings.tokenization.texts import (
    TextBatch,
    decode_utf8,
    n_texts,
    slice_texts,
)
from ensembles.embeddings.tokenization.tokenizer import (
    WordTokenizer,
    make_tokenizer,
    word_finder,
)
from ensembles.embeddings.vectors.model_directory import unknown_id
from ensembles.embeddings.vectors.word_vectors import WordVectors
from ensembles.parallel import chunks

BLOCK = 4096  # texts in a block
MIN_COVERAGE = 0.5  # below, most tokens are ignored: warn
N_SEARCHED = 4  # approximate number of blocks that are searched for split tokens
N_SHOWN = 5  # unknown words in a warning
SHOWN_LENGTH = 40  # characters of a text that are shown for its unknown subword tokens
N_SAMPLED = 100_000  # tokens that are examined for capital letters
MAX_CAPITALS = 0.01  # maximum share of capitalized tokens in a lowercase vocabulary
UNKNOWN = ("skip", "subword", "error")


class TokenCounts(NamedTuple):
    """Token counts of texts.

    Attributes
    ----------
    counts : ndarray of shape (n_rows,)
        Number of occurrences of each row.
    documents : ndarray of shape (n_rows,)
        Document frequency of each row: the number of texts that contain it.
    n_unknown : int
        Number of tokens without a row.
    n_texts : int
        Number of texts.
    n_filled : int
        Number of texts with at least one known token.
    n_split : int
        Number of whitespace-delimited tokens that have a row, but that the tokenizer
        splits or drops; estimated from a sample of blocks if there are many texts.
    """

    counts: NDArray[np.int64]
    documents: NDArray[np.int64]
    n_unknown: int
    n_texts: int
    n_filled: int
    n_split: int = 0

    @property
    def coverage(self) -> float:
        """Share of tokens that have a row and are not split; NaN without tokens."""
        n_known = int(self.counts.sum())
        n_tokens = n_known + self.n_unknown + self.n_split
        return n_known / n_tokens if n_tokens else float("nan")


class VocabularyLookup:
    """Map texts to rows of a vector table.

    Parameters
    ----------
    vectors : WordVectors
        Tokens and their vectors.
    tokenizer : object or None
        Tokenizer as in `make_tokenizer`; None uses the tokenizer of the vectors if they
        have one, or else the default pattern.
    lowercase : bool or None
        Whether texts are lowercased. None means True if at most 1 % of the vocabulary
        has capital letters and the tokenizer is not one of subword tokens.
    unknown : {"skip", "subword", "error"}
        Handling of out-of-vocabulary tokens: skip them, compose them of n-grams, or
        raise a `ValueError`.

    Attributes
    ----------
    row_tokenizer : Tokenizer
        Maps texts to rows.
    vocabulary : mapping of str to int
        Row of each token that counts as known.
    uses_subword_tokenizer : bool
        Whether the tokenizer is one of Hugging Face.

    Raises
    ------
    ValueError
        If ``unknown`` is invalid, or is "subword" and the vectors have no n-grams.
    """

    def __init__(
        self, vectors: WordVectors, tokenizer: Any, lowercase: bool | None, unknown: str
    ) -> None:
        if unknown not in UNKNOWN:
            raise ValueError(
                f"unknown must be one of {', '.join(UNKNOWN)}, found {unknown!r}"
            )
        self.vectors = vectors
        self.tokenizer = vectors.tokenizer if tokenizer is None else tokenizer
        backend = getattr(self.tokenizer, "backend_tokenizer", self.tokenizer)
        is_subword = self.uses_subword_tokenizer = hasattr(backend, "encode_batch_fast")
        if lowercase is None:
            lowercase = not is_subword and not _has_capitals(vectors)
        self.lowercase = bool(lowercase)
        self.unknown = unknown
        if unknown == "subword" and vectors.ngrams is None and not is_subword:
            raise ValueError(
                "unknown='subword' (--unknown subword) requires vectors with n-grams "
                f"(a fastText .bin file) or a subword tokenizer, found {vectors.source}"
                "; pass unknown='skip' (--unknown skip) to leave unknown words out"
            )
        self.vocabulary: Mapping[str, int] = vectors.vocabulary
        if self.tokenizer is None or isinstance(self.tokenizer, str):
            self.vocabulary = _with_nfc_forms(self.vocabulary)
        if is_subword and (token_id := unknown_id(backend)) is not None:
            # The unknown token has a vector, but does not count as a known token.
            token = backend.id_to_token(token_id)
            if token in self.vocabulary:
                known = self.vocabulary.items()
                self.vocabulary = {t: row for t, row in known if t != token}
        self.row_tokenizer = make_tokenizer(
            self.tokenizer, self.vocabulary, lowercase=self.lowercase
        )

    def iter_blocks(
        self, batches: list[TextBatch]
    ) -> Iterator[tuple[TextBatch, RaggedRows]]:
        """Yield blocks of texts with the rows of their tokens."""
        first = 0
        for batch in batches:
            for start, stop in chunks(n_texts(batch), BLOCK):
                block = slice_texts(batch, start, stop)
                ragged = self.row_tokenizer.tokenize(block, first + start)
                if self.unknown == "error":
                    self._check_no_unknown(block, ragged)
                yield block, ragged
            first += n_texts(batch)

    def count(self, batches: list[TextBatch]) -> TokenCounts:
        """Count the tokens of texts."""
        n_rows = len(self.vectors.tokens)
        counts, documents = np.zeros(n_rows, np.int64), np.zeros(n_rows, np.int64)
        n_all = sum(n_texts(batch) for batch in batches)
        n_unknown = n_filled = n_split = n_searched = 0
        step = max(1, n_all // (N_SEARCHED * BLOCK))
        for number, (block, (rows, offsets)) in enumerate(self.iter_blocks(batches)):
            if number % step == 0:
                n_split += sum(self.split_tokens(block).values())
                n_searched += n_texts(block)
            text = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            is_known = rows >= 0
            n_unknown += int((~is_known).sum())
            pairs = np.unique(text[is_known] * n_rows + rows[is_known])
            counts += np.bincount(rows[is_known], minlength=n_rows)
            documents += np.bincount(pairs % n_rows, minlength=n_rows)
            n_filled += len(np.unique(pairs // n_rows))
        n_split = round(n_split * n_all / max(n_searched, 1))
        return TokenCounts(counts, documents, n_unknown, n_all, n_filled, n_split)

    def split_tokens(self, batch: TextBatch) -> Counter[str]:
        """Count in-vocabulary tokens that the default tokenizer splits or drops.

        Examples are emoji and ``c++``, which the word pattern does not match. Only
        whitespace-delimited tokens are considered, without punctuation. For a custom
        tokenizer the result is empty, because its splits are intended.
        """
        if self.tokenizer is not None:
            return Counter()
        tokens = normalize("NFC", " ".join(decode_utf8(batch))).split()
        split = set(
            split_tokens(
                set(tokens),
                self.vocabulary,
                self._word_iterator(),
                lowercase=self.lowercase,
            )
        )
        return Counter(filter(split.__contains__, tokens)) if split else Counter()

    def coverage(self, batch: TextBatch) -> NDArray[np.float64]:
        """Token coverage of each text, split tokens included; NaN without tokens."""
        rows, offsets = self.row_tokenizer.tokenize(batch)
        totals = np.concatenate([[0], np.cumsum(rows >= 0)])
        n_known, n_tokens = np.diff(totals[offsets]), np.diff(offsets)
        if split := self.split_tokens(batch):
            texts = [normalize("NFC", text).split() for text in decode_utf8(batch)]
            n_tokens = n_tokens + [sum(t in split for t in text) for text in texts]
        with np.errstate(invalid="ignore"):
            return np.asarray(n_known / n_tokens, np.float64)

    def with_ngram_rows(
        self, batch: TextBatch, ragged: RaggedRows
    ) -> tuple[RaggedRows, Float32, NDArray[np.int64]]:
        """Build a table of the words in use, with unknown words composed of n-grams.

        Returns
        -------
        ragged : RaggedRows
            The texts, with rows of the new table.
        table : ndarray of shape (n_used, dim)
            Vectors of the words in use.
        rows : ndarray of shape (n_used,), int64
            Row of each word in the table of the vectors; -1 for a composed word.
        """
        ngrams = self.vectors.ngrams
        rows = ragged.rows.astype(np.int64)
        used, indices = np.unique(rows, return_inverse=True)
        used, first = used[used >= 0], int((used < 0).any())
        local = indices - first  # the index of unknown words becomes -1
        table: NDArray[Any] = self.vectors.matrix[used]
        if ngrams is not None and first:
            unknown = np.array(self._unknown_words(batch, ragged), object)
            words, word_of = np.unique(unknown, return_inverse=True)
            composed = ngrams.vectors(list(words), {})
            has_ngrams = composed.any(axis=1)  # other words stay unknown
            new_rows = len(used) + np.cumsum(has_ngrams) - 1
            local[rows < 0] = np.where(has_ngrams, new_rows, -1)[word_of]
            table = np.concatenate([table, composed[has_ngrams]])
            used = np.concatenate([used, np.full(int(has_ngrams.sum()), -1)])
        return RaggedRows(local.astype(np.int32), ragged.offsets), table, used

    def unknown_words(self, batches: list[TextBatch], max_words: int) -> list[str]:
        """First ``max_words`` distinct words without a row."""
        blocks = self.iter_blocks(batches)
        words = (w for block, rag in blocks for w in self._unknown_words(block, rag))
        return list(dict.fromkeys(islice(words, 50 * max_words)))[:max_words]

    def warn_low_coverage(self, batches: list[TextBatch], coverage: float) -> None:
        """Warn if less than half of the tokens passed to `fit` have a row."""
        if not coverage < MIN_COVERAGE:
            return
        unknown = ", ".join(map(repr, self.unknown_words(batches, N_SHOWN)))
        missing = f"missing: {unknown}" if unknown else "none is missing"
        split = [t for batch in batches[:1] for t in self.split_tokens(batch)][:N_SHOWN]
        if split:
            missing += (
                f"; the tokenizer splits or drops {', '.join(map(repr, split))}, which "
                "are in it"
            )
        warnings.warn(
            f"only {coverage:.0%} of the tokens passed to fit are in the vocabulary of "
            f"{self.vectors.source}; {missing}. Check the language, the tokenizer and "
            "lowercase",
            stacklevel=3,
        )

    def _word_iterator(self) -> Callable[[str], Iterator[str]]:
        if self.uses_subword_tokenizer:
            return lambda text: iter(self.tokenizer.encode(text).tokens)
        nfc = self.tokenizer is None or isinstance(self.tokenizer, str)
        find = word_finder(self.tokenizer)
        return WordTokenizer(find, {}, lowercase=self.lowercase, nfc=nfc).words

    def _unknown_words(self, batch: TextBatch, ragged: RaggedRows) -> list[str]:
        """Words without a row, in text order."""
        is_unknown = ragged.rows < 0
        lengths = np.diff(ragged.offsets)
        texts, words_of = decode_utf8(batch), self._word_iterator()
        text_of = np.repeat(np.arange(len(lengths)), lengths)
        unknown: list[str] = []
        for index in np.unique(text_of[is_unknown]):
            start, stop = ragged.offsets[index : index + 2]
            if self.uses_subword_tokenizer:
                unknown.append(texts[index][:SHOWN_LENGTH])
                continue
            pairs = zip(words_of(texts[index]), is_unknown[start:stop], strict=True)
            unknown += [word for word, is_missing in pairs if is_missing]
        return unknown

    def _check_no_unknown(self, batch: TextBatch, ragged: RaggedRows) -> None:
        unknown = np.flatnonzero(ragged.rows < 0)
        if len(unknown):
            index = int(np.searchsorted(ragged.offsets, unknown[0], "right")) - 1
            raise ValueError(
                f"{self.vectors.source} has no vector for "
                f"{self._unknown_words(batch, ragged)[0]!r}, in the text "
                f"{decode_utf8(batch)[index][:60]!r}; pass unknown='skip' "
                "(--unknown skip) to leave such words out"
            )


def _with_nfc_forms(vocabulary: Mapping[str, int]) -> Mapping[str, int]:
    """Vocabulary extended by the Unicode NFC form of each token; texts are in NFC."""
    not_nfc = {t: row for t, row in vocabulary.items() if not is_normalized("NFC", t)}
    if not not_nfc:
        return vocabulary
    return {**{normalize("NFC", t): row for t, row in not_nfc.items()}, **vocabulary}


def _has_capitals(vectors: WordVectors) -> bool:
    # A lowercase vocabulary may contain a few corrupt words.
    sample = vectors.tokens[:N_SAMPLED]
    n_capitals = sum(token != token.lower() for token in sample)
    return n_capitals > MAX_CAPITALS * len(sample)
