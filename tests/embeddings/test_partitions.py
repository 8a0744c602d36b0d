"""Vectors of the partitions of Dask collections, against vectors of all texts."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from ensembles.embeddings import (
    SentenceEmbedder,
    embed_partitions,
    vectors_digest,
    write_partitions,
)
from ensembles.embeddings.partitions import _embed, _loaded, _model_source

dask = pytest.importorskip("dask")
WORDS = [f"w{n}" for n in range(500)]
N_PARTITIONS = 12
N_BEFORE = 4  # partitions that are read before a worker is killed


class Counted(SentenceEmbedder):
    """Embedder that leaves a note each time it is unpickled."""

    folder = ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        note(Path(self.folder))


def note(folder: Path) -> None:
    """Leave this process' number in the name of a file, in one step."""
    tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=folder)


def noted(folder: Path) -> list[int]:
    return [int(path.name.split("-")[0]) for path in folder.iterdir()]


def kill_once(texts: Any, folder: Path) -> list[str]:
    """Texts of a partition; the fifth that is read kills its worker."""
    note(folder)
    if len(noted(folder)) > N_BEFORE:
        with (
            contextlib.suppress(FileExistsError),
            folder.with_name("killed").open("x") as marker,
        ):
            marker.write(str(os.getpid()))
            marker.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return list(texts)


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    """Dask's own schedulers are used only where a test starts none."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def saved(tmp_path: Path, rng: np.random.Generator) -> Path:
    matrix = rng.normal(size=(len(WORDS), 8)).astype(np.float32)
    SentenceEmbedder((WORDS, matrix), weights=None).fit().save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def texts(rng: np.random.Generator) -> list[Any]:
    made: list[Any] = [" ".join(rng.choice(WORDS, 5)) for _ in range(300)]
    made[7], made[100], made[101], made[299] = "", None, "ünknown 🎈", float("nan")
    return made


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two worker processes of Dask on this machine, and their client."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as local,
        distributed.Client(local) as client,
        dask.config.set(scheduler=client),
    ):
        yield client


def bag(texts: list[Any], n_partitions: int = N_PARTITIONS) -> Any:
    import dask.bag

    return dask.bag.from_sequence(texts, npartitions=n_partitions)


def frame(texts: list[Any], n_partitions: int = 3) -> Any:
    dataframe = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": texts, "n": range(len(texts))})
    return dataframe.from_pandas(table, npartitions=n_partitions)


@pytest.mark.parametrize("n_partitions", [1, 2, 300])
def test_the_vectors_of_a_bag_are_those_of_its_texts(
    saved: Path, texts: list[Any], n_partitions: int
) -> None:
    expected = SentenceEmbedder.load(saved).transform(texts)
    for model in (saved, str(saved), SentenceEmbedder.load(saved)):
        vectors = embed_partitions(model, bag(texts, n_partitions))
        assert (vectors.dtype, vectors.shape[1]) == (np.float32, 8)
        assert vectors.numblocks == (n_partitions, 1)
        np.testing.assert_array_equal(vectors.compute(), expected)


def test_partitions_may_be_empty(saved: Path) -> None:
    few = bag([*"abc", "w1 w2"], 4).filter(lambda text: text.startswith("w"))
    expected = SentenceEmbedder.load(saved).transform(["w1 w2"])
    np.testing.assert_array_equal(embed_partitions(saved, few).compute(), expected)
    none = few.filter(lambda text: False)
    assert embed_partitions(saved, none).compute().shape == (0, 8)


def test_the_dtype_is_that_of_the_model(texts: list[Any]) -> None:
    vectors = {word: [float(n), 1.0] for n, word in enumerate(WORDS)}
    model = SentenceEmbedder(vectors, weights=None, dtype="binary").fit()
    made = embed_partitions(model, bag(texts)).compute()
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, model.transform(texts))


def test_columns_of_data_frames(saved: Path, texts: list[Any]) -> None:
    expected = SentenceEmbedder.load(saved).transform(texts)
    whole = frame(texts)
    for data, column in ((whole, "text"), (whole[["text"]], None), (whole.text, None)):
        vectors = embed_partitions(saved, data, column=column)
        np.testing.assert_array_equal(vectors.compute(), expected)


def test_wrong_arguments(saved: Path, texts: list[Any], tmp_path: Path) -> None:
    whole = frame(["w1", "w2"])
    message = r"column must be one of 'text', 'n', found"
    for column in (None, "texts"):
        with pytest.raises(ValueError, match=message):
            embed_partitions(saved, whole, column=column)
    with pytest.raises(ValueError, match="column applies to a data frame only"):
        embed_partitions(saved, bag(texts), column="text")
    with pytest.raises(TypeError, match=r"must be a Dask bag.*, found list; dask.bag"):
        embed_partitions(saved, texts)
    with pytest.raises(TypeError, match="must be a path or a fitted text transformer"):
        embed_partitions(42, bag(texts))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        embed_partitions(tmp_path / "nowhere", bag(texts))
    with pytest.raises(ValueError, match=r"suffix must be .npy or .parquet, found"):
        write_partitions(saved, bag(texts), tmp_path / "out", suffix=".csv")


def test_a_model_that_changed_is_refused(saved: Path, texts: list[Any]) -> None:
    vectors = embed_partitions(saved, bag(texts))
    other = SentenceEmbedder({"w1": [1.0] * 8}, weights=None).fit()
    other.save(saved, force=True)
    np.testing.assert_array_equal(  # this process has loaded it before
        vectors.compute()[:5], vectors.compute()[:5]
    )
    embed_partitions(saved, bag(texts)).compute()  # replaces the loaded one
    with pytest.raises(ValueError, match="must hold the same model on all workers"):
        vectors.compute()


def test_a_path_travels_instead_of_the_table(saved: Path) -> None:
    source, _ = _model_source(saved)
    assert len(pickle.dumps(source)) < 1000
    assert _loaded(pickle.loads(pickle.dumps(source))) is _loaded(source)
    matrix = _loaded(source).vectors_.matrix
    while isinstance(matrix.base, np.ndarray):
        matrix = matrix.base
    assert not matrix.flags.owndata  # memory-mapped
    assert len(_embed(source, ["w1"])) == 1


def test_the_digest_is_that_of_rows_in_order(
    saved: Path, texts: list[Any], rng: np.random.Generator
) -> None:
    vectors = SentenceEmbedder.load(saved).transform(texts)
    rows = b"".join(
        int(xxhash.xxh3_64_intdigest(row.tobytes())).to_bytes(8, "little")
        for row in vectors
    )
    expected = f"xxh3-128:{xxhash.xxh3_128(rows).hexdigest()}"
    assert vectors_digest(vectors) == expected
    for n_partitions in (1, 7):
        part = embed_partitions(saved, bag(texts, n_partitions))
        assert vectors_digest(part) == expected
    others = (vectors[::-1], vectors[:-1], np.vstack([vectors, vectors[-1:]]))
    assert len({expected, *map(vectors_digest, others)}) == 4
    assert vectors_digest(np.asfortranarray(vectors)) == expected
    assert vectors_digest(vectors[:0]) == f"xxh3-128:{xxhash.xxh3_128().hexdigest()}"


@pytest.mark.parametrize("kind", ["bag", "frame"])
@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_files_hold_the_partitions_in_order(
    saved: Path,
    texts: list[Any],
    tmp_path: Path,
    suffix: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ensembles.embeddings.partitions.BLOCK", 11)
    data = bag(texts, 6) if kind == "bag" else frame(texts, 6)
    out = tmp_path / "out"
    column = None if kind == "bag" else "text"
    counts = write_partitions(saved, data, out, column=column, suffix=suffix)
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [f"part-{n:05}{suffix}" for n in range(6)]
    assert sum(counts) == len(texts)
    if suffix == ".npy":
        parts = [np.load(file) for file in files]
    else:
        read = pytest.importorskip("pyarrow.parquet").read_table
        tables = [read(file) for file in files]
        stored = [text for table in tables for text in table["text"].to_pylist()]
        assert stored == [t if isinstance(t, str) else "" for t in texts]
        parts = [np.array(table["vector"].to_pylist(), "f4") for table in tables]
    assert [len(part) for part in parts] == counts
    expected = SentenceEmbedder.load(saved).transform(texts)
    assert vectors_digest(np.concatenate(parts)) == vectors_digest(expected)


def test_a_failure_leaves_no_directory(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="42"):
        write_partitions(saved, bag(["w1", "w2", 42], 3), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out"):
        write_partitions(saved, bag(["w1"], 1), tmp_path / "out")
    assert write_partitions(saved, bag(["w1"], 1), tmp_path / "out", force=True) == [1]


def test_a_fitted_model_is_not_sent_with_each_partition(
    saved: Path, texts: list[Any], cluster: Any, tmp_path: Path
) -> None:
    model = Counted(SentenceEmbedder.load(saved).vectors_, weights=None).fit()
    model.folder = str(tmp_path / "unpickled")
    Path(model.folder).mkdir()
    vectors = embed_partitions(model, bag(texts, 60))
    np.testing.assert_array_equal(vectors.compute(), model.transform(texts))
    pids = [pid for pid in noted(Path(model.folder)) if pid != os.getpid()]
    assert {*pids} <= {*cluster.run(os.getpid).values()}
    # Usually once a worker; Dask may send a result again.
    assert len(pids) <= N_PARTITIONS < vectors.npartitions


@pytest.mark.parametrize("kind", ["array", "files"])
def test_a_worker_that_is_killed_loses_and_doubles_no_text(
    saved: Path, texts: list[Any], cluster: Any, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "read"
    folder.mkdir()
    before = {*cluster.run(os.getpid).values()}
    partitions = bag(texts).map_partitions(kill_once, folder)
    if kind == "array":
        found = vectors_digest(embed_partitions(saved, partitions))
    else:
        out = tmp_path / "out"
        counts = write_partitions(saved, partitions, out, suffix=".npy")
        files = sorted(out.iterdir())
        assert len(counts) == len(files) == N_PARTITIONS  # none of the killed worker's
        found = vectors_digest(np.concatenate([np.load(file) for file in files]))
    assert found == vectors_digest(SentenceEmbedder.load(saved).transform(texts))
    killed = int((tmp_path / "killed").read_text())
    assert killed in before
    assert killed not in cluster.run(os.getpid).values()
    assert len(noted(folder)) > N_PARTITIONS  # partitions were read again
