"""What a selection is, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.registry import Table
from ensembles.selection.score import Score, Trial

Record = Callable[[Trial], None]
# select(n_members, score, *, record, **params) -> weights: non-negative, sum 1. What is
# wrong with its parameters it says before it asks for the first score.
Selection = Callable[..., Float64]
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
        number = value[()] if isinstance(value, np.ndarray) else value
        if isinstance(number, bool) or not isinstance(number, Real):
            raise TypeError(f"{name} must be a number, found {value!r}")


def generator_of(random_state: Any) -> np.random.Generator:
    """Generator of random numbers that a ``random_state`` means.

    Parameters
    ----------
    random_state : int, Generator, RandomState or None
        A generator is used as it is; a RandomState draws a seed.

    Returns
    -------
    Generator

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or a negative number.
    """
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31))
    if random_state is None or isinstance(random_state, np.random.Generator):
        return np.random.default_rng(random_state)
    if isinstance(random_state, bool) or not isinstance(random_state, Integral):
        raise TypeError(
            "random_state must be a whole number, a Generator, a RandomState or None, "
            f"found {random_state!r}"
        )
    if random_state < 0:
        raise ValueError(f"random_state must not be negative, found {random_state}")
    return np.random.default_rng(int(random_state))
