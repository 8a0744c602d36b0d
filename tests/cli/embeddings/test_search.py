"""``ensemble search`` and ``ensemble dedup`` as users type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles.embeddings import SentenceEmbedder, paired_cosines
from ensembles.embeddings.files import binary_files
from ensembles.embeddings.similarity import text_duplicates, text_index
from ensembles.embeddings.similarity.text_index import TextIndex
from ensembles_cli.main import cli

ROOT = Path(__file__).parents[3]
VECTORS = "good 1 0\nfilm 0 1\nbad -1 0.5\nthe 1 1\n"
TEXTS = ["good film", "", "bad", "the film the film", "good film", "film good"]
Ensemble = Callable[..., Result]


@pytest.fixture
def ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ensemble:
    """Run a command in a folder with a saved model and texts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENSEMBLE_MODEL", raising=False)
    Path("v.txt").write_text(VECTORS)
    Path("texts.txt").write_text("\n".join(TEXTS) + "\n")
    SentenceEmbedder("v.txt", weights=None).fit().save("model")

    def run(*arguments: object, **more: Any) -> Result:
        return CliRunner().invoke(cli, [*map(str, arguments)], **more)

    return run


def test_an_index_answers_as_its_file_does(ensemble: Ensemble) -> None:
    done = ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    assert done.stdout == "t.index: 6 texts, 2 columns of float32\n"
    indexed = ensemble("search", "the film", "t.index", "-k", "4")
    assert indexed.exit_code == 0
    assert (
        indexed.stdout
        == ensemble("search", "the film", "texts.txt", "-m", "model", "-k", "4").stdout
    )
    header, *rows = indexed.stdout.splitlines()
    assert header == "cosine\trow\ttext"
    assert [row.split("\t")[1:] for row in rows] == [
        ["3", "the film the film"],
        ["0", "good film"],
        ["4", "good film"],
        ["5", "film good"],
    ]
    vectors = SentenceEmbedder.load("model").transform(["the film", *TEXTS])
    cosines = paired_cosines(vectors[1:], vectors[:1])
    assert rows[1].startswith(f"{cosines[0]:.4f}")
    assert TextIndex(Path("t.index")).texts(range(6)) == TEXTS


def test_several_queries_are_read_from_a_file(ensemble: Ensemble) -> None:
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    Path("q.csv").write_text("id,text\n1,film\n2,unknown\n")
    options = ["--queries", "q.csv", "t.index", "--min-score", "0.6"]
    found = json.loads(ensemble("search", "bad", *options, "--json").stdout)
    assert [one["query"] for one in found] == ["bad", "film", "unknown"]
    assert found[0]["hits"] == [{"row": 2, "cosine": 1.0, "text": "bad"}]
    assert [hit["row"] for hit in found[1]["hits"]] == [3, 0, 4, 5]
    assert found[2]["hits"] == []  # a zero vector is similar to nothing
    table = ensemble("search", "bad", *options).stdout.splitlines()
    assert table[0] == "query\tcosine\trow\ttext"
    assert len(table) == 1 + 1 + 4


@pytest.mark.parametrize("score", ["nan", "1.5", "-2"])
def test_a_smallest_score_is_a_cosine(score: str, ensemble: Ensemble) -> None:
    done = ensemble("search", "bad", "texts.txt", "-m", "model", "--min-score", score)
    assert done.exit_code == 2
    assert "--min-score must be a cosine from -1 to 1" in done.stderr


@pytest.mark.parametrize("file", ["texts.txt", "t.index"])
def test_queries_without_a_known_token_are_named(file: str, ensemble: Ensemble) -> None:
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    model = [] if file == "t.index" else ["-m", "model"]
    done = ensemble("search", "film", "xyz", "", file, *model, "-k", 1)
    assert [row.split("\t")[0] for row in done.stdout.splitlines()] == ["query", "film"]
    assert "no known token, and so no text is found: 'xyz', ''" in done.stderr
    assert "no known token, and" not in ensemble("search", "film", file, *model).stderr


