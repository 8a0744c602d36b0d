"""Rows of texts against the tokenizers themselves, text by text."""

from __future__ import annotations

import pickle
import random
import re
import string
import threading
import unicodedata
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensembles.embeddings.tokenization import cached_tokenizer, word_loops
from ensembles.embeddings.tokenization.cached_tokenizer import (
    CachedTokenizer,
    RaggedRows,
    boundary_table,
    empty_table,
)
from ensembles.embeddings.tokenization.texts import (
    WordSpans,
    join_words,
    replace_surrogates,
)
from ensembles.embeddings.tokenization.tokenizer import make_tokenizer, word_pattern

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import (  # noqa: E402
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
)

Tokens = cached_tokenizer.Tokenizer
PLAIN = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]  # set when loaded
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WHOLE = ["the", "cat", "sat", "un", "able", "cafe", "niño", "straße", "中", "##ing"]
PARTS = ["##s", "##able", "##cat", "##é", "##abcdefghijkl", "##文"]
LETTERS = string.ascii_lowercase[:20] + string.digits
VOCABULARY = [
    *(*SPECIAL, *WHOLE, *PARTS, *LETTERS, *string.punctuation),
    *(f"##{letter}" for letter in LETTERS),
]
ALPHABET = st.one_of(
    st.sampled_from([*WHOLE, *SPECIAL, *" \t\n\r.,'-#[]", "The", "UNABLE", "xyz"]),
    st.sampled_from(["\0", "\x0b", "\x1c", "\x7f", "\x85", "\xa0", "\xad", "\u200b"]),
    st.sampled_from(
        ["é", "e\u0301", "İ", "Σ", "ß", "中文", "\uff1d", "≠", "=\u0338", "\uff21"]
    ),
    st.sampled_from(
        ["👩\u200d🚀", "🇩🇪", "\ufffd", "\ufeff", "\u2028", "ﷺ", "ﬁ", "H\u0331"]
    ),
    st.sampled_from(["a" * 99, "a" * 100, "a" * 101, "é" * 70, "cat" * 50]),
    st.characters(exclude_categories=["Cs"]),
)
TEXT = st.lists(ALPHABET, max_size=12).map("".join)


def bert(**options: Any) -> Any:
    """A BERT tokenizer of few pieces, with what it adds, cuts and fills up."""
    vocabulary = {piece: index for index, piece in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    return tokenizer


def word_level(normalizer: Any, pre_tokenizer: Any) -> Any:
    vocabulary = {piece: index for index, piece in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def sequence(*steps: Any) -> Any:
    return normalizers.Sequence(list(steps))


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "uncased": bert,
    "cased": lambda: bert(lowercase=False),
    "accents kept": lambda: bert(strip_accents=False),
    "controls kept": lambda: bert(clean_text=False, handle_chinese_chars=False),
    "nothing normalized": lambda: word_level(None, pre_tokenizers.WhitespaceSplit()),
    "composed": lambda: word_level(
        sequence(normalizers.NFC(), normalizers.Lowercase()),
        pre_tokenizers.Whitespace(),
    ),
    "composed signs": lambda: word_level(
        normalizers.NFKC(), pre_tokenizers.BertPreTokenizer()
    ),
    "digits": lambda: word_level(
        sequence(normalizers.NFD(), normalizers.StripAccents()),
        pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(True)]
        ),
    ),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Tokens]:
    """A tokenizer that adds nothing, and our tokens."""
    tokenizer = TOKENIZERS[request.param]()
    tokens = make_tokenizer(tokenizer, None)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, tokens


def by_text(ragged: RaggedRows) -> list[list[int]]:
    assert ragged.rows.dtype == np.int32
    assert ragged.offsets.dtype == np.int64
    assert ragged.offsets[0] == 0
    assert ragged.offsets[-1] == len(ragged.rows)
    return [part.tolist() for part in np.split(ragged.rows, ragged.offsets[1:-1])]


def ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in found]


@settings(max_examples=20 if PLAIN else 400)
@given(st.lists(TEXT, max_size=6))
@example(["", " ", "the [CLS] cat", "the[CLS", "##ing", "caf\u0301e", "\0", "a\0b"])
@example(["cat" * 33 + "c", "cat" * 34, "A" * 100, "A" * 101, "[", "[UNK", "[UNK]"])
@example(["cat1 1cat a1b2c3", "9"])
@example(["unable", "UnAble!", "thecat", "the_cat", "x" * 300 + " cat", "niño", "NIÑO"])
def test_ids_are_those_of_the_tokenizer(
    pair: tuple[Any, Tokens], texts: list[str]
) -> None:
    tokenizer, tokens = pair
    assert isinstance(tokens, CachedTokenizer)
    if texts:
        expected = ids(tokenizer, texts)
        assert by_text(tokens(texts)) == expected  # words that are met
        assert by_text(tokens(texts)) == expected  # words that are known


