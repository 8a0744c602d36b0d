"""Lookup of text tokens in a vector table, with out-of-vocabulary handling."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple
from unicodedata import is_normalized, normalize

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.tokenization.coverage import lost_tokens
from ensembles.embeddings.tokenization.texts import Part, decoded, n_texts, piece
from ensembles.embeddings.tokenization.tokenizer import (
    Ragged,
    Words,
    finder_of,
    tokens_of,
)
from ensembles.embeddings.vectors.model_directory import unknown_id
from ensembles.embeddings.vectors.word_vectors import WordVectors
from ensembles.parallel import cut

BLOCK = 4096  # texts in a block
LEAST_COVERAGE = 0.5  # below, most tokens are ignored: warn
SEARCHED = 4  # approximate number of blocks that are searched for lost tokens
SHOWN = 5  # unknown words in a warning
NAMED = 40  # characters of a text that are shown for its unknown subword tokens
SAMPLED = 100_000  # tokens that are examined for capital letters
STRAY = 0.01  # maximum share of capitalized tokens in a lowercase vocabulary
UNKNOWN = ("skip", "subword", "error")


class Met(NamedTuple):
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
    n_lost : int
        Number of whitespace-delimited tokens that have a row, but that the tokenizer
        splits or drops; estimated from a sample of blocks if there are many texts.
    """

    counts: NDArray[np.int64]
    documents: NDArray[np.int64]
    n_unknown: int
    n_texts: int
    n_filled: int
    n_lost: int = 0

    @property
    def coverage(self) -> float:
        """Share of tokens that have a row and are not lost; NaN without tokens."""
        n_known = int(self.counts.sum())
        n_all = n_known + self.n_unknown + self.n_lost
        return n_known / n_all if n_all else float("nan")


