"""Vocabularies of distilled tables, and the tokens of the training texts in them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32
from ensembles.embeddings.distillation.teachers import plain_config
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows
from ensembles.embeddings.tokenization.tokenizer import WordTokenizer, word_finder
from ensembles.embeddings.vectors.lookup import VocabularyLookup
from ensembles.embeddings.vectors.model_directory import with_tokenizer
from ensembles.embeddings.vectors.word_vectors import WordVectors

WORDS = "words"
SOURCE = "distilled vectors"
BLOCK = 4096  # texts whose words are counted at once
SPACE, BYTE_SPACE, JOINED = "\u2581", "\u0120", "##"  # prefixes of subword tokens


def make_vocabulary(
    tokenizer: Any, teacher_tokenizer: Any, texts: list[str], n_words: int
) -> WordVectors:
    """Vocabulary of a distilled table, as word vectors with one column of zeros.

    Parameters
    ----------
    tokenizer : None, "words" or tokenizers.Tokenizer
        Tokenizer of the table. None is that of the teacher; "words" is a vocabulary of
        whole words. With a WordPiece tokenizer of the teacher, the words are added to
        its vocabulary, so that other words have their subword tokens; else they are the
        only tokens.
    teacher_tokenizer : tokenizers.Tokenizer or None
        Tokenizer of the teacher.
    texts : list of str
        Training texts, whose words are counted.
    n_words : int
        Largest number of words, the most frequent ones.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If ``tokenizer`` is None and the teacher has no tokenizer, or the texts have no
        words.
    TypeError
        If ``tokenizer`` is of another kind.
    """
    if isinstance(tokenizer, str) and tokenizer == WORDS:
        return _word_vocabulary(teacher_tokenizer, texts, n_words)
    if tokenizer is None:
        tokenizer = teacher_tokenizer
        if tokenizer is None:
            raise ValueError(
                "the teacher has no Hugging Face tokenizer; pass tokenizer='words' "
                "(--words N) for a vocabulary of the words of the texts, or a "
                "tokenizers.Tokenizer"
            )
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "encode_batch_fast"):
        raise TypeError(
            "tokenizer must be None, 'words' or a tokenizers.Tokenizer, found "
            f"{tokenizer!r:.80}"
        )
    return _subword_vectors(plain_config(backend))


def _subword_vectors(config: dict[str, Any]) -> WordVectors:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(json.dumps(config))
    ids = backend.get_vocab(with_added_tokens=True)
    zeros = np.zeros((max(ids.values()) + 1, 1), np.float32)
    return with_tokenizer(zeros, backend, preweighted=True, source=SOURCE)


def _word_vocabulary(tokenizer: Any, texts: list[str], n_words: int) -> WordVectors:
    config = None if tokenizer is None else plain_config(tokenizer)
    if config is None or config["model"]["type"] != "WordPiece":
        find = WordTokenizer(word_finder(None), {}, lowercase=True, nfc=True)
        words = _most_frequent((w for text in texts for w in find.words(text)), n_words)
        zeros = np.zeros((len(words), 1), np.float32)
        return WordVectors(words, zeros, preweighted=True, source=SOURCE)
    words = _most_frequent(_pre_tokens(tokenizer, texts), n_words)
    vocabulary = config["model"]["vocab"]
    new = [word for word in words if word not in vocabulary]
    ids = tokenizer.get_vocab(with_added_tokens=True)
    first = max(ids.values()) + 1
    vocabulary.update({word: first + n for n, word in enumerate(new)})
    longest = max(map(len, words))
    limit = "max_input_chars_per_word"
    config["model"][limit] = max(config["model"][limit], longest)
    return _subword_vectors(config)


def _pre_tokens(tokenizer: Any, texts: list[str]) -> Any:
    """Words that a tokenizer divides into subword tokens."""
    for text in texts:
        normalized = text
        if tokenizer.normalizer is not None:
            normalized = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized):
            yield word


def _most_frequent(words: Any, n_words: int) -> list[str]:
    """Most frequent words; equally frequent ones in alphabetical order."""
    counts = Counter(words)
    if not counts:
        raise ValueError("texts must have words for tokenizer='words', found none")
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return ranked[:n_words]


def token_texts(vectors: WordVectors) -> list[str]:
    """Text of each token for a teacher; empty for special and unknown tokens."""
    special: set[str] = set()
    if vectors.tokenizer is not None:
        config = json.loads(vectors.tokenizer.to_str())
        special = {t["content"] for t in config["added_tokens"] if t["special"]}
    texts = []
    for row, token in enumerate(vectors.tokens):
        if token in special or row == vectors.unk_index:
            texts.append("")
            continue
        if vectors.tokenizer is not None and len(token) > len(JOINED):
            token = token.removeprefix(JOINED)
        texts.append(token.replace(SPACE, " ").replace(BYTE_SPACE, " ").strip())
    return texts


def tokenize(vectors: WordVectors, texts: list[str]) -> RaggedRows:
    """Rows of the known tokens of texts, as `SentenceEmbedder` finds them."""
    tokenizer = VocabularyLookup(vectors, None, None, "skip").row_tokenizer
    return known_rows(tokenizer(texts))


def known_rows(texts: RaggedRows) -> RaggedRows:
    """Leave out-of-vocabulary tokens out."""
    is_known = texts.rows >= 0
    totals = np.zeros(len(texts.rows) + 1, np.int64)
    np.cumsum(is_known, out=totals[1:])
    return RaggedRows(texts.rows[is_known], totals[texts.offsets])


def sif_weights(texts: RaggedRows, n_tokens: int, a: float = 1e-3) -> Float32:
    """Weight ``a / (a + p)`` of each token, with probabilities smoothed by one."""
    counts = np.bincount(texts.rows, minlength=n_tokens) + 1.0
    weights: NDArray[np.float64] = a / (a + counts / counts.sum())
    return weights.astype(np.float32)
