"""A round is blended with weights from earlier rounds, as arrays would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ensembles.predictions.files.hub import blend_round, check_submission, open_hub
from ensembles.predictions.forecasts.rounds import combine_rounds
from ensembles.predictions.forecasts.scores import weighted_interval_score
from tests.predictions.files.hub import conftest

LAST = conftest.ROUNDS[-1]
FREE = {"max_weight": 1.0}  # of two members: the default limits them to equal weights


def arrays() -> tuple[Any, Any, Any]:
    """Stack, rounds and first-published outcomes by loops over the models' rule."""
    units = [
        (name, place, horizon)
        for name in conftest.ROUNDS
        for place in conftest.PLACES
        for horizon in conftest.HORIZONS
    ]
    stack = np.full((2, len(units), 3), np.nan)
    for unit, (name, _, _) in enumerate(units):
        for member, shift in enumerate((1, 40)):
            if member == 0 or name != conftest.ROUNDS[0]:
                number = conftest.ROUNDS.index(name)
                levels = np.array(conftest.LEVELS)
                stack[member, unit] = 100 + shift + 10 * number + 20 * levels
    rounds = np.array([name for name, _, _ in units], "datetime64[D]")
    weeks = [conftest.week(name, horizon) for name, _, horizon in units]
    return stack, rounds, np.array(weeks, "datetime64[D]")


def known(now: Any) -> Any:
    """Outcomes before a date: first published on their day, revised after 12 days."""
    _, rounds, weeks = arrays()
    y = np.full(len(weeks), np.nan)
    for number, name in enumerate(conftest.ROUNDS):
        date = np.datetime64(name, "D")
        if date < now:
            y[weeks == date] = 110 + 10 * number + (date + 12 < now)
    return np.where(rounds < now, y, np.nan)


