# ruff: noqa: RUF001
"""Rows of compiled Unigram and byte-pair tokenizers against the originals' ids."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensembles.embeddings.tokenization.cached_tokenizer import (
    CachedTokenizer,
    RaggedRows,
)
from ensembles.embeddings.tokenization.cached_tokenizer import Tokenizer as Tokens
from ensembles.embeddings.tokenization.tokenizer import make_tokenizer

pytest.importorskip("tokenizers")
from tokenizers import (
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

PLAIN = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]  # set when loaded
META = "▁"
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")
CORPUS = [
    "The cats sat on the mats, and they're unable to see; it's the cat's mat.",
    "Über größere Straßen läuft die Katze, niño, mañana habrá café y más.",
    "Привет, мир! Как дела сегодня? Καλημέρα κόσμε, τι κάνεις;",
    "你好，世界。今天天气很好。日本語のテキストです。東京タワー",
    "สวัสดีชาวโลก ภาษาไทย नमस्ते दुनिया हिन्दी में पाठ মন্ত্রী",
    "مرحبا بالعالم كيف حالك اليوم שלום עולם",
    "Numbers 1 12 123 1234 12345 3.14 ½ ² ٣٤ and signs !?.,-—…'\"()[]{}<>#@",
    "😀 😃 👩\u200d🚀 🇩🇪 tabs\tand\nlines\r\nand  two   three    spaces",
] * 3
ALPHABET = st.one_of(
    st.sampled_from([*" \t\n\r.,'-▁#<", "  ", "   ", "\r\n", " \n", "\n ", " \t "]),
    st.sampled_from([*("the", "The", "cats", "CATS", "they're", "'S", "'ll", "1234")]),
    st.sampled_from(["größere", "niño", "café", "мир", "ΣΑΣ", "你好", "ไทย", "हिन्दी"]),
    st.sampled_from(["\0", "\x0b", "\x0c", "\x1c", "\x7f", "\x85", "\xa0", "\xad"]),
    st.sampled_from(["\u1680", "\u2028", "\u200b", "\u3000", "\u202f", "\u180e", "ſ"]),
    st.sampled_from(["é", "e\u0301", "İ", "ß", "＝", "≠", "=\u0338", "Ａ", "ﬁ", "ﷺ"]),
    st.sampled_from(
        ["👩\u200d🚀", "🇩🇪", "👍🏽", "\ufffd", "\ufeff", "\U00020000", "가", "각"]
    ),
    st.sampled_from(
        ["\u0300", "\u0600", "\u0e33", "\u0d4e", "\uff9e", "\u1175", "½", "²"]
    ),
    st.sampled_from(["</s>", "<unk>", "<0x41>", "<s", "s>", "[X]", "new york", "ab"]),
    st.sampled_from(
        ["x" * 130, "é" * 90, "你" * 100, "ab " * 60, " " * 300, "z" * 1100]
    ),
    st.characters(exclude_categories=["Cs"]),
)
TEXT = st.lists(ALPHABET, max_size=10).map("".join)


def special(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def unigram_vocabulary(**options: Any) -> list[tuple[str, float]]:
    """Pieces with scores that are often equal, so that ties occur."""
    rng = random.Random(0)
    counts = Counter(
        word[start:stop]
        for text in CORPUS[:8]
        for word in (META + text.replace(" ", " ▁")).split(" ")
        for start in range(len(word))
        for stop in range(start + 1, min(len(word), start + 6) + 1)
    )
    singles = [p for p in counts if len(p) == 1 and rng.random() < 0.9]
    longer = [p for p in counts if len(p) > 1 and rng.random() < 0.4]
    pieces = dict.fromkeys([*options.get("first", ["<unk>"]), *singles, *longer])
    levels = (-1.0, -2.0, -4.0, -4.5, -7.25, -8.123456789)
    scores = [0.0 if p[:1] == "<" else rng.choice(levels) for p in pieces]
    return list(zip(pieces, scores, strict=True))


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def unigram(
    normalizer: Any = None,
    pre_tokenizer: Any = None,
    *,
    byte_fallback: bool = False,
    **options: Any,
) -> Any:
    first = ["<unk>", *(BYTES if byte_fallback else [])]
    vocabulary = unigram_vocabulary(first=options.get("first", first))
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.Metaspace()
    return special(tokenizer)


def metaspace(scheme: str = "always", *, split: bool = True) -> Any:
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)


def steps(*normalizers_: Any) -> Any:
    return normalizers.Sequence(list(normalizers_))


def byte_level(
    split: str | None = None,
    *,
    adds_space: bool = False,
    normalizer: Any = None,
    ignore_merges: bool = False,
    inverted: bool = False,
) -> Any:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    alone = split is None
    last: Any = pre_tokenizers.ByteLevel(add_prefix_space=adds_space, use_regex=alone)
    if split is not None:
        how = "removed" if inverted else "isolated"
        first = pre_tokenizers.Split(Regex(split), how, inverted)
        last = pre_tokenizers.Sequence([first, last])
    tokenizer.pre_tokenizer = last
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return special(tokenizer)


def sentence_piece(
    normalizer: Any = None,
    pre_tokenizer: Any = None,
    *,
    byte_fallback: bool = True,
    unk_token: str | None = "<unk>",
    fuse_unk: bool = True,
) -> Any:
    """BPE with the mark of SentencePiece, as that of Llama 2."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    initial = ["<unk>", *(BYTES if byte_fallback else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=initial, limit_alphabet=90, show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, "a  b   c    d"] * 2, trainer)
    import json

    config = json.loads(tokenizer.to_str())
    model = config["model"]
    if not unk_token:
        del model["vocab"]["<unk>"]
    model |= {"unk_token": unk_token, "fuse_unk": fuse_unk}
    model["byte_fallback"] = byte_fallback
    # Runs of spaces are pieces, as in Llama's vocabulary.
    vocabulary, merges = model["vocab"], model["merges"]
    for n in (2, 3, 4):
        vocabulary.setdefault(META * n, max(vocabulary.values()) + 1)
        merges.append([META * (n - 1), META])
    config |= {"normalizer": None, "pre_tokenizer": None, "added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps(config))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return special(tokenizer)


LLAMA_2 = steps(normalizers.Prepend(META), normalizers.Replace(" ", META))
COLLAPSE = normalizers.Replace(Regex(" {2,}"), " ")
AT_WHITESPACE = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
)
# Split into words that are looked up.
CACHED: dict[str, Callable[[], Any]] = {
    "unigram": unigram,
    "unigram never": partial(unigram, None, metaspace("never")),
    "unigram first": partial(unigram, None, metaspace("first")),
    "unigram nfkc": partial(unigram, normalizers.NFKC()),
    "unigram nfkc lowercase": partial(
        unigram, steps(normalizers.NFKC(), normalizers.Lowercase())
    ),
    "unigram accents": partial(
        unigram,
        steps(normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()),
    ),
    "unigram nmt": partial(unigram, steps(normalizers.Nmt(), normalizers.NFKC())),
    "unigram collapse": partial(unigram, steps(normalizers.NFKC(), COLLAPSE)),
    "unigram albert": partial(
        unigram,
        steps(
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            COLLAPSE,
        ),
    ),
    "unigram t5": partial(
        unigram,
        steps(
            normalizers.NFKC(),
            normalizers.Strip(left=False),
            normalizers.Replace(Regex(" {2,}"), META),
        ),
    ),
    "unigram capitals": partial(
        unigram, steps(normalizers.Replace("T", "x"), normalizers.Lowercase())
    ),
    "unigram letters": partial(
        unigram, steps(normalizers.Lowercase(), normalizers.Replace("t", "x"))
    ),
    "unigram strip": partial(unigram, steps(normalizers.Strip(), normalizers.NFC())),
    "unigram whitespace": partial(unigram, None, AT_WHITESPACE),
    "unigram whitespace nfkc": partial(unigram, normalizers.NFKC(), AT_WHITESPACE),
    "unigram bytes": partial(unigram, byte_fallback=True),
    "unigram unknown in text": partial(unigram, first=["<unk>", "<", "unk", ">"]),
    "gpt-2": byte_level,
    "gpt-2 adds space": partial(byte_level, adds_space=True),
    "gpt-2 nfc": partial(byte_level, normalizer=normalizers.NFC()),
    "gpt-2 split adds spaces": partial(byte_level, GPT_2, adds_space=True),
    "gpt-2 split": partial(byte_level, GPT_2),
    "llama 3": partial(byte_level, LLAMA_3),
    "llama 3 whole words": partial(byte_level, LLAMA_3, ignore_merges=True),
    "qwen 2": partial(byte_level, QWEN_2, normalizer=normalizers.NFC()),
    "qwen 2 inverted": partial(byte_level, QWEN_2, inverted=True),
    "llama 2": partial(sentence_piece, LLAMA_2),
    "llama 2 without bytes": partial(sentence_piece, LLAMA_2, byte_fallback=False),
    "llama 2 unfused": partial(
        sentence_piece, LLAMA_2, byte_fallback=False, fuse_unk=False
    ),
    "gemma": partial(sentence_piece, normalizers.Replace(" ", META)),
    "llama legacy": partial(sentence_piece, None, metaspace("first", split=False)),
    "llama metaspace": partial(sentence_piece, None, metaspace(split=False)),
}
# Words may depend on their neighbors, or something is not known.
WHOLE: dict[str, Callable[[], Any]] = {
    "unigram unsplit": partial(unigram, None, metaspace(split=False)),
    "unigram punctuation": partial(
        unigram,
        None,
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), metaspace()]),
    ),
    "unigram strip first": partial(unigram, normalizers.Strip(), metaspace("first")),
    "unigram odd replacement": partial(unigram, normalizers.Replace("a", " ")),
    "llama 3 digits": partial(byte_level, LLAMA_3.replace("1,3", "1,2")),
    "llama 2 without unknown": partial(
        sentence_piece, LLAMA_2, byte_fallback=False, unk_token=None
    ),
    "llama 2 whole text": partial(sentence_piece, normalizers.Prepend(META)),
}
TOKENIZERS = CACHED | WHOLE


