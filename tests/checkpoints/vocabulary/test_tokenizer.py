"""Tokenizers are read as the package tokenizers and transformers read them."""

import json
import sys
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.vocabulary.tokenizer import (
    parse_tokenizer,
    read_tokenizer,
    token_ids,
)


def bpe(words: str, added: list[str | AddedToken] = []) -> Tokenizer:  # noqa: B006
    vocab = {token: index for index, token in enumerate(words.split())}
    merges = [(t[:-1], t[-1]) for t in vocab if len(t) > 1]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_tokens(added)
    return tokenizer


MODELS = {
    "bpe": bpe("a b c ab", ["b", "<x>", AddedToken("<s>", special=True)]),
    "unigram": Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)),
    "word_piece": Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2})),
    "word_level": Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
}


@pytest.mark.parametrize("name", MODELS)
def test_ids_are_those_of_the_package_tokenizers(name: str) -> None:
    tokenizer = MODELS[name]
    assert token_ids(json.loads(tokenizer.to_str())) == tokenizer.get_vocab()


def test_stored_ids_of_added_tokens_do_not_count() -> None:
    data = json.loads(MODELS["bpe"].to_str())
    data["added_tokens"][-1]["id"] = 99
    assert token_ids(data) == Tokenizer.from_str(json.dumps(data)).get_vocab()


def test_a_directory_without_files_of_a_tokenizer_has_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = Checkpoint("m", "", tmp_path, {}, is_directory=True, files=["config.json"])
    assert read_tokenizer(model) is None


def test_old_files_are_converted_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer"}'
    )
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    files = ["vocab.txt", "tokenizer_config.json", "config.json"]
    model = Checkpoint("m", "", tmp_path, {}, is_directory=True, files=files)
    tokenizer = read_tokenizer(model)
    assert tokenizer is not None
    assert (tokenizer.ids["a"], tokenizer.ids["##b"], tokenizer.n_rows) == (5, 6, 7)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"no tokenizer.json: .* pip install"):
        read_tokenizer(model)


@pytest.mark.parametrize("text", [b"{", b"{}", b'{"model": {"vocab": 3}}', b"[]"])
def test_a_damaged_file_is_an_error_with_its_path(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"models/a/tokenizer.json must have a model"):
        parse_tokenizer("models/a", {"tokenizer.json": text})