@pytest.mark.parametrize("weights", ["skill", None])
def test_a_blend_equals_that_of_arrays(weights: str | None, folder: Path) -> None:
    options: Any = {"weights": weights, "weights_params": weights and FREE}
    blend = blend_round(open_hub(folder), **options)
    stack, rounds, _ = arrays()
    expected = combine_rounds(stack, rounds, known, levels=conftest.LEVELS, **options)
    assert blend.round_name == LAST
    assert blend.names == ("a-near", "c-far")
    assert np.allclose(blend.weights, expected.weights[-1], rtol=0, atol=1e-12)
    of_unit = {
        (row["location"], row["horizon"]): quantiles
        for row, quantiles in zip(
            blend.ids.iter_rows(named=True), blend.quantiles, strict=True
        )
    }
    for index in np.flatnonzero(rounds == np.datetime64(LAST)):
        unit = index - 12
        key = conftest.PLACES[unit // 2], str(conftest.HORIZONS[unit % 2])
        assert np.allclose(of_unit[key], expected.quantiles[index], rtol=0, atol=1e-9)


def test_scores_are_of_weights_from_earlier_rounds(folder: Path) -> None:
    blend = blend_round(open_hub(folder), weights_params=FREE)
    stack, rounds, _ = arrays()
    expected = combine_rounds(
        stack, rounds, known, levels=conftest.LEVELS, weights_params=FREE
    )
    y = known(np.datetime64(LAST))
    units = ~np.isnan(y)
    score = weighted_interval_score(
        y[units], expected.quantiles[units], conftest.LEVELS
    ).mean()
    scores = {entry.name: entry for entry in blend.scores}
    assert scores["blend"].score == pytest.approx(score)
    assert scores["blend"].n_units == units.sum()
    assert scores["c-far"].relative > 1 > scores["a-near"].relative
    assert blend.n_earlier == 3


def weights_with(folder: Path, changes: dict[str, float]) -> Any:
    conftest.write_outcomes(folder / "target-data" / "time-series.csv", changes)
    blend = blend_round(open_hub(folder), conftest.ROUNDS[3], weights_params=FREE)
    return blend.weights


def test_outcomes_of_the_future_do_not_change_a_blend(folder: Path) -> None:
    weights = weights_with(folder, {})
    assert weights[0] != 0.5
    later = dict.fromkeys(conftest.ROUNDS[2:], 9000.0)
    assert np.array_equal(weights_with(folder, later), weights)
    earlier = {conftest.ROUNDS[1]: 9000.0}  # published before the round
    assert not np.array_equal(weights_with(folder, earlier), weights)


def test_the_first_round_has_equal_weights_and_no_scores(folder: Path) -> None:
    blend = blend_round(open_hub(folder), conftest.ROUNDS[0])
    assert (blend.names, blend.weights.tolist(), blend.scores) == (("a-near",), [1], ())


def test_earlier_rounds_may_be_limited(folder: Path) -> None:
    assert blend_round(open_hub(folder), n_rounds=1).n_earlier == 1
    assert blend_round(open_hub(folder), n_rounds=0).scores == ()
    assert blend_round(open_hub(folder), n_rounds=None).n_earlier == 3


def test_ensembles_of_the_hub_are_left_out(folder: Path) -> None:
    metadata = folder / "model-metadata" / "c-far.yml"
    metadata.write_text("ensemble_of_hub_models: true\n")
    blend = blend_round(open_hub(folder))
    assert blend.names == ("a-near",)
    assert blend.notes == ("ensembles of the hub's models left out: c-far",)
    blend = blend_round(open_hub(folder), models=["c-far", "a-near"])
    assert blend.names == ("c-far", "a-near")
    assert blend_round(open_hub(folder), exclude=["a-near"], models=["c-far", "a-near"])


def test_a_submission_is_written_in_the_layout_of_the_hub(folder: Path) -> None:
    hub = open_hub(folder)
    blend = blend_round(hub)
    path, notes = blend.write("x-blend")
    assert path == folder / "model-output" / "x-blend" / f"{LAST}-x-blend.csv"
    assert notes == ()
    check_submission(hub, path)
    frame = pl.read_csv(path, infer_schema_length=0)
    assert frame.columns == [
        *("reference_date", "target", "horizon", "location", "target_end_date"),
        *("output_type", "output_type_id", "value"),
    ]
    values = frame["value"].cast(pl.Float64).to_numpy().reshape(-1, 3)
    assert np.array_equal(values, blend.quantiles)
    assert frame["output_type_id"].to_list()[:3] == ["0.1", "0.5", "0.9"]
    with pytest.raises(FileExistsError, match="pass force=True"):
        blend.write("x-blend")
    blend.write("x-blend", force=True)
    out, _ = blend.write("x-blend", folder / "out.parquet")
    assert pl.read_parquet(out)["value"].to_list() == values.ravel().tolist()


def test_parquet_has_the_types_of_the_hub(folder: Path) -> None:
    (folder / "hub-config" / "admin.json").write_text('{"file_format": ["parquet"]}')
    hub = open_hub(folder)
    path, _ = blend_round(hub).write("x-blend")
    check_submission(hub, path)
    frame = pl.read_parquet(path)
    assert dict(frame.schema) == {
        **{"reference_date": pl.Date, "target": pl.String, "horizon": pl.Int32},
        **{"location": pl.String, "target_end_date": pl.Date},
        **{"output_type": pl.String, "output_type_id": pl.Float64},
        "value": pl.Float64,
    }
    assert frame["output_type_id"].to_list()[:3] == conftest.LEVELS
    config = conftest.tasks() | {"output_type_id_datatype": "character"}
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))
    path, _ = blend_round(open_hub(folder)).write("x-blend", force=True)
    assert pl.read_parquet(path)["output_type_id"].to_list()[:3] == [
        "0.1",
        "0.5",
        "0.9",
    ]


def change_tasks(folder: Path, **output: Any) -> None:
    config = conftest.tasks()
    task = config["rounds"][0]["model_tasks"][0]
    task["output_type"]["quantile"] |= output
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))


def test_values_are_rounded_if_the_hub_asks_for_whole_numbers(folder: Path) -> None:
    change_tasks(folder, value={"type": "integer", "minimum": 0})
    blend = blend_round(open_hub(folder), weights_params=FREE)
    path, notes = blend.write("x-blend")
    assert notes == ("values are rounded to whole numbers, as the hub asks for",)
    values = pl.read_csv(path)["value"]
    assert values.dtype == pl.Int64
    assert values.to_list() == np.round(blend.quantiles).ravel().tolist()


def test_values_are_not_rounded_for_another_target(folder: Path) -> None:
    config = conftest.tasks()
    tasks = config["rounds"][0]["model_tasks"]
    other = json.loads(json.dumps(tasks[0]))
    other["task_ids"]["target"] = {"required": None, "optional": ["deaths"]}
    other["output_type"]["quantile"]["value"]["type"] = "integer"
    tasks.append(other)
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))
    blend = blend_round(
        open_hub(folder), where={"target": conftest.TARGET}, weights_params=FREE
    )
    path, notes = blend.write("x-blend")
    assert notes == ()
    assert pl.read_csv(path)["value"].to_list() == blend.quantiles.ravel().tolist()


