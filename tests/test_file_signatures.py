"""Files that are no text are refused with the command that makes text of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ensembles.embeddings.files.text_files import read_texts
from ensembles.embeddings.similarity.evaluation import read_similarity_pairs
from ensembles.embeddings.weighting.frequencies import read_frequencies
from ensembles.file_signatures import check_text

TEXT = "good film\nbad film, Ñandú\nnothing here\n"


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("texts.txt", data)
    return file.getvalue()


COMPRESSED = {
    "gz": (gzip.compress(TEXT.encode()), "gzip", "zcat"),
    "bz2": (bz2.compress(TEXT.encode()), "bzip2", "bzcat"),
    "xz": (lzma.compress(TEXT.encode()), "xz", "xzcat"),
    "zip": (zipped(TEXT.encode()), "zip", "unzip -p"),
    "zst": (b"\x28\xb5\x2f\xfd\x24\x0d", "zstd", "zstdcat"),
    "lz4": (b"\x04\x22\x4d\x18\x64\x40", "lz4", "lz4cat"),
    "Z": (b"\x1f\x9d\x90text", "compress", "zcat"),
}


def texts_of(path: object, **how: object) -> list[str]:
    batches = read_texts(path, **how)  # type: ignore[arg-type]
    return [text for batch in batches for text in batch.texts]


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"encoding": "latin-1"},
        {"kind": "csv", "column": "body"},
        {"column": "body"},
        {"kind": "jsonl"},
        {"kind": "tsv", "column": "1"},
    ],
)
def test_compressed_texts_are_never_embedded(
    suffix: str, how: dict[str, str], tmp_path: Path
) -> None:
    content, kind, program = COMPRESSED[suffix]
    path = tmp_path / f"x.txt.{suffix}"
    path.write_bytes(content)
    message = rf"is compressed \({kind}\): {program} .*x.txt.{suffix} > FILE, or"
    with pytest.raises(ValueError, match=message):
        texts_of(path, **how)
    with pytest.raises(ValueError, match=rf"is compressed \({kind}\)"):
        texts_of(io.BytesIO(content), **how)


@pytest.mark.parametrize("read", [read_frequencies, read_similarity_pairs])
def test_compressed_lists_and_pairs_are_reported(read: object, tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(COMPRESSED["gz"][0])
    with pytest.raises(ValueError, match=r"compressed \(gzip\): zcat .*x.gz > FILE"):
        read(path)  # type: ignore[operator]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("how", [{}, {"encoding": "latin-1"}, {"kind": "csv"}])
def test_wide_encodings_are_named(
    encoding: str, how: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(TEXT.encode(encoding))
    name = encoding[:6].upper() + encoding[6:].replace("-", "").upper()
    with pytest.raises(ValueError, match=rf"is {name}: iconv -f {name} -t UTF-8"):
        texts_of(path, **how)


@pytest.mark.parametrize(
    "content",
    [
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n\1\2\3\4\5\6" * 9,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\xff\xfe\x80",
        b"\x93NUMPY\1\0v\0{'descr': '<f4'}" + bytes(range(256)),
    ],
)
@pytest.mark.parametrize("how", [{}, {"encoding": "latin-1"}])
def test_binary_files_are_reported(
    content: bytes, how: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be text, but is a binary file"):
        texts_of(path, **how)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a",
        b"\0",
        b"\b\n",
        b"one \0 stray NUL in a longer text\n",
        "naïve \x07 bell \x1b[31mred\x1b[0m\n".encode(),
        "日本語".encode() * 2000,
        b"caf\xe9 \x93quoted\x94 in a text of Windows\n",
        b"Begins with PK and BZ: fine",
    ],
)
def test_texts_with_strange_characters_are_texts(content: bytes) -> None:
    check_text(content, "x")


def test_lines_that_end_with_returns_alone_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes(b"good film\rbad film\rnothing\r")
    with pytest.raises(ValueError, match=r"tr '\\r' '\\n' < .*old.txt"):
        texts_of(path)
    path.write_bytes(b"a return \r inside\nand another line\n")
    assert texts_of(path) == ["a return \r inside", "and another line"]


def test_the_mark_of_utf_8_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffgood\nfilm\n".encode())
    for encoding in ("utf-8-sig", "UTF-8-SIG", "utf-8"):
        assert texts_of(path, encoding=encoding) == ["good", "film"]


@pytest.mark.parametrize("suffix", ["json", "xlsx", "feather", "pdf", "docx"])
def test_suffixes_of_other_kinds_are_not_taken_for_lines(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_text('[{"text": "good"}]\n')
    with pytest.raises(ValueError, match="suffix of a file that is not read as lines"):
        texts_of(path)
    assert texts_of(path, kind="lines") == ['[{"text": "good"}]']


def test_pointers_of_git_lfs_are_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 9\n"
    )
    for how in ({}, {"kind": "lines"}):
        with pytest.raises(ValueError, match="a Git LFS pointer, not the file itself"):
            texts_of(path, **how)


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("x.txt.gz", {}, r"x\.txt\.gz > FILE, or .*ensemble embed -\)"),
        ("x.csv.gz", {}, r"\(ensemble embed - --kind csv\)"),
        ("x.csv.gz", {"column": "b"}, r"\(ensemble embed - --kind csv\)"),
        ("x.jsonl.gz", {}, r"ensemble embed - --kind jsonl\)"),
        ("x.gz", {"kind": "tsv"}, r"ensemble embed - --kind tsv\)"),
        ("x.parquet.gz", {}, r"x\.parquet\.gz > FILE$"),
    ],
)
def test_the_hint_does_not_embed_a_table_as_lines(
    name: str, how: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(COMPRESSED["gz"][0])
    with pytest.raises(ValueError, match=message):
        texts_of(path, **how)


def test_names_in_commands_are_quoted(tmp_path: Path) -> None:
    path = tmp_path / "a b; touch x.csv.gz"
    path.write_bytes(COMPRESSED["gz"][0])
    with pytest.raises(ValueError, match=r"zcat '.*a b; touch x\.csv\.gz' >"):
        texts_of(path)
    with pytest.raises(ValueError, match=r"zcat '.*a b; touch x\.csv\.gz' >"):
        read_frequencies(path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_streams_of_a_shell_are_read(mark: str, tmp_path: Path) -> None:
    counts, pairs = f"{mark}good 2\nfilm 1\n", f"{mark}a,b,1\nc,d,2\n"
    assert _through_a_pipe(read_frequencies, counts) == {"good": 2.0, "film": 1.0}
    assert _through_a_pipe(read_similarity_pairs, pairs).first == ["a", "c"]
    with pytest.raises(ValueError, match=r"/dev/fd/\d+ must be text, but is .*gzip"):
        _through_a_pipe(read_frequencies, COMPRESSED["gz"][0])


def _through_a_pipe(read: Any, content: str | bytes) -> Any:
    """What is read of a pipe without a name, as a shell makes it for ``<(…)``."""
    end, start = os.pipe()
    try:
        data = content.encode() if isinstance(content, str) else content
        os.write(start, data)
        os.close(start)
        return read(f"/dev/fd/{end}")
    finally:
        os.close(end)
