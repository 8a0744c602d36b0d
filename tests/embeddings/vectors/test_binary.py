"""Vectors in binary files: word2vec, fastText, npz, safetensors."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ensembles.embeddings import SentenceEmbedder
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.embeddings.vectors.word_vectors import WordVectors
from ensembles.embeddings.vectors.write import write_vectors

WORDS = ["the", "ñandú", "日本"]
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) / np.float32(8)


def word2vec(end: bytes = b"", header: str = "3 4\n") -> bytes:
    pairs = zip(WORDS, MATRIX, strict=True)
    return header.encode() + b"".join(
        word.encode() + b" " + vector.tobytes() + end for word, vector in pairs
    )


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_word2vec_is_read(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "v.bin"
    path.write_bytes(word2vec(end))
    found = read_vectors(path)
    assert found.tokens == WORDS
    np.testing.assert_array_equal(found.matrix, MATRIX)
    assert read_vectors(path, limit=2).tokens == WORDS[:2]


@pytest.mark.parametrize("name", ["v", "v.w2v", "v.txt", "v.300"])
def test_word2vec_is_known_by_its_numbers_under_any_name(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(word2vec())
    assert read_vectors(path).tokens == WORDS
    path.write_text("1 4\nthe 0.5 1 2 3\n", "utf-8")
    assert read_vectors(path).tokens == ["the"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (word2vec(header="4 4\n"), "number 4 is truncated|bytes follow"),
        (word2vec(header="2 4\n"), "more data than the 2 vectors"),
        (word2vec(header="3 5\n"), "not a complete file"),
        (word2vec(header="9999999999 300\n"), "bytes follow"),
        (word2vec(header="0 4\n"), "declares 0 vectors"),
        (word2vec()[:-1], "not a complete file"),
        (word2vec().replace(b"the", b"t\0e"), "word 1 must be a word, found a NUL"),
        (word2vec().replace(b"the", b"t\xffe"), "word 1 must be UTF-8"),
        (word2vec()[:-4] + b"\0\0\xc0\x7f", "has NaN"),
    ],
)
def test_broken_word2vec_files_are_reported(
    data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "v.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_vectors(path)


def fasttext(
    *,
    new: bool = True,
    quantized: int = 0,
    rows: int | None = None,
    shortest: int = 2,
    labels: tuple[str, ...] = (),
) -> bytes:
    """A model of two words and 7 buckets, n-grams to 3, four dimensions."""
    bucket = 7
    args = [4, 5, 5, 1, 5, 1, 2, 2, bucket, shortest, 3, 100]
    head = struct.pack("<ii", 793712314, 12) if new else b""
    data = head + struct.pack("<12id", *args, 1e-4)
    data += struct.pack("<3iq", 2 + len(labels), 2, len(labels), 11) + (
        struct.pack("<q", -1) if new else b""
    )
    for word, count in (("ab", 8), ("ñ", 3)):
        data += word.encode() + b"\0" + struct.pack("<qb", count, 0)
    for label in labels:
        data += label.encode() + b"\0" + struct.pack("<qb", 3, 1)
    n_rows = 2 + bucket if rows is None else rows
    matrix = np.random.default_rng(1).normal(size=(2 + bucket, 4)).astype("<f4")
    data += struct.pack("<B", quantized) if new else b""
    return data + struct.pack("<qq", n_rows, 4) + matrix.tobytes()


def fnv(text: str) -> int:
    found = 2166136261
    for byte in text.encode():
        signed = byte - 256 if byte > 127 else byte
        found = ((found ^ (signed & 0xFFFFFFFF)) * 16777619) & 0xFFFFFFFF
    return found


def grams(word: str, shortest: int) -> list[str]:
    marked = f"<{word}>"
    return [
        marked[start : start + size]
        for start in range(len(marked))
        for size in range(shortest, 4)
        if start + size <= len(marked)
        if marked[start : start + size] not in ("<", ">")
    ]


@pytest.mark.parametrize("shortest", [1, 2])
@pytest.mark.parametrize("new", [True, False])
def test_fasttext_words_are_means_of_themselves_and_their_ngrams(
    new: bool, shortest: int, tmp_path: Path
) -> None:
    path = tmp_path / "v.bin"
    path.write_bytes(fasttext(new=new, shortest=shortest))
    found = read_vectors(path)
    matrix = np.random.default_rng(1).normal(size=(9, 4)).astype("<f4")
    for row, word in enumerate(["ab", "ñ"]):
        rows = [row, *(2 + fnv(gram) % 7 for gram in grams(word, shortest))]
        np.testing.assert_allclose(found.matrix[row], matrix[rows].mean(0), rtol=1e-5)
    assert found.counts is not None
    assert found.counts.tolist() == [8, 3]
    assert found.ngrams is not None
    rows = [2 + fnv(gram) % 7 for gram in grams("nuevo", shortest)]
    made = found.ngrams.vectors(["nuevo"], found.vocabulary)
    np.testing.assert_allclose(made[0], matrix[rows].mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (fasttext(quantized=1), "quantized"),
        (fasttext(rows=5), "its matrix has shape .5, 4."),
        (fasttext()[:-1], "its matrix has shape"),
        (fasttext()[:90], "not a complete file"),
        (struct.pack("<ii", 793712314, 99) + b"\0" * 90, "version is 99"),
        (b"\xff" * 200, "not a complete file"),
    ],
)
def test_broken_fasttext_files_are_reported(
    data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "v.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_vectors(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_is_written_is_read_again_from_a_map(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    vectors = WordVectors(WORDS, MATRIX, counts=np.array([5, 2, 1]))
    assert write_vectors(vectors, path) == path
    found = read_vectors(path)
    assert found.tokens == WORDS
    np.testing.assert_array_equal(found.matrix, MATRIX)
    assert found.counts is not None
    assert found.counts.tolist() == [5, 2, 1]
    base: Any = found.matrix
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    assert read_vectors(path, limit=1).tokens == ["the"]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(FileExistsError, match="force=True"):
        write_vectors(vectors, path)


def test_a_path_of_another_kind_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.npz"):
        write_vectors((WORDS, MATRIX), tmp_path / "v.txt")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_strings_is_read(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    save(path, tokens=np.array(WORDS), vectors=np.asfortranarray(MATRIX))
    found = read_vectors(path)
    assert found.tokens == WORDS
    np.testing.assert_array_equal(found.matrix, MATRIX)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bombed",)


def test_objects_in_npz_are_refused_and_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "v.npz"
    np.savez(path, tokens=np.array([Bomb()], object), vectors=MATRIX)
    with pytest.raises(ValueError, match="found objects, which could run code"):
        read_vectors(path)
    assert not Path("bombed").exists()


@pytest.mark.parametrize("name", ["v.kv", "v.pkl", "v.bin", "v.txt"])
def test_pickles_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"a": [1.0]}))
    with pytest.raises(ValueError, match="it is a pickle, which could run code"):
        read_vectors(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"tokens": np.array(WORDS)}, "called 'embeddings' or"),
        ({"vectors": MATRIX}, "called 'tokens' or"),
        ({"vectors": MATRIX, "tokens": np.array(["a"])}, "1 tokens and 3"),
        ({"vectors": MATRIX, "tokens": MATRIX}, "must be strings"),
        (
            {"vectors": MATRIX[0], "tokens": np.array(WORDS)},
            "n_tokens, dim",
        ),
        ({"vectors": np.array(WORDS), "tokens": np.array(WORDS)}, "real"),
        (
            {
                "vectors": MATRIX,
                "tokens": np.frombuffer(b"abc", np.uint8),
                "offsets": np.array([0, 2, 1, 3]),
            },
            "offsets must increase",
        ),
    ],
)
def test_wrong_arrays_are_reported(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        read_vectors(path)


def test_a_file_that_was_cut_off_is_reported(tmp_path: Path) -> None:
    for suffix in (".npz", ".safetensors"):
        path = write_vectors((WORDS, MATRIX), tmp_path / f"v{suffix}")
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ValueError, match="not a complete"):
            read_vectors(path)


def test_bfloat16_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    tokens = np.frombuffer(b"abc", np.uint8)
    narrow = MATRIX.astype(ml_dtypes.bfloat16)
    save_file({"embeddings": narrow, "tokens": tokens, "offsets": np.arange(4)}, path)
    found = read_vectors(path)
    assert found.matrix.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.matrix.astype(np.float32), MATRIX)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        ({"a": [1.0], "b": [1.0, 2.0]}, ValueError, "of equal length"),
        ({}, ValueError, "must not be empty"),
        ({1: [1.0]}, TypeError, "must be strings"),
        ((["a"], np.array([[None]])), TypeError, "real numbers"),
        ((["a", "b"], [[1.0]]), ValueError, "2 tokens and 1 vectors"),
        ((["a"], [[np.nan]]), ValueError, "the vector of 'a'"),
        (3, TypeError, "must be a path"),
    ],
)
def test_wrong_vectors_in_memory_are_reported(
    vectors: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_vectors(vectors)


def test_pipes_are_no_files_of_vectors(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="regular file"):
        read_vectors(path)


def test_ngrams_are_not_converted_in_silence(tmp_path: Path) -> None:
    (tmp_path / "v.bin").write_bytes(fasttext())
    with pytest.warns(UserWarning, match=r"the n-grams of .*v.bin are not written"):
        write_vectors(tmp_path / "v.bin", tmp_path / "v.npz")
    with pytest.raises(ValueError, match="has a token that is not valid text"):
        write_vectors({"a\ud800": [1.0]}, tmp_path / "w.npz")


def test_an_embedder_of_ngrams_cannot_be_saved_but_pickled(tmp_path: Path) -> None:
    (tmp_path / "v.bin").write_bytes(fasttext())
    made = SentenceEmbedder(tmp_path / "v.bin", weights=None, unknown="subword").fit()
    message = r"n-grams stay in .*v.bin; pickle it, or use unknown='skip'"
    with pytest.raises(ValueError, match=message):
        made.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    texts = ["ab abc", "ñb"]
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.transform(texts), made.transform(texts))


def test_a_supervised_model_has_labels_behind_its_words(tmp_path: Path) -> None:
    path = tmp_path / "v.bin"
    path.write_bytes(fasttext(labels=("__label__good", "__label__bad")))
    found = read_vectors(path)
    assert found.tokens == ["ab", "ñ"]
    plain = tmp_path / "plain.bin"
    plain.write_bytes(fasttext())
    np.testing.assert_array_equal(found.matrix, read_vectors(plain).matrix)


@pytest.mark.parametrize(
    "shape",
    [
        "(" * 500,
        "-" * 9000 + "1",
        "[" * 3000,
        "(1,",
        "'",
        '"""',
        "(9" + "9" * 400 + ",)",
    ],
)
def test_broken_heads_of_arrays_are_one_sentence(shape: str, tmp_path: Path) -> None:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    array = b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head
    path = tmp_path / "v.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("embeddings.npy", array)
        archive.writestr("tokens.npy", array)
    with pytest.raises(ValueError, match=r"v\.npz: embeddings\.npy"):
        read_vectors(path)