def test_a_blend_outside_of_the_limits_is_not_written(folder: Path) -> None:
    change_tasks(folder, value={"type": "double", "minimum": 0, "maximum": 5})
    with pytest.raises(ValueError, match=r"must have values .* to 5.0: .*location="):
        blend_round(open_hub(folder)).write("x-blend")
    assert not (folder / "model-output" / "x-blend").exists()


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"models": ["z"]}, r"models must have a folder .* 'z' .*known: a-near"),
    "exclude": ({"exclude": ["z"]}, "models must have a folder"),
    "all excluded": ({"exclude": ["a-near", "c-far"]}, "has no models to combine"),
    "round": ({"round_name": "2020-01-04"}, "has no round '2020-01-04', found 2026-01"),
    "where": ({"where": {"target": "x"}}, "no task with quantiles in round .*'x'"),
    "rule": ({"rule": "quantile_maen"}, "quantile_maen"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS)
def test_a_wrong_choice_is_named(
    options: dict[str, Any], message: str, folder: Path
) -> None:
    with pytest.raises((ValueError, KeyError), match=message):
        blend_round(open_hub(folder), **options)


def test_several_targets_have_to_be_chosen(folder: Path) -> None:
    config = conftest.tasks()
    config["rounds"][0]["model_tasks"][0]["task_ids"]["target"]["optional"] = ["deaths"]
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"several targets .*'deaths'; pass where="):
        blend_round(open_hub(folder))
    assert (
        len(blend_round(open_hub(folder), where={"target": conftest.TARGET}).ids) == 4
    )


def test_a_round_without_submissions_is_named(folder: Path) -> None:
    for path in (folder / "model-output").rglob(f"{LAST}*"):
        path.unlink()
    with pytest.raises(ValueError, match="must have submissions, found 2026-01-03 to"):
        blend_round(open_hub(folder), LAST)


def test_a_damaged_submission_is_named(folder: Path) -> None:
    path = folder / "model-output" / "a-near" / f"{LAST}-a-near.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(ValueError, match=r"a-near.csv must have each .* once"):
        blend_round(open_hub(folder))


