"""What a hub asks for: the rounds, tasks and output types of ``tasks.json``.

Versions 0.0.1 to 6 of the hubverse schemas are read. Source:
https://docs.hubverse.io, "Hub configuration files".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ensembles.predictions.files.layouts import normal_label
from ensembles.regular_files import read_json

CONFIGURATION = "hub-config"
TASKS = "tasks.json"
ADMINISTRATION = "admin.json"
DATE = re.compile(r"\d{4}-\d\d-\d\d")
FORMATS = ("csv", "parquet")  # of hubverse, which we write; it also has arrow


@dataclass(frozen=True)
class AllowedValues:
    """Values of a column that a hub accepts, as text.

    Parameters
    ----------
    required : tuple of str
        Values that a submission must have.
    optional : tuple of str
        Values that it may have.
    type : str
        Type of the values, as hubverse names it: ``"integer"``, ``"double"``,
        ``"Date"`` or ``"character"``; empty without values.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    type: str

    @property
    def values(self) -> tuple[str, ...]:
        """All values, the required ones first."""
        return self.required + self.optional


class OutputType(NamedTuple):
    """An output type that a hub accepts for a task.

    Parameters
    ----------
    ids : AllowedValues or None
        Levels or categories; None for samples, which have any names.
    is_required : bool
        Whether a submission must have this output type.
    value_type : str
        ``"double"`` or ``"integer"``.
    minimum : float
        Smallest value.
    maximum : float
        Largest value.
    n_samples : tuple of (int, int) or None, default=None
        Smallest and largest number of samples; None for other types.
    """

    ids: AllowedValues | None
    is_required: bool
    value_type: str
    minimum: float
    maximum: float
    n_samples: tuple[int, int] | None = None


@dataclass(frozen=True)
class ModelTask:
    """A group of tasks: combinations of the values of task IDs, with output types.

    Parameters
    ----------
    task_ids : dict of str to AllowedValues
        Task IDs, which are columns of a submission, in their order.
    output_types : dict of str to OutputType
        Output types by name.
    derived : frozenset of str
        Task IDs that follow from others, such as a target date from a horizon.
    """

    task_ids: dict[str, AllowedValues]
    output_types: dict[str, OutputType]
    derived: frozenset[str]


@dataclass(frozen=True)
class HubRound:
    """Rounds with the same tasks.

    Parameters
    ----------
    round_id : str
        Name of the task ID whose values name rounds, or the name of the only round.
    from_variable : bool
        Whether ``round_id`` is the name of a task ID.
    model_tasks : tuple of ModelTask
        Groups of tasks.
    due : int, str or None, default=None
        Last day of submissions: days after the date of the round, negative before it,
        or a date; None if the hub does not have one.
    """

    round_id: str
    from_variable: bool
    model_tasks: tuple[ModelTask, ...]
    due: int | str | None = None

    def has_round(self, name: str) -> bool:
        """Whether a round is one of these.

        Parameters
        ----------
        name : str
            Name of the round, such as ``2024-11-23``.

        Returns
        -------
        bool
        """
        if not self.from_variable:
            return name == self.round_id
        return any(name in t.task_ids[self.round_id].values for t in self.model_tasks)


@dataclass(frozen=True)
class HubTasks:
    """All rounds of a hub.

    Parameters
    ----------
    path : Path
        Path of ``tasks.json``.
    rounds : tuple of HubRound
        Rounds.
    level_type : str, default="auto"
        Type of the column ``output_type_id``; "auto" follows from its values.
    """

    path: Path
    rounds: tuple[HubRound, ...]
    level_type: str = "auto"

    def types(self) -> dict[str, str]:
        """Types of the task IDs and of ``output_type_id``, in all rounds."""
        tasks = [task for entry in self.rounds for task in entry.model_tasks]
        names = dict.fromkeys(name for task in tasks for name in task.task_ids)
        types = {
            name: common_type(
                t.task_ids[name].type for t in tasks if name in t.task_ids
            )
            for name in names
        }
        outputs = [output for task in tasks for output in task.output_types.values()]
        levels = common_type(o.ids.type if o.ids else "character" for o in outputs)
        types["output_type_id"] = (
            levels if self.level_type == "auto" else self.level_type
        )
        return types

    def round_of(self, name: str) -> HubRound:
        """Rounds that a round is one of.

        Parameters
        ----------
        name : str
            Name of the round, such as ``2024-11-23``.

        Returns
        -------
        HubRound

        Raises
        ------
        ValueError
            If the hub does not have the round.
        """
        for rounds in self.rounds:
            if rounds.has_round(name):
                return rounds
        known = [value for rounds in self.rounds for value in _round_names(rounds)]
        raise ValueError(
            f"{self.path} has no round {name!r}, found {', '.join(known[:3])}, …, "
            f"{', '.join(known[-3:])}"
        )


