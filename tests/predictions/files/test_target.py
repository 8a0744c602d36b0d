"""True values keep the type that their text has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.predictions.files import read_target


def write(folder: Path, content: str) -> Path:
    (folder / "y.csv").write_text(content)
    return folder / "y.csv"


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "0"], [1, 0]),
        (["1.0", "0.0"], [1, 0]),
        (["1.5", "1e3"], [1.5, 1000.0]),
        (["cat", "dog"], ["cat", "dog"]),
        (["01", "10"], ["01", "10"]),
        (["1", "dog"], ["1", "dog"]),
        (["NA", "dog"], ["NA", "dog"]),
        (["-1", "1"], [-1, 1]),
        (["1_0", "2"], ["1_0", "2"]),
    ],
)
def test_values_have_a_type(
    texts: list[str], values: list[Any], tmp_path: Path
) -> None:
    path = write(
        tmp_path, "id,y\n" + "".join(f"{n},{t}\n" for n, t in enumerate(texts))
    )
    y = read_target(path).y
    assert y.tolist() == values
    assert [type(v) for v in y.tolist()] == [type(v) for v in values]


@pytest.mark.parametrize("missing", ["", "NA", "NaN", "null"])
def test_rows_without_a_number_are_left_out(missing: str, tmp_path: Path) -> None:
    target = read_target(write(tmp_path, f"id,y\n1,3\n2,{missing}\n3,4\n"))
    assert target.y.tolist() == [3, 4]
    assert target.ids["id"].to_list() == ["1", "3"]
    assert "1 rows of" in target.notes[0]


def test_no_value_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have values in column 'y', found none"):
        read_target(write(tmp_path, "id,y\n1,\n2,\n"))


def test_the_column_is_chosen_by_name_or_type(tmp_path: Path) -> None:
    path = write(tmp_path, "week,place,cases,deaths\n2026-01-03,US,5,1\n")
    with pytest.raises(ValueError, match=r"must have one column besides .*'cases'"):
        read_target(path)
    assert read_target(path, column="deaths").y.tolist() == [1]
    path = write(tmp_path, "week,place,cases\n2026-01-03,US,5\n")
    target = read_target(path)
    assert (target.name, target.ids.columns) == ("cases", ["week", "place"])


def test_an_array_is_a_target(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array(["b", "a"]))
    target = read_target(tmp_path / "y.npy")
    assert target.y.tolist() == ["b", "a"]
    assert target.ids.columns == []
