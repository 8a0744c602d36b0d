"""``ensemble distill``, with a transformer of two words."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles.embeddings import SentenceEmbedder, SentenceEncoder
from ensembles_cli.main import cli
from tests.embeddings.distillation.conftest import make_transformer

TEXTS = ["a b", "b b a", "", "a b", "good a"]
PAIRS = "sentence1,sentence2,score\na b,b a,1\nA B!,good,2\na,b,0.5\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_transformer(tmp_path / "layers").save(str(tmp_path / "teacher"))
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    (tmp_path / "pairs.csv").write_text(PAIRS)
    return tmp_path


def run(*arguments: str) -> Result:
    first = ["distill", "-t", "teacher", "--texts", "texts.txt", "-o", "out"]
    return CliRunner().invoke(cli, [*first, *arguments])


def test_a_table_is_written_and_compared(folder: Path) -> None:
    result = run("--evaluate", "pairs.csv")
    assert result.exit_code == 0, result.output
    assert "out: 9 tokens, 8 dimensions" in result.stdout
    rows = [line.split("\t")[0] for line in result.stdout.splitlines()[1:]]
    assert rows == ["model", "teacher", "out"]
    assert "5 texts: 1 are empty and left out, 1 repeat" in result.stderr
    # "a b" without capitals and punctuation is a text and in two pairs.
    assert "1 of the 5 evaluation texts are training texts too" in result.stderr
    embedder = SentenceEmbedder.load(folder / "out")
    assert embedder.transform(["a b"]).shape == (1, 8)
    left = {path.name for path in folder.iterdir()}
    assert left == {"layers", "teacher", "texts.txt", "pairs.csv", "out"}


def test_the_cache_is_kept_and_gives_the_same_bytes(folder: Path) -> None:
    assert run("--cache", "cache").exit_code == 0
    first = (folder / "out" / "model.safetensors").read_bytes()
    vectors = list((folder / "cache").rglob("vectors.npy"))
    assert len(vectors) == 2
    result = run("--cache", "cache", "--force", "--threads", "1")
    assert result.exit_code == 0
    assert (folder / "out" / "model.safetensors").read_bytes() == first


def test_a_killed_run_leaves_its_cache_beside_the_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SentenceEmbedder, "save", fail)
        assert run().exit_code == 130
    assert (folder / ".out.teacher").is_dir()
    with monkeypatch.context() as patch:
        patch.setattr(SentenceEncoder, "transform_counted", fail)
        assert run().exit_code == 0
    assert not (folder / ".out.teacher").exists()


def test_compressed_texts_words_and_components(folder: Path) -> None:
    (folder / "more.txt.gz").write_bytes(gzip.compress(b"zebra a\nzebra\n"))
    more = ["--texts", "more.txt.gz", "--words", "1", "--components", "4"]
    result = run(*more, "--json", "--evaluate", "pairs.csv")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["texts"], facts["empty_texts"], facts["distinct_texts"]) == (7, 1, 5)
    assert facts["dim"] == 4
    assert set(facts["models"]) == {"teacher", "out"}
    assert facts["overlap"]["n_equal"] == 1
    tokens = SentenceEmbedder.load(folder / "out").vectors_.tokens
    assert len(tokens) == 9  # the most frequent word, "a", is a token already


def test_queries_keep_the_space_of_the_teacher(folder: Path) -> None:
    result = run("--for", "queries")
    assert result.exit_code == 0
    assert "ensemble search --queries-by out" in result.stderr
    table = SentenceEmbedder.load(folder / "out")
    teacher = SentenceEncoder(str(folder / "teacher"), normalize=True).fit()
    texts = [text for text in TEXTS if text]
    cosines = (table.transform(texts) * teacher.transform(texts)).sum(axis=1)
    assert np.all(cosines > 0.9)


def test_sentences_are_added_for_queries(folder: Path) -> None:
    (folder / "texts.txt").write_text("a b. good a\nb a.\ngood a\n")
    result = run("--for", "queries", "--json", "--cache", "queries")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["texts"], facts["sentences"]) == (3, 1)  # "good a" is a text
    table = (folder / "out" / "model.safetensors").read_bytes()
    (folder / "texts.txt").write_text("a b. good a\nb a.\ngood a\na b.\n")
    for alpha, is_same in (("0.02", True), ("0.2", False)):
        other = run("--alpha", alpha, "--force")
        assert other.exit_code == 0, other.output
        written = (folder / "out" / "model.safetensors").read_bytes()
        assert (written == table) is is_same


def test_queries_find_documents_in_the_index_of_the_teacher(folder: Path) -> None:
    (folder / "texts.txt").write_text("a a b\nb b good\ngood good a\n")
    assert run("--for", "queries", "--alpha", "0.0001").exit_code == 0
    for arguments in (
        ["embed", "texts.txt", "-m", "teacher", "-o", "texts.index"],
        ["search", "b good", "texts.index", "--queries-by", "out", "--json"],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert found["hits"][0]["text"] == "b b good"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "queries", "--components", "3"], "remove --components"),
        (["--columns", "1,2,3"], "--columns requires --evaluate"),
        (["--evaluate", "texts.txt"], "columns of texts.txt are not recognized"),
        (["--column", "text"], "read as lines"),
        (["-o", "missing/out"], "missing"),
        (["--components", "9"], "n_components must be an integer from 1 to 8"),
    ],
)
def test_wrong_options_are_reported(
    folder: Path, arguments: list[str], message: str
) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert not (folder / "out").exists()


def test_an_existing_directory_is_kept(folder: Path) -> None:
    (folder / "out").mkdir()
    result = run()
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert not list((folder / "out").iterdir())


def test_phrases_are_counted_and_loaded(folder: Path) -> None:
    texts = ["a b", "a b a", "a b b", "a b good", "good a b", "b a b"]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    result = run("--phrases", "1")
    assert result.exit_code == 0, result.output
    assert "out: 9 tokens, 1 phrases, 8 dimensions" in result.stdout
    phrases: Any = SentenceEmbedder.load(folder / "out").vectors_.phrases
    assert phrases.tolist() == [[5, 6]]