def _round_names(rounds: HubRound) -> list[str]:
    if not rounds.from_variable:
        return [rounds.round_id]
    values = [task.task_ids[rounds.round_id] for task in rounds.model_tasks]
    return sorted({name for allowed in values for name in allowed.values})


class HubSettings(NamedTuple):
    """Where a hub keeps model output, and in which formats.

    Parameters
    ----------
    model_output : Path
        Folder with a folder for each model.
    formats : tuple of str
        Accepted file formats, the preferred one first.
    """

    model_output: Path
    formats: tuple[str, ...]


def read_settings(folder: Path) -> HubSettings:
    """Read ``hub-config/admin.json``.

    Parameters
    ----------
    folder : Path
        Folder of the hub.

    Returns
    -------
    HubSettings
        The defaults of hubverse without the file.

    Raises
    ------
    ValueError
        If the file is damaged, or the hub accepts neither CSV nor Parquet.
    """
    path = folder / CONFIGURATION / ADMINISTRATION
    admin = read_json(path) if path.exists() else {}
    if not isinstance(admin, dict):
        raise ValueError(f"{path} must be a JSON object, found {type(admin).__name__}")
    formats = admin.get("file_format") or list(FORMATS)
    formats = [formats] if isinstance(formats, str) else formats
    known = tuple(name for name in formats if name in FORMATS)
    if not known:
        raise ValueError(
            f"{path}: file_format must have csv or parquet, found {formats}"
        )
    output = str(admin.get("model_output_dir") or "model-output")
    if Path(output).is_absolute() or ".." in Path(output).parts:
        raise ValueError(
            f"{path}: model_output_dir must be a folder of the hub: {output}"
        )
    return HubSettings(folder / output, known)


def read_tasks(folder: Path) -> HubTasks:
    """Read ``hub-config/tasks.json``.

    Parameters
    ----------
    folder : Path
        Folder of the hub.

    Returns
    -------
    HubTasks

    Raises
    ------
    FileNotFoundError
        If the folder is not a hub.
    ValueError
        If the file does not describe rounds, tasks and output types.
    """
    path = folder / CONFIGURATION / TASKS
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} must be a hub with {CONFIGURATION}/{TASKS}, which does not exist"
        )
    content = read_json(path)
    derived = _names(path, content, "derived_task_ids", default=())
    rounds = tuple(
        _round(f"{path}: rounds[{n}]", value, derived)
        for n, value in enumerate(_items(path, content, "rounds"))
    )
    return HubTasks(path, rounds, str(content.get("output_type_id_datatype", "auto")))


def _round(where: str, value: Any, derived: Sequence[str]) -> HubRound:
    derived = _names(where, value, "derived_task_ids", default=derived)
    tasks = tuple(
        _model_task(f"{where}.model_tasks[{n}]", task, derived)
        for n, task in enumerate(_items(where, value, "model_tasks"))
    )
    round_id, from_variable = value.get("round_id"), value.get("round_id_from_variable")
    if not isinstance(round_id, str):
        raise ValueError(f"{where} must have a round_id, found {round_id!r}")
    for number, task in enumerate(tasks):
        if from_variable and round_id not in task.task_ids:
            raise ValueError(
                f"{where}.model_tasks[{number}] must have the task ID {round_id!r}, "
                f"which names rounds, found {', '.join(task.task_ids)}"
            )
    return HubRound(round_id, bool(from_variable), tasks, _due(where, value, round_id))