def test_a_tokenizer_stays_as_it_was() -> None:
    tokenizer = bert()
    before = tokenizer.to_str()
    make_tokenizer(tokenizer, None)(["the cat sat able unable"])
    assert tokenizer.to_str() == before


def test_no_text_and_empty_texts_have_no_rows() -> None:
    tokens = make_tokenizer(bert(), None)
    assert by_text(tokens(["", "", ""])) == [[], [], []]
    assert tokens([]).offsets.tolist() == [0]
    assert tokens([]).rows.dtype == np.int32


def test_rows_of_a_vocabulary_stand_for_ids() -> None:
    tokens = make_tokenizer(bert(), {"cat": 7, "##s": 0})
    assert by_text(tokens(["the cats", "CAT"])) == [[-1, 7, 0], [7]]


@pytest.mark.parametrize(
    "tokenizer",
    [
        word_level(normalizers.Strip(), pre_tokenizers.Whitespace()),
        word_level(None, pre_tokenizers.Metaspace()),
        word_level(None, pre_tokenizers.Split(" ", "isolated")),
        word_level(None, None),
    ],
)
def test_a_tokenizer_that_looks_across_words_is_asked_itself(tokenizer: Any) -> None:
    tokens = make_tokenizer(tokenizer, None)
    assert not isinstance(tokens, CachedTokenizer)
    texts = ["the cat", "", " sat  the", "[CLS] cat"]
    assert by_text(tokens(texts)) == ids(tokenizer, texts)


def test_tokens_added_after_normalization_are_left_to_the_tokenizer() -> None:
    tokenizer = bert()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_tokens([AddedToken("Unable", normalized=True)])
    tokens = make_tokenizer(tokenizer, None)
    assert not isinstance(tokens, CachedTokenizer)
    assert by_text(tokens(["the UNABLE cat"])) == ids(tokenizer, ["the UNABLE cat"])


def test_a_tokenizer_that_draws_lots_has_no_word_to_remember() -> None:
    tokenizer = Tokenizer(
        models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=1)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = make_tokenizer(tokenizer, None)
    assert not isinstance(tokens, CachedTokenizer)
    assert by_text(tokens(["ab b"])) == [[0, 1, 1]]


def test_words_of_other_models_are_remembered_too() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = make_tokenizer(tokenizer, None)
    assert isinstance(tokens, CachedTokenizer)
    assert by_text(tokens(["ab b", "aab ab"])) == [[2, 1], [0, 2, 2]]


