"""Submissions that a hub would reject are refused before they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ensembles.predictions.files.hub import check_submission, open_hub
from tests.predictions.files.hub import conftest

NAME = conftest.ROUNDS[0]
Change = Callable[[pl.DataFrame], pl.DataFrame]


def submit(folder: Path, frame: pl.DataFrame) -> Path:
    path = folder / "model-output" / "x-y" / f"{NAME}-x-y.csv"
    path.parent.mkdir(exist_ok=True)
    frame.write_csv(path)
    return path


def where(column: str, old: Any, new: Any) -> Change:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = pl.Series(column, [new if v == old else v for v in frame[column]])
        return frame.with_columns(values)

    return change


CHANGES: dict[str, tuple[Change, str]] = {
    "a column is missing": (lambda f: f.drop("target"), "must have the columns refer"),
    "a column is new": (
        lambda f: f.with_columns(pl.lit(1).alias("note")),
        "must have the columns .*note",
    ),
    "a row is twice": (lambda f: pl.concat([f, f[:1]]), "each row once: .*is twice"),
    "another round": (
        where("reference_date", NAME, conftest.ROUNDS[1]),
        f"must be of round {NAME}, found .*reference_date={conftest.ROUNDS[1]}",
    ),
    "a place": (where("location", "06", "99"), "location=99.* is none"),
    "a level": (where("output_type_id", 0.5, 0.6), r"output_type_id=0.6 is none"),
    "an output type": (where("output_type", "quantile", "mean"), "=mean.* is none"),
    "a level is missing": (
        lambda f: f.filter(pl.col("output_type_id") != 0.5),
        "all required levels of quantile: .* lacks 0.5",
    ),
    "a task is missing": (
        lambda f: f.filter((pl.col("horizon") != 0) | (pl.col("location") != "US")),
        "all required tasks of output type quantile: it lacks .*horizon=0.*location=US",
    ),
    "a value is negative": (
        lambda f: f.with_columns(value=-pl.col("value")),
        r"must have values of type double from 0.0 to inf: .* has -1",
    ),
    "a value is missing": (
        lambda f: f.with_columns(value=pl.lit(None, pl.Float64)),
        "must have no missing values",
    ),
    "quantiles decrease": (
        lambda f: f.with_columns(value=1000 - pl.col("value")),
        "must have increasing values of quantile: location=06",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_submission_is_refused(change: Change, message: str, folder: Path) -> None:
    hub, frame = open_hub(folder), conftest.forecasts(NAME, 0)
    check_submission(hub, submit(folder, frame))
    path = submit(folder, change(frame))
    with pytest.raises(ValueError, match=message) as error:
        check_submission(hub, path)
    assert str(path) in str(error.value)


def test_optional_tasks_may_be_missing(folder: Path) -> None:
    frame = conftest.forecasts(NAME, 0).filter(pl.col("horizon") == 0)
    check_submission(open_hub(folder), submit(folder, frame))
    frame = frame.filter(pl.col("location") == "06")
    check_submission(open_hub(folder), submit(folder, frame))


def test_a_file_is_named_after_its_round_and_model(folder: Path) -> None:
    path = folder / "model-output" / "a-near" / "blend.csv"
    conftest.forecasts(NAME, 0).write_csv(path)
    with pytest.raises(
        ValueError, match="must be named after its round and its folder"
    ):
        check_submission(open_hub(folder), path)


def test_the_submissions_of_the_models_are_valid(folder: Path) -> None:
    hub = open_hub(folder)
    for model in hub.models():
        for path in hub.submissions(model).values():
            check_submission(hub, path)
