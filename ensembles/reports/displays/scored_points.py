"""Scores of weighted means of checkpoints, in memory or written to files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys
from ensembles.checkpoints.merging.average import average
from ensembles.checkpoints.model_soup.merged_estimator import build_merged_estimator
from ensembles.checkpoints.parameters.access import get_state
from ensembles.checkpoints.parameters.template import CHECKPOINT_TYPES
from ensembles.checkpoints.planning.options import Integers
from ensembles.checkpoints.planning.plan import plan
from ensembles.checkpoints.soup_search.candidates import (
    Candidate,
    CandidateScorer,
    ScoreFile,
    ScoringJob,
)
from ensembles.checkpoints.soup_search.checks import check_members
from ensembles.checkpoints.soup_search.journal import Journal
from ensembles.rules.builtin import RULES

Score = Callable[[Any], float]


def score_points(
    members: Sequence[Any],
    weights: Float64,
    score: Score,
    *,
    estimator: Any = None,
    integers: Integers = "error",
) -> Float64:
    """Score of the weighted mean of members, for each row of weights.

    Members from different initializations raise no warning: their scores show it.

    Parameters
    ----------
    members : sequence of paths, state dicts or fitted estimators
        Members.
    weights : ndarray of shape (n_points, n_members)
        Rows of weights with sum 1, which may be negative.
    score : callable (state dict or estimator) -> float
        Score of a state dict, or of ``estimator`` with the combined parameters.
    estimator : object or None, default=None
        Estimator that receives the parameters, as in `ModelSoup`; None passes state
        dicts to ``score``.
    integers : {"error", "first", "max"}, default="error"
        How to merge integer tensors that differ, as in `average`.

    Returns
    -------
    ndarray of shape (n_points,), float64
        NaN where ``score`` returned it.

    Raises
    ------
    TypeError, ValueError
        If the members cannot be averaged.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* (the same initialization|is far from)")
        combine = _combiner(members, estimator, integers)
        return np.array([float(score(combine(row))) for row in weights])


def _combiner(
    members: Sequence[Any], estimator: Any, integers: Integers
) -> Callable[[Float64], Any]:
    """Function from weights to a state dict, or to the estimator."""
    if estimator is None:
        opened = open_members(members)
        return lambda row: average(opened, weights=row, integers=integers)
    merged = build_merged_estimator(
        estimator,
        members,
        [f"checkpoint {number}" for number in range(1, len(members) + 1)],
        rule=RULES["mean"],
        params={},
        integers=integers,
        shared_init="warn",
    )
    return merged.set_weights


def open_members(members: Sequence[Any], *, key: Keys = None) -> list[Checkpoint]:
    """Open members, which may be fitted estimators.

    Parameters
    ----------
    members : sequence of paths, state dicts or fitted estimators
        Members.
    key : str, sequence of str or None, default=None
        Key of the state dict in PyTorch files, as in `average`.

    Returns
    -------
    list of Checkpoint

    Raises
    ------
    FileNotFoundError
        If a member does not exist.
    TypeError, ValueError
        If a member cannot be read.
    """
    readable = (*CHECKPOINT_TYPES, Checkpoint)
    states = [m if isinstance(m, readable) else get_state(m) for m in members]
    return [open_checkpoint(s, index, key=key) for index, s in enumerate(states)]


def score_files(
    members: Sequence[str | os.PathLike[str]],
    weights: Float64,
    score: ScoreFile,
    out: str | os.PathLike[str],
    *,
    on_error: str = "raise",
    lower_is_better: bool = False,
    journal: Journal | None = None,
    record: Callable[[Candidate], None] = lambda candidate: None,
    **options: Any,
) -> Float64:
    """Score of the weighted mean of checkpoints on disk, for each row of weights.

    Single members are scored in place. Other combinations are written beside ``out``,
    in the format of the first member, scored and removed.

    Parameters
    ----------
    members : sequence of paths
        Paths of the members, all different.
    weights : ndarray of shape (n_points, n_members)
        Rows of weights with sum 1, which may be negative.
    score : callable (path) -> float
        Score of the checkpoint at a path.
    out : path
        Path beside which combinations are written.
    on_error : {"raise", "drop"}, default="raise"
        Whether to raise if a score fails, or to return NaN for it.
    lower_is_better : bool, default=False
        Whether lower scores are better.
    journal : Journal or None, default=None
        File that keeps the scores for later calls; None keeps none.
    record : callable, default does nothing
        Called with each `Candidate` when its score is known.
    **options
        Options of every average, such as ``integers`` and ``memory``; see `average`.

    Returns
    -------
    ndarray of shape (n_points,), float64
        NaN for a score that failed.

    Raises
    ------
    FileNotFoundError
        If a member does not exist.
    ValueError
        If the members cannot be averaged, or all scores fail.
    """
    check_members(members, None)
    planned = plan(members, **options)
    options = {"memory": planned.options.memory, **options}
    job = ScoringJob(
        score=score,
        out=Path(out),
        options=options,
        on_error=on_error,
        lower_is_better=lower_is_better,
        journal=journal,
        record=record,
        progress=lambda n_bytes: None,
    )
    with journal or nullcontext():
        scorer = CandidateScorer(planned.members, None, job)
        candidates = [scorer.mean_of(row) for row in weights]
    scores = [np.nan if c.score is None else c.score for c in candidates]
    if np.isnan(scores).all():
        raise ValueError(
            f"at least one checkpoint must have a score; all {len(scores)} failed, the "
            f"last one with: {candidates[-1].error}"
        )
    return np.array(scores)


def score_name(score: Any) -> str:
    """Label for the scores of a callable.

    Parameters
    ----------
    score : callable
        Function that scores.

    Returns
    -------
    str
        Name of the function; "score" if it has none that says something.
    """
    name = getattr(score, "__name__", "score")
    return "score" if name.startswith("<") else name.replace("_", " ")
