"""The table of schedules: functions from the positions of checkpoints to weights."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.registry import RegisteredFunction, Table


class Schedule(RegisteredFunction):
    """A schedule: a function from the positions of checkpoints to their weights.

    Parameters
    ----------
    function : callable (positions, **params) -> ndarray
        Takes positions of shape (n_members,), float64, in increasing order. Returns
        non-negative weights of this shape, with sum 1.
    """

    noun: ClassVar[str] = "schedule"
    n_inputs: ClassVar[int] = 1

    def __call__(
        self, positions: ArrayLike | Sequence[Decimal], **params: Any
    ) -> Float64:
        """Weights of checkpoints.

        Parameters
        ----------
        positions : array-like of shape (n_members,)
            Steps or tokens of the checkpoints, in increasing order.
        **params
            Parameters of the schedule.

        Returns
        -------
        ndarray of shape (n_members,), float64
            Non-negative, with sum 1.

        Raises
        ------
        ValueError, TypeError
            If the positions are not increasing numbers, or a parameter is unknown or
            invalid.
        """
        self.check_names(params)
        return np.asarray(self.function(_checked(positions), **params))


SCHEDULES: Table[Schedule] = Table("schedule", Schedule)


def _checked(positions: ArrayLike | Sequence[Decimal]) -> Float64:
    """Positions as float64, if they are finite and increasing."""
    try:
        values = np.array(positions, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"positions must be numbers, found {positions!r:.80}") from None
    if values.ndim != 1 or not len(values):
        raise ValueError(
            "positions must be a flat list of at least one number, found shape "
            f"{values.shape}"
        )
    for index, value in enumerate(values.tolist()):
        if not np.isfinite(value):
            raise ValueError(f"positions must be finite: positions[{index}] is {value}")
        if index and value <= values[index - 1]:
            raise ValueError(
                f"positions must increase: positions[{index}] is {value:g} after "
                f"{values[index - 1]:g}"
            )
    return values