def test_the_options_of_an_index_are_those_it_was_made_with(ensemble: Ensemble) -> None:
    options = ["--rule", "maximum", "--weights", "idf", "--fit", "texts.txt"]
    done = ensemble("embed", "texts.txt", "-m", "v.txt", *options, "-o", "t.index")
    assert done.exit_code == 0
    found = ensemble("search", "the film", "t.index", "--json")
    assert found.exit_code == 0
    direct = ensemble(
        "search", "the film", "texts.txt", "-m", "v.txt", *options, "--json"
    )
    hits, expected = (json.loads(r.stdout)[0]["hits"] for r in (found, direct))
    assert [hit["row"] for hit in hits] == [hit["row"] for hit in expected]
    wrong = ensemble("search", "film", "t.index", "--weights", "zipf")
    assert "options of the model apply only with --model" in wrong.stderr


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "binary"])
def test_an_index_holds_other_data_types(dtype: str, ensemble: Ensemble) -> None:
    options = ["--weights", "none", "--fit", "texts.txt", "--dtype", dtype]
    ensemble("embed", "texts.txt", "-m", "v.txt", "-o", "t.index", *options)
    found = ensemble("search", "good film", "t.index", "-k", "2", "--json")
    assert found.exit_code == 0, found.stderr
    assert [hit["row"] for hit in json.loads(found.stdout)[0]["hits"]] == [0, 4] or (
        dtype == "binary"
    )


def test_an_index_of_another_model_is_refused(ensemble: Ensemble) -> None:
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    other = {"good": [0.0, 1.0], "film": [1.0, 0.0], "bad": [1.0, 1.0]}
    SentenceEmbedder(other, weights=None).fit().save("other")
    wrong = ensemble("search", "film", "t.index", "-m", "other")
    assert wrong.exit_code == 1
    assert "other is not the model of t.index, or has other options: the cosine" in (
        wrong.stderr
    )
    aligned = ensemble("search", "film", "t.index", "--queries-by", "other", "--json")
    assert json.loads(aligned.stdout)[0]["hits"][0]["row"] == 0
    assert (
        "the mean cosine of vectors of other with those of the same" in aligned.stderr
    )
    SentenceEmbedder({"film": [1.0, 0.0, 2.0]}, weights=None).fit().save("wide")
    wrong = ensemble("search", "film", "t.index", "--queries-by", "wide")
    assert "must have the same number of columns" in wrong.stderr


def test_what_is_missing_or_damaged_is_one_line(ensemble: Ensemble) -> None:
    for arguments, message in [
        (["texts.txt"], "a QUERY is missing; or pass --queries FILE"),
        (["film", "texts.txt"], "--model is missing"),
        (["film", "none.index"], "No such file or directory: 'none.index'"),
        (["film", "model"], "model is not a complete index that ensemble embed -o"),
    ]:
        result = ensemble("search", *arguments)
        assert result.exit_code in (1, 2)
        assert message in result.stderr
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    assert (
        "t.index exists"
        in ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index").stderr
    )
    for name in ("vectors.npy", "offsets.npy", "texts.bin", "index.json"):
        content = Path("t.index", name).read_bytes()
        Path("t.index", name).write_bytes(content[:-1])
        result = ensemble("search", "film", "t.index")
        assert result.exit_code == 1, name
        assert "t.index is not a complete index" in result.stderr, name
        Path("t.index", name).write_bytes(content)


def test_an_index_of_no_texts_finds_nothing(ensemble: Ensemble) -> None:
    Path("empty.txt").write_text("")
    assert ensemble("embed", "empty.txt", "-m", "model", "-o", "e.index").exit_code == 0
    for arguments in (["e.index"], ["empty.txt", "-m", "model"]):
        found = ensemble("search", "film", *arguments, "--json")
        assert json.loads(found.stdout) == [{"query": "film", "hits": []}]


