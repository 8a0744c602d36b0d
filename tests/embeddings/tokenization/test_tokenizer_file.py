"""Unigram tokenizers of files, against those that the package tokenizers loads."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.embeddings import SentenceEmbedder
from ensembles.embeddings.tokenization.tokenizer import make_tokenizer
from ensembles.embeddings.tokenization.tokenizer_file import TokenizerFile, _to_float
from ensembles.embeddings.vectors.model_directory import read_tokenizer

pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

TEXTS = ["the cats", 'niño\n中文 \\ "', "☃ the", "</s> cats", "", "a<unk>", "the the"]


def make(**options: Any) -> Any:
    rng = random.Random(0)
    words = [
        "<unk>",
        *'▁thecasniño中文\\"\n',
        "▁the",
        "▁cat",
        "cats",
        "ats",
        "iñ",
        "he",
    ]
    vocabulary = [(w, rng.uniform(-15, -1)) for w in dict.fromkeys(words)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(options.get("added", ["</s>"]))
    return tokenizer


def saved(folder: Path, **changes: Any) -> Path:
    path = folder / "tokenizer.json"
    make().save(str(path))
    if changes:
        config = json.loads(path.read_text("utf-8"))
        model = config["model"] | changes.pop("model", {})
        path.write_text(json.dumps({**config, **changes, "model": model}), "utf-8")
    return path


def ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def rows(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ragged = make_tokenizer(tokenizer, None)(texts)
    return [part.tolist() for part in np.split(ragged.rows, ragged.offsets[1:-1])]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_ids_are_those_of_the_tokenizer(
    tmp_path: Path, indent: int | None, is_ascii: bool
) -> None:
    path = saved(tmp_path)
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(config, indent=indent, ensure_ascii=is_ascii), "utf-8")
    original, file = Tokenizer.from_file(str(path)), read_tokenizer(tmp_path)
    assert isinstance(file, TokenizerFile)
    assert file.n_ids == original.get_vocab_size()
    for _ in range(2):  # the pieces are read again
        assert rows(file, TEXTS) == ids(original, TEXTS)
    assert file._loaded is None


def test_scores_are_those_that_tokenizers_reads(tmp_path: Path) -> None:
    rng = random.Random(1)
    digits = [repr(-rng.uniform(1, 20)) for _ in range(3000)]
    digits += ["-1e-05", "-2.5E1", "0.0", "-0.0", "-7", "-12345678901234567.25", "1e-9"]
    pairs = [f'["p{n}", {digit}]' for n, digit in enumerate(["0", *digits])]
    path = saved(tmp_path)
    config = json.loads(path.read_text("utf-8"))
    config["model"]["vocab"] = "here"
    config["added_tokens"] = []
    text = json.dumps(config).replace('"here"', f"[{', '.join(pairs)}]")
    path.write_text(text, "utf-8")
    original = json.loads(Tokenizer.from_file(str(path)).to_str())["model"]["vocab"]
    scores = TokenizerFile(path).take_pieces().scores.tolist()
    assert scores == [score for _, score in original]
    assert scores[1:-7] != [float(digit) for digit in digits[:-7]]  # an ulp apart


@given(st.floats(-1e6, 1e6, allow_subnormal=False))
def test_scores_are_at_most_an_ulp_off(score: float) -> None:
    text = f"{abs(score):.12f}"
    whole, decimals = text.split(".")
    found = _to_float(whole.encode(), decimals.encode(), None)
    assert found == pytest.approx(float(text), rel=1e-15)


def test_a_tokenizer_is_loaded_where_it_is_needed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    file, original = TokenizerFile(path), Tokenizer.from_file(str(path))
    path.unlink()  # it stays open
    assert file.unknown_id == 0
    assert not hasattr(file, "backend_tokenizer")
    assert hasattr(file, "encode_batch_fast")
    assert file._loaded is None
    assert file.token_to_id("cats") == original.token_to_id("cats")
    assert file.to_str() == original.to_str()
    assert ids(file, TEXTS) == ids(original, TEXTS)
    copy = pickle.loads(pickle.dumps(TokenizerFile(saved(tmp_path))))
    assert copy.to_str() == original.to_str()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"unk_id": None}},
        {"model": {"unk_id": 99}},
        {"model": {"vocab": []}},
        {"model": {"vocab": [["<unk>", 0.0], ["\ud800", -1.0]]}},
        {"model": {"vocab": {"a": 0}}},
        {"model": {"type": "WordLevel"}},
        {"added_tokens": [{"id": 50, "content": "</s>", "special": True}]},
        {"normalizer": {"type": "Unheard"}},
        {"model": {"vocab": [["<unk>", 0.0], ["x<unk>", -1.0]]}},
    ],
)
def test_other_files_are_left_to_the_package(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = saved(tmp_path, **changes)
    with pytest.raises((ValueError, KeyError, TypeError)):
        TokenizerFile(path)
    try:
        original = Tokenizer.from_file(str(path))
    except Exception:
        with pytest.raises(ValueError, match="is not a complete tokenizer"):
            read_tokenizer(tmp_path)
    else:
        assert read_tokenizer(tmp_path).to_str() == original.to_str()


def test_ids_of_added_tokens_follow_those_of_the_pieces(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    original = make(added=["cats", "</s>", "<pad>"])
    original.save(str(path))
    file = TokenizerFile(path)
    assert file.n_ids == original.get_vocab_size()
    texts = [*TEXTS, "the cats <pad></s>"]
    assert rows(file, texts) == ids(original, texts)


def test_an_embedder_of_a_directory_needs_no_loaded_tokenizer(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = saved(tmp_path)
    original = Tokenizer.from_file(str(path))
    rng = np.random.default_rng(0)
    table = rng.standard_normal((original.get_vocab_size(), 8)).astype(np.float32)
    save_file({"embeddings": table}, tmp_path / "model.safetensors")
    model = SentenceEmbedder(tmp_path, weights=None, normalize=False).fit()
    texts = [text for text in TEXTS if text]
    # The unknown token, 0, does not count.
    expected = [
        table[[n for n in row if n]].mean(axis=0) for row in ids(original, texts)
    ]
    np.testing.assert_allclose(model.transform(texts), expected, rtol=1e-5, atol=1e-6)
    assert model.vectors_.tokenizer._loaded is None


def test_a_table_that_is_too_small_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    saved(tmp_path)
    save_file(
        {"embeddings": np.ones((5, 4), np.float32)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(ValueError, match="its table has only 5 rows"):
        SentenceEmbedder(tmp_path, weights=None).fit()
