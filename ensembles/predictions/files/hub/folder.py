"""The folder of a forecast hub: models, their submissions in each round, outcomes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ensembles.predictions.files.formats.paths import open_table
from ensembles.predictions.files.formats.table import PredictionTable
from ensembles.predictions.files.hub.tasks import (
    HubSettings,
    HubTasks,
    read_settings,
    read_tasks,
)
from ensembles.predictions.files.layouts import normal_label
from ensembles.predictions.files.prediction_file import PredictionFile, predictions_of
from ensembles.predictions.files.rows import normal_text
from ensembles.regular_files import read_regular

SUFFIXES = (".csv", ".parquet")
METADATA = "model-metadata"
LARGEST_METADATA = 1 << 20
ENSEMBLE = "ensemble_of_hub_models"  # key of a model's metadata
ID_COLUMN = "model_id"
VALUE = "value"


@dataclass(frozen=True)
class Hub:
    """A forecast hub in hubverse's layout, as `open_hub` returns it.

    Parameters
    ----------
    path : Path
        Folder of the hub.
    tasks : HubTasks
        Rounds, tasks and output types that the hub asks for.
    settings : HubSettings
        Folder and formats of model output.
    """

    path: Path
    tasks: HubTasks
    settings: HubSettings

    def models(self) -> list[str]:
        """Names of the models with submissions, in alphabetical order."""
        folder = self.settings.model_output
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} must be a folder with a folder per model"
            )
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        return [name for name in names if self.submissions(name)]

    def submissions(self, model: str) -> dict[str, Path]:
        """Submissions of a model.

        Parameters
        ----------
        model : str
            Name of the model, which is the name of its folder.

        Returns
        -------
        dict of str to Path
            Paths by the name of the round, in ascending order.

        Raises
        ------
        ValueError
            If a round has two files.
        """
        folder = self.settings.model_output / model
        found = dict[str, Path]()
        for path in sorted(folder.glob(f"*-{model}.*")) if folder.is_dir() else ():
            if path.suffix not in SUFFIXES:
                continue
            name = path.stem.removesuffix(f"-{model}")
            if name in found:
                raise ValueError(
                    f"{folder} must have one file for round {name}, found "
                    f"{found[name].name} and {path.name}"
                )
            found[name] = path
        return dict(sorted(found.items()))

    def is_ensemble(self, model: str) -> bool:
        """Whether a model combines other models of the hub, by its metadata.

        Parameters
        ----------
        model : str
            Name of the model.

        Returns
        -------
        bool
        """
        for suffix in (".yml", ".yaml"):
            path = self.path / METADATA / f"{model}{suffix}"
            if path.is_file():
                content = read_regular(path, largest=LARGEST_METADATA)
                try:
                    metadata = yaml.safe_load(content)
                except (yaml.YAMLError, UnicodeDecodeError) as error:
                    reason = " ".join(str(error).split())
                    raise ValueError(f"{path} is not YAML: {reason}") from None
                return bool(isinstance(metadata, dict) and metadata.get(ENSEMBLE))
        return False

    def open_submission(
        self, model: str, path: Path, *, where: Mapping[str, Any], output_type: str
    ) -> PredictionFile | None:
        """Open the forecasts of a model in a round.

        Parameters
        ----------
        model : str
            Name of the model.
        path : Path
            Path of the submission.
        where : mapping of str to value
            Values of task IDs that rows must have.
        output_type : str
            Output type to read.

        Returns
        -------
        PredictionFile or None
            None if the submission does not have such forecasts.

        Raises
        ------
        ValueError
            If the file is damaged, or lacks a column.
        """
        table = _in_memory(open_table(path))
        wanted = {name: normal_label(value) for name, value in where.items()}
        if not _has_rows(table, {**wanted, "output_type": output_type}):
            return None
        file = predictions_of(table, output_type=output_type, where=wanted)
        ids = tuple(name for name in file.ids if name != ID_COLUMN)
        return replace(file, name=model, ids=ids, notes=())


def open_hub(path: str | os.PathLike[str]) -> Hub:
    """Open a forecast hub in hubverse's layout.

    Parameters
    ----------
    path : path
        Folder with ``hub-config/tasks.json``, ``model-output`` and ``target-data``.

    Returns
    -------
    Hub

    Raises
    ------
    FileNotFoundError
        If the folder is not a hub.
    ValueError
        If its configuration is damaged.
    """
    folder = Path(path)
    return Hub(folder, read_tasks(folder), read_settings(folder))


def _in_memory(table: PredictionTable) -> PredictionTable:
    """The same table with normal text, read once; submissions are small."""
    import polars as pl

    if VALUE not in table.names:
        raise ValueError(
            f"{table.path} must have the column {VALUE!r}, found "
            f"{', '.join(table.names)}"
        )
    others = [name for name in table.names if name != VALUE]
    frame = pl.concat(list(table.read(others, [VALUE])))
    frame = frame.with_columns(normal_text(frame[name]) for name in others)

    def read(texts: Sequence[str], numbers: Sequence[str]) -> Iterator[Any]:
        yield frame.select(*texts, *numbers)

    return replace(table, read=read, n_rows=len(frame))


def _has_rows(table: PredictionTable, where: Mapping[str, str]) -> bool:
    """Whether a table has rows with these values; errors name a missing column."""
    for name in where:
        if name not in table.names:
            raise ValueError(
                f"{table.path} must have the column {name!r}, found "
                f"{', '.join(table.names)}"
            )
    (frame,) = table.read(list(where), ())
    for name, value in where.items():
        frame = frame.filter(frame[name] == value)
    return bool(len(frame))
