"""Submissions that a hub would reject are refused before they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ensembles.predictions.files.hub import (
    blend_round,
    check_submission,
    open_hub,
)
from tests.predictions.files.hub import conftest

NAME = conftest.ROUNDS[0]
Change = Callable[[pl.DataFrame], pl.DataFrame]


def output(**types: Any) -> dict[str, Any]:
    """Configuration of a hub with other output types."""
    config = conftest.tasks()
    value = {"type": "double", "minimum": 0}
    config["rounds"][0]["model_tasks"][0]["output_type"] = {
        name: {"is_required": True, "value": value, **properties}
        for name, properties in types.items()
    }
    return config


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


PMF = {"pmf": {"output_type_id": {"required": ["a", "b"]}}}
MEAN = {"mean": {"output_type_id": {"required": None}}}
SAMPLE = {
    "sample": {"output_type_id_params": {"min_samples_per_task": 2, "type": "integer"}}
}
OTHERS: dict[str, tuple[dict[str, Any], list[tuple[str, float]], str | None]] = {
    "pmf": (PMF, [("a", 0.25), ("b", 0.75)], None),
    "a sum": (PMF, [("a", 0.25), ("b", 0.25)], "sum 1: .* has 0.5"),
    "mean": (MEAN, [("NA", 7)], None),
    "a level of a mean": (MEAN, [("x", 7)], "output_type_id=x is none"),
    "samples": (SAMPLE, [("1", 7), ("2", 7), ("3", 7)], None),
    "too few samples": (SAMPLE, [("1", 7)], "2 to .* samples of each task, .* has 1"),
}


@pytest.mark.parametrize(("types", "rows", "message"), OTHERS.values(), ids=OTHERS)
def test_other_output_types_are_checked(
    types: dict[str, Any],
    rows: list[tuple[str, float]],
    message: str | None,
    folder: Path,
) -> None:
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(output(**types)))
    units = conftest.forecasts(NAME, 0).drop("output_type_id", "value").unique()
    frames = [
        units.with_columns(
            output_type=pl.lit(next(iter(types))),
            output_type_id=pl.lit(label),
            value=pl.lit(value),
        )
        for label, value in rows
    ]
    path = submit(folder, pl.concat(frames))
    if message is None:
        check_submission(open_hub(folder), path)
    else:
        with pytest.raises(ValueError, match=message):
            check_submission(open_hub(folder), path)


def test_whole_numbers_are_required_if_the_hub_asks_for_them(folder: Path) -> None:
    config = conftest.tasks()
    task = config["rounds"][0]["model_tasks"][0]
    task["output_type"]["quantile"]["value"]["type"] = "integer"
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))
    frame = conftest.forecasts(NAME, 0.5)
    with pytest.raises(ValueError, match="must have values of type integer"):
        check_submission(open_hub(folder), submit(folder, frame))


def test_a_round_with_a_name_of_its_own_is_checked(folder: Path) -> None:
    config = conftest.tasks()
    config["rounds"][0] |= {"round_id": "round-1", "round_id_from_variable": False}
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))
    hub = open_hub(folder)
    path = folder / "model-output" / "x-y" / "round-1-x-y.csv"
    path.parent.mkdir()
    conftest.forecasts(NAME, 0).write_csv(path)
    check_submission(hub, path)
    with pytest.raises(ValueError, match="has no round '2026-01-03', found round-1"):
        check_submission(hub, submit(folder, conftest.forecasts(NAME, 0)))
    with pytest.raises(ValueError, match="rounds that a task ID names"):
        blend_round(hub, "round-1")


def test_a_value_column_is_required(folder: Path) -> None:
    path = submit(folder, conftest.forecasts(NAME, 0).rename({"value": "x"}))
    with pytest.raises(ValueError, match="must have the column 'value'"):
        check_submission(open_hub(folder), path)
