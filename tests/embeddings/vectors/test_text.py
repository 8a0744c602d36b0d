"""Vectors in text files: what is read, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensembles.embeddings.vectors.read import read_vectors
from ensembles.embeddings.vectors.text import POWERS, number

GLOVE = "the 0.5 -1e-2 3\n, 1 2 3\nñandú .25 +7. 1E2\n"


def written(tmp_path: Path, text: str | bytes, name: str = "vectors.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("header", ["", "3 3\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_words_and_numbers_are_read(header: str, end: str, tmp_path: Path) -> None:
    found = read_vectors(written(tmp_path, (header + GLOVE).replace("\n", end)))
    assert found.tokens == ["the", ",", "ñandú"]
    expected = np.array([[0.5, -0.01, 3], [1, 2, 3], [0.25, 7, 100]], np.float32)
    np.testing.assert_array_equal(found.matrix, expected)


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    assert len(read_vectors(written(tmp_path, "a 1 2\nb 3 4")).tokens) == 2


def test_words_may_hold_spaces(tmp_path: Path) -> None:
    found = read_vectors(written(tmp_path, "the 1 2\n. . . 3 4\nto name@x 5 6\n"))
    assert found.tokens == ["the", ". . .", "to name@x"]


@pytest.mark.parametrize("header", ["", "3 3\n"])
def test_a_limit_reads_the_first_lines(header: str, tmp_path: Path) -> None:
    path = written(tmp_path, header + GLOVE + ("broken\n" if not header else ""))
    assert read_vectors(path, limit=2).tokens == ["the", ","]
    assert read_vectors(path, limit=3).tokens == ["the", ",", "ñandú"]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.booleans())
def test_numbers_are_as_python_reads_them(value: float, fixed: bool) -> None:
    spelled = f"{value:.10f}" if fixed else repr(value)
    data = np.frombuffer(spelled.encode(), np.uint8)
    found = number(data, 0, len(data), POWERS)
    # NaN leaves a number to Python: too many digits, or too large a power of ten.
    assert found == float(spelled) or np.isnan(found)


@pytest.mark.parametrize("text", ["", "-", ".", "e5", "1e", "1e+", "1x", "0x1", "--1"])
def test_what_is_no_number_is_left_to_python(text: str) -> None:
    data = np.frombuffer(text.encode() + b"\n", np.uint8)
    assert np.isnan(number(data, 0, len(text), POWERS))


@pytest.mark.parametrize(
    "text",
    [
        "446673754019253275e-7",  # rounded twice, one ulp off
        "18446744073709551617",  # 1 in an int64
        "0.00000000000000000000000000001",
        "1e-400",
        "1e23",
    ],
)
def test_numbers_that_the_loop_would_get_wrong_are_left_to_python(text: str) -> None:
    data = np.frombuffer(text.encode(), np.uint8)
    assert np.isnan(number(data, 0, len(text), POWERS))


def test_numbers_of_any_spelling_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "a 1e-30 123456789012345678901234567890 1_0\n")
    np.testing.assert_allclose(read_vectors(path).matrix, [[1e-30, 1.2345679e29, 10]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 1\n", "line 2 must be a word and 2 numbers, found 2 fields"),
        ("a 1 2\n\nb 1 2\n", "line 2 must be a word and 2 numbers, found 0 fields"),
        ("a 1 2\nb 1 x\n", "line 2 must be a word and 2 numbers: could not convert"),
        ("a 1 2\nb 1 2 3\n", "line 2 must be a word and 2 numbers, found 3"),
        ("a 1 2\nb nan 1\n", "vector of 'b' .row 1. has NaN or infinity"),
        ("a 1 2\nb 1e39 1\n", "has NaN or infinity"),
        ("a 1 2\nb\0c 1 2\n", "line 2 must be a word, found a NUL byte"),
        (b"a 1 2\n\xff\xfe 1 2\n", "line 2 must be UTF-8"),
        ("2 2\na 1 2\n", "declares 2 vectors, found 1"),
        ("1 2\na 1 2\nb 1 2\n", "declares 1 vectors, found more"),
        ("2 3\na 1 2\nb 1 2\n", "line 2 must be a word and 3 numbers"),
        ("2 1\na 1 2\nb 1 2\n", "line 2 must be a word and 1 numbers, found 2"),
        ("2 900000\na 1 2\nb 1 2\n", "more than the file has"),
        ("word\n", "line 1 must be a word and its numbers"),
        ("", "is empty"),
        (b"\0\1\2\3\n", "is not a text file of vectors"),
        (b"\x1f\x8b\x08rest", "is not a complete gzip file"),
        (b"\x80\x04pickle", "could run code"),
        (b"PK\3\4", r"compressed \(zip\); decompress it first: unzip -p"),
        (b"BZh91AY", r"compressed \(bzip2\)"),
        (b"\xfd7zXZ\0\0", r"compressed \(xz\).*: xzcat .*vectors.txt > FILE"),
        (b"\x28\xb5\x2f\xfd\0", r"compressed \(zstd\)"),
        (
            "a 1 2\n".encode("utf-16"),
            "is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8",
        ),
        ("a 1 2\n".encode("utf-32"), "is UTF-32; convert it first: iconv"),
    ],
)
def test_broken_files_are_reported(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with (
        pytest.raises(ValueError, match=message),
        np.errstate(over="ignore"),
    ):
        read_vectors(path)


def test_bytes_that_are_no_utf8_may_be_replaced(tmp_path: Path) -> None:
    path = written(tmp_path, b"a 1 2\nb\xff 1 2\n")
    assert read_vectors(path, errors="replace").tokens == ["a", "b�"]
    assert read_vectors(path, errors="ignore").tokens == ["a", "b"]
    with pytest.raises(ValueError, match="errors must be one of"):
        read_vectors(path, errors="surrogateescape")


def test_of_a_word_that_occurs_twice_the_first_counts(tmp_path: Path) -> None:
    found = read_vectors(written(tmp_path, "a 1 2\nb 1 2\na 3 4\n"))
    with pytest.warns(UserWarning, match="1 duplicate tokens, such as 'a'; the first"):
        assert found.vocabulary == {"a": 0, "b": 1}


def test_many_lines_are_read_by_threads_as_by_one(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    matrix = rng.normal(size=(10_001, 4)).astype(np.float32)
    lines = [
        f"w{row} {' '.join(map(repr, v))}" for row, v in enumerate(matrix.tolist())
    ]
    found = read_vectors(written(tmp_path, "\n".join(lines)))
    np.testing.assert_array_equal(found.matrix, matrix)
    assert found.tokens[9_999] == "w9999"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    name=st.sampled_from(["v.txt", "v.bin", "v.npz", "v.safetensors"]),
    start=st.sampled_from(
        [
            b"",
            b"2 2\n",
            b"a 1 2\nb 1 2\n",
            struct.pack("<ii", 793712314, 12),
            struct.pack(
                "<12id3iqq", *[3, 5, 5, 1, 5, 1, 1, 1, 4, 2, 3, 9], 0.1, 1, 1, 0, 1, -1
            ),
            (20).to_bytes(8, "little"),
            b"PK\3\4",
        ]
    ),
    rest=st.binary(max_size=200),
)
def test_noise_is_refused_or_read_but_never_crashes(
    tmp_path: Path, name: str, start: bytes, rest: bytes
) -> None:
    path = written(tmp_path, start + rest, name)
    with contextlib.suppress(ValueError, TypeError):
        assert np.isfinite(read_vectors(path).matrix).all()


@pytest.mark.parametrize("header", ["", "2 3\n", "2 3\r\n"])
def test_the_mark_of_utf_8_is_no_part_of_the_first_word(
    header: str, tmp_path: Path
) -> None:
    text = f"\ufeff{header}the .1 .2 .3\ncat 1 2 3\n"
    found = read_vectors(written(tmp_path, text))
    assert found.tokens == ["the", "cat"]
    assert found.matrix.shape == (2, 3)


def test_a_mark_that_is_a_word_itself_stays(tmp_path: Path) -> None:
    found = read_vectors(written(tmp_path, "\ufeff 1 2\nthe 3 4\n"))
    assert found.tokens == ["\ufeff", "the"]


@pytest.mark.parametrize("header", ["", "4 3\n"])
@pytest.mark.parametrize("nameless", ["  4 5 6", " 4 5 6", "\t4 5 6", " 4e0 5 6 "])
def test_lines_without_a_word_are_left_out_with_a_warning(
    nameless: str, header: str, tmp_path: Path
) -> None:
    text = f"{header}the 1 2 3\n{nameless}\ncat 7 8 9\n{nameless}\n"
    number = 2 + bool(header)
    with pytest.warns(
        UserWarning, match=f"line {number} has numbers without .*: 2 such"
    ):
        found = read_vectors(written(tmp_path, text))
    assert found.tokens == ["the", "cat"]
    assert found.matrix.tolist() == [[1, 2, 3], [7, 8, 9]]


def test_a_line_that_lacks_a_number_is_no_line_without_a_word(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2 must be a word and 3 numbers"):
        read_vectors(written(tmp_path, "the 1 2 3\n4 5 6\n"))


def test_few_words_that_are_no_utf_8_are_escaped_with_a_warning(tmp_path: Path) -> None:
    lines = [b"w%d 1 2" % number for number in range(200)]
    path = written(tmp_path, b"\n".join([*lines, b"caf\xe9 3 4", "ñ 5 6".encode()]))
    with pytest.warns(
        UserWarning, match=r"1 of 202 tokens of .* are not UTF-8, such as 'caf\\\\xe9'"
    ):
        found = read_vectors(path)
    assert found.tokens[-2:] == ["caf\\xe9", "ñ"]
    assert found.matrix[-2:].tolist() == [[3, 4], [5, 6]]
    with pytest.raises(
        ValueError, match=r"errors='replace' to read_vectors \(--errors replace\)"
    ):
        read_vectors(path, errors="strict")


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    text = "año 1 2\nniño 1 2\nmesa 1 2\n".encode("latin-1")
    with pytest.raises(ValueError, match="line 1 must be UTF-8"):
        read_vectors(written(tmp_path, text))


# What users of gensim, spaCy, GloVe and others reported, with what should be read.
REPORTED = {
    "explosion/spaCy#4270": ("2 2\nthe\t1\t2\ncat\t3\t4\n", ["the", "cat"]),
    "explosion/spaCy#834": (
        "3 2\n\u00a0 1 2\n\u0085 3 4\n\u2028 5 6\n",
        ["\u00a0", "\u0085", "\u2028"],
    ),
    "explosion/spaCy#8789": ("use -1.32 2.4\nfilm 1 2\n", ["use", "film"]),
    "stanfordnlp/GloVe#150": (
        "the 1 2\n. . . 3 4\n.\u00a0. 5 6\n",
        ["the", ". . .", ".\u00a0."],
    ),
    "pedrada88/crossembeddings-twitter#2": ("2 2\n. . 1 2\nthe 3 4\n", [". .", "the"]),
    "blank lines at the end": ("2 2\nthe 1 2\ncat 3 4\n\n\r\n", ["the", "cat"]),
}


@pytest.mark.parametrize(("text", "tokens"), REPORTED.values(), ids=REPORTED)
def test_reported_files_are_read(text: str, tokens: list[str], tmp_path: Path) -> None:
    assert read_vectors(written(tmp_path, text)).tokens == tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "git lfs pull"),
        ("<!DOCTYPE html>\n<html>\n", "it is a web page"),
        # Embedding/Chinese-Word-Vectors#168, yanshao9798/tagger#5
        (
            "的 1:0.5 3:0.25\n了 2:0.5 3:1\n",
            "line 1 must be a word and 2 numbers.*1:0.5",
        ),
        ("<<<<<<< HEAD\nthe 1 2\n=======\n", "line 1 must be a word and 1 num.*HEAD"),
    ],
)
def test_reported_files_that_are_no_vectors_are_reported(
    text: str, message: str, tmp_path: Path
) -> None:
    for name in ("v.txt", "v.vec"):
        with pytest.raises(ValueError, match=message):
            read_vectors(written(tmp_path, text, name))


def test_files_of_gzip_are_read(tmp_path: Path) -> None:
    path = tmp_path / "v.txt.gz"
    path.write_bytes(gzip.compress(b"a 1 2\nb 3 4\n") + gzip.compress(b"c 5 6\n"))
    found = read_vectors(path)
    assert found.tokens == ["a", "b", "c"]
    assert found.matrix.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found.source == str(path)
    assert read_vectors(path, limit=1).tokens == ["a"]
    path = tmp_path / "w.bin.gz"
    numbers = np.array([1, 2], np.float32).tobytes()
    path.write_bytes(gzip.compress(b"2 2\na " + numbers + b"\nb " + numbers + b"\n"))
    assert read_vectors(path).matrix.tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"a 1 2\nb 3 4\n" * 99)[:-9], "is not a complete gzip file"),
        (gzip.compress(b"a 1 2\nb 3\n"), r"v\.txt\.gz line 2 must be a word and 2"),
        (gzip.compress(b""), r"v\.txt\.gz must contain vectors, but it is empty"),
        (gzip.compress(gzip.compress(b"a 1 2\n")), r"v\.txt\.gz cannot be read"),
        (gzip.compress(b"\x80\x04pickle"), "could run code"),
        (gzip.compress(b"a 1 2\n" * (12 << 20)), "not expand more than 50 times"),
    ],
    ids=["cut off", "a bad line", "empty", "twice", "pickle", "expands"],
)
def test_broken_files_of_gzip_are_reported(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "v.txt.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_vectors(path)
