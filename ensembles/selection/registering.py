"""What a selection is, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from ensembles.registry import Table
from ensembles.weighting import Floats, Score, Trial

Record = Callable[[Trial], None]
# select(n_members, score, *, record, **params) -> weights: non-negative, sum 1.
Selection = Callable[..., Floats]
SELECTIONS: Table[Selection] = Table("selection")


def forget(trial: Trial) -> None:
    """Let a trial go: nobody asked to see it.

    Parameters
    ----------
    trial : Trial
    """


def offers(score: Score, name: str) -> bool:
    """Whether a score has a method that it need not have.

    Parameters
    ----------
    score : Score
    name : {"gains", "gradient", "optimum"}

    Returns
    -------
    bool
    """
    return getattr(score, name, None) is not None


def check_whole(**given: Any) -> None:
    """Check that parameters are whole numbers.

    Parameters
    ----------
    **given
        By name.

    Raises
    ------
    TypeError
        If one is not.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, found {value!r}")


def check_number(**given: Any) -> None:
    """Check that parameters are numbers.

    Parameters
    ----------
    **given
        By name.

    Raises
    ------
    TypeError
        If one is not.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, found {value!r}")
