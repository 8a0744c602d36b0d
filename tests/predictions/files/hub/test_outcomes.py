"""Outcomes are found in each layout, and are no newer than a round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ensembles.predictions.files.hub import blend_round, open_hub
from tests.predictions.files.hub import conftest

FREE: Any = {"weights_params": {"max_weight": 1.0}}


def series(folder: Path) -> tuple[Path, pl.DataFrame]:
    path = folder / "target-data" / "time-series.csv"
    return path, pl.read_csv(path, infer_schema_length=0)


def test_outcomes_in_a_folder_of_versions_are_the_same(folder: Path) -> None:
    expected = blend_round(open_hub(folder), **FREE)
    path, frame = series(folder)
    path.unlink()
    for (as_of,), part in frame.group_by("as_of"):
        version = folder / "target-data" / "time-series" / f"as_of={as_of}"
        version.mkdir(parents=True)
        part = part.drop("as_of").with_columns(pl.col("observation").cast(pl.Float64))
        part.write_parquet(version / "part-0.parquet")
    assert np.array_equal(
        blend_round(open_hub(folder), **FREE).weights, expected.weights
    )


def test_oracle_output_is_read(folder: Path) -> None:
    expected = blend_round(open_hub(folder), **FREE)
    path, frame = series(folder)
    path.unlink()
    frame = frame.rename({"observation": "oracle_value"}).with_columns(
        pl.lit("quantile").alias("output_type"), pl.lit("NA").alias("output_type_id")
    )
    other = frame.with_columns(
        pl.lit("mean").alias("output_type"), pl.lit("9000").alias("oracle_value")
    )
    pl.concat([frame, other]).write_csv(path.with_name("oracle-output.csv"))
    assert np.array_equal(
        blend_round(open_hub(folder), **FREE).weights, expected.weights
    )


def test_outcomes_without_versions_are_known_after_their_date(folder: Path) -> None:
    path, frame = series(folder)
    frame = frame.unique(["target_end_date", "location"], keep="first")
    frame = frame.drop("as_of").rename({"target_end_date": "date"})
    path.unlink()
    other = folder / "truth.csv"
    frame.write_csv(other)
    with pytest.raises(FileNotFoundError, match="pass target=PATH"):
        blend_round(open_hub(folder))
    blend = blend_round(open_hub(folder), conftest.ROUNDS[2], target=other, **FREE)
    assert "may have been revised" in blend.notes[0]
    frame.with_columns(
        observation=pl.when(pl.col("date") < conftest.ROUNDS[2])
        .then(pl.col("observation"))
        .otherwise(pl.lit("9000"))
    ).write_csv(other)
    same = blend_round(open_hub(folder), conftest.ROUNDS[2], target=other, **FREE)
    assert np.array_equal(blend.weights, same.weights)


def test_an_outcome_twice_is_refused(folder: Path) -> None:
    path, frame = series(folder)
    pl.concat([frame, frame[:1]]).write_csv(path)
    with pytest.raises(ValueError, match="each outcome once in each as_of"):
        blend_round(open_hub(folder))


def test_outcomes_need_a_common_task_id(folder: Path) -> None:
    path, frame = series(folder)
    frame.select("observation", "as_of", pl.lit("x").alias("region")).write_csv(path)
    with pytest.raises(ValueError, match="must have a task ID of the forecasts"):
        blend_round(open_hub(folder))


def test_outcomes_of_other_targets_are_not_used(folder: Path) -> None:
    path, frame = series(folder)
    frame.with_columns(pl.lit("deaths").alias("target")).write_csv(path)
    with pytest.raises(ValueError, match=r"must have outcomes for .*found none"):
        blend_round(open_hub(folder))


def test_outcomes_without_values_are_refused(folder: Path) -> None:
    path, frame = series(folder)
    frame.rename({"observation": "x"}).write_csv(path)
    with pytest.raises(ValueError, match="must have a column of numbers observation"):
        blend_round(open_hub(folder))


def test_dates_must_be_dates(folder: Path) -> None:
    path, frame = series(folder)
    frame.with_columns(pl.lit("week 3").alias("as_of")).write_csv(path)
    with pytest.raises(ValueError, match="column 'as_of' must have dates"):
        blend_round(open_hub(folder))


def test_equal_weights_need_no_outcomes(folder: Path) -> None:
    scored = blend_round(open_hub(folder), weights=None)
    assert scored.scores
    series(folder)[0].unlink()
    blend = blend_round(open_hub(folder), weights=None)
    assert np.array_equal(blend.quantiles, scored.quantiles)
    assert blend.scores == ()
    assert "must have time-series.csv" in blend.notes[0]
    with pytest.raises(FileNotFoundError, match=r"must have time-series.csv"):
        blend_round(open_hub(folder))


def tasks_with(folder: Path, **changes: Any) -> None:
    config = conftest.tasks()
    config["rounds"][0] |= changes
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("end", "is_known"), [(-1, True), (-2, False), (3, True)])
def test_outcomes_after_the_last_day_of_submissions_are_not_used(
    end: int, is_known: bool, folder: Path
) -> None:
    due = {"relative_to": "reference_date", "start": -6, "end": end}
    tasks_with(folder, submissions_due=due)
    path, frame = series(folder)
    late = frame["target_end_date"] == conftest.ROUNDS[2]
    friday = np.datetime64(conftest.ROUNDS[3]) - 1
    kept = frame.filter(~late | (frame["as_of"] <= conftest.ROUNDS[2]))
    late_rows = kept.filter(pl.col("target_end_date") == conftest.ROUNDS[2])
    weights = []
    for value in ("140", "9000"):
        revised = late_rows.with_columns(
            as_of=pl.lit(str(friday)), observation=pl.lit(value)
        )
        pl.concat([kept, revised]).write_csv(path)
        weights.append(blend_round(open_hub(folder), **FREE).weights)
    assert np.array_equal(weights[0], weights[1]) != is_known


def test_a_date_may_be_the_last_day_of_submissions(folder: Path) -> None:
    tasks_with(folder, submissions_due={"start": "2026-01-01", "end": "2026-01-05"})
    weights = blend_round(open_hub(folder), **FREE).weights
    path, frame = series(folder)
    frame.filter(pl.col("as_of") <= "2026-01-05").write_csv(path)
    assert np.array_equal(blend_round(open_hub(folder), **FREE).weights, weights)
    tasks_with(folder, submissions_due={"start": "2026-01-01", "end": 3})
    with pytest.raises(ValueError, match="submissions_due: end must be a date, found"):
        open_hub(folder)


def test_dates_of_outcomes_may_have_another_name(folder: Path) -> None:
    expected = blend_round(open_hub(folder), **FREE)
    path, frame = series(folder)
    frame.rename({"target_end_date": "target_date"}).write_csv(path)
    blend = blend_round(open_hub(folder), **FREE)
    assert np.array_equal(blend.weights, expected.weights)


def test_outcomes_of_several_dates_need_forecasts_with_dates(folder: Path) -> None:
    config = conftest.tasks()
    del config["rounds"][0]["model_tasks"][0]["task_ids"]["target_end_date"]
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))
    for file in (folder / "model-output").rglob("*.csv"):
        pl.read_csv(file, infer_schema_length=0).drop("target_end_date").write_csv(file)
    for file in (folder / "model-output").rglob("*.parquet"):
        pl.read_parquet(file).drop("target_end_date").write_parquet(file)
    path, frame = series(folder)
    frame.unique("as_of", keep="first").write_csv(path)
    with pytest.raises(ValueError, match="must have the date of the outcomes"):
        blend_round(open_hub(folder))


def test_names_of_folders_with_escapes_are_read(folder: Path) -> None:
    expected = blend_round(open_hub(folder), **FREE)
    path, frame = series(folder)
    path.unlink()
    part = path.with_suffix("") / "target=wk%20inc%20flu%20hosp" / "part-0.csv"
    part.parent.mkdir(parents=True)
    frame.drop("target").write_csv(part)
    blend = blend_round(open_hub(folder), **FREE)
    assert np.array_equal(blend.weights, expected.weights)


def test_outcomes_of_other_places_are_noted(folder: Path) -> None:
    path, frame = series(folder)
    frame.with_columns(location="0" + pl.col("location")).write_csv(path)
    blend = blend_round(open_hub(folder), **FREE)
    assert blend.scores == ()
    assert "no outcome of earlier rounds: they have location=" in blend.notes[0]
    assert blend_round(open_hub(folder), n_rounds=0).notes == ()
