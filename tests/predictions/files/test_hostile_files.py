"""Files that are damaged or malicious are refused with the line and the reason."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ensembles.predictions.files import align, open_predictions, read_target

HEADER = "id,cat,dog\n"
TEXTS: dict[str, tuple[str, bytes | str, str]] = {
    "ragged": (
        "m.csv",
        HEADER + "1,.5,.5\n2,.1\n",
        "line 3 must have 3 fields.* 2: '2",
    ),
    "long row": ("m.csv", HEADER + "1,.5,.5,3\n", "line 2 must have 3 fields.*found 4"),
    "text in a column": (
        "m.csv",
        HEADER + "1,.5,.5\n" * 500 + "2,x,.9\n",
        "line 502, column 'cat' must be a number, found 'x'",
    ),
    "text from the start": ("m.csv", HEADER + "1,a,1\n", "column 'cat' must contain"),
    "latin-1": ("m.csv", (HEADER + "é,1,0\n").encode("latin-1"), "'id' must be utf-8"),
    "latin-1 header": ("m.csv", "id,cät\n1,1".encode("latin-1"), "line 1 is not utf-8"),
    "mixed encodings": (
        "m.csv",
        (HEADER + "é,1,0\n").encode() + "é,1,0\n".encode("latin-1"),
        "line 3, column 'id' must be utf-8; iconv",
    ),
    "UTF-16": ("m.csv", HEADER.encode("utf-16"), "is UTF-16: iconv"),
    "gzip": ("m.csv", b"\x1f\x8b" + bytes(90), "compressed .gzip.: zcat"),
    "binary": ("m.csv", bytes(range(256)), "is a binary file"),
    "empty": ("m.csv", "", "it is empty"),
    "only a header": ("m.csv", HEADER, "must have rows after its header"),
    "no header": ("m.csv", "0.2,0.8\n0.3,0.7\n", "must begin with the names"),
    "numbers for a header": ("m.csv", "1.5,0.8\n0.3,0.7\n", "begin with the names"),
    "equal names": ("m.csv", "id,cat,cat\n1,1,0\n", "'cat' occurs twice"),
    "10,000 columns": (
        "m.csv",
        "id" + "".join(f",{n}" for n in range(10_000)) + "\n1" + ",1" * 10_000,
        "at most 5000 columns, found 10001",
    ),
    "a header without end": ("m.csv", "id," + "x" * (1 << 20), "header of at most"),
    "an open quote": (
        "m.csv",
        HEADER + '1,".5,.5\n2,1,0\n',
        "line 2 must have 3 fields",
    ),
    "infinity": ("m.csv", HEADER + "1,inf,0\n", r"row 1 \(id=1\) contains infinity"),
    "a row twice": ("m.csv", HEADER + "1,1,0\n1,1,0\n", r"row 2 \(id=1\) occurs twice"),
    "a sum": ("m.csv", HEADER + "1,.5,.6\n", "id=1 must have.* sum 1, found 1.1; pass"),
    "negative": ("m.csv", HEADER + "1,-.5,1.5\n", "between 0 and 1, found -0.5"),
    "a truncated array": (
        "m.npy",
        b"\x93NUMPY\x01\x00\x76\x00{'d",
        "not a NumPy array",
    ),
    "no array": ("m.npy", HEADER, "is not a NumPy array"),
    "no archive": ("m.npz", b"PK\x03\x04abc", "is not a complete NumPy archive"),
    "no Parquet": ("m.parquet", HEADER, "is not a complete Parquet file"),
    "a pickle": ("m.pkl", HEADER, "pickles could run code"),
    "a compressed suffix": ("m.csv.gz", HEADER, "decompress it first"),
    "no suffix": ("m", HEADER, "must end in one of"),
    "a level": (
        "m.csv",
        "id,output_type,output_type_id,value\n1,quantile,2,1\n",
        "between 0 and 1, found '2'",
    ),
    "several output types": (
        "m.csv",
        "id,output_type,output_type_id,value\n1,quantile,.2,1\n1,pmf,cat,1\n",
        "output types 'quantile', 'pmf'; pass output_type='quantile'",
    ),
    "an unknown output type": (
        "m.csv",
        "id,output_type,output_type_id,value\n1,cdf,.2,1\n",
        "output type 'cdf' cannot be combined",
    ),
    "text for values": (
        "m.csv",
        "id,output_type,output_type_id,value\n1,pmf,cat,x\n",
        "'value' must contain numbers, found text such as 'x'",
    ),
    "a value twice": (
        "m.csv",
        "id,output_type,output_type_id,value\n1,pmf,cat,1\n1,pmf,cat,1\n",
        r"each 'cat' of each row once: row 2 \(id=1\) occurs twice",
    ),
}


@pytest.fixture
def target(tmp_path: Path) -> Any:
    (tmp_path / "y.csv").write_text("id,label\n1,cat\n2,dog\n3,cat\n")
    return read_target(tmp_path / "y.csv")


@pytest.mark.parametrize(("name", "content", "message"), TEXTS.values(), ids=TEXTS)
def test_a_file_is_refused(
    name: str, content: bytes | str, message: str, tmp_path: Path, target: Any
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        align([open_predictions(path)], target)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def header_of_a_billion_rows() -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 2)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(64)


def save_billion_rows(path: Path) -> None:
    path.write_bytes(header_of_a_billion_rows())


def save_archive_of_a_billion_rows(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p.npy", header_of_a_billion_rows())


def save_text_that_is_not_utf8(path: Path) -> None:
    frame = pl.DataFrame({"id": ["q" * 9], "cat": [0.5], "dog": [0.5]})
    frame.write_parquet(path, compression="uncompressed", statistics=False)
    path.write_bytes(path.read_bytes().replace(b"q" * 9, b"\xff" * 9))


def save_name_that_is_not_utf8(path: Path) -> None:
    pl.DataFrame({"q" * 9: [0.5], "dog": [0.5]}).write_parquet(path)
    path.write_bytes(path.read_bytes().replace(b"q" * 9, b"\xff" * 9))


def save_header_without_end(path: Path) -> None:
    np.save(path, np.zeros((3, 2)))
    path.write_bytes(path.read_bytes().replace(b"}", b"("))


def save_damaged_archive(path: Path) -> None:
    np.savez(path, p=np.full((3, 2), 0.2))
    content = bytearray(path.read_bytes())
    content[content.find(struct.pack("<d", 0.2))] ^= 1
    path.write_bytes(content)


def save_damaged_parquet(path: Path) -> None:
    pl.DataFrame({"id": range(900), "cat": np.linspace(0, 1, 900)}).write_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:34] = b"\xff" * 30  # header of the first page
    path.write_bytes(content)


def save_objects(path: Path) -> None:
    save = np.save if path.suffix == ".npy" else np.savez
    save(path, np.array([[0.5, "a"]], dtype=object))


Save = Callable[[Path], Any]
BINARIES: dict[str, tuple[str, Save, str]] = {
    "a billion rows": ("m.npy", save_billion_rows, "needs 16000000000 bytes.*found 64"),
    "a billion rows in an archive": (
        "m.npz",
        save_archive_of_a_billion_rows,
        "array 'p'.*needs 16000000000 bytes.*found 64",
    ),
    "objects": ("m.npy", save_objects, "contains Python objects"),
    "objects in an archive": ("m.npz", save_objects, "contains Python objects"),
    "a wrong checksum": ("m.npz", save_damaged_archive, "Bad CRC-32"),
    "a damaged Parquet file": ("m.parquet", save_damaged_parquet, "not a complete"),
    "text that is not UTF-8": ("m.parquet", save_text_that_is_not_utf8, "UTF8"),
    "a name that is not UTF-8": ("m.parquet", save_name_that_is_not_utf8, "utf-8"),
    "a header without end": ("m.npy", save_header_without_end, "not a NumPy array"),
    "three dimensions": (
        "m.npy",
        lambda path: np.save(path, np.zeros((2, 2, 2))),
        r"must have the shape .*found \(2, 2, 2\)",
    ),
    "complex numbers": (
        "m.npy",
        lambda path: np.save(path, np.zeros((3, 2), complex)),
        "must contain numbers or text, found dtype complex128",
    ),
    "10,000 columns": (
        "m.npy",
        lambda path: np.save(path, np.zeros((3, 10_000))),
        "at most 5000 columns",
    ),
    "no rows": ("m.npy", lambda path: np.save(path, np.zeros((0, 2))), "found none"),
    "too few rows": (
        "m.npy",
        lambda path: np.save(path, np.zeros((2, 2))),
        "y.csv has 3 rows, .*m.npy has 2",
    ),
    "two matrices": (
        "m.npz",
        lambda path: np.savez(path, a=np.zeros((3, 2)), b=np.zeros((3, 2))),
        "one array of two dimensions, found 'a', 'b'",
    ),
    "arrays of several lengths": (
        "m.npz",
        lambda path: np.savez(path, id=[1, 2], b=np.zeros((3, 2))),
        "same number of rows: .*'id' has 2, .*'b' has 3",
    ),
    "names of other columns": (
        "m.npz",
        lambda path: np.savez(path, classes=["a"], b=np.zeros((3, 2))),
        "must name the 2 columns of .*found 1",
    ),
    "text for numbers": (
        "m.parquet",
        lambda path: pl.DataFrame(
            {"id": [1, 2, 3], "cat": ["a", "b", "c"], "dog": [0.5, 0.5, 0.5]}
        ).write_parquet(path),
        "column 'cat' must contain probabilities of this class, found text such as 'a'",
    ),
    "lists": (
        "m.parquet",
        lambda path: pl.DataFrame({"id": [1], "cat": [[0.5]]}).write_parquet(path),
        "column 'cat' must contain numbers, text or dates, found .*list",
    ),
}


@pytest.mark.parametrize(("name", "save", "message"), BINARIES.values(), ids=BINARIES)
def test_a_binary_file_is_refused(
    name: str, save: Save, message: str, tmp_path: Path, target: Any
) -> None:
    path = tmp_path / name
    save(path)
    with pytest.raises(ValueError, match=message) as error:
        align([open_predictions(path)], target)
    assert str(path) in str(error.value)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    for suffix in (".csv", ".npy", ".npz", ".parquet"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        with pytest.raises(ValueError, match="is not a regular file"):
            open_predictions(tmp_path / f"pipe{suffix}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        open_predictions(tmp_path / "absent.csv")


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path, target: Any) -> None:
    path = tmp_path / f"m{suffix}"
    frame = pl.DataFrame({"id": [1, 2, 3], "cat": [0.5] * 3, "dog": [0.5] * 3})
    if suffix == ".npy":
        np.save(path, frame.drop("id").to_numpy())
    elif suffix == ".npz":
        np.savez(path, id=[1, 2, 3], p=frame.drop("id").to_numpy())
    elif suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path)
    content = path.read_bytes()
    align([open_predictions(path)], target)
    for end in np.linspace(0, len(content) - 3, 25).astype(int).tolist():
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=str(path)):
            align([open_predictions(path)], target)
