"""Identifiers, kinds and levels are recognized from the header and the first rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ensembles.predictions.files import open_predictions

# Header, a row, and what is recognized: identifiers, kind, columns.
LAYOUTS: dict[str, tuple[str, str, tuple[str, ...], str, tuple[Any, ...]]] = {
    "id": ("id,a,b", "1,.5,.5", ("id",), "probabilities", ("a", "b")),
    "camel case": ("PassengerId,p", "1,.5", ("PassengerId",), "values", ("p",)),
    "a number that is no id": ("age,b", "1,2", (), "values", ("age", "b")),
    "ids are whole": ("row,b", "1.5,2", (), "values", ("row", "b")),
    "text": ("name,a", "x,5", ("name",), "values", ("a",)),
    "dates": ("day,a", "2026-01-03,5", ("day",), "values", ("a",)),
    "pandas": (",a", "7,5", ("",), "values", ("a",)),
    "levels": ("id,0.9,0.1", "1,5,4", ("id",), "quantiles", (0.1, 0.9)),
    "named levels": ("id,q0.025,q0.5", "1,5,4", ("id",), "quantiles", (0.025, 0.5)),
    "classes of numbers": ("id,0,1", "1,.5,.5", ("id",), "probabilities", ("0", "1")),
    "logits": ("id,a,b", "1,-3,4", ("id",), "values", ("a", "b")),
    "hubverse": (
        "location,horizon,output_type,output_type_id,value",
        "US,1,quantile,0.5,7",
        ("location", "horizon"),
        "quantiles",
        (0.5,),
    ),
    "hubverse mean": (
        "location,output_type,output_type_id,value",
        "US,mean,NA,7",
        ("location",),
        "values",
        ("mean",),
    ),
    "scoringutils": (
        "location,quantile_level,predicted",
        "US,0.5,7",
        ("location",),
        "quantiles",
        (0.5,),
    ),
    "long classes": ("id,class,prob", "7,cat,1", ("id",), "probabilities", ("cat",)),
}


@pytest.mark.parametrize(
    ("header", "row", "ids", "kind", "columns"), LAYOUTS.values(), ids=LAYOUTS
)
def test_a_layout_is_recognized(
    header: str,
    row: str,
    ids: tuple[str, ...],
    kind: str,
    columns: tuple[Any, ...],
    tmp_path: Path,
) -> None:
    (tmp_path / "m.csv").write_text(f"{header}\n{row}\n")
    file = open_predictions(tmp_path / "m.csv")
    assert (file.ids, file.kind, file.columns) == (ids, kind, columns)


def write(folder: Path, content: str) -> Path:
    (folder / "m.csv").write_text(content)
    return folder / "m.csv"


def test_identifiers_and_columns_are_chosen_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "week,a,b,c\n3,.1,.2,.7\n")
    file = open_predictions(path, ids=["week"], columns=["c", "a"])
    assert (file.ids, file.columns) == (("week",), ("c", "a"))
    (block,) = file.blocks()
    assert block.values.tolist() == [[0.7, 0.1]]
    assert file.notes == ("columns left out: b",)


def test_rows_are_chosen_by_their_values(tmp_path: Path) -> None:
    rows = "1,A,cat,pmf,.5\n1,B,cat,pmf,.1\n2,B,cow,pmf,.9\n"
    path = write(tmp_path, "id,model,output_type_id,output_type,value\n" + rows)
    file = open_predictions(path, where={"model": "B"})
    assert (file.ids, file.columns, file.n_rows) == (("id",), ("cat", "cow"), 2)
    (block,) = file.blocks()
    assert block.rows.tolist() == [2, 3]
    assert block.values.tolist() == [0.1, 0.9]


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "ids": ({"ids": ["x"]}, "ids must be columns of .* no column 'x', found 'id', 'a'"),
    "columns": ({"columns": ["x"]}, "columns must be .*it has no column 'x'"),
    "twice": ({"ids": ["id", "id"]}, "ids must be different columns"),
    "where": ({"where": {"x": 1}}, "where must be columns of .*no column 'x'"),
    "output type": ({"output_type": "pmf"}, "output_type='pmf' needs the columns"),
    "all are ids": ({"ids": ["id", "a"]}, "must have columns of numbers besides"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS)
def test_a_wrong_choice_is_named(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, "id,a\n1,5\n")
    with pytest.raises(ValueError, match=message):
        open_predictions(path, **options)


def test_a_text_is_not_a_list_of_names(tmp_path: Path) -> None:
    path = write(tmp_path, "id,a\n1,5\n")
    with pytest.raises(TypeError, match="ids must be a list of names, found 'id'"):
        open_predictions(path, ids="id")


def test_a_level_with_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "id,0.1,0.9\n1,x,3\n")
    with pytest.raises(ValueError, match=r"column '0.1' must contain the quantile"):
        open_predictions(path)


def test_other_output_types_are_noted(tmp_path: Path) -> None:
    rows = "1,quantile,.5,7\n1,mean,,8\n"
    path = write(tmp_path, "id,output_type,output_type_id,value\n" + rows)
    file = open_predictions(path, output_type="mean")
    assert (file.kind, file.n_rows) == ("values", 1)
    assert file.notes == ("output types left out: quantile",)
    with pytest.raises(
        ValueError, match="has no output type 'pmf', found 'quantile', "
    ):
        open_predictions(path, output_type="pmf")
