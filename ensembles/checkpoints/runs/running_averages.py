"""Mean of the parameters over a window, from two running averages that a run kept.

If a run keeps the mean a(n) of its parameters over the first n steps, the mean over the
steps from n1 (excluded) to n2 is (n2 a(n2) - n1 a(n1)) / (n2 - n1).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.formats.pytorch_files.modules import contents
from ensembles.checkpoints.formats.pytorch_files.reading import read_file

AVERAGE = "model_avg"
STEP = "batch_idx_train"
PERIOD = "average_period"


class WindowMean(NamedTuple):
    """Members and weights whose weighted mean is the mean over a window.

    Parameters
    ----------
    members : list of Path
        Checkpoints at the end and at the start of the window, in this order.
    weights : list of int
        Number of steps in the running average at the end, and minus that at the start.
    key : str
        Key of the running average in both files.
    """

    members: list[Path]
    weights: list[int]
    key: str

    @property
    def note(self) -> str:
        """Message that names the window and the two files."""
        end, start = (path.name for path in self.members)
        return (
            f"mean of the parameters from step {-self.weights[1]} (excluded) to "
            f"{self.weights[0]}, from {self.key!r} of {start} and {end}"
        )


def window_mean(
    start: str | os.PathLike[str], end: str | os.PathLike[str]
) -> WindowMean:
    """Members and weights for the mean of the parameters between two checkpoints.

    The checkpoints are files of icefall, with the running average of the parameters at
    the key "model_avg". Pass the three values to `average`, whose rule "mean" computes
    in float64 and rounds once; also pass ``only_weights=True``, because a copy of the
    file would keep the parameters of its last step at the key "model".

    Parameters
    ----------
    start : path
        Checkpoint at the start of the window; its own step is not in the mean.
    end : path
        Checkpoint at the end of the window.

    Returns
    -------
    WindowMean

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a file has no running average, or the end does not have more steps than the
        start.

    References
    ----------
    ``average_checkpoints_with_averaged_model`` in icefall/checkpoint.py. icefall rounds
    both numbers of steps down to a multiple of the period of the start; here the period
    of each file is used, which differs only if it was changed during training.
    """
    paths = [Path(end), Path(start)]
    last, first = map(_n_steps, paths)
    if last <= first:
        raise ValueError(
            f"the end of the window must have more steps than its start, found {last} "
            f"in {paths[0]} and {first} in {paths[1]}; pass the earlier checkpoint "
            "first"
        )
    return WindowMean(paths, [last, -first], AVERAGE)


def _n_steps(path: Path) -> int:
    """Number of steps in the running average of a file."""
    values = contents(read_file(FileSource(path)).content)
    missing = [name for name in (AVERAGE, STEP, PERIOD) if values.get(name) is None]
    if missing:
        raise ValueError(
            f"{path} must have a running average of icefall: {', '.join(missing)} "
            f"not found in it, only {', '.join(map(str, values)) or 'no keys'}"
        )
    step, period = (_count(values[name], name, path) for name in (STEP, PERIOD))
    if not step // period:
        raise ValueError(
            f"{path} has no running average yet: {STEP} is {step}, and it is updated "
            f"every {period} steps"
        )
    return step // period * period


def _count(value: Any, name: str, path: Path) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{path}: {name} must be a positive integer, found {value!r}")
    return value