def test_a_search_of_an_index_imports_nothing_slow(
    ensemble: Ensemble, tmp_path: Path
) -> None:
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    code = (
        "import sys; from ensembles_cli.main import cli\n"
        "cli(['search', 'film', 't.index'], standalone_mode=False)\n"
        "print([m for m in ('sklearn', 'pandas', 'torch', 'transformers', 'pyarrow')"
        " if m in sys.modules])"
    )
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_equal_and_similar_texts_are_dropped(ensemble: Ensemble) -> None:
    texts = [*TEXTS, "", "bad bad", "the film film", "nothing", "nichts"]
    Path("texts.txt").write_text("\n".join(texts) + "\n")
    options = ["-m", "model", "--threshold", "0.95", "-o", "u.txt"]
    done = ensemble("dedup", "texts.txt", *options, "--report", "r.jsonl")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == (
        "u.txt: 6 of 11 texts; dropped 2 equal to an earlier text, and 3 with a cosine "
        "of at least 0.95 to a kept one (exact)\n"
    )
    kept = ["good film", "", "bad", "the film the film", "nothing", "nichts"]
    assert Path("u.txt").read_text() == "\n".join(kept) + "\n"
    report = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    found = [(one["row"], one["kept_row"], one["is_equal"]) for one in report]
    assert found == [
        (4, 0, True),
        (5, 0, False),
        (6, 1, True),
        (7, 2, False),
        (8, 3, False),
    ]
    assert report[1]["text"] == "film good"
    assert report[1]["kept"] == "good film"
    again = ensemble("dedup", "texts.txt", *options)
    assert "u.txt exists; pass force=True (--force)" in again.stderr
    facts = json.loads(
        ensemble("dedup", "texts.txt", *options, "--force", "--json").stdout
    )
    assert [facts[name] for name in ("texts", "kept", "equal", "similar")] == [
        11,
        6,
        2,
        3,
    ]


def test_an_equal_text_follows_its_first_to_the_text_that_is_kept(
    ensemble: Ensemble,
) -> None:
    Path("texts.txt").write_text("good film\nfilm good\nbad\nfilm good\n")
    options = ["-m", "model", "-o", "u.jsonl", "--report", "r.jsonl"]
    assert ensemble("dedup", "texts.txt", *options).exit_code == 0
    report = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(one["row"], one["kept_row"]) for one in report] == [(1, 0), (3, 0)]
    assert not report[1]["is_equal"]
    kept = [json.loads(line) for line in Path("u.jsonl").read_text().splitlines()]
    assert kept == [{"row": 0, "text": "good film"}, {"row": 2, "text": "bad"}]


