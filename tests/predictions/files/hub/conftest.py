"""A small hub: three models, four rounds, two places, outcomes with revisions."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

ROUNDS = ["2026-01-03", "2026-01-10", "2026-01-17", "2026-01-24"]
PLACES = ["06", "US"]
HORIZONS = [0, 1]
LEVELS = [0.1, 0.5, 0.9]
TARGET = "wk inc flu hosp"
SCHEMA = "https://raw.githubusercontent.com/hubverse-org/schemas/main/v5.0.0/tasks"


def week(name: str, horizon: int) -> str:
    return str(datetime.date.fromisoformat(name) + datetime.timedelta(7 * horizon))


def tasks() -> dict[str, Any]:
    def optional(values: list[Any]) -> dict[str, Any]:
        return {"required": None, "optional": values}

    weeks = sorted({week(name, horizon) for name in ROUNDS for horizon in HORIZONS})
    task_ids = {
        "reference_date": optional(ROUNDS),
        "target": {"required": [TARGET], "optional": None},
        "horizon": {"required": [0], "optional": [1]},
        "location": optional(PLACES),
        "target_end_date": optional(weeks),
    }
    quantile = {
        "output_type_id": {"required": LEVELS},
        "is_required": True,
        "value": {"type": "double", "minimum": 0},
    }
    rounds = {
        "round_id_from_variable": True,
        "round_id": "reference_date",
        "model_tasks": [{"task_ids": task_ids, "output_type": {"quantile": quantile}}],
    }
    return {
        "schema_version": SCHEMA,
        "derived_task_ids": ["target_end_date"],
        "rounds": [rounds],
    }


def forecasts(name: str, shift: float) -> pl.DataFrame:
    rows = [
        {
            "location": place,
            "horizon": horizon,
            "reference_date": name,
            "target": TARGET,
            "target_end_date": week(name, horizon),
            "output_type": "quantile",
            "output_type_id": level,
            "value": 100 + shift + 10 * ROUNDS.index(name) + 20 * level,
        }
        for place in PLACES
        for level in LEVELS
        for horizon in HORIZONS
    ]
    return pl.DataFrame(rows)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Folder of a hub."""
    return write_hub(tmp_path / "hub", rng)


def write_hub(hub: Path, rng: np.random.Generator) -> Path:
    """Write a hub; its model "c-far" is absent from the first round."""
    for name in ("hub-config", "target-data", "model-metadata", "model-output"):
        (hub / name).mkdir(parents=True)
    (hub / "hub-config" / "tasks.json").write_text(json.dumps(tasks()))
    for model, shift, suffix in (("a-near", 1, "csv"), ("c-far", 40, "parquet")):
        for name in ROUNDS[model == "c-far" :]:
            frame = forecasts(name, shift)
            frame = frame[rng.permutation(len(frame)), rng.permutation(8).tolist()]
            path = hub / "model-output" / model / f"{name}-{model}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    (hub / "model-output" / "README.md").write_text("not a model")
    write_outcomes(hub / "target-data" / "time-series.csv")
    return hub


def write_outcomes(path: Path, changes: dict[str, float] | None = None) -> None:
    """Write outcomes of each week, as of the Thursday after it, and a revision."""
    rows = []
    for number, name in enumerate(ROUNDS):
        for place in PLACES:
            row = {"target_end_date": name, "location": place, "target": TARGET}
            value = 110.0 + 10 * number
            rows.append({"as_of": week(name, 0), **row, "observation": value})
            revised = (changes or {}).get(name, value + 1)
            as_of = str(datetime.date.fromisoformat(name) + datetime.timedelta(12))
            rows.append({"as_of": as_of, **row, "observation": revised})
    pl.DataFrame(rows).write_csv(path)
