"""Each version of the hubverse schemas is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensembles.predictions.files.hub import open_hub
from tests.predictions.files.hub import conftest


def write(folder: Path, config: Any) -> None:
    (folder / "hub-config" / "tasks.json").write_text(json.dumps(config))


# Output types as versions 1, 2, 3 and 4 of the schemas have them.
VALUE = {"type": "double", "minimum": 0}
VERSIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "1": (
        {
            "quantile": {
                "type_id": {"required": [0.5], "optional": [0.9]},
                "value": VALUE,
            }
        },
        (("0.5",), ("0.9",), True),
    ),
    "2": (
        {"quantile": {"output_type_id": {"required": None, "optional": [0.9]}}},
        ((), ("0.9",), False),
    ),
    "4": (
        {"quantile": {"output_type_id": {"required": [0.5]}, "is_required": False}},
        (("0.5",), (), False),
    ),
    "2, mean": (
        {"mean": {"output_type_id": {"required": ["NA"], "optional": None}}},
        (("NA",), (), True),
    ),
    "4, mean": (
        {"mean": {"output_type_id": {"required": None}, "is_required": True}},
        ((), (), True),
    ),
}


@pytest.mark.parametrize(("output", "expected"), VERSIONS.values(), ids=VERSIONS)
def test_levels_are_read(output: dict[str, Any], expected: Any, folder: Path) -> None:
    config = conftest.tasks()
    ((name, value),) = output.items()
    value = {"value": VALUE, **value}
    config["rounds"][0]["model_tasks"][0]["output_type"] = {name: value}
    write(folder, config)
    (task,) = open_hub(folder).tasks.rounds[0].model_tasks
    read = task.output_types[name]
    assert read.ids is not None
    assert (read.ids.required, read.ids.optional, read.is_required) == expected
    assert (read.value_type, read.minimum, read.maximum) == ("double", 0, float("inf"))


@pytest.mark.parametrize("inside", [True, False])
def test_numbers_of_samples_are_read(inside: bool, folder: Path) -> None:
    params: dict[str, Any] = {"min_samples_per_task": 3, "max_samples_per_task": 9}
    sample: dict[str, Any] = {"output_type_id_params": params, "value": VALUE}
    (params if inside else sample)["is_required"] = True
    config = conftest.tasks()
    config["rounds"][0]["model_tasks"][0]["output_type"] = {"sample": sample}
    write(folder, config)
    (task,) = open_hub(folder).tasks.rounds[0].model_tasks
    read = task.output_types["sample"]
    assert (read.ids, read.n_samples, read.is_required) == (None, (3, 9), True)


def without(config: Any, *keys: Any) -> Any:
    *path, last = keys
    part = config
    for key in path:
        part = part[key]
    del part[last]
    return config


FIRST = ("rounds", 0, "model_tasks", 0)
DAMAGES: dict[str, tuple[tuple[Any, ...], str]] = {
    "rounds": (("rounds",), "must have a list of rounds"),
    "round": (("rounds", 0, "round_id"), r"rounds\[0\] must have a round_id"),
    "tasks": (("rounds", 0, "model_tasks"), "must have a list of model_tasks"),
    "task IDs": ((*FIRST, "task_ids"), "must have the object 'task_ids'"),
    "no round": (
        (*FIRST, "task_ids", "reference_date"),
        "'reference_date', which names",
    ),
    "values": (
        (*FIRST, "task_ids", "horizon", "required"),
        "horizon must have required",
    ),
    "types": ((*FIRST, "output_type"), "must have the object 'output_type'"),
    "levels": (
        (*FIRST, "output_type", "quantile", "output_type_id"),
        "must have output_type_id or output_type_id_params",
    ),
    "limits": ((*FIRST, "output_type", "quantile", "value"), "the object 'value'"),
}


@pytest.mark.parametrize(("keys", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_configuration_is_named(
    keys: tuple[Any, ...], message: str, folder: Path
) -> None:
    write(folder, without(conftest.tasks(), *keys))
    with pytest.raises(ValueError, match=message) as error:
        open_hub(folder)
    assert "tasks.json" in str(error.value)


def test_settings_name_folder_and_format(folder: Path) -> None:
    path = folder / "hub-config" / "admin.json"
    path.write_text('{"file_format": ["arrow", "parquet"], "model_output_dir": "out"}')
    settings = open_hub(folder).settings
    assert settings == (folder / "out", ("parquet",))
    path.write_text('{"file_format": "arrow"}')
    with pytest.raises(ValueError, match="file_format must have csv or parquet"):
        open_hub(folder)
    path.write_text('{"model_output_dir": "../elsewhere"}')
    with pytest.raises(ValueError, match="must be a folder of the hub"):
        open_hub(folder)


@pytest.mark.parametrize("minimum", ["0", True, [0]])
def test_a_limit_must_be_a_number(minimum: Any, folder: Path) -> None:
    config = conftest.tasks()
    task = config["rounds"][0]["model_tasks"][0]
    task["output_type"]["quantile"]["value"]["minimum"] = minimum
    write(folder, config)
    with pytest.raises(ValueError, match=r"quantile: minimum must be a number, found"):
        open_hub(folder)