def _due(where: str, value: Mapping[str, Any], round_id: str) -> int | str | None:
    """Last day of submissions, as in `HubRound`."""
    if value.get("submissions_due") is None:
        return None
    due = _object(where, value, "submissions_due")
    where, end = f"{where}.submissions_due", due.get("end")
    if "relative_to" in due:
        # A date relative to another task ID differs between the rows of a round.
        days = _number(where, due, "end", 0)
        return int(days) if due["relative_to"] == round_id else None
    if not isinstance(end, str) or not DATE.fullmatch(end[:10]):
        raise ValueError(f"{where}: end must be a date, found {end!r:.60}")
    return end[:10]


def _model_task(where: str, value: Any, derived: Sequence[str]) -> ModelTask:
    task_ids = {
        name: _allowed(f"{where}.task_ids.{name}", ids)
        for name, ids in _object(where, value, "task_ids").items()
    }
    types = {
        name: _output_type(f"{where}.output_type.{name}", output)
        for name, output in _object(where, value, "output_type").items()
    }
    return ModelTask(task_ids, types, frozenset(derived))


def _output_type(where: str, value: Any) -> OutputType:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, found {value!r}")
    limits = _object(where, value, "value")
    n_samples, ids = None, None
    given = value.get("output_type_id", value.get("type_id"))  # before version 2
    params = value.get("output_type_id_params")
    if given is not None:
        ids = _allowed(f"{where}.output_type_id", given)
    elif isinstance(params, dict):
        n_samples = (
            int(_number(where, params, "min_samples_per_task", 1)),
            int(_number(where, params, "max_samples_per_task", 1 << 62)),
        )
    else:
        raise ValueError(f"{where} must have output_type_id or output_type_id_params")
    required = value.get("is_required", (params or {}).get("is_required"))
    if required is None:  # before version 4
        required = bool(ids and ids.required)
    return OutputType(
        ids,
        bool(required),
        str(limits.get("type", "double")),
        _number(where, limits, "minimum", -math.inf),
        _number(where, limits, "maximum", math.inf),
        n_samples,
    )


def _allowed(where: str, value: Any) -> AllowedValues:
    """Required and optional values; since version 4, levels have only required ones."""
    if not isinstance(value, dict) or "required" not in value:
        raise ValueError(
            f"{where} must have required and optional values: {value!r:.60}"
        )
    lists, raw = [], list[Any]()
    for key in ("required", "optional"):
        values = value.get(key)
        if values is not None and not isinstance(values, list):
            raise ValueError(
                f"{where}.{key} must be a list or null, found {values!r:.60}"
            )
        lists.append(tuple(normal_label(v) for v in values or () if v is not None))
        raw += values or ()
    return AllowedValues(lists[0], lists[1], common_type(map(_type, raw)))


def _type(value: Any) -> str:
    if isinstance(value, str):
        return "Date" if DATE.fullmatch(value) else "character"
    if isinstance(value, int) and not isinstance(value, bool):
        return "integer"
    return "double" if isinstance(value, float) else ""


def common_type(types: Iterable[str]) -> str:
    """Type of values of several types.

    Parameters
    ----------
    types : iterable of str
        Types as in `AllowedValues`.

    Returns
    -------
    str
    """
    distinct = set(types) - {""}
    if distinct == {"integer", "double"}:
        return "double"
    return distinct.pop() if len(distinct) == 1 else "character" if distinct else ""


def _number(where: str, value: Mapping[str, Any], key: str, default: float) -> float:
    number = value.get(key)
    if number is None:
        return default
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{where}: {key} must be a number, found {number!r:.60}")
    return float(number)


def _object(where: Any, value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{where} must have the object {key!r}, found {found!r:.60}")
    return found


def _items(where: Any, value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list) or not found:
        raise ValueError(f"{where} must have a list of {key}, found {found!r:.60}")
    return found


def _names(
    where: Any, value: Any, key: str, *, default: Sequence[str]
) -> tuple[str, ...]:
    found = value.get(key) if isinstance(value, dict) else None
    if found is None:
        return tuple(default)
    if not isinstance(found, list):
        raise ValueError(f"{where}: {key} must be a list of names, found {found!r:.60}")
    return tuple(map(str, found))
