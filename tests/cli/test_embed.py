"""``ensemble embed``, ``similar`` and ``evaluate`` as users type them."""

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

from ensembles.embeddings import SentenceEmbedder, read_vectors
from ensembles_cli.main import cli

ROOT = Path(__file__).parents[2]
VECTORS = "good 1 0\nfilm 0 1\nbad -1 0.5\nthe 1 1\n"
TEXTS = ["good film", "", "bad", "the film the film"]
Ensemble = Callable[..., Result]


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
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "X.npy: 4 texts, 2 columns of float32\n"
    expected = SentenceEmbedder("v.txt", weights=None).fit().transform(TEXTS)
    assert np.load("X.npy").tolist() == expected.tolist()
    again = ensemble("embed", "texts.txt", "-m", "v.txt", "-o", "X.npy")
    assert again.exit_code == 1
    assert "error: X.npy exists; --force replaces it" in again.stderr


def test_settings_are_the_embedders(ensemble: Ensemble) -> None:
    given = "--rule mean --rule maximum --weights sif --fit texts.txt --param a=1e-2"
    more = "--remove-components 1 --normalize --dtype float64 --limit 3"
    result = ensemble(
        *("embed", "texts.txt", "-m", "v.txt", "-o", "X.npy"),
        *given.split(),
        *more.split(),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    embedder = SentenceEmbedder(
        read_vectors("v.txt", limit=3),
        rule=["mean", "maximum"],
        params={"a": 1e-2},
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
    assert (result.exit_code, result.stderr) == (0, "")
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
    assert (result.exit_code, result.stderr) == (0, "")
    expected = SentenceEmbedder("v.txt").fit_transform(TEXTS)
    assert np.load("X.npy").tolist() == expected.tolist()
    options[1:6] = ["v.txt", "-o", "Y.npy", "--fit-column", "body"]
    assert ensemble("embed", "texts.txt", *options).exit_code == 0
    assert np.load("Y.npy").tolist() == expected.tolist()


def test_words_are_cut_and_counted_as_is_asked(ensemble: Ensemble) -> None:
    options = ["-m", "v.txt", "-o", "X.npy", "--frequencies", "zipf"]
    result = ensemble("embed", "texts.txt", *options, "--tokenizer", "f[a-z]+")
    assert (result.exit_code, result.stderr) == (0, "")
    found = np.load("X.npy")
    assert found[0].tolist() == found[3].tolist() != [0, 0]
    assert found[2].tolist() == [0, 0]


def test_text_vectors_become_a_file_that_is_mapped(ensemble: Ensemble) -> None:
    for name in ("v.safetensors", "v.npz"):
        result = ensemble("embed", "--convert", "-m", "v.txt", "-o", name)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"{name}: 4 tokens, 2 dimensions\n"
        found = read_vectors(name)
        assert list(found.tokens) == ["good", "film", "bad", "the"]
        assert found.matrix.tolist() == read_vectors("v.txt").matrix.tolist()
        assert found.matrix.base is not None
    wrong = ensemble("embed", "--convert", "-m", "v.txt", "-o", "w.npz", "--whiten")
    assert "--convert takes vectors as they are, found --whiten" in wrong.stderr
    wrong = ensemble("embed", "texts.txt", "--convert", "-m", "v.txt", "-o", "w.npz")
    assert "--convert takes no FILE" in wrong.stderr
    assert "FILE is missing" in ensemble("embed", "-m", "v.txt", "-o", "w.npy").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("texts.txt -m v.txt -o X.csv", "path must end in .npy or .parquet"),
        ("texts.txt -m v.txt -o X.npy --column body", "--kind csv or another reads it"),
        ("none.txt -m v.txt -o X.npy", "No such file or directory: 'none.txt'"),
        (
            "bad.txt -m v.txt -o X.npy",
            "bad.txt line 1 is not utf-8: .* --encoding latin",
        ),
        (
            "texts.txt -m v.txt -o X.npy --unknown error --weights none",
            "--unknown skip l",
        ),
        ("texts.txt -m v.txt -o X.npy --whiten", "at least 2 texts with known words"),
        ("texts.txt -m texts.txt -o X.npy", "texts.txt"),
        ("texts.txt -m bombs.npz -o X.npy", "found objects, which could run code"),
        ("texts.txt -m v.txt -o X.npy --encoding nonsense", "found 'nonsense'"),
        ("texts.txt -m v.txt -o X.npy --param p=2", "neither rule nor weights take"),
        ("texts.txt -m latin.txt -o X.npy", "--errors replace reads it"),
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
    errors = [line for line in result.stderr.splitlines() if "warning:" not in line]
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


@pytest.mark.filterwarnings("default")
def test_a_warning_names_options(ensemble: Ensemble) -> None:
    result = ensemble("similar", "-m", "v.txt", "good", "bad")
    assert result.exit_code == 0
    assert "warning: word weights of v.txt have no counts" in result.stderr
    assert "(--frequencies zipf says that it may)" in result.stderr


def test_the_first_text_is_compared_with_the_others(ensemble: Ensemble) -> None:
    options = ["--weights", "none", "good film", "bad", "film good"]
    result = ensemble("similar", *options, env={"ENSEMBLE_MODEL": "v.txt"})
    assert (result.exit_code, result.stderr) == (0, "")
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
    assert (result.exit_code, result.stderr) == (0, "")
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
        command, cwd=folder, env=known, stdin=subprocess.PIPE, stderr=subprocess.PIPE
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