@pytest.fixture(scope="module", params=TOKENIZERS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Tokens]:
    """A tokenizer, and ours; the name decides whether words are cached."""
    tokenizer = TOKENIZERS[request.param]()
    tokens = make_tokenizer(tokenizer, None)
    assert isinstance(tokens, CachedTokenizer) == (request.param in CACHED)
    return tokenizer, tokens


def by_text(ragged: RaggedRows) -> list[list[int]]:
    assert ragged.rows.dtype == np.int32
    assert ragged.offsets[0] == 0
    assert ragged.offsets[-1] == len(ragged.rows)
    return [part.tolist() for part in np.split(ragged.rows, ragged.offsets[1:-1])]


def ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


@settings(max_examples=15 if PLAIN else 80)
@given(st.lists(TEXT, min_size=1, max_size=6))
@example(CORPUS[:8])
@example(["", " ", "  ", " a", "a ", "a  b", "\n", " \n", "a\r\nb", "\t", "\xa0", "▁"])
@example(["a</s>b", "</s>", "</s", " </s> ", "<unk>", "x<unk>", "Ω<unk>Ω", "<0x41>"])
@example(["it's IT'S they'RE 'ſ 'ſt 'LL '", "1234567 12345678 ٣٤٥٦ ½½½½"])
@example(["``quoted''", "'' ``", "` `"])
def test_ids_are_those_of_the_tokenizer(
    pair: tuple[Any, Tokens], texts: list[str]
) -> None:
    tokenizer, tokens = pair
    expected = ids(tokenizer, texts)
    assert by_text(tokens(texts)) == expected  # words that are met
    assert by_text(tokens(texts)) == expected  # words that are known


