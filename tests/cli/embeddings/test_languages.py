"""Texts of several languages, and of unusual forms, through the embedding commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles.embeddings import SentenceEmbedder
from ensembles_cli.main import cli

Ensemble = Callable[..., Result]
# In each language two sentences that share words, and one that does not.
SENTENCES = {
    "es": ("El niño comió una manzana.", "Una manzana comió el niño", "Mañana lloverá"),
    "de": ("Der Bär läuft über die Straße", "Die Straße: läuft der Bär?", "Grüße!"),
    "zh": ("猫坐在垫子上", "垫子上坐在猫", "股票下跌了"),
    "th": ("แมวนั่งบนเสื่อ", "บนเสื่อแมวนั่ง", "หุ้นตกแล้ว"),
}
TEXTS = [text for texts in SENTENCES.values() for text in texts]


@pytest.fixture
def ensemble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> Ensemble:
    """Run a command in a folder with a saved model whose tokens are characters."""
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENSEMBLE_MODEL", raising=False)
    characters = sorted({c for text in TEXTS for c in text.lower() if not c.isspace()})
    tokens = ["[UNK]", *characters]
    model = tokenizers.models.WordPiece(
        {token: n for n, token in enumerate(tokens)}, unk_token="[UNK]"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    split = tokenizers.pre_tokenizers.Split("", "isolated")
    spaces = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([spaces, split])
    vectors = (tokens, rng.normal(size=(len(tokens), 32)).astype(np.float32))
    SentenceEmbedder(vectors, weights=None, tokenizer=tokenizer).fit().save("model")

    def run(*arguments: object, **more: Any) -> Result:
        return CliRunner().invoke(cli, [*map(str, arguments)], **more)

    return run


def embedded(ensemble: Ensemble, file: str) -> Any:
    done = ensemble("embed", file, "-m", "model", "-o", "X.npy", "--force")
    assert done.exit_code == 0, done.stderr
    return np.load("X.npy")


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_are_embedded_found_and_deduplicated(
    language: str, ensemble: Ensemble
) -> None:
    Path("t.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    first, similar, other = SENTENCES[language]
    vectors = embedded(ensemble, "t.txt")
    expected = SentenceEmbedder.load("model").transform(TEXTS)
    assert vectors.tolist() == expected.tolist()
    assert vectors.any(axis=1).all()
    ensemble("embed", "t.txt", "-m", "model", "-o", "t.index")
    for arguments in (["t.index"], ["t.txt", "-m", "model"]):
        done = ensemble("search", first, *arguments, "-k", "2", "--json")
        hits = json.loads(done.stdout)[0]["hits"]
        assert [hit["text"] for hit in hits] == [first, similar]
    options = ["-m", "model", "-o", "u.txt", "--threshold", "0.95"]
    assert ensemble("dedup", "t.txt", *options).exit_code == 0
    kept = Path("u.txt").read_text(encoding="utf-8").splitlines()
    assert first in kept
    assert similar not in kept
    assert other in kept


def test_accents_decide_between_words(ensemble: Ensemble) -> None:
    words = {"hacia": [1.0, 0.0], "hacía": [0.0, 1.0], "schön": [-1.0, 0.0]}
    words["schon"] = [0.0, -1.0]
    SentenceEmbedder(words, weights=None).fit().save("words")
    Path("t.txt").write_text("hacia\nhacía\nschon\nschön\n", encoding="utf-8")
    options = ["t.txt", "-m", "words", "-k", "1", "--json"]
    for row, word in enumerate(["hacia", "hacía", "schon", "scho\u0308n"]):
        hits = json.loads(ensemble("search", word, *options).stdout)[0]["hits"]
        assert [(hit["row"], hit["cosine"]) for hit in hits] == [(row, 1.0)]
    done = ensemble("dedup", "t.txt", "-m", "words", "-o", "u.txt")
    assert done.stdout.startswith("u.txt: 4 of 4 texts")


def test_line_ends_and_a_byte_order_mark_are_no_part_of_texts(
    ensemble: Ensemble,
) -> None:
    Path("lf.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8", newline="")
    windows = "\ufeff" + "\r\n".join(TEXTS) + "\r\n"
    Path("crlf.txt").write_text(windows, encoding="utf-8", newline="")
    assert embedded(ensemble, "crlf.txt").tolist() == (
        embedded(ensemble, "lf.txt").tolist()
    )
    for name in ("lf", "crlf"):
        ensemble("embed", f"{name}.txt", "-m", "model", "-o", f"{name}.index")
        options = ["-m", "model", "-o", f"{name}.out"]
        assert ensemble("dedup", f"{name}.txt", *options).exit_code == 0
    found = [
        ensemble("search", TEXTS[0], f"{name}.index", "--json").stdout
        for name in ("lf", "crlf")
    ]
    assert found[0] == found[1]
    assert json.loads(found[1])[0]["hits"][0]["text"] == TEXTS[0]
    assert Path("lf.out").read_bytes() == Path("crlf.out").read_bytes()


def test_empty_lines_keep_their_rows(ensemble: Ensemble) -> None:
    lines = ["", TEXTS[0], "", "   ", TEXTS[6], ""]
    Path("t.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vectors = embedded(ensemble, "t.txt")
    assert vectors.any(axis=1).tolist() == [False, True, False, False, True, False]
    ensemble("embed", "t.txt", "-m", "model", "-o", "t.index")
    hits = json.loads(ensemble("search", TEXTS[6], "t.index", "--json").stdout)[0]
    assert hits["hits"][0]["row"] == 4
    assert (
        json.loads(ensemble("search", "", "t.index", "--json").stdout)[0]["hits"] == []
    )
    ensemble("dedup", "t.txt", "-m", "model", "-o", "u.txt")
    kept = ["", TEXTS[0], "   ", TEXTS[6]]
    assert Path("u.txt").read_text(encoding="utf-8") == "\n".join(kept) + "\n"


def test_a_megabyte_in_one_line_is_a_text(ensemble: Ensemble) -> None:
    long = " ".join(TEXTS[:6]) * (1_000_000 // len(" ".join(TEXTS[:6]))) + " 猫" * 9000
    assert len(long.encode()) > 1_000_000
    lines = [TEXTS[6], long, long, TEXTS[9]]
    Path("t.txt").write_text("\n".join(lines), encoding="utf-8")
    vectors = embedded(ensemble, "t.txt")
    assert vectors[1].tolist() == vectors[2].tolist()
    assert vectors.any(axis=1).all()
    ensemble("embed", "t.txt", "-m", "model", "-o", "t.index")
    hits = json.loads(
        ensemble("search", TEXTS[0], "t.index", "-k", "1", "--json").stdout
    )[0]["hits"]
    assert hits[0]["row"] == 1
    assert hits[0]["text"] == long
    shown = ensemble("search", TEXTS[0], "t.index", "-k", "1").stdout
    assert len(shown) < 300
    assert shown.endswith("…\n")
    ensemble("dedup", "t.txt", "-m", "model", "-o", "u.txt")
    kept = Path("u.txt").read_text(encoding="utf-8").splitlines()
    assert kept == [TEXTS[6], long, TEXTS[9]]
