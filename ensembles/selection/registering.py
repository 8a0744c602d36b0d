"""What a selection is, and the table of them."""

from __future__ import annotations

from collections.abc import Callable

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