def test_a_text_of_several_lines_needs_json(ensemble: Ensemble) -> None:
    Path("t.csv").write_text('text\n"good\nfilm"\nbad\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_duplicates, "near_duplicates", None)  # found before it
        wrong = ensemble("dedup", "t.csv", "-m", "model", "-o", "u.txt")
    assert wrong.exit_code == 1
    assert "text 0 has a line break; write NAME.jsonl instead" in wrong.stderr
    assert sorted(path.name for path in Path().iterdir()) == [
        "model",
        "t.csv",
        "texts.txt",
        "v.txt",
    ]
    done = ensemble("dedup", "-", "-m", "model", "-o", "u.txt", input="bad\nbad\n")
    assert done.stdout.startswith("u.txt: 1 of 2 texts")


@pytest.mark.parametrize("name", ["dedup", "embed"])
def test_what_is_interrupted_leaves_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(VECTORS)
    out = {"dedup": "u.txt", "embed": "t.index"}[name]
    command = [sys.executable, "-m", "ensembles_cli", name, "-", "-m", "v.txt"]
    process = subprocess.Popen(
        [*command, "--weights", "none", "-o", out],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin
        process.stdin.write(b"good film\n" * (1 << 20))
        process.stdin.flush()
        ends = time.monotonic() + 60
        while not list(tmp_path.glob(f".{out}.tmp-*")) and time.monotonic() < ends:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert b"Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["v.txt"]


def test_queries_are_read_from_standard_input(ensemble: Ensemble) -> None:
    arguments = ["--queries", "-", "texts.txt", "-m", "model", "--json"]
    found = json.loads(ensemble("search", *arguments, input="film\nbad\n").stdout)
    assert [one["query"] for one in found] == ["film", "bad"]
    both = ensemble("search", "--queries", "-", "-", "-m", "model", input="film\n")
    assert "only one of --queries and FILE can be standard input" in both.stderr


def test_options_that_an_index_would_ignore_are_refused(ensemble: Ensemble) -> None:
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    wrong = ensemble("search", "film", "t.index", "--column", "text")
    assert "--column and --kind do not apply to an index: t.index" in wrong.stderr
    options = ["-m", "v.txt", "--whiten", "--queries-by", "model"]
    wrong = ensemble("search", "film", "t.index", *options)
    assert "options of the model apply only with --model, and without" in wrong.stderr


def test_an_index_is_searched_from_another_folder(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("counts.txt").write_text("good 10\nfilm 5\nbad 2\nthe 100\n")
    options = ["-m", "v.txt", "--frequencies", "counts.txt", "-o", "t.index"]
    assert ensemble("embed", "texts.txt", *options).exit_code == 0
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    found = ensemble("search", "film", "../t.index", "--json")
    assert found.exit_code == 0, found.stderr
    Path("../v.txt").rename("../w.txt")
    gone = ensemble("search", "film", "../t.index")
    assert "v.txt any more; pass --model with its path" in gone.stderr
    options = ["-m", "../w.txt", "--frequencies", "../counts.txt"]
    assert ensemble("search", "film", "../t.index", *options).exit_code == 0


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"version": 2}, "has no version 1, which this release reads; make the index"),
        ({"version": 1, "options": {}}, "has no valid 'model'"),
        ({"version": 1, "model": 3, "options": {}}, "has no valid 'model'"),
        ({"version": 1, "model": "m", "options": []}, "has no valid 'options'"),
    ],
)
def test_an_index_with_wrong_facts_is_refused(
    facts: dict[str, Any], message: str, ensemble: Ensemble
) -> None:
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    Path("t.index/index.json").write_text(json.dumps(facts))
    assert message in ensemble("search", "film", "t.index").stderr


def test_offsets_of_floats_are_refused(ensemble: Ensemble) -> None:
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    offsets = np.load("t.index/offsets.npy")
    np.save("t.index/offsets.npy", offsets.astype(float))
    assert "offsets.npy has float64" in ensemble("search", "film", "t.index").stderr


@pytest.mark.parametrize("name", ["vectors.npy", "offsets.npy", "texts.bin"])
def test_an_index_that_is_replaced_is_read_as_one(
    name: str, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("new.txt").write_text("film\nthe film\n")
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index")
    original, is_replaced = binary_files.map_array, False

    def map_array(path: Path, *arguments: Any) -> Any:
        nonlocal is_replaced
        array = original(path, *arguments)
        if path.name == name and not is_replaced:
            is_replaced = True
            done = ensemble(
                "embed", "new.txt", "-m", "model", "-o", "t.index", "--force"
            )
            assert done.exit_code == 0
        return array

    monkeypatch.setattr(text_index, "map_array", map_array)
    index = TextIndex(Path("t.index"))
    assert is_replaced
    assert len(index) == 2
    ensemble("embed", "texts.txt", "-m", "model", "-o", "t.index", "--force")
    assert index.texts(range(2)) == ["film", "the film"]  # still mapped


def test_what_dedup_cannot_write_is_an_error_before_it_reads(
    ensemble: Ensemble,
) -> None:
    for options, message in [
        (["-o", "u.txt", "--report", "u.txt"], "--out and --report must differ"),
        (["-o", "u.txt", "--report", "none/r.jsonl"], "No such file or directory: 'no"),
    ]:
        wrong = ensemble("dedup", "texts.txt", "-m", "absent", *options)
        assert message in wrong.stderr
    assert not Path("u.txt").exists()