@pytest.mark.parametrize("name", ["unigram", "gpt-2", "llama 2", "unigram unsplit"])
def test_words_of_any_length_are_tokenized(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    tokens = make_tokenizer(tokenizer, None)
    rng = random.Random(0)
    n = 300 if PLAIN else 20_000
    letters = "".join(rng.choices("thecats", k=n))
    texts = [letters, "the" * n, f"a </s> {letters}", "你好，世界" * (n // 4), "x" * n]
    assert by_text(tokens(texts)) == ids(tokenizer, texts)


SPECIAL = [
    *("</s>", "(x", "-", "x \n", "'s", "'", "s", "LL", " z", "\n\n", "\t", "7", "12"),
    *(META, META + "t", "｜a", "é", "\xa0", "\u3000", "ſ", "\U00020000", "你"),
]


@pytest.mark.parametrize("content", SPECIAL)
@pytest.mark.parametrize(
    "name",
    ["unigram", "unigram t5", "unigram whitespace", "gpt-2", "llama 3", "llama 2"],
)
def test_special_tokens_may_begin_with_any_character(name: str, content: str) -> None:
    tokenizer = TOKENIZERS[name]()
    tokenizer.add_special_tokens([content])
    tokens = make_tokenizer(tokenizer, None)
    around = [
        "a{}b",
        "{}",
        " {} ",
        "  {}",
        "the cats{}",
        "it{} is",
        "x\n{}",
        "1{}2 (",
        ".",
    ]
    texts = [text.format(content) for text in around]
    expected = ids(tokenizer, texts)
    assert by_text(tokens(texts)) == expected
    assert by_text(tokens(texts)) == expected


@settings(max_examples=20 if PLAIN else 200)
@given(st.text("thecats ", min_size=100, max_size=400))
def test_a_priority_queue_merges_as_a_search_does(text: str) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokens = make_tokenizer(tokenizer, None)
    assert by_text(tokens([text])) == ids(tokenizer, [text])


@pytest.mark.parametrize(
    "name", ["unigram nfkc", "llama 3", "llama 2", "unigram bytes"]
)
def test_a_copy_gives_the_same_rows(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    copy = pickle.loads(pickle.dumps(make_tokenizer(tokenizer, None)))
    assert by_text(copy(CORPUS)) == ids(tokenizer, CORPUS)


@pytest.mark.parametrize("name", ["unigram", "gpt-2", "llama 2"])
def test_rows_of_a_vocabulary_stand_for_ids(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    rows = {t: 2 * n for n, t in enumerate(sorted(tokenizer.get_vocab())) if n % 5}
    tokens = make_tokenizer(tokenizer, rows)
    texts = [*CORPUS[:8], "the </s> cats"]
    expected = [
        [rows.get(tokenizer.id_to_token(number), -1) for number in numbers]
        for numbers in ids(tokenizer, texts)
    ]
    assert by_text(tokens(texts)) == expected


def test_an_unknown_token_may_have_no_row() -> None:
    tokenizer = unigram()
    tokens = make_tokenizer(tokenizer, None, unknown=0)
    expected = [[n or -1 for n in row] for row in ids(tokenizer, ["the ☃ cats ☃☃"])]
    assert expected[0].count(-1) == 2
    assert by_text(tokens(["the ☃ cats ☃☃"])) == expected


@pytest.mark.parametrize(
    "vocabulary",
    [
        [("<unk>", 0.0), ("☃<unk>", -1.0), ("a", -1.0)],  # unknown text that is a piece
        [("<unk>", 25.0), ("☃☃", 30.0), ("a", 25.0)],  # two unknown characters win
        [("", 0.0), ("a", -1.0)],
    ],
)
def test_unknown_text_that_may_be_a_piece_is_left_to_the_tokenizer(
    vocabulary: list[tuple[str, float]],
) -> None:
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokens = make_tokenizer(tokenizer, None)
    assert not isinstance(tokens, CachedTokenizer)
    texts = ["☃<unk>", "☃☃", "a☃☃a", "☃"]
    assert by_text(tokens(texts)) == ids(tokenizer, texts)


def test_a_piece_that_is_there_twice_has_its_last_id() -> None:
    vocabulary = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("a", -3.0), ("ab", -4.5)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokens = make_tokenizer(tokenizer, None)
    texts = ["a b ab ba aab", "bab"]
    assert by_text(tokens(texts)) == ids(tokenizer, texts)