def test_only_the_arrays_that_count_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    bomb: Any = {f"other{number}": np.zeros(1 << 22, np.int8) for number in range(4)}
    arrays: Any = {"tokens": np.array(["a"]), "embeddings": np.ones((1, 2), np.float32)}
    np.savez_compressed(path, **arrays, **bomb)
    opened: list[str] = []

    class Watched(zipfile.ZipFile):
        def open(self, name: Any, *rest: Any, **more: Any) -> Any:
            opened.append(getattr(name, "filename", name))
            return super().open(name, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ensembles.embeddings.vectors.npz.zipfile.ZipFile", Watched)
        assert read_vectors(path).tokens == ["a"]
    assert sorted(opened) == ["embeddings.npy", "tokens.npy"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_whoever_may_read_other_files_may_read_vectors(
    mask: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        write_vectors({"a": [1.0, 2.0]}, tmp_path / "v.safetensors")
        write_vectors({"a": [1.0, 2.0]}, tmp_path / "v.npz")
        SentenceEmbedder({"a": [1.0, 2.0]}, weights=None).fit().save(tmp_path / "saved")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}


def test_a_model_of_facebook_with_a_broken_word_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v.bin"
    path.write_bytes(fasttext().replace("ñ".encode() + b"\0", b"\xc3z\0"))
    with pytest.raises(
        ValueError, match=r"word 2 must be UTF-8.*pass errors='replace' to"
    ):
        SentenceEmbedder(path, weights=None).fit()
    found = read_vectors(path, errors="backslashreplace")  # as gensim does
    assert found.tokens == ["ab", "\\xc3z"]


def test_vectors_are_compared_by_who_they_are() -> None:
    one, other = (read_vectors({"a": [1.0, 2.0]}) for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other}) == 2
