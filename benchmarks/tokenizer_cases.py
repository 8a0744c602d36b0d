"""Multilingual sentences, and tokenizers of every kind that are built from them."""

from __future__ import annotations

import gettext
import gzip
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measuring

CATALOGS = Path("/usr/share/locale")  # translations of the system's programs
UNIGRAM, BYTE_LEVEL, WORD_PIECE = "Unigram", "byte-level BPE", "WordPiece"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
N_TRAINING = 60_000  # sentences on which BPE and WordPiece are trained
LONGEST = 12  # characters of a substring in the Unigram vocabulary
N_ODD = 20  # every so many sentences are disturbed by unusual characters
ODD = (
    *("  ", "   ", " \t", "\r\n", "\n\n", "\xa0", "\u3000", "\u200b", "\u2028", "\0"),
    *("\x1c", "\x85", "\ufeff", "\xad", "e\u0301", "\uff21", "\ufb01", "\u2581", "😀"),
    *(
        "👩\u200d🚀",
        "🇩🇪",
        "</s>",
        "\ufffd",
        "'S",
        "123456",
        "\u0664\u0665",
        "\u017f",
        "İ",
    ),
)


def english_sentences() -> list[str]:
    """Unlabelled sentences, in random order."""
    texts: list[str] = []
    for path in sorted((measuring.data() / "unlabelled").glob("*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts += file.read().splitlines()
    random.Random(0).shuffle(texts)
    return texts


def multilingual_sentences(n_texts: int) -> list[str]:
    """Sentences of many languages, half of them translated messages of programs."""
    per_language: dict[str, dict[str, None]] = {}
    for path in sorted(CATALOGS.glob("*/LC_MESSAGES/*.mo")):
        language = path.parent.parent.name
        texts = per_language.setdefault(language, {})
        texts.update(dict.fromkeys(_messages(path)))
    rng = random.Random(0)
    translated: list[str] = []
    # As many of each language as possible, so that the rare ones count.
    share = n_texts // 2
    for n_left, language in zip(
        range(len(per_language), 0, -1),
        sorted(per_language, key=lambda name: len(per_language[name])),
        strict=True,
    ):
        texts_of = list(per_language[language])
        rng.shuffle(texts_of)
        translated += texts_of[: max(1, (share - len(translated)) // n_left)]
    texts_all = [*translated, *english_sentences()[: n_texts - len(translated)]]
    rng.shuffle(texts_all)
    for index in range(0, len(texts_all), N_ODD):
        text = texts_all[index]
        for _ in range(rng.randint(1, 3)):
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice(ODD) + text[at:]
        texts_all[index] = text
    return texts_all


def _messages(path: Path) -> Iterator[str]:
    """Translated messages of a catalog, one by one."""
    try:
        with path.open("rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    except (LookupError, OSError, ValueError):  # a catalog without a charset, say
        return
    for source, message in catalog.items():
        if source and isinstance(message, str) and message:
            yield message


def make_tokenizer(kind: str, texts: list[str], n_pieces: int) -> Any:
    """Tokenizer of a kind with so many pieces, made from texts."""
    if kind == UNIGRAM:
        return _unigram(texts, n_pieces)
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.trainers import BpeTrainer, WordPieceTrainer

    trainer: Any
    if kind == BYTE_LEVEL:
        tokenizer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        trainer = BpeTrainer(
            vocab_size=n_pieces + 256,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = WordPieceTrainer(
            vocab_size=n_pieces, special_tokens=["[UNK]"], show_progress=False
        )
    tokenizer.train_from_iterator(texts[:N_TRAINING], trainer)
    return tokenizer


def _unigram(texts: list[str], n_pieces: int) -> Any:
    """Unigram tokenizer of the most frequent words and substrings of texts.

    Training so many pieces takes hours; their scores are logarithms of counts instead.
    """
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram())
    normalize = normalizers.NFKC()
    words = Counter(w for text in texts for w in normalize.normalize_str(text).split())
    counts: Counter[str] = Counter()
    for word, count in words.items():
        marked = "\u2581" + word
        counts[marked] += count
        for start in range(len(marked)):
            for stop in range(start + 1, min(len(marked), start + LONGEST) + 1):
                counts[marked[start:stop]] += count / 4
    singles = [piece for piece in counts if len(piece) == 1]
    # Some characters have no piece, so that unknown tokens occur.
    singles = [piece for piece in singles if counts[piece] > 1]
    others = counts.most_common(n_pieces)
    pieces = dict.fromkeys(["<unk>", *singles, *(p for p, _ in others if len(p) > 1)])
    total = sum(counts[piece] for piece in pieces)
    vocabulary = [
        (piece, 0.0 if piece == "<unk>" else math.log(counts[piece] / total))
        for piece in list(pieces)[:n_pieces]
    ]
    tokenizer.model = models.Unigram(vocabulary, 0, False)
    tokenizer.normalizer = normalize
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken("</s>", normalized=False)])
    return tokenizer