def test_a_folder_that_is_no_hub_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a hub with hub-config/tasks"):
        open_hub(tmp_path)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change columns of the newest submission of "a-near"."""
    path = folder / "model-output" / "a-near" / f"{LAST}-a-near.csv"
    frame = pl.read_csv(path, infer_schema_length=0)
    frame.with_columns(**changes).write_csv(path)


def test_units_that_the_hub_does_not_accept_are_left_out(folder: Path) -> None:
    rewrite(folder, location=pl.col("location").replace("06", "6"))
    blend = blend_round(open_hub(folder))
    assert len(blend.ids) == len(blend.quantiles) == 4
    assert "2 units of models left out" in blend.notes[0]
    assert "location=6" in blend.notes[0]
    blend.write("x-blend")


def test_a_submission_of_another_round_is_named(folder: Path) -> None:
    rewrite(folder, reference_date=pl.lit(conftest.ROUNDS[0]))
    with pytest.raises(
        ValueError, match=f"of {LAST}, a-near has .*{conftest.ROUNDS[0]}"
    ):
        blend_round(open_hub(folder))


def test_levels_with_rounding_errors_are_the_same(folder: Path) -> None:
    expected = blend_round(open_hub(folder))
    level = pl.col("output_type_id").replace("0.1", "0.10000000000000009")
    rewrite(folder, output_type_id=level)
    assert np.array_equal(blend_round(open_hub(folder)).quantiles, expected.quantiles)


def test_numbers_and_dates_are_the_same_in_all_types(folder: Path) -> None:
    where = {"horizon": 0}
    expected = blend_round(open_hub(folder), where=where)
    assert expected.names == ("a-near", "c-far")
    for path in (folder / "model-output").rglob("*.parquet"):
        pl.read_parquet(path).with_columns(
            pl.col("horizon").cast(pl.Float64),
            pl.col("reference_date", "target_end_date").str.to_datetime(),
        ).write_parquet(path)
    blend = blend_round(open_hub(folder), where=where)
    assert blend.names == expected.names
    assert np.array_equal(blend.quantiles, expected.quantiles)
    blend = blend_round(open_hub(folder), models=["c-far"])
    assert set(blend.ids["horizon"]) == {"0", "1"}
    assert set(blend.ids["reference_date"]) == {LAST}
    blend.write("x-blend")


def test_quantiles_that_cross_are_named_or_sorted(folder: Path) -> None:
    expected = blend_round(open_hub(folder))
    swapped = pl.col("output_type_id").replace({"0.1": "0.5", "0.5": "0.1"})
    rewrite(folder, output_type_id=swapped)
    with pytest.raises(ValueError, match=f"in round {LAST}, a-near has .*location="):
        blend_round(open_hub(folder))
    blend = blend_round(open_hub(folder), crossing="sort")
    assert np.allclose(blend.quantiles, expected.quantiles, rtol=1e-12, atol=0)
    tiny = pl.col("value").cast(pl.Float64) * 0 + pl.Series([1.0, 1 - 1e-15, 1.0] * 4)
    rewrite(folder, value=tiny)
    assert (np.diff(blend_round(open_hub(folder)).quantiles, axis=1) >= 0).all()


def test_rows_without_values_are_noted(folder: Path) -> None:
    is_one = (pl.col("location") == "06") & (pl.col("horizon") == "0")
    rewrite(folder, value=pl.when(is_one).then(None).otherwise(pl.col("value")))
    notes = blend_round(open_hub(folder)).notes
    assert notes == ("a-near: 1 rows with missing values are left out",)


def test_files_without_a_date_are_ignored(folder: Path) -> None:
    path = folder / "model-output" / "a-near" / f"{LAST}-a-near.csv"
    path.with_name("template-a-near.csv").write_bytes(path.read_bytes())
    assert blend_round(open_hub(folder)).round_name == LAST
    for path in (folder / "model-output").rglob("20*.*"):
        path.unlink()
    with pytest.raises(ValueError, match="must have submissions named after the date"):
        blend_round(open_hub(folder))


def damage(folder: Path, name: str) -> None:
    """Damage a hub in one of the ways of `DAMAGES`."""
    output = folder / "model-output"
    newest = output / "a-near" / f"{LAST}-a-near.csv"
    if name == "no models":
        output.rename(folder / "elsewhere")
    elif name == "two files":
        (output / "a-near" / f"{LAST}-a-near.parquet").touch()
    elif name == "metadata":
        (folder / "model-metadata" / "a-near.yml").write_text("a: [")
    elif name in ("value", "output_type", "reference_date"):
        pl.read_csv(newest).drop(name).write_csv(newest)
    elif name == "levels":
        rewrite(folder, output_type_id=pl.col("output_type_id").replace("0.1", "0.2"))
    elif name == "levels of a round":
        for path in output.rglob(f"{LAST}*"):
            path.unlink()
        frame = conftest.forecasts(LAST, 0)
        frame.filter(pl.col("output_type_id") > 0.1).write_csv(newest)
    elif name == "no quantiles":
        for path in output.rglob("*.*"):
            if path.suffix in (".csv", ".parquet"):
                read = pl.read_csv if path.suffix == ".csv" else pl.read_parquet
                frame = read(path).with_columns(output_type=pl.lit("mean"))
                path.with_suffix(".csv").write_bytes(frame.write_csv().encode())
                if path.suffix == ".parquet":
                    path.unlink()
    elif name == "no unit":
        for path in output.rglob(f"{LAST}*"):
            path.unlink()
        frame = conftest.forecasts(LAST, 0).filter(location="06")
        frame.with_columns(location=pl.lit("x")).write_csv(newest)


DAMAGES = {
    "no models": "must be a folder with a folder per model",
    "two files": "must have one file for round 2026-01-24",
    "metadata": "a-near.yml is not YAML",
    "value": r"a-near.csv must have the column 'value'",
    "output_type": r"a-near.csv must have the column 'output_type'",
    "reference_date": "must have the column 'reference_date'",
    "levels": "must have the same levels of quantiles: .*lacks 0.",
    "levels of a round": r"same levels of quantiles: 2026-01-03 has \[0.1,",
    "no quantiles": "has no quantiles for",
    "no unit": r"accepts, found only .*location=x",
}


@pytest.mark.parametrize(("name", "message"), DAMAGES.items())
def test_a_damaged_hub_is_named(name: str, message: str, folder: Path) -> None:
    damage(folder, name)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        blend_round(open_hub(folder))


def test_files_of_other_kinds_are_ignored(folder: Path) -> None:
    output = folder / "model-output"
    (output / "a-near" / f"{LAST}-a-near.txt").write_text("notes")
    (output / "a-near" / "README.md").write_text("notes")
    (output / "empty").mkdir()
    assert open_hub(folder).models() == ["a-near", "c-far"]
