"""Tokenizers with more tokens, and with fewer."""

import json

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Loaded

from ensembles.checkpoints.vocabulary.tokenizer import Tokenizer, parse_tokenizer
from ensembles.checkpoints.vocabulary.union import union, with_tokens, without_tokens
from tests.checkpoints.vocabulary.test_tokenizer import MODELS, bpe

CONFIG = {"added_tokens_decoder": {}, "eos_token": "<s>"}


def parsed(tokenizer: Loaded, name: str = "m") -> Tokenizer:
    files = {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(CONFIG).encode(),
        "vocab.json": b"{}",
        "special_tokens_map.json": b"{}",
    }
    return parse_tokenizer(name, files)


def loaded(tokenizer: Tokenizer) -> Loaded:
    return Loaded.from_str(tokenizer.files["tokenizer.json"].decode())


def test_a_union_has_the_tokens_that_the_package_tokenizers_adds() -> None:
    first = bpe("a b c ab", ["<x>"])
    second = bpe("c a d cd da", [AddedToken("<y>", special=True), "<x>", "b"])
    both = union([parsed(first), parsed(second)], [5, 9])
    first.add_tokens(["d", "cd", "da"])
    first.add_tokens([AddedToken("<y>", special=True), "b"])
    assert both.ids == loaded(both).get_vocab() == first.get_vocab()
    stored, expected = (
        json.loads(t.to_str())["added_tokens"] for t in (loaded(both), first)
    )
    assert stored == expected
    for text in ("a b c", "cd da <x>", "ab<y>b", "abcd"):
        assert loaded(both).encode(text).tokens == first.encode(text).tokens


def test_tokens_beyond_the_embeddings_are_not_in_the_union() -> None:
    both = union([parsed(bpe("a b")), parsed(bpe("a b c d", ["<x>"]))], [2, 3])
    assert both.ids == {"a": 0, "b": 1, "c": 2}


def test_files_that_repeat_the_vocabulary_are_left_out_of_a_changed_tokenizer() -> None:
    first = parsed(bpe("a b", ["<s>"]))
    changed = with_tokens(first, {"<new>": {"special": True}})
    assert {*first.files} - {*changed.files} == {"vocab.json"}
    decoder = changed.config["added_tokens_decoder"]
    assert decoder["3"]["content"] == "<new>"
    assert decoder["3"]["special"]
    assert with_tokens(first, {"<s>": {}}) is first


@pytest.mark.parametrize("name", ["unigram", "word_piece"])
def test_tokens_are_added_to_each_model(name: str) -> None:
    tokenizer = MODELS[name]
    changed = loaded(with_tokens(parsed(tokenizer), {"new": {}}))
    assert changed.get_vocab() == {
        **tokenizer.get_vocab(),
        "new": tokenizer.get_vocab_size(),
    }


def test_tokens_without_a_row_are_removed_with_their_merges() -> None:
    smaller = without_tokens(parsed(bpe("a b c ab abc", ["<x>"])), 4)
    assert smaller.ids == {"a": 0, "b": 1, "c": 2, "ab": 3}
    assert smaller.ids == loaded(smaller).get_vocab()
    assert loaded(smaller).encode("abc").tokens == ["ab", "c"]


def test_a_unigram_model_cannot_lose_tokens() -> None:
    with pytest.raises(ValueError, match="resize the embeddings to the tokenizer"):
        without_tokens(parsed(MODELS["unigram"]), 1)