class Rows:
    """Map texts to rows of a vector table.

    Parameters
    ----------
    vectors : WordVectors
        Tokens and their vectors.
    tokenizer : object or None
        Tokenizer as in `tokens_of`; None takes the tokenizer of the vectors if they
        have one, or else the default pattern.
    lowercase : bool or None
        Whether texts are lowercased. None means True if at most 1 % of the vocabulary
        has capital letters and the tokenizer is not one of subword tokens.
    unknown : {"skip", "subword", "error"}
        Handling of out-of-vocabulary tokens: skip them, compose them of n-grams, or
        raise a `ValueError`.

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
        self.by_piece = hasattr(backend, "encode_batch_fast")
        if lowercase is None:
            lowercase = not self.by_piece and not _has_capitals(vectors)
        self.lowercase = bool(lowercase)
        self.unknown = unknown
        if unknown == "subword" and vectors.subwords is None and not self.by_piece:
            raise ValueError(
                "unknown='subword' must have vectors with n-grams (fastText's .bin) or "
                f"a tokenizer of word pieces, found {vectors.source}; unknown='skip' "
                "leaves unknown words out"
            )
        self.vocabulary = vectors.vocabulary
        if self.tokenizer is None or isinstance(self.tokenizer, str):
            self.vocabulary = _composed(self.vocabulary)
        if self.by_piece and (number := unknown_id(backend)) is not None:
            # The unknown token has a vector, but does not count as a known token.
            self.vocabulary = dict(self.vocabulary)
            self.vocabulary.pop(backend.id_to_token(number), None)
        self.tokens = tokens_of(
            self.tokenizer, self.vocabulary, lowercase=self.lowercase
        )

    def ragged(self, parts: list[Part]) -> Iterator[tuple[Part, Ragged]]:
        """Yield blocks of texts with the rows of their tokens."""
        first = 0
        for part in parts:
            for start, stop in cut(n_texts(part), BLOCK):
                some = piece(part, start, stop)
                found = self.tokens.of_part(some, first + start)
                if self.unknown == "error":
                    self._refuse_unknown(some, found)
                yield some, found
            first += n_texts(part)

    def count(self, parts: list[Part]) -> Met:
        """Count the tokens of texts."""
        n_rows = len(self.vectors.tokens)
        counts, documents = np.zeros(n_rows, np.int64), np.zeros(n_rows, np.int64)
        n_all = sum(n_texts(part) for part in parts)
        n_unknown = n_filled = n_lost = n_searched = 0
        step = max(1, n_all // (SEARCHED * BLOCK))
        for number, (part, (rows, offsets)) in enumerate(self.ragged(parts)):
            if number % step == 0:
                n_lost += sum(self.lost(part).values())
                n_searched += n_texts(part)
            text = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            known = rows >= 0
            n_unknown += int((~known).sum())
            pairs = np.unique(text[known] * n_rows + rows[known])
            counts += np.bincount(rows[known], minlength=n_rows)
            documents += np.bincount(pairs % n_rows, minlength=n_rows)
            n_filled += len(np.unique(pairs // n_rows))
        n_lost = round(n_lost * n_all / max(n_searched, 1))
        return Met(counts, documents, n_unknown, n_all, n_filled, n_lost)

    def lost(self, part: Part) -> Counter[str]:
        """Count in-vocabulary tokens that the default tokenizer splits or drops.

        Examples are emoji and ``c++``, which the word pattern does not match. Only
        whitespace-delimited tokens are considered, without punctuation. For a custom
        tokenizer the result is empty, because its splits are intended.
        """
        if self.tokenizer is not None:
            return Counter()
        met = normalize("NFC", " ".join(decoded(part))).split()
        lost = set(
            lost_tokens(
                set(met), self.vocabulary, self._words(), lowercase=self.lowercase
            )
        )
        return Counter(filter(lost.__contains__, met)) if lost else Counter()

    def coverage(self, part: Part) -> NDArray[np.float64]:
        """Token coverage of each text, lost tokens included; NaN without tokens."""
        rows, offsets = self.tokens.of_part(part)
        totals = np.concatenate([[0], np.cumsum(rows >= 0)])
        n_known, n_all = np.diff(totals[offsets]), np.diff(offsets)
        if lost := self.lost(part):
            texts = [normalize("NFC", text).split() for text in decoded(part)]
            n_all = n_all + [sum(piece in lost for piece in text) for text in texts]
        with np.errstate(invalid="ignore"):
            return np.asarray(n_known / n_all, np.float64)

    def composed(self, part: Part, ragged: Ragged) -> tuple[Ragged, Float32, Any]:
        """Build a table of the words in use, with unknown words composed of n-grams.

        Returns
        -------
        ragged : Ragged
            The texts, with rows of the new table.
        table : ndarray of shape (n_used, dim)
            Vectors of the words in use.
        rows : ndarray of shape (n_used,), int64
            Row of each word in the table of the vectors; -1 for a composed word.
        """
        subwords = self.vectors.subwords
        rows = ragged.rows.astype(np.int64)
        used, places = np.unique(rows, return_inverse=True)
        used, first = used[used >= 0], int((used < 0).any())
        local = places - first  # the index of unknown words becomes -1
        table = self.vectors.matrix[used]
        if subwords is not None and first:
            spelled = self._unknown_words(part, ragged)
            words, where = np.unique(np.array(spelled, object), return_inverse=True)
            made = subwords.vectors(list(words), {})
            known = made.any(axis=1)  # a word without n-grams stays unknown
            numbers = np.where(known, len(used) + np.cumsum(known) - 1, -1)
            local[rows < 0] = numbers[where]
            table = np.concatenate([table, made[known]])
            used = np.concatenate([used, np.full(int(known.sum()), -1)])
        return Ragged(local.astype(np.int32), ragged.offsets), table, used

    def unknown_words(self, parts: list[Part], most: int) -> list[str]:
        """First ``most`` distinct words without a row."""
        blocks = self.ragged(parts)
        found = (w for part, rag in blocks for w in self._unknown_words(part, rag))
        return list(dict.fromkeys(islice(found, 50 * most)))[:most]

    def warn_of_coverage(self, parts: list[Part], coverage: float) -> None:
        """Warn if less than half of the tokens given to `fit` have a row."""
        if not coverage < LEAST_COVERAGE:
            return
        words = ", ".join(map(repr, self.unknown_words(parts, SHOWN)))
        lost = [piece for part in parts[:1] for piece in self.lost(part)][:SHOWN]
        lacks = f"it lacks {words}" if words else "it lacks none"
        if lost:
            named = ", ".join(map(repr, lost))
            lacks += f", and the tokenizer cuts or leaves out {named}, which it has"
        warnings.warn(
            f"{self.vectors.source} has vectors for only {coverage:.0%} of the tokens "
            f"given to fit; {lacks}. Check the language, the tokenizer and lowercase",
            stacklevel=3,
        )

    def _words(self) -> Callable[[str], Iterator[str]]:
        if self.by_piece:
            return lambda text: iter(self.tokenizer.encode(text).tokens)
        find = finder_of(self.tokenizer)
        composed = self.tokenizer is None or isinstance(self.tokenizer, str)
        return Words(find, {}, lowercase=self.lowercase, composed=composed).words

    def _unknown_words(self, part: Part, ragged: Ragged) -> list[str]:
        """Words without a row, in text order."""
        missing = ragged.rows < 0
        lengths = np.diff(ragged.offsets)
        texts, words_of = decoded(part), self._words()
        text_of = np.repeat(np.arange(len(lengths)), lengths)
        found: list[str] = []
        for index in np.unique(text_of[missing]):
            start, stop = ragged.offsets[index : index + 2]
            if self.by_piece:
                found.append(texts[index][:NAMED])
                continue
            pairs = zip(words_of(texts[index]), missing[start:stop], strict=True)
            found += [word for word, lacks in pairs if lacks]
        return found

    def _refuse_unknown(self, part: Part, ragged: Ragged) -> None:
        missing = np.flatnonzero(ragged.rows < 0)
        if len(missing):
            index = int(np.searchsorted(ragged.offsets, missing[0], "right")) - 1
            raise ValueError(
                f"{self.vectors.source} has no vector for "
                f"{self._unknown_words(part, ragged)[0]!r}, in the text "
                f"{decoded(part)[index][:60]!r}; unknown='skip' leaves such words out"
            )


def _composed(vocabulary: dict[str, int]) -> dict[str, int]:
    """Vocabulary extended by the Unicode NFC form of each token; texts are in NFC."""
    other = {t: r for t, r in vocabulary.items() if not is_normalized("NFC", t)}
    if not other:
        return vocabulary
    return {**{normalize("NFC", t): row for t, row in other.items()}, **vocabulary}


def _has_capitals(vectors: WordVectors) -> bool:
    # A lowercase vocabulary may contain a few corrupt words.
    some = vectors.tokens[:SAMPLED]
    return sum(token != token.lower() for token in some) > STRAY * len(some)
