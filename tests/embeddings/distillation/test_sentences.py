"""Division of texts into sentences."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.embeddings import split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sorts a list. May fail!", ["Sorts a list.", "May fail!"]),
        ("It is 3.14 or so", ["It is 3.14 or so"]),
        (
            'He said "no." Then (so what?) he left',
            ['He said "no."', "Then (so what?)", "he left"],
        ),
        ("Options: fast; slow", ["Options:", "fast;", "slow"]),
        ("* one\n  - two\n\n-----\n• three", ["one", "two", "three"]),
        (
            "\u4eca\u5929\u3002\u660e\u5929\uff01ok",
            ["\u4eca\u5929\u3002", "\u660e\u5929\uff01", "ok"],
        ),
        ("¿Qué? ¡Así!\tGrößer", ["¿Qué?", "¡Así!", "Größer"]),
        ("a\r\nb", ["a", "b"]),
        ("", []),
        (" . \n", ["."]),
    ],
)
def test_sentences_end_at_marks_and_lines(text: str, expected: list[str]) -> None:
    assert split_sentences([text]) == expected


def test_sentences_of_all_texts_are_distinct_and_in_order() -> None:
    texts: Any = iter(["b. a.", None, "a. c.", float("nan"), "b."])
    assert split_sentences(texts) == ["b.", "a.", "c."]


def test_long_sentences_are_divided_into_parts() -> None:
    assert split_sentences(["a b c d e. f"], max_words=2) == ["a b", "c d", "e.", "f"]
    long = " ".join(map(str, range(70)))
    assert [len(part.split()) for part in split_sentences([long])] == [32, 32, 6]


@given(st.lists(st.text()), st.integers(1, 5))
def test_no_words_but_marks_of_lists_are_lost(texts: list[str], n: int) -> None:
    sentences = split_sentences(texts, max_words=n)
    assert all(0 < len(sentence.split()) <= n for sentence in sentences)
    assert len(set(sentences)) == len(sentences)
    letters = {c for text in texts for c in text if c.isalnum()}
    assert letters == {c for text in sentences for c in text if c.isalnum()}


@pytest.mark.parametrize("value", [0, -1, 1.5, None])
def test_a_wrong_number_of_words_is_reported(value: object) -> None:
    with pytest.raises(ValueError, match="max_words must be a positive int, found"):
        split_sentences(["a"], max_words=value)  # type: ignore[arg-type]


def test_a_single_text_is_not_a_list_of_texts() -> None:
    with pytest.raises(ValueError, match="found a single str"):
        split_sentences("a. b.")
