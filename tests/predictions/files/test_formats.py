"""Every format stores what it was given, and is read in blocks of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pytest

from ensembles.predictions.files import PREDICTION_FORMATS, open_predictions
from ensembles.predictions.files.formats import (
    arrays,
    parquet_files,
    text_tables,
)
from ensembles.predictions.files.formats.paths import open_prediction_writer

SUFFIXES = [s for entry in PREDICTION_FORMATS.values() for s in entry.suffixes]


def write(path: Path, ids: list[str], values: np.ndarray, names: list[str]) -> None:
    with open_prediction_writer(path, ["id"], names) as add:
        for start in range(0, len(values), 3):
            part = slice(start, start + 3)
            add(pl.DataFrame({"id": ids[part]}), values[part])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_predictions_are_read_as_they_were_written(
    suffix: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    values, ids = rng.normal(size=(8, 2)), [f"row {n}" for n in range(8)]
    path = tmp_path / f"member{suffix}"
    write(path, ids, values, ["a", "b"])
    file = open_predictions(path)
    blocks = list(file.blocks())
    assert np.array_equal(np.concatenate([b.values for b in blocks]), values)
    assert file.n_rows == 8
    if suffix != ".npy":
        assert file.ids == ("id",)
        assert file.columns == ("a", "b")
        assert pl.concat([b.ids for b in blocks])["id"].to_list() == ids


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_small_blocks_have_the_same_rows(
    suffix: str,
    tmp_path: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = rng.normal(size=(120, 2))
    path = tmp_path / f"member{suffix}"
    write(path, [f"r{n}" for n in range(120)], values, ["a", "b"])
    for module in (arrays, parquet_files, text_tables):
        monkeypatch.setattr(module, "BLOCK", 1000)
    blocks = list(open_predictions(path).blocks())
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate([b.values for b in blocks]), values)
    assert np.array_equal(np.concatenate([b.rows for b in blocks]), np.arange(1, 121))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_half_way_leaves_no_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"member{suffix}"

    def write_and_fail() -> None:
        with open_prediction_writer(path, ["id"], ["a"]) as add:
            add(pl.DataFrame({"id": ["x"]}), np.zeros((1, 1)))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "member.csv"
    path.touch()
    with (
        pytest.raises(FileExistsError, match="pass force=True"),
        open_prediction_writer(path, ["id"], ["a"]),
    ):
        pass


TABLES = {
    "with a byte order mark": b"\xef\xbb\xbfid,cat,dog\n1,.5,.25\n",
    "with Windows line ends": b"id,cat,dog\r\n1,.5,.25\r\n",
    "with semicolons and decimal commas": b"id;cat;dog\n1;0,5;0,25\n",
    "with quotes and blanks": b'"id","cat","dog"\n"1"," .5",.25\n',
    "with tabs": b"id\tcat\tdog\n1\t.5\t.25\n",
    "with blanks in the header": b"id, cat, dog\n1, .5, .25\n",
    "with the index of pandas": b",id,cat,dog\n9,1,.5,.25\n",
    "with a blank line at the end": b"id,cat,dog\n1,.5,.25\n\n",
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_a_table_is_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "member.csv"
    path.write_bytes(content)
    file = open_predictions(path)
    assert (file.ids, file.columns) == (("id",), ("cat", "dog"))
    (block,) = file.blocks()
    assert block.ids["id"].to_list() == ["1"]
    assert block.values.tolist() == [[0.5, 0.25]]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8", np.int8])
def test_an_archive_names_rows_and_columns(
    order: str, save: object, dtype: str, tmp_path: Path
) -> None:
    values = np.asarray(np.arange(6).reshape(3, 2), dtype, order=order)  # type: ignore[call-overload]
    path = tmp_path / "member.npz"
    save(path, id=np.array([b"x", b"y", b"z"]), classes=[7.0, 8.0], p=values)  # type: ignore[operator]
    file = open_predictions(path)
    (block,) = file.blocks()
    assert (file.ids, file.columns) == (("id",), ("7", "8"))
    assert block.ids["id"].to_list() == ["x", "y", "z"]
    assert np.array_equal(block.values, values)


def test_arrays_of_one_dimension_are_the_columns_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "member.npz"
    dates = np.array(["2026-01-03", "2026-01-10"], "datetime64[D]")
    np.savez(path, date=dates, price=np.array([1.5, 2.5]))
    file = open_predictions(path)
    (block,) = file.blocks()
    assert (file.ids, file.columns, file.kind) == (("date",), ("price",), "values")
    assert block.ids["date"].to_list() == ["2026-01-03", "2026-01-10"]


def test_a_matrix_in_fortran_order_is_read_by_rows(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    np.save(tmp_path / "member.npy", values)
    (block,) = open_predictions(tmp_path / "member.npy").blocks()
    assert np.array_equal(block.values, values)


def test_columns_are_read_in_the_order_of_the_caller(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1.0], "id": ["x"], "b": [2.0]})
    frame.write_parquet(tmp_path / "m.parquet")
    frame.write_csv(tmp_path / "m.csv")
    np.savez(tmp_path / "m.npz", a=[1.0], id=["x"], b=[2.0])
    for suffix in ("parquet", "csv", "npz"):
        file = open_predictions(tmp_path / f"m.{suffix}", columns=["b", "a"])
        (block,) = file.blocks()
        assert block.values.tolist() == [[2, 1]]
        assert block.ids["id"].to_list() == ["x"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_index_of_pandas_identifies_rows_without_other_identifiers(
    suffix: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"id": [3, 1], "cat": [0.5, 0.25], "dog": [0.5, 0.75]})
    path = tmp_path / f"m.{suffix}"
    for columns, first in ((["id", "cat", "dog"], "3"), (["cat", "dog"], "9")):
        part = frame[columns].set_axis([9, 5])
        if suffix == "csv":
            part.to_csv(path)
        else:
            part.to_parquet(path)
        file = open_predictions(path)
        (block,) = file.blocks()
        assert file.columns == ("cat", "dog")
        assert block.ids.to_series().to_list()[0] == first
