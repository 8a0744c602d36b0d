"""Texts in files of every kind, and what is told where a file is broken."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.embeddings.files import tables, text_files
from ensembles.embeddings.files.text_files import read_texts
from ensembles.embeddings.files.vector_files import open_vector_writer

TEXTS = ["one", "", "dos, «tres»", 'a "quoted" \U0001f600', "  spaces "]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "STEP", 16)
    monkeypatch.setattr(tables, "STEP", 16)
    monkeypatch.setattr(text_files, "ROWS", 2)
    csv.field_size_limit(1 << 17)  # as Python has it, whatever a command has set


def texts_of(source: Any, **how: Any) -> list[str]:
    found: list[str] = []
    for batch in read_texts(source, **how):
        texts = batch.texts
        found += texts if isinstance(texts, list) else texts.to_pylist()
    return found


def n_bytes(source: Any, **how: Any) -> int:
    return sum(batch.n_bytes for batch in read_texts(source, **how))


def test_lines_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", "utf-8")
    assert texts_of(path) == TEXTS
    assert n_bytes(path) == path.stat().st_size
    path.write_bytes("\r\n".join(TEXTS).encode("utf-8-sig"))
    assert texts_of(path) == TEXTS
    path.write_bytes(b"")
    assert texts_of(path) == []


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30)))
def test_lines_end_where_a_new_line_begins_only(texts: list[str]) -> None:
    texts = [text.replace("\n", " ").strip("\r\ufeff") for text in texts]
    file = io.BytesIO("".join(f"{text}\n" for text in texts).encode())
    assert texts_of(file) == texts


def test_streams_and_other_encodings() -> None:
    assert texts_of(io.BytesIO("más\ncaf\xe9".encode())) == ["más", "café"]
    file = io.BytesIO("más\ncafé".encode("latin-1"))
    assert texts_of(file, encoding="latin-1") == ["más", "café"]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_columns_by_name_by_number_or_by_guess(kind: str, tmp_path: Path) -> None:
    path, mark = tmp_path / f"table.{kind}", {"csv": ",", "tsv": "\t"}[kind]
    quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    cells = TEXTS if kind == "tsv" else quoted
    rows = [mark.join([str(i), cell]) for i, cell in enumerate(cells)]
    path.write_text("\n".join([mark.join(["id", "body"]), *rows]) + "\n", "utf-8")
    assert texts_of(path, column="body") == TEXTS
    assert n_bytes(path, column="body") == path.stat().st_size
    assert texts_of(path, column="2") == ["body", *TEXTS]
    with pytest.raises(
        ValueError, match="has the columns 'id', 'body'; pass column='NAME'"
    ):
        texts_of(path)
    with pytest.raises(ValueError, match="has no column 'text', found 'id', 'body'"):
        texts_of(path, column="text")
    with pytest.raises(ValueError, match=r"column must be from 1 to 2 in .*, found 3"):
        texts_of(path, column="3")
    path.write_text("\n".join([mark.join(["id", "text"]), *rows]), "utf-8")
    assert texts_of(path) == TEXTS
    path.write_text("body\none\ntwo", "utf-8")
    assert texts_of(path) == ["one", "two"]


def test_a_field_of_csv_may_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('text,n\n"first\nsecond",1\nthird,2\n')
    assert texts_of(path) == ["first\nsecond", "third"]


def test_objects_and_texts_of_json(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": text, "n": 1}) for text in TEXTS]
    path.write_text("\n".join([*lines, "", '{"text": null}']))
    assert texts_of(path) == [*TEXTS, ""]
    assert n_bytes(path) == path.stat().st_size
    path.write_text("\n".join(map(json.dumps, TEXTS)))
    assert texts_of(path) == TEXTS
    path.write_text('{"body": "a", "n": 1}')
    assert texts_of(path, column="body") == ["a"]


@pytest.mark.parametrize("how", ["plain", "large", "dictionary"])
def test_columns_of_parquet(how: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    column = pa.array([*TEXTS, None], pa.large_string() if how == "large" else None)
    if how == "dictionary":
        column = column.dictionary_encode()
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"body": column, "n": range(6)}), path)
    assert texts_of(path, column="body") == [*TEXTS, None]
    assert n_bytes(path, column="body") == path.stat().st_size
    with pytest.raises(ValueError, match="column 'n' must contain texts, found int64"):
        texts_of(path, column="n")
    with pytest.raises(ValueError, match="must be read from a regular file"):
        texts_of(io.BytesIO(), kind="parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is not a complete Parquet file"):
        texts_of(path, column="body")


@pytest.mark.parametrize(
    ("name", "content", "how", "message"),
    [
        (
            "a.txt",
            b"one\ntwo\ncaf\xe9 x",
            {},
            r"a.txt line 3 is not utf-8: .*0xe9; pass enc",
        ),
        (
            "a.txt",
            b"a" * 40 + b"\n\xff",
            {},
            r"line 2 is not utf-8: invalid start byte",
        ),
        (
            "a.txt",
            b"one",
            {"column": "text"},
            "which have no column 'text'; pass kind='csv'",
        ),
        ("a.txt", b"one", {"kind": "xml"}, "kind must be one of lines, csv, tsv, json"),
        ("a.csv", b"n,text\n1,a\n2\n", {}, "line 3 must have a field 2 .* found 1"),
        ("a.csv", b"n,text\n1," + b"a" * 200_000, {}, "line 2: field larger than"),
        ("a.csv", b'text\na\n"b\nc\nd\n', {}, "line 5: unexpected end of data"),
        ("a.txt", b"one", {"encoding": "utf-16"}, "encoding must be ASCII-compatible"),
        (
            "a.txt",
            b"one",
            {"encoding": "nonsense"},
            "encoding must be ASCII-compatible",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text"', {}, "a.jsonl line 2 must be JSON"),
        ("a.jsonl", b'{"text": 3}', {}, "line 1 must be a text, found 3"),
        ("a.jsonl", b'{"a": 3, "b": 4}', {}, "line 1 has the columns 'a', 'b'"),
        ("a.jsonl", b"[" * 100_000, {}, "line 1 must be JSON"),
    ],
)
def test_what_is_broken_is_told_with_its_line(
    name: str, content: bytes, how: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts_of(tmp_path / name, **how)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "uint8"])
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_vectors_grow_in_a_file(suffix: str, dtype: str, tmp_path: Path) -> None:
    path = tmp_path / f"X{suffix}"
    blocks = [np.arange(12).reshape(4, 3), np.arange(3).reshape(1, 3)]
    blocks = [block.astype(dtype) for block in blocks]
    with open_vector_writer(path, 3, blocks[0].dtype, force=False) as add:
        add(list("abcd"), blocks[0])
        assert not path.exists()
        add(["é"], blocks[1])
    expected = np.concatenate(blocks)
    if suffix == ".npy":
        found = np.load(path)
        assert found.dtype == expected.dtype
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        assert table["text"].to_pylist() == [*"abcd", "é"]
        found = np.array(table["vector"].to_pylist())
        assert table["vector"].type.value_type.to_pandas_dtype() == np.dtype(dtype)
    assert found.tolist() == expected.tolist()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_texts_with_lone_surrogates_are_mended(tmp_path: Path) -> None:
    path = tmp_path / "X.parquet"
    parquet = pytest.importorskip("pyarrow.parquet")
    with open_vector_writer(path, 1, np.float32, force=False) as add:
        add(["good \ud83d"], np.ones((1, 1)))
    assert parquet.read_table(path)["text"].to_pylist() == ["good \ufffd"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "X.npy").mkdir()
    with pytest.raises(FileExistsError, match="is a folder, which a file does not rep"):
        open_vector_writer(tmp_path / "X.npy", 3, np.float32, force=True).__enter__()


def test_an_empty_file_of_vectors_has_columns(tmp_path: Path) -> None:
    with open_vector_writer(tmp_path / "X.npy", 3, np.float32, force=False):
        pass
    assert np.load(tmp_path / "X.npy").shape == (0, 3)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_file_of_vectors_is_whole_or_absent(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"X{suffix}"

    def interrupted() -> None:
        with open_vector_writer(path, 3, np.float32, force=False) as add:
            add(["a"], np.ones((1, 3)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    path.write_text("kept")
    with (
        pytest.raises(FileExistsError, match="pass force=True"),
        open_vector_writer(path, 3, np.float32, force=False),
    ):
        pass
    assert path.read_text() == "kept"
    with pytest.raises(ValueError, match=r"path must end in .npy or .parquet, found"):
        open_vector_writer(tmp_path / "X.csv", 3, np.float32, force=False).__enter__()


@pytest.mark.parametrize(
    ("name", "content", "column", "expected"),
    [
        (
            "a.csv",
            "text;score\ngood film;1\nbad, film;2\n",
            None,
            ["good film", "bad, film"],
        ),
        ("a.csv", "id;body;label\n1;bad, film;x\n", "body", ["bad, film"]),
        ("a.csv", 'id;"body"\n1;"semi;colon"\n', "body", ["semi;colon"]),
        ("a.csv", "id\tbody\n1\tgood, film\n", "body", ["good, film"]),
        ("a.csv", "id|text\n1|good, film\n", None, ["good, film"]),
        ("a.csv", "1;good, film;x\n2;bad;y\n", "2", ["good, film", "bad"]),
        ("a.csv", "sep=;\nid;text\n1;good\n", None, ["good"]),
        ("a.tsv", 'text,score\n"good, film",1\n', None, ["good, film"]),
        ("a.tab", "text\tscore\ngood\t1\n", None, ["good"]),
        # What is a table with commas, or of one column, stays one.
        ("a.csv", "text,a;b\ngood;film,1\n", None, ["good;film"]),
        ("a.csv", "text\ngood; film\n", None, ["good; film"]),
        ("a.csv", "what; why\ngood; film\n", "what; why", ["good; film"]),
        ("a.csv", "good; film\n", "1", ["good; film"]),
        ("a.tsv", "text\ngood, film\n", None, ["good, film"]),
        ("a.tsv", "Hello, world\n", "1", ["Hello, world"]),
    ],
)
def test_the_delimiter_is_seen_in_the_first_line(
    name: str, content: str, column: str | None, expected: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content, "utf-8-sig")
    assert texts_of(path, column=column) == expected


def test_columns_between_semicolons_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id;body;label\n1;good;x\n")
    with pytest.raises(ValueError, match="has the columns 'id', 'body', 'label'"):
        texts_of(path)


def test_a_field_that_is_too_long_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id," + "b" * 140_000 + "\n")
    with pytest.raises(ValueError, match=r"a\.csv line 1: field larger than"):
        texts_of(path)


@pytest.mark.parametrize(
    ("name", "text", "how"),
    [
        ("a.csv", "text\ngood film, bad\n", {}),
        ("a.csv", "id,text\n1,a good film\n2,bad, film\n", {}),
        ("a.csv", "text,id\nbad, film,2\n", {"column": "text"}),
        ("a.tsv", "id\ttext\n1\tgood\tbad\n", {}),
        ("a.csv", "1,good film\n2,bad, film\n", {"column": "2"}),
    ],
)
def test_a_text_that_is_cut_at_a_delimiter_is_reported(
    name: str, text: str, how: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"line \d must have \d fields.* quote texts"):
        list(read_texts(tmp_path / name, **how))


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("id,text\n1,good,\n2,bad,,\n", {}),  # delimiters at the end of lines
        ("good,x\nbad,x,y\n", {"column": "1"}),  # labels after a text
        ('id,text\n1,"good, bad"\n', {}),
        ("text,id\ngood\nbad,2\n", {}),
    ],
)
def test_lines_with_other_numbers_of_fields_may_be_whole(
    text: str, how: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(text)
    found = [one for batch in read_texts(tmp_path / "a.csv", **how) for one in batch[0]]
    assert found in (["good", "bad"], ["good, bad"])
