"""Read files beside the checkpoints of a run; a damaged one becomes a note."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.formats.pytorch_files.modules import contents
from ensembles.checkpoints.formats.pytorch_files.objects import PickledObject
from ensembles.checkpoints.formats.pytorch_files.reading import (
    TorchFile,
    read_file,
    stored_at,
)
from ensembles.checkpoints.formats.pytorch_files.tensors import StoredTensor
from ensembles.checkpoints.formats.state_dict import dtype_named
from ensembles.checkpoints.runs.run import Run
from ensembles.regular_files import read_json

# Errors of values that are not what their type promises.
MALFORMED = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError),
    RecursionError,
)


@contextmanager
def noted(path: Path, notes: list[str]) -> Iterator[None]:
    """Turn errors of a file into a note; a missing file is passed over.

    Parameters
    ----------
    path : Path
        File that is read inside of the context.
    notes : list of str
        List that the note is appended to.

    Yields
    ------
    None
    """
    try:
        yield
    except FileNotFoundError:
        pass
    except MALFORMED as error:
        text = str(error) if isinstance(error, OSError | ValueError) else repr(error)
        name = "" if str(path) in text else f"{path}: "
        notes.append(f"{name}{text}; its steps and metrics are not used")


def json_beside(path: Path, notes: list[str]) -> Any:
    """Value of a JSON file.

    Parameters
    ----------
    path : Path
        JSON file.
    notes : list of str
        List that a note is appended to, if the file is damaged.

    Returns
    -------
    value
        None if the file is missing or damaged.
    """
    with noted(path, notes):
        return read_json(path)
    return None


@dataclass(frozen=True)
class PytorchContents:
    """Contents of a PyTorch file, read without torch.

    Parameters
    ----------
    file : FileSource
        The file.
    stored : TorchFile
        Its pickled object, with the positions of storages.
    """

    file: FileSource
    stored: TorchFile

    def get(self, *keys: Any) -> Any:
        """Value at nested keys.

        Parameters
        ----------
        *keys
            Keys of mappings, names of attributes, or positions in lists as strings,
            from the outermost to the innermost.

        Returns
        -------
        value
            None if a key is missing.
        """
        value = self.stored.content
        for key in keys:
            value = contents(value).get(key)
        return value

    def number(self, value: Any) -> float | None:
        """Number in a Python value, a tensor of one element or a NumPy scalar.

        Parameters
        ----------
        value : object
            Value in the file.

        Returns
        -------
        float or None
            None if it is not a number, or is damaged.
        """
        with suppress(*MALFORMED):
            return self._number(value)
        return None

    def decimal(self, *keys: Any) -> Decimal | None:
        """Counter at nested keys.

        Parameters
        ----------
        *keys
            Keys, as in `get`.

        Returns
        -------
        Decimal or None
            None if a key is missing, or the value is not a finite number.
        """
        return as_decimal(self.number(self.get(*keys)))

    def _number(self, value: Any) -> float | None:
        if isinstance(value, bool | int | float):
            return float(value)
        if isinstance(value, StoredTensor) and value.size == 1:
            dtype = dtype_named(value.dtype, str(self.file.path))
            start = stored_at(value, dtype.itemsize, self.stored, str(self.file.path))
            data = self.file.read(start, dtype.itemsize)
            return float(np.frombuffer(data, dtype)[0])
        if isinstance(value, PickledObject) and value.type.name == "scalar":
            dtype_object, data = value.args
            return float(np.frombuffer(data, np.dtype(dtype_object.args[0]))[0])
        return None


def pytorch_beside(path: Path, notes: list[str]) -> PytorchContents | None:
    """Contents of a PyTorch file.

    Parameters
    ----------
    path : Path
        File of ``torch.save``.
    notes : list of str
        List that a note is appended to, if the file is damaged.

    Returns
    -------
    PytorchContents or None
        None if the file is missing or damaged.
    """
    with noted(path, notes):
        file = FileSource(path)
        return PytorchContents(file, read_file(file))
    return None


def has_key(run: Run, key: str) -> bool:
    """Whether the first checkpoint of a run has a key, as the files of a trainer do.

    Parameters
    ----------
    run : Run
        Run of PyTorch files.
    key : str
        Key at the top level.

    Returns
    -------
    bool
        True also if the file cannot be read, because it may have the key.
    """
    saved = next((pytorch_beside(c.path, []) for c in run.checkpoints), None)
    return saved is None or saved.get(key) is not None


def as_decimal(number: Any) -> Decimal | None:
    """Counter of training as a decimal number.

    Parameters
    ----------
    number : object
        Number of steps, epochs or tokens.

    Returns
    -------
    Decimal or None
        None if it is not a finite number.
    """
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        return None
    if isinstance(number, float) and number.is_integer():
        return Decimal(int(number))
    exact = Decimal(str(number))
    return exact if exact.is_finite() else None
