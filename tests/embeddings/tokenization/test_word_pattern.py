# ruff: noqa: RUF001
"""Words keep their combining marks and joiners, in every script."""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.embeddings import SentenceEmbedder
from ensembles.embeddings.tokenization.tokenizer import (
    PORTABLE,
    make_tokenizer,
    word_pattern,
)

MARKS = [
    c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "M"
]
JOINERS = "\u200c\u200d"
# A word of each script of the languages that fastText has vectors of, and some more.
WORDS = {
    "Amharic": "ሰላም",
    "Arabic with vowels": "كِتَاب",
    "Armenian": "բարեւ",
    "Assamese": "অসমীয়া",
    "Bengali": "বাংলা",
    "Bengali, joiner before a virama": "র\u200d্যাব",
    "Burmese": "မြန်မာ",
    "Cyrillic with stress": "за\u0301мок",
    "Dhivehi": "ދިވެހި",
    "Georgian": "გამარჯობა",
    "Greek": "ἀλήθεια",
    "Gujarati": "ગુજરાતી",
    "Hebrew with points": "שָׁלוֹם",
    "Hindi": "हिन्दी",
    "Hindi, nukta": "ज़रूर",
    "Japanese kana": "がぎぐ",
    "Javanese": "ꦗꦮ",
    "Kannada": "ಕನ್ನಡ",
    "Khmer": "ភាសាខ្មែរ",
    "Korean": "한국어",
    "Lao": "ສະບາຍດີ",
    "Lithuanian, two accents": "m\u0117\u0303nuo",
    "Malayalam": "മലയാളം",
    "Malayalam, chillu by a joiner": "അവന്\u200d",
    "Marathi": "मराठी",
    "Nepali": "नेपाली",
    "Newar": ["नेपाल", "भाषा"][0],
    "Odia": "ଓଡ଼ିଆ",
    "Pashto": "پښتو",
    "Persian with a non-joiner": "می\u200cخواهم",
    "Punjabi": "ਪੰਜਾਬੀ",
    "Sanskrit with a non-joiner": "वाक्\u200cपटु",
    "Sinhala with a joiner": "ශ්\u200dරී",
    "Syriac": "ܫܠܳܡܳܐ",
    "Tamil": "தமிழ்",
    "Telugu": "తెలుగు",
    "Thai": "น้ำ",
    "Tibetan": "བོད",
    "Tifinagh": "ⵜⴰⵎⴰⵣⵉⵖⵜ",
    "Turkish": "İstanbul",
    "Uyghur": "ئۇيغۇرچە",
    "Vietnamese": "tiếng",
    "Yiddish": "ייִדיש",
    "Yoruba": "ẹ\u0301",
    "Adlam": "𞤀𞤣𞤤𞤢𞤥\u200d𞥄",
    "Chakma": "𑄌𑄋𑄴𑄟𑄳𑄦",
}


def words_by_character(text: str) -> list[str]:
    """Words by the rule, one character after the other."""
    kinds = [unicodedata.category(c)[0] if c != "_" else "L" for c in text]
    found, at = [], 0
    while at < len(text):
        if kinds[at] not in "LN":
            at += 1
            continue
        start, at = at, at + 1
        while at < len(text):
            end = at
            while end < len(text) and text[end] in JOINERS:
                end += 1
            goes_on = end < len(text) and kinds[end] in "LNM"
            if end > at and not goes_on and kinds[at - 1] != "M":
                break
            if end == at and not goes_on:
                break
            at = end + goes_on
        found.append(text[start:at])
    return found


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_a_word_has_its_own_vector(word: str, form: Any) -> None:
    # A vector for each letter, too: their mean was taken for the word's.
    letters = {letter: [0.0, 1.0] for letter in word if len(word) > 1}
    embedder = SentenceEmbedder({**letters, word: [1.0, 0.0]}, weights=None).fit()
    written = unicodedata.normalize(form, word)
    texts = [written, f"({written})", f"{written}, {written}!"]
    assert embedder.transform(texts).tolist() == [[1.0, 0.0]] * 3
    assert embedder.coverage(texts).tolist() == [1.0] * 3


def test_no_mark_cuts_a_word() -> None:
    pattern = word_pattern()
    cut = [mark for mark in MARKS if not pattern.fullmatch(f"a{mark}b{mark}")]
    assert len(MARKS) > 2000
    assert cut == []


def test_a_mark_alone_is_no_word() -> None:
    assert word_pattern().findall("\u0301 \u20e3\u200d -\u0338") == []


def test_a_joiner_at_an_end_belongs_to_a_mark_alone() -> None:
    text = "\u200cنمی\u200c خواهم\u200c ക്\u200d a\u200d"
    assert word_pattern().findall(text) == ["نمی", "خواهم", "ക്\u200d", "a"]


@given(st.text(st.sampled_from(string.printable), max_size=60))
def test_ascii_is_cut_as_before(text: str) -> None:
    assert word_pattern().findall(text) == re.findall(r"\w+", text)


ALPHABET = st.one_of(
    st.sampled_from([*"aZ0_ -<'\n", *JOINERS, "ह", "े", "\u0301", "\u0338", "ẹ", "😀"]),
    st.sampled_from(MARKS),
    st.characters(exclude_categories=["Cs"]),
)


@given(st.text(ALPHABET, max_size=40))
def test_words_and_their_rows_follow_the_rule(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    expected = words_by_character(composed)
    assert word_pattern().findall(composed) == expected
    vocabulary = {word: row for row, word in enumerate(dict.fromkeys(expected))}
    tokens = make_tokenizer(None, vocabulary)
    rows = [vocabulary[word] for word in expected]
    # At first by the pattern, then as remembered, then in the middle of other words.
    for texts in ([text], [text], ["a b", text, "c"]):
        found = tokens(texts)
        at = texts.index(text)
        assert found.rows[found.offsets[at] : found.offsets[at + 1]].tolist() == rows


@given(st.text(ALPHABET, max_size=40))
def test_a_saved_tokenizer_finds_the_same_words(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    # Newer versions of Unicode have letters that one of the two does not know.
    text = "".join(c for c in text if unicodedata.category(c) != "Cn")
    cutter = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(PORTABLE), "removed", invert=True
    )
    found = [word for word, _ in cutter.pre_tokenize_str(text)]
    assert found == word_pattern().findall(text)


def test_others_read_a_saved_folder_with_marks_alike(tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    vectors = {
        word: list(np.eye(5)[k])
        for k, word in enumerate(["ह", "न", "द", "हिन्दी", "می\u200cخواهم"])
    }
    texts = ["हिन्दी", "می\u200cخواهم ह", "न"]
    embedder = SentenceEmbedder(vectors, weights=None).fit()
    embedder.save(tmp_path / "saved")
    found = model2vec.StaticModel.from_pretrained(tmp_path / "saved").encode(texts)
    np.testing.assert_allclose(found, embedder.transform(texts), atol=1e-6)
    again = SentenceEmbedder.load(tmp_path / "saved").transform(texts)
    assert again.tolist() == embedder.transform(texts).tolist()


def test_a_pattern_of_ones_own_is_pythons() -> None:
    tokens = make_tokenizer(r"\w+", {"ह": 0, "न": 1, "द": 2, "हिन्दी": 3})
    assert tokens(["हिन्दी"]).rows.tolist() == [0, 1, 2]
