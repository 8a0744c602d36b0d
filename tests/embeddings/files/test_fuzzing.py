"""Ten thousand broken files: each is read or refused, none crashes, hangs or eats."""

from __future__ import annotations

import io
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.embeddings import SentenceEmbedder, read_vectors
from ensembles.embeddings.files.text_files import read_texts
from ensembles.embeddings.similarity.evaluation import read_similarity_pairs
from ensembles.embeddings.vectors.write import write_vectors
from tests.embeddings.vectors.test_binary import fasttext, word2vec

CASES = 1000  # of each kind
SECONDS = 10
INTERESTING = [
    *(b"\0", b"\xff", b"\n", b" ", b"\t", b'"', b"{", b"[", b"nan", b"1e999", b"-1"),
    *(b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0\0\0\x80", b"9" * 20, b"\xed\xa0\x80"),
]


def lines() -> bytes:
    return b"good 1 0.5 -2e-3\nfilm 0 1 3\n\xc3\xb1 -1 0 .5\n"


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, tokens=np.array(["a", "b"]), embeddings=np.ones((2, 3), np.float32))
    return file.getvalue()


def tensors(tmp_path: Path) -> bytes:
    path = tmp_path / "made.safetensors"
    write_vectors({"a": [1.0, 2.0], "b": [0.0, 3.0]}, path, force=True)
    return path.read_bytes()


def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved"
    embedder = SentenceEmbedder({"a": [1.0, 2.0], "b": [0.0, 3.0]}, rule="maximum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embedder.fit(["a b", "b"]).save(path)
    return path


def broken(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes after some accidents."""
    found = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(found) + 1))
        stop = place + int(rng.integers(1, 9))
        match rng.integers(6):
            case 0:
                found[place : place + 1] = bytes([rng.integers(256)])
            case 1:
                found = found[:place]
            case 2:
                del found[place:stop]
            case 3:
                found[place:place] = INTERESTING[rng.integers(len(INTERESTING))]
            case 4:
                some = INTERESTING[rng.integers(len(INTERESTING))]
                found[place : place + len(some)] = some
            case 5:
                found[place:place] = found[place : stop * 9]
    return bytes(found)


@contextmanager
def in_time() -> Iterator[None]:
    """Fail where something hangs."""

    def stop(*_: Any) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(read: Callable[[Path], None], path: Path) -> bool:
    """Whether a file is refused, by an error that says something."""
    try:
        with in_time():
            read(path)
    except (ValueError, TypeError) as error:
        return len(str(error)) > 10 or pytest.fail(f"{error!r} says nothing")
    return False


def embedded(path: Path) -> None:
    vectors = read_vectors(path)
    assert len(vectors.tokens) == len(vectors.matrix) < 10_000
    SentenceEmbedder(vectors, weights=None).fit().transform(["a b good", "\xf1"])


def loaded(path: Path) -> None:
    SentenceEmbedder.load(path).transform(["a b"])


def documents(path: Path) -> None:
    for batch in read_texts(path):
        assert all(isinstance(text, str) for text in batch.texts)


def pairs(path: Path) -> None:
    assert np.isfinite(read_similarity_pairs(path).scores).all()


KINDS: dict[str, Callable[[Path], bytes]] = {
    "v.txt": lambda _: lines(),
    "v.vec": lambda _: b"3 3\n" + lines(),
    "w.bin": lambda _: word2vec(),
    "f.bin": lambda _: fasttext(),
    "v.npz": lambda _: archive(),
    "v.safetensors": tensors,
    "t.jsonl": lambda _: b'{"text": "a b", "n": 1}\n{"text": "\\u00f1", "n": 2}\n',
    "pairs.csv": lambda _: b'"a b",c,1\nd,"e ""f""",2.5\n',
    "t.csv": lambda _: b'text,n\n"a ""b""\nc",1\nd,2\n',
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_broken_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    data, path = KINDS[name](tmp_path), tmp_path / name
    read = {"t": documents, "p": pairs}.get(name[0], embedded)
    n_refused = 0
    for _ in range(CASES):
        path.write_bytes(broken(data, rng))
        n_refused += refused(read, path)
    assert 0 < n_refused < CASES


@pytest.mark.filterwarnings("ignore")
def test_broken_directories_are_read_or_refused(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), saved(tmp_path)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    n_refused = 0
    for _ in range(CASES):
        path = list(whole)[rng.integers(len(whole))]
        path.write_bytes(broken(whole[path], rng))
        n_refused += refused(loaded, folder)
        path.write_bytes(whole[path])
    assert 0 < n_refused < CASES
