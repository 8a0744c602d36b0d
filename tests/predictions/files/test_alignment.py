"""Rows are matched by identifiers, columns by name, whatever the format and order."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles.predictions.files import (
    align,
    alignment,
    open_predictions,
    read_target,
)
from ensembles.predictions.files.formats.paths import open_prediction_writer
from ensembles.predictions.files.rows import RowIndex

SUFFIXES = (".csv", ".tsv", ".parquet", ".npz")


def text(path: Path, content: str) -> Any:
    path.write_text(content)
    return open_predictions(path)


def target_of(folder: Path, content: str) -> Any:
    (folder / "target.csv").write_text(content)
    return read_target(folder / "target.csv")


@pytest.fixture
def target(tmp_path: Path) -> Any:
    return target_of(tmp_path, "id,label\n1,cat\n2,dog\n3,cat\n")


CATS = "id,cat,dog\n3,.3,.7\n1,.1,.9\n2,.2,.8\n"


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_rows=st.integers(1, 12))
def test_files_of_every_format_have_the_stack_of_their_arrays(
    seed: int, n_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("files")
    labels = ["a b", "10", "é,", "z"]
    y = rng.choice(labels, n_rows)
    y_proba = rng.dirichlet(np.ones(4), (5, n_rows))
    ids = rng.permutation(1000)[:n_rows]
    pl.DataFrame({"n": ids, "y": y}).write_csv(folder / "y.csv")
    files, order = [], np.argsort(labels)
    for member, suffix in enumerate(SUFFIXES):
        path = folder / f"m{member}{suffix}"
        rows, columns = rng.permutation(n_rows), rng.permutation(4)
        with open_prediction_writer(path, ["n"], [labels[c] for c in columns]) as add:
            values = y_proba[member][rows][:, columns]
            add(pl.DataFrame({"n": ids[rows]}), values)
        files.append(open_predictions(path, ids=["n"]))
    np.save(folder / "m4.npy", y_proba[4][:, order])
    files.append(open_predictions(folder / "m4.npy"))
    aligned = align(
        files,
        read_target(folder / "y.csv", column="y"),
        classes=labels,
    )
    assert aligned.columns.tolist() == sorted(labels)
    assert np.array_equal(aligned.stack, y_proba[:, :, order])
    assert np.array_equal(aligned.y, y)
    assert aligned.present.all()
    assert aligned.ids["n"].to_list() == [str(n) for n in ids]
    assert aligned.notes == ["m4: columns without names are the sorted classes"]


def test_missing_rows_are_an_error_with_the_first(tmp_path: Path, target: Any) -> None:
    file = text(tmp_path / "m.csv", "id,cat,dog\n1,.5,.5\n")
    with pytest.raises(
        ValueError, match=r"m.csv lacks 2 of 3 rows, the first is id=2;"
    ):
        align([file], target)


def test_missing_rows_are_left_out_of_all_members(tmp_path: Path, target: Any) -> None:
    files = [
        text(tmp_path / "a.csv", CATS),
        text(tmp_path / "b.csv", "id,cat,dog\n3,1,0\n2,NA,.5\n"),
    ]
    aligned = align(files, target, missing="drop")
    assert aligned.ids["id"].to_list() == ["3"]
    assert aligned.y.tolist() == ["cat"]
    assert aligned.stack.tolist() == [[[0.3, 0.7]], [[1, 0]]]
    assert "b: 1 rows with missing values are left out" in aligned.notes
    assert "2 of 3 rows are left out, because members lack them: b 2" in aligned.notes


def test_a_member_may_miss_rows(tmp_path: Path, target: Any) -> None:
    files = [
        text(tmp_path / "a.csv", "id,cat,dog\n1,.1,.9\n"),
        text(tmp_path / "b.csv", "id,cat,dog\n3,1,0\n1,NA,.5\n"),
    ]
    aligned = align(files, target, missing="member")
    assert aligned.ids["id"].to_list() == ["1", "3"]
    assert aligned.present.tolist() == [[True, False], [False, True]]
    assert np.array_equal(np.isnan(aligned.stack[..., 0]), ~aligned.present)


def test_no_row_of_all_members_is_an_error(tmp_path: Path, target: Any) -> None:
    files = [
        text(tmp_path / "a.csv", "id,cat,dog\n1,.1,.9\n"),
        text(tmp_path / "b.csv", "id,cat,dog\n3,1,0\n"),
    ]
    with pytest.raises(ValueError, match=r"no row has predictions of all.*a 2, b 2"):
        align(files, target, missing="drop")


def test_rows_without_a_target_are_counted(tmp_path: Path, target: Any) -> None:
    aligned = align([text(tmp_path / "m.csv", CATS + "4,0,1\n5,0,1\n")], target)
    assert aligned.notes == ["m: 2 rows of the file are not among the rows to align"]


def test_a_missing_class_has_probability_zero_on_request(
    tmp_path: Path, target: Any
) -> None:
    files = [
        text(tmp_path / "a.csv", "id,cat,dog,cow\n1,1,0,0\n2,0,1,0\n3,0,0,1\n"),
        text(tmp_path / "b.csv", CATS),
    ]
    with pytest.raises(ValueError, match=r"a.csv has the column 'cow'.*b.csv lacks"):
        align(files, target)
    aligned = align(files, target, missing_class="zero")
    assert aligned.columns.tolist() == ["cat", "cow", "dog"]
    assert aligned.stack[1].tolist() == [[0.1, 0, 0.9], [0.2, 0, 0.8], [0.3, 0, 0.7]]
    assert "b: 1 missing classes have the probability 0" in aligned.notes


@pytest.mark.parametrize("prefix", ["", "proba_", "p(", "class "])
def test_names_of_classes_may_have_a_prefix(prefix: str, tmp_path: Path) -> None:
    target = target_of(tmp_path, "id,y\n1,0\n2,1\n")
    end = ")" if prefix.endswith("(") else ""
    header = f"id,{prefix}1{end},{prefix}0{end}\n"
    aligned = align([text(tmp_path / "m.csv", header + "1,.1,.9\n2,.2,.8\n")], target)
    assert aligned.columns.tolist() == [0, 1]
    assert aligned.columns.dtype == np.int64
    assert aligned.stack.tolist() == [[[0.9, 0.1], [0.8, 0.2]]]


@pytest.mark.parametrize(("name", "cat"), [("cat", 0.25), ("p", 0.75), ("dog", 0.75)])
def test_a_single_column_is_the_class_of_its_name_or_the_second(
    name: str, cat: float, tmp_path: Path, target: Any
) -> None:
    rows = "".join(f"{n},.25\n" for n in (1, 2, 3))
    aligned = align([text(tmp_path / "m.csv", f"id,{name}\n{rows}")], target)
    assert aligned.kind == "probabilities"
    assert aligned.stack[0, 0].tolist() == [cat, 1 - cat]
    assert "its column is the probability of class" in aligned.notes[0]


def test_numbers_are_values(tmp_path: Path) -> None:
    target = target_of(tmp_path, "id,y\n1,0.5\n2,7\n")
    files = [
        text(tmp_path / "a.csv", "id,y\n2,1e3\n1,-2\n"),
        text(tmp_path / "b.csv", "id,prediction\n1,4\n2,5\n"),
    ]
    aligned = align(files, target)
    assert aligned.kind == "values"
    assert aligned.stack[..., 0].tolist() == [[-2, 1000], [4, 5]]


def test_true_values_among_the_predictions_are_refused(tmp_path: Path) -> None:
    target = target_of(tmp_path, "id,y\n1,0.5\n2,7\n")
    file = text(tmp_path / "m.csv", "id,y,p\n1,0.5,1\n2,7,6\n")
    with pytest.raises(ValueError, match="has 'y', the column of the true values"):
        align([file], target)
    file = open_predictions(tmp_path / "m.csv", columns=["p"])
    assert align([file], target).stack.ravel().tolist() == [1, 6]


def test_several_columns_do_not_predict_a_number(tmp_path: Path) -> None:
    target = target_of(tmp_path, "id,y\n1,0.5\n2,7\n")
    for values in ("1,0.5,.5\n2,.7,.3\n", "1,5,6\n2,7,8\n"):
        file = text(tmp_path / "m.csv", f"id,a,b\n{values}")
        with pytest.raises(ValueError, match="must have one column of values for 'y'"):
            align([file], target)


def test_sums_are_normalized_on_request(tmp_path: Path, target: Any) -> None:
    file = text(tmp_path / "m.csv", "id,cat,dog\n1,3,1\n2,.5,.5\n3,0,2\n")
    with pytest.raises(ValueError, match="between 0 and 1, found 3"):
        align([file], target)
    aligned = align([file], target, normalize=True)
    assert aligned.stack.tolist() == [[[0.75, 0.25], [0.5, 0.5], [0, 1]]]
    file = text(tmp_path / "m.csv", "id,cat,dog\n1,3,1\n2,0,0\n3,0,2\n")
    with pytest.raises(ValueError, match=r"id=2 must have .* found 0"):
        align([file], target, normalize=True)


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pl.Series([7, 8]), ["7", "8"]),
        (pl.Series([7.0, 8.0]), ["7", "8"]),
        (pl.Series([7, 8], dtype=pl.UInt8), ["7.0", "8.00"]),
        (pl.Series(["07", "x"], dtype=pl.Categorical), ["07", "x"]),
        (pl.Series([datetime.date(2026, 1, 3), None]), ["2026-01-03", ""]),
        (
            pl.Series(
                [datetime.datetime(2026, 1, 3), datetime.datetime(2026, 1, 4, 6)]
            ),
            ["2026-01-03", "2026-01-04 06:00:00.000000"],
        ),
        (pl.Series([" a", "b "]), ["a", "b"]),
    ],
)
def test_identifiers_are_the_same_in_every_type(
    column: pl.Series, texts: list[str], tmp_path: Path
) -> None:
    lines = "".join(f"{key},{n}.5\n" for n, key in enumerate(texts))
    target = target_of(tmp_path, "id,y\n" + lines)
    pl.DataFrame({"id": column, "p": [1.0, 2.0]}).reverse().write_parquet(
        tmp_path / "m.parquet"
    )
    file = open_predictions(tmp_path / "m.parquet", ids=["id"])
    assert align([file], target).stack.ravel().tolist() == [1, 2]


def test_identifiers_with_leading_zeros_are_others(tmp_path: Path) -> None:
    target = target_of(tmp_path, "id,y\n7,1.5\n")
    file = text(tmp_path / "m.csv", "id,p\n07,1\n")
    with pytest.raises(ValueError, match="lacks 1 of 1 rows, the first is id=7"):
        align([file], target)


def test_two_columns_identify_rows_together(tmp_path: Path) -> None:
    target = target_of(tmp_path, "shop,day_id,y\nA,1,1.5\nA,2,2.5\nB,1,3.5\n")
    file = text(tmp_path / "m.csv", "day_id,p,shop\n1,3,B\n2,2,A\n1,1,A\n")
    assert align([file], target).stack.ravel().tolist() == [1, 2, 3]


def test_target_and_files_need_common_identifiers(tmp_path: Path) -> None:
    target = target_of(tmp_path, "name,y\nA,1.5\n")
    file = text(tmp_path / "m.csv", "id,p\n1,3\n")
    with pytest.raises(
        ValueError, match=r"must have the identifiers id of .*found name"
    ):
        align([file], target)


def test_a_target_has_each_row_once(tmp_path: Path) -> None:
    target = target_of(tmp_path, "id,y\n1,1.5\n1,2.5\n")
    file = text(tmp_path / "m.csv", "id,p\n1,3\n")
    with pytest.raises(
        ValueError, match=r"target.csv must have each row once: id=1 occ"
    ):
        align([file], target)


FORECAST = (
    "reference_date,location,horizon,target_date,output_type,output_type_id,value\n"
)


def forecast(path: Path, rows: list[tuple[str, str, int, str]], scale: float) -> Any:
    lines = [
        f"{','.join(map(str, row))},quantile,{level},{scale * float(level)}\n"
        for level in ("0.5", "0.25", "0.750")
        for row in rows
    ]
    return text(path, FORECAST + "".join(lines))


def test_the_truth_of_forecasts_is_found_by_a_part_of_the_identifiers(
    tmp_path: Path,
) -> None:
    first = ("2026-01-03", "US", 1, "2026-01-10")
    second = ("2026-01-10", "US", 0, "2026-01-10")
    unknown = ("2026-01-10", "US", 1, "2026-01-17")
    files = [
        forecast(tmp_path / "a.csv", [first, second, unknown], 1),
        forecast(tmp_path / "b.csv", [second], 2),
    ]
    target = target_of(tmp_path, "target_date,location,value\n2026-01-10,US,70.5\n")
    aligned = align(files, target, missing="member")
    assert aligned.kind == "quantiles"
    assert aligned.columns.tolist() == [0.25, 0.5, 0.75]
    assert aligned.ids.rows() == [tuple(map(str, row)) for row in (first, second)]
    assert aligned.y.tolist() == [70.5, 70.5]
    assert aligned.stack[0].tolist() == [[0.25, 0.5, 0.75]] * 2
    assert aligned.stack[1, 1].tolist() == [0.5, 1, 1.5]
    assert aligned.present.tolist() == [[True, True], [False, True]]
    assert "1 rows of the files have no true value" in aligned.notes


def test_without_a_target_the_rows_of_all_files_are_aligned(tmp_path: Path) -> None:
    files = [
        text(tmp_path / "a.csv", "id,cat,dog\n1,.1,.9\n2,.2,.8\n"),
        text(tmp_path / "b.csv", "id,dog,cat\n3,.3,.7\n1,.5,.5\n"),
    ]
    aligned = align(files, missing="member")
    assert aligned.y is None
    assert aligned.ids["id"].to_list() == ["1", "2", "3"]
    assert aligned.columns.tolist() == ["cat", "dog"]
    assert aligned.stack[1, 2].tolist() == [0.7, 0.3]


def test_levels_must_be_the_same(tmp_path: Path) -> None:
    files = [
        text(tmp_path / "a.csv", "id,0.1,0.9\nx,1,2\n"),
        text(tmp_path / "b.csv", "id,q0.1,q0.5,q0.9\nx,1,2,3\n"),
    ]
    with pytest.raises(
        ValueError, match=r"same levels.*a.csv lacks 0.5; pass columns="
    ):
        align(files)
    files[1] = open_predictions(tmp_path / "b.csv", columns=[0.9, 0.1])
    assert align(files).stack.tolist() == [[[1, 2]], [[1, 3]]]


def test_kinds_must_be_the_same(tmp_path: Path) -> None:
    files = [
        text(tmp_path / "a.csv", "id,0.1,0.9\nx,1,2\n"),
        text(tmp_path / "b.csv", "id,p\nx,1\n"),
    ]
    with pytest.raises(ValueError, match=r"a.csv has quantiles, .*b.csv has values"):
        align(files)


def test_samples_are_numbered_in_each_row(tmp_path: Path) -> None:
    header = "id,output_type,output_type_id,value\n"
    content = "x,sample,s1,1\ny,sample,s1,4\nx,sample,s2,2\nx,sample,s9,3\n"
    files = [
        text(tmp_path / "a.csv", header + content),
        text(tmp_path / "b.csv", header + content.replace("x,sample,s9,3\n", "")),
    ]
    aligned = align(files)
    assert aligned.kind == "samples"
    assert aligned.columns.tolist() == [0, 1, 2]
    expected: Any = [
        [[1, 2, 3], [4, np.nan, np.nan]],
        [[1, 2, np.nan], [4, np.nan, np.nan]],
    ]
    assert np.array_equal(aligned.stack, expected, equal_nan=True)
    assert aligned.present.all()
    file = text(tmp_path / "a.csv", header + content + "x,sample,s1,1\n")
    with pytest.raises(ValueError, match="each sample of a row once"):
        align([file])


def test_names_of_members_are_their_paths_if_files_are_named_the_same(
    tmp_path: Path, target: Any
) -> None:
    (tmp_path / "b").mkdir()
    files = [text(tmp_path / "m.csv", CATS), text(tmp_path / "b" / "m.csv", CATS)]
    aligned = align(files, target)
    assert aligned.names == [str(file.path) for file in files]
    with pytest.raises(ValueError, match=r"files must be different.*m.csv twice"):
        align([files[0], files[0]], target)


def test_no_files_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one prediction file"):
        align([])


def test_a_large_stack_is_the_same_in_a_temporary_file(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [text(tmp_path / "a.csv", CATS), text(tmp_path / "b.csv", CATS[:-8])]
    expected = align(files, target, missing="drop")
    monkeypatch.setattr(alignment, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    aligned = align(files, target, missing="drop")
    assert np.array_equal(aligned.stack, expected.stack)
    assert sorted(tmp_path.iterdir()) == before
    aligned.stack[0] = 0.5  # may be changed in place, as in memory


@given(
    keys=st.lists(st.text(max_size=3), unique_by=str.strip, min_size=1),
    seed=st.integers(0, 9),
)
@settings(max_examples=20, deadline=None)
def test_positions_are_those_of_a_dict(keys: list[str], seed: int) -> None:
    keys = [key for key in keys if key.strip() == key] or ["x"]
    rng = np.random.default_rng(seed)
    known = {key: n for n, key in enumerate(keys[: len(keys) // 2 + 1])}
    index = RowIndex(pl.DataFrame({"id": list(known)}), "file")
    wanted = [keys[n] for n in rng.integers(0, len(keys), 9)]
    positions = index.positions(pl.DataFrame({"id": wanted}))
    assert positions.tolist() == [known.get(key, -1) for key in wanted]


# Contents of two files, a target or None, and the error.
DISAGREEMENTS: dict[str, tuple[str, str, str | None, str]] = {
    "no common identifiers": (
        "id,p\n1,2\n",
        "name,p\nx,2\n",
        None,
        r"the same identifiers: .*a.csv has id; .*b.csv has name; pass ids=",
    ),
    "different numbers of columns": (
        "id,p\n1,2\n",
        "id,p,q\n1,2,3\n",
        None,
        r"same number of columns of values: .*a.csv has 1, .*b.csv has 2",
    ),
    "different columns": (
        "id,p,q\n1,2,3\n",
        "id,p,r\n1,2,3\n",
        None,
        r"same columns of values: .*b.csv lacks 'q', which .*a.csv has",
    ),
    "a column that is no class": (
        "id,0,1\n1,1,0\n",
        "id,0,1,x\n1,1,0,0\n",
        "id,y\n1,0\n",
        r"columns of .*b.csv must be classes .* such as 0: found 'x'",
    ),
    "one column for three classes": (
        "id,p\n1,1\n2,0\n3,0\n",
        "id,p\n1,1\n2,0\n3,0\n",
        "id,y\n1,a\n2,b\n3,c\n",
        r"a column for each of the 3 classes a, b, c, found one column, 'p'",
    ),
    "no true value": (
        "id,place,p\n1,x,1\n",
        "id,place,p\n1,x,1\n",
        "id,y\n2,3.5\n",
        r"must have the true values of the files: no \['id'\] of .*a.csv",
    ),
}


@pytest.mark.parametrize(
    ("first", "second", "truth", "message"), DISAGREEMENTS.values(), ids=DISAGREEMENTS
)
def test_files_that_do_not_fit_are_named(
    first: str, second: str, truth: str | None, message: str, tmp_path: Path
) -> None:
    files = [text(tmp_path / "a.csv", first), text(tmp_path / "b.csv", second)]
    target = None if truth is None else target_of(tmp_path, truth)
    with pytest.raises(ValueError, match=message):
        align(files, target)


def test_classes_that_the_caller_chose_limit_the_target(
    tmp_path: Path, target: Any
) -> None:
    files = [text(tmp_path / "a.csv", CATS)]
    with pytest.raises(ValueError, match="must contain the classes cat, cow, found"):
        align(files, target, classes=["cat", "cow"])


def test_a_kind_is_chosen_by_name(tmp_path: Path) -> None:
    target = target_of(tmp_path, "id,y\n1,0\n2,1\n")
    files = [text(tmp_path / "a.csv", "id,p\n1,.5\n2,.75\n")]
    assert align(files, target).kind == "probabilities"
    assert align(files, target, kind="values").stack.ravel().tolist() == [0.5, 0.75]
    with pytest.raises(ValueError, match="kind must be one of probabilities, values"):
        align(files, target, kind="labels")
    with pytest.raises(ValueError, match=r"a.csv must be levels of quantiles, found p"):
        align(files, target, kind="quantiles")


def test_arrays_are_aligned_without_a_target(tmp_path: Path) -> None:
    files = []
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.array([[0.25, 0.75], [1, 0]]))
        files.append(open_predictions(tmp_path / f"{name}.npy"))
    aligned = align(files)
    assert aligned.columns.tolist() == [0, 1]
    assert aligned.ids["row"].to_list() == ["0", "1"]
    assert "rows are matched by their positions" in aligned.notes[0]


@pytest.mark.parametrize("n_rows", [2, 4])
def test_an_array_has_the_rows_of_the_target(
    n_rows: int, tmp_path: Path, target: Any
) -> None:
    np.save(tmp_path / "b.npy", np.full((n_rows, 2), 0.5))
    files = [text(tmp_path / "a.csv", CATS), open_predictions(tmp_path / "b.npy")]
    with pytest.raises(
        ValueError, match=f"has no identifiers, .* 3 rows, found {n_rows}"
    ):
        align(files, target, missing="drop")


def test_long_files_need_identifiers(tmp_path: Path) -> None:
    rows = "output_type,output_type_id,value\npmf,a,1\n"
    with pytest.raises(ValueError, match="must have columns that identify rows"):
        align([text(tmp_path / "a.csv", rows)])


def test_point_forecasts_have_any_level(tmp_path: Path) -> None:
    """Older hubs have files with the level -1, 0.5 or none for point forecasts."""
    files = []
    for name, level in (("a", "-1"), ("b", ""), ("c", "NA")):
        rows = f"id,type,quantile,value\nx,point,{level},7\n"
        files.append(text(tmp_path / f"{name}.csv", rows))
    assert align(files).stack.ravel().tolist() == [7, 7, 7]


def test_levels_with_rounding_errors_are_the_same(tmp_path: Path) -> None:
    header = "id,output_type,output_type_id,value\n"
    levels = [("0.6", "0.05"), ("0.6000000000000001", "0.05000000000000004")]
    files = [
        text(
            tmp_path / f"{name}.csv",
            f"{header}x,quantile,{high},7\nx,quantile,{low},3\n",
        )
        for name, (high, low) in zip("ab", levels, strict=True)
    ]
    aligned = align(files)
    assert aligned.columns.tolist() == [0.05, 0.6]
    assert aligned.stack.tolist() == [[[3, 7]], [[3, 7]]]


def test_long_columns_are_chosen_by_label(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text(path, "id,quantile,value\nx,0.1,3\nx,0.5,5\nx,0.9,7\n")
    file = open_predictions(path, columns=[0.9, 0.1])
    assert align([file]).stack.tolist() == [[[3, 7]]]
    with pytest.raises(ValueError, match=r"must have rows with .*'y'}, found none"):
        open_predictions(path, where={"id": "y"})


def test_a_row_that_lacks_a_level_is_missing(tmp_path: Path) -> None:
    rows = "x,0.1,3\nx,0.9,7\ny,0.1,3\n"
    file = text(tmp_path / "a.csv", f"id,quantile,value\n{rows}")
    with pytest.raises(
        ValueError, match=r"lacks 1 of 2 rows, the first is id=y, id=y "
    ):
        align([file])
    aligned = align([file], missing="drop")
    assert aligned.ids["id"].to_list() == ["x"]
    assert "a: 1 rows with missing values are left out" in aligned.notes


def test_numbers_that_identify_rows_are_not_averaged(tmp_path: Path) -> None:
    rows = "customer,p\n7,.5\n8,.25\n9,.75\n"
    with pytest.raises(ValueError, match=r"'customer' has a different .*pass ids=\["):
        text(tmp_path / "a.csv", rows)
    (tmp_path / "target.csv").write_text("customer,y\n7,1.5\n8,2.5\n")
    target = read_target(tmp_path / "target.csv", column="y")
    with pytest.raises(ValueError, match=r"'customer', which .*target.csv has too, am"):
        align([text(tmp_path / "a.csv", rows[:-6])], target)
    file = open_predictions(tmp_path / "a.csv", ids=["customer"])
    assert align([file], target).stack.ravel().tolist() == [0.5, 0.25]