def test_without_a_piece_for_unknown_words_the_tokenizer_complains() -> None:
    tokenizer = Tokenizer(models.WordPiece({"cat": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens = make_tokenizer(tokenizer, None)
    assert by_text(tokens(["cat cat"])) == [[0, 0]]
    with pytest.raises(ValueError, match=r"Missing \[UNK\] token.*found among 'dog"):
        tokens(["dog"])


def test_an_added_token_inside_a_word_is_found() -> None:
    tokenizer = word_level(None, pre_tokenizers.WhitespaceSplit())
    tokenizer.add_tokens([AddedToken("cat", normalized=False)])
    tokens = make_tokenizer(tokenizer, None)
    texts = ["thecatsat", "ca t", "the", "ca", "the catthe"]
    assert isinstance(tokens, CachedTokenizer)
    assert by_text(tokens(texts)) == ids(tokenizer, texts)


def words(
    text: str, *, lowercase: bool = False, pattern: str | None = None
) -> list[str]:
    text = unicodedata.normalize("NFC", replace_surrogates(text))
    find = word_pattern() if pattern is None else re.compile(pattern)
    found = text.split() if pattern == "whitespace" else find.findall(text)
    return [word.lower() for word in found] if lowercase else found


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("pattern", [None, "whitespace", r"(?u)\b\w\w+\b", r"\S+ca"])
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
@example(
    texts=[
        "ΔΣ'Δ ΔΣ",
        "H\u0331the",
        "cafe\u0301 caf\u00e9 CAFÉ",
        "=\u0338 a\x1cb",
        "_a__1 ü1",
    ]
)
def test_words_are_those_of_the_pattern(
    pattern: str | None, lowercase: bool, texts: list[str]
) -> None:
    known = [words(text, lowercase=lowercase, pattern=pattern) for text in texts]
    vocabulary = {word: row for row, word in enumerate(dict.fromkeys(chain(*known)))}
    if vocabulary:
        vocabulary.popitem()
    tokens = make_tokenizer(pattern, vocabulary, lowercase=lowercase)
    expected = [[vocabulary.get(word, -1) for word in found] for found in known]
    assert by_text(tokens(texts)) == expected
    assert by_text(tokens(texts)) == expected


def test_words_of_spanish_and_german_keep_their_accents() -> None:
    tokens = make_tokenizer(None, {"hacía": 0, "hacia": 1, "größer": 2}, lowercase=True)
    texts = ["Hacía hacia", "GRÖSSER Größer", unicodedata.normalize("NFD", "hacía")]
    assert by_text(tokens(texts)) == [[0, 1], [-1, 2], [0]]


def test_a_callable_gets_the_text_as_it_is() -> None:
    tokens = make_tokenizer(list, {"e": 0, "\u0301": 1, "A": 2}, lowercase=False)
    assert by_text(tokens(["e\u0301A", "B"])) == [[0, 1, 2], [-1]]


def test_missing_values_are_texts_without_tokens() -> None:
    texts = ["a", None, float("nan"), np.float32("nan"), "b"]
    for tokens in (
        make_tokenizer(None, {"a": 0, "b": 1}),
        make_tokenizer(list, {"a": 0, "b": 1}),
    ):
        assert by_text(tokens(texts)) == [[0], [], [], [], [1]]
        assert by_text(tokens(np.array(texts, object))) == [[0], [], [], [], [1]]


@pytest.mark.parametrize("wrong", [1, b"b", 1.5, ["c"]])
def test_what_is_no_text_is_named_with_its_place(wrong: Any) -> None:
    tokens = make_tokenizer(None, {"a": 0})
    with pytest.raises(TypeError, match=r"texts\[600\] is .* of type"):
        tokens(["a"] * 600 + [wrong])


@pytest.mark.parametrize("text", ["one", b"one"])
def test_one_text_is_refused(text: Any) -> None:
    with pytest.raises(TypeError, match=r"found a single .*; pass \[text\]"):
        make_tokenizer(None, {})(text)


def test_texts_come_from_arrays_tuples_and_iterators() -> None:
    tokens = make_tokenizer(None, {"a": 0, "b": 1})
    for texts in (("a", "b"), np.array(["a", "b"]), iter(["a", "b"]), {"a": 1, "b": 2}):
        assert by_text(tokens(texts)) == [[0], [1]]


@pytest.mark.parametrize("tokenizer", [None, list, bert()])
def test_a_lone_surrogate_counts_as_the_replacement_character(tokenizer: Any) -> None:
    vocabulary = {"a": 0, "\ufffd": 1, "😀": 2, "x": 3}
    tokens = make_tokenizer(tokenizer, vocabulary)
    got = by_text(tokens(["x\ud800x", "\udc00", "\ud83d\ude00 a"]))
    assert got == by_text(tokens(["x\ufffdx", "\ufffd", "😀 a"]))


@pytest.mark.parametrize("tokenizer", [None, r"[a-z]+", bert()])
def test_columns_of_arrow_are_read_where_they_lie(tokenizer: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    tokens = make_tokenizer(
        tokenizer, {piece: row for row, piece in enumerate(VOCABULARY)}
    )
    texts = ["the cat", None, "", "niño 中", "sat [CLS]", "unable"]
    expected = by_text(tokens(texts))
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        column = pa.array(texts, kind)
        assert by_text(tokens(column)) == expected
        assert by_text(tokens(column[2:5])) == expected[2:5]
        chunked = pa.chunked_array([column[:1], column[1:1], column[1:]])
        assert by_text(tokens(chunked)) == expected
    coded = pa.array(texts).dictionary_encode()
    assert by_text(tokens(coded)) == expected
    assert tokens(pa.array([], pa.string())).offsets.tolist() == [0]
    with pytest.raises(TypeError, match=r"texts\[0\] is 1 of type int"):
        tokens(pa.array([1, 2]))


def test_what_lies_under_a_null_is_not_read() -> None:
    pa = pytest.importorskip("pyarrow")
    ends, data = np.array([0, 1, 2], np.int32), b"ab"
    parts = [pa.py_buffer(part) for part in (ends, data, b"\x02")]
    column = pa.StringArray.from_buffers(2, *parts, 1, 0)
    assert column.to_pylist() == [None, "b"]
    assert by_text(make_tokenizer(None, {"a": 0, "b": 1})(column)) == [[], [1]]


def test_bytes_that_are_not_utf_8_become_the_replacement_character() -> None:
    pa = pytest.importorskip("pyarrow")
    data = b"a\xff\xc3 b"
    ends = np.array([0, len(data)], np.int32)
    column = pa.StringArray.from_buffers(1, pa.py_buffer(ends), pa.py_buffer(data))
    for tokenizer in (None, "whitespace", str.split):
        tokens = make_tokenizer(tokenizer, {"a": 0, "b": 1, "a\ufffd\ufffd": 2})
        expected = [[0, 1]] if tokenizer is None else [[2, 1]]
        assert by_text(tokens(column)) == expected


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_series_are_columns(package: str) -> None:
    library = pytest.importorskip(package)
    tokens = make_tokenizer(None, {"a": 0, "b": 1})
    assert by_text(tokens(library.Series(["a", None, "b a"]))) == [[0], [], [1, 0]]


@pytest.mark.parametrize("tokenizer", [None, bert()])
def test_a_copy_gives_the_same_rows(tokenizer: Any) -> None:
    tokens = make_tokenizer(tokenizer, {"the": 3, "cat": 1})
    texts, empty = ["the cat sat", "CAT"], len(pickle.dumps(tokens))
    expected = by_text(tokens(texts))
    assert len(pickle.dumps(tokens)) == empty  # what was learned stays here
    copy = pickle.loads(pickle.dumps(tokens))
    assert isinstance(copy, CachedTokenizer)
    assert by_text(copy(texts)) == expected


def numbered(texts: list[str]) -> RaggedRows:
    """As many rows for a word as it has characters, which tell it from others."""
    rows = [ord(char) + len(text) for text in texts for char in text]
    ends = np.cumsum([0, *map(len, texts)])
    return RaggedRows(np.array(rows, np.int32), ends.astype(np.int64))


def spelled(cache: CachedTokenizer, texts: list[str]) -> list[list[int]]:
    return by_text(cache.tokenize(texts))


def expected_of(texts: list[str]) -> list[list[int]]:
    return [numbered(text.split())[0].tolist() for text in texts]


def some_words(n: int, seed: int = 0) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(n):
        yield "".join(rng.choices("abcdé", k=rng.choice([1, 2, 5, 9, 17, 40])))


def test_a_full_cache_learns_no_more_and_stays_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [" ".join(some_words(6, seed)) for seed in range(20 if PLAIN else 300)]
    full = CachedTokenizer(numbered, boundary_table(" "), max_words=50)
    for _ in range(2):
        assert spelled(full, texts) == expected_of(texts)
    assert full.n_words == 50
    assert full.n_bytes < CachedTokenizer(numbered, boundary_table(" ")).n_bytes
    monkeypatch.setattr(cached_tokenizer, "MAX_BYTES", 300)
    monkeypatch.setattr(cached_tokenizer, "MIN_WORDS", 16)
    small = CachedTokenizer(numbered, boundary_table(" "))
    for _ in range(2):
        assert spelled(small, texts) == expected_of(texts)
    assert 0 < small.n_words < 300


def test_a_cache_grows_and_stays_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_tokenizer, "MIN_WORDS", 2)
    cache = CachedTokenizer(numbered, boundary_table(" "))
    seen: set[str] = set()
    for seed in range(10 if PLAIN else 100):
        texts = [" ".join(some_words(9, 9 * seed + n)) for n in range(4)]
        assert spelled(cache, texts) == expected_of(texts)
        seen |= {word for text in texts for word in text.split()}
    assert cache.n_words == len(
        {w for w in seen if len(w.encode()) <= word_loops.LONGEST}
    )
    assert 0 < cache.n_bytes < 64 << 20


def test_a_text_may_change_nothing_in_what_another_one_learned() -> None:
    cache = CachedTokenizer(numbered, boundary_table(" "))
    assert spelled(cache, ["ab " * 3 + "ba"]) == expected_of(["ab " * 3 + "ba"])
    assert cache.n_words == 2
    long = "x" * (word_loops.LONGEST + 1)
    assert spelled(cache, [f"{long} ab"]) == expected_of([f"{long} ab"])
    assert cache.n_words == 2


MASK = (1 << 64) - 1


def unmixed(hashed: int, tail: int) -> int:
    """What was mixed with ``tail`` to become ``hashed``."""
    hashed ^= hashed >> 32
    return (hashed * pow(int(word_loops.FACTOR), -1, 1 << 64) & MASK) ^ tail


def mixed(hashed: int, tail: int) -> int:
    hashed = (hashed ^ tail) * int(word_loops.FACTOR) & MASK
    return hashed ^ hashed >> 32


def twins() -> tuple[str, str]:
    """Words of equal tail and length, whose hashes have one upper half and one slot."""
    rng = random.Random(0)
    factor, letters = (
        int(word_loops.FACTOR),
        string.printable[:95].replace(" ", ""),
    )
    while True:
        head, tail = ("".join(rng.choices(letters, k=8)).encode() for _ in range(2))
        last = int.from_bytes(tail, "big")
        first = mixed(factor, int.from_bytes(head, "big"))
        hashed = mixed(mixed(first, last), 0)
        for middle in range(1, 256):
            back = unmixed(unmixed(hashed ^ middle << 24, 0), last)
            other = unmixed(back, factor).to_bytes(8, "big")
            if all(chr(byte) in letters for byte in other):
                return (head + tail).decode(), (other + tail).decode()


def test_bytes_decide_where_hashes_do_not() -> None:
    one, other = twins()
    assert one != other
    for order in ([one, other], [other, one]):
        cache = CachedTokenizer(numbered, boundary_table(" "))
        for _ in range(2):
            assert spelled(cache, order) == expected_of(order)
            assert spelled(cache, [" ".join(order)]) == expected_of([" ".join(order)])


def test_length_decides_where_tails_do_not() -> None:
    cache = CachedTokenizer(numbered, boundary_table(" "))
    for texts in (["a"], ["\0a"], ["a \0\0a \0a"]):
        assert spelled(cache, texts) == expected_of(texts)


def test_words_that_find_no_slot_are_left_out() -> None:
    room = empty_table(4, 400, 400)
    where = join_words([b"a", b"b", b"c", b"d"])
    ragged = RaggedRows(np.arange(4, dtype=np.int32), np.arange(5))
    crowded = room._replace(slots=np.full(8, MASK, np.uint64))
    assert crowded.with_words(where, ragged).n_words == 0
    assert room.with_words(where, ragged).n_words == 4
    known = room.with_words(WordSpans(*where), ragged)
    assert known.n_words == 4


def test_threads_share_a_cache() -> None:
    tokenizer = bert()
    tokens = make_tokenizer(tokenizer, None)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = [" ".join(some_words(8, seed)) for seed in range(40 if PLAIN else 4000)]
    expected = ids(tokenizer, texts)
    found: dict[int, list[list[int]]] = {}

    def work(which: int) -> None:
        mine = texts[which:] + texts[:which]
        found[which] = by_text(tokens(mine))

    starts = [0, 11, 23, 31]
    threads = [threading.Thread(target=work, args=(start,)) for start in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for start in starts:
        assert found[start] == expected[start:] + expected[:start]


def test_lowercase_is_the_business_of_a_hugging_face_tokenizer() -> None:
    with pytest.raises(ValueError, match="lowercase must be False with a Hugging Face"):
        make_tokenizer(bert(), None, lowercase=True)


def test_a_vocabulary_is_needed_for_words() -> None:
    with pytest.raises(ValueError, match="vocabulary must not be None"):
        make_tokenizer(None, None)


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match=r"regular expression: '\(' is not valid"):
        make_tokenizer("(", {})
    with pytest.raises(TypeError, match="or a callable, found int"):
        make_tokenizer(1, {})


def test_capitals_are_not_taken_for_a_token_that_is_added() -> None:
    from tokenizers import models, normalizers, pre_tokenizers

    known = {"[UNK]": 0, "<": 1, "mask": 2, ">": 3, "hi": 4}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<mask>"])
    found = make_tokenizer(tokenizer, None)
    for texts in (["hi <MASK>", "hi <mask>"], ["hi <mask>", "<Mask> hi", "<MASK>"]):
        for text in texts * 2:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert found([text]).rows.tolist() == ids
