"""Outcomes are found in each layout, and are no newer than a round."""

from __future__ import annotations

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
