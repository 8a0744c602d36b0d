"""Scores of combinations of checkpoints, by the scoring command of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensembles_cli.options import checkpoint, score
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.soup_progress import ProgressReporter
from ensembles_cli.scoring.command import ScoringCommand

if TYPE_CHECKING:
    from ensembles._typing import Float64

Function = Callable[..., Any]
OPTIONS = (
    score.key,
    score.lower_is_better,
    score.timeout,
    score.on_error,
    checkpoint.integers,
    checkpoint.missing,
    checkpoint.key,
    checkpoint.memory,
    checkpoint.threads,
)


def score_options(*, required: bool) -> Callable[[Function], Function]:
    """Decorator with the options that `scored` takes.

    Parameters
    ----------
    required : bool
        Whether ``--score`` must be given.

    Returns
    -------
    callable
        Decorator of a click command.
    """

    def decorate(function: Function) -> Function:
        for option in reversed((score.command(required=required), *OPTIONS)):
            function = option(function)
        return function

    return decorate


def scored(
    members: Sequence[str],
    weights: Float64,
    out: Path,
    *,
    text: str,
    key_of_score: str | None,
    timeout: float | None,
    lower_is_better: bool,
    **options: Any,
) -> Float64:
    """Score of the weighted mean of members, for each row of weights.

    Parameters
    ----------
    members : sequence of str
        Paths of the members.
    weights : ndarray of shape (n_points, n_members)
        Rows of weights with sum 1.
    out : Path
        Image, beside which combinations and the journal are written.
    text : str
        Scoring command.
    key_of_score : str or None
        Name of the score in the output of the command.
    timeout : float or None
        Time limit of one score, in seconds.
    lower_is_better : bool
        Whether lower scores are better.
    **options
        Options of `score_files`, such as ``on_error`` and ``integers``.

    Returns
    -------
    ndarray of shape (n_points,), float64
        NaN for a score that failed.
    """
    from ensembles.reports.displays.scored_points import score_files

    raise_file_limit()
    end_cleanly()
    scoring = ScoringCommand(text, timeout, key_of_score)
    journal = scoring.journal(f"{out}.journal.jsonl")
    with ProgressReporter(journal, members, scoring, lower_is_better) as reporter:
        return score_files(
            members,
            weights,
            scoring,
            out,
            lower_is_better=lower_is_better,
            journal=journal,
            record=reporter.record,
            **options,
        )
