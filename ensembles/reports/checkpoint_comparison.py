"""Compare checkpoints on disk with their averages, by any score of a path."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import check_bool, check_choice
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys
from ensembles.checkpoints.merging.relations import (
    averages_among,
    copies,
    different_initializations,
)
from ensembles.checkpoints.planning.options import MEMORY, Integers, Missing
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.soup_search.candidates import (
    Candidate,
    CandidateScorer,
    ScoreFile,
    ScoringJob,
    candidate_suffix,
)
from ensembles.checkpoints.soup_search.checks import check_members, check_output
from ensembles.checkpoints.soup_search.journal import Journal
from ensembles.checkpoints.soup_search.rule_parameters import MEAN, ParametrizedRule
from ensembles.checkpoints.soup_search.rule_score import RuleScore
from ensembles.dtypes import is_float
from ensembles.reports.comparison import Comparison, ComparisonRow, Kind
from ensembles.reports.contest import median_index
from ensembles.reports.cost import Cost
from ensembles.reports.run_averages import run_averages
from ensembles.rules.builtin import RULES
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import run_selection

NAME = "ensemble-compare"  # of the temporary folders of averages
Record = Callable[[Candidate], None]
FEWEST = 3  # members of a median that is not the mean


class _Scored(NamedTuple):
    """A combination with its score."""

    model: str
    kind: Kind
    candidate: Candidate


def _ignore(_: Any) -> None:
    """Default of ``record`` and ``progress``, which does nothing."""


def compare_checkpoints(
    members: Sequence[str | os.PathLike[str]],
    score: ScoreFile,
    *,
    select_score: ScoreFile | None = None,
    is_run: bool = False,
    lower_is_better: bool = False,
    on_error: str = "raise",
    folder: str | os.PathLike[str] = ".",
    journal: Journal | None = None,
    select_journal: Journal | None = None,
    record: Record = _ignore,
    select_record: Record = _ignore,
    progress: Callable[[int], None] = _ignore,
    integers: Integers = "error",
    missing: Missing = "error",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: Keys = None,
    memory: int = MEMORY,
    threads: int | None = None,
) -> Comparison:
    """Table of checkpoints and their averages, scored by a function of a path.

    Each average is written to a temporary folder, scored and removed.

    Parameters
    ----------
    members : sequence of paths
        Checkpoints, at least two, all different.
    score : callable (path) -> float
        Score of the checkpoint at a path, which is reported; must be finite.
    select_score : callable (path) -> float or None, default=None
        Score on other data, which chooses the best single member and the greedy soup.
        None uses ``score``, whose values are then too optimistic for them.
    is_run : bool, default=False
        Whether the members are checkpoints of one training run, in order. Then
        averages over windows and exponential averages are compared too.
    lower_is_better : bool, default=False
        Whether lower scores are better.
    on_error : {"raise", "drop"}, default="raise"
        How to handle a score that raises or is not finite, as in `make_soup`.
    folder : path, default="."
        Directory for the temporary averages.
    journal, select_journal : Journal or None, default=None
        Files that keep the values of ``score`` and of ``select_score``, as in
        `make_soup`; None keeps none.
    record, select_record : callable, default does nothing
        Called with each `Candidate` when its ``score`` or ``select_score`` is known.
    progress : callable, default does nothing
        Called from any thread with the number of bytes read since the last call.
    integers, missing, include, exclude, key
        Options of every average, as in `average`.
    memory, threads
        Options of every average, as in `average`.

    Returns
    -------
    Comparison
        A row for each member, the uniform, the median and the greedy soup, and averages
        along a run. It has no intervals, because a score is a single number; `compare`
        has them, and the prediction ensemble.

    Raises
    ------
    FileNotFoundError
        If a member does not exist.
    TypeError, ValueError
        If the members do not match, or no member can be scored.

    Warns
    -----
    UserWarning
        If a member is left out because it could not be scored.
    """
    check_choice("on_error", on_error, ("raise", "drop"))
    check_bool("is_run", is_run)
    check_bool("lower_is_better", lower_is_better)
    check_members(members, None)
    options: dict[str, Any] = {
        # All options of make_soup that affect tensors: its journal has the same keys.
        "dtype": None,
        "shard_size": None,
        "integers": integers,
        "missing": missing,
        "include": include,
        "exclude": exclude,
        "key": key,
        "memory": memory,
        "threads": threads,
    }
    planned, notes = _planned(members, Path(folder), options, [journal, select_journal])
    assert planned.out is not None
    job = ScoringJob(
        score=score,
        out=planned.out,
        options=options,
        on_error=on_error,
        lower_is_better=lower_is_better,
        journal=journal,
        record=record,
        progress=progress,
    )
    reported = selecting = CandidateScorer(planned.members, None, job)
    if select_score is not None:
        other = job._replace(
            score=select_score, journal=select_journal, record=select_record
        )
        selecting = CandidateScorer(planned.members, None, other)
    with journal or nullcontext(), select_journal or nullcontext():
        reported.score_members()
        if selecting is not reported:
            selecting.score_members()
        rows = _scored(reported, selecting, is_run=is_run)
        best = _best_member(selecting, lower_is_better)
    notes += _notes(is_separate=select_score is not None)
    return _comparison(rows, planned.members, best, notes, lower_is_better)


def _planned(
    members: Sequence[str | os.PathLike[str]],
    folder: Path,
    options: Mapping[str, Any],
    journals: Sequence[Journal | None],
) -> tuple[Plan, list[str]]:
    """Plan of the average of all members, and notes on members that do not match."""
    checkpoints = plan(members, **options).members
    out = folder / f"{NAME}{candidate_suffix(checkpoints[0])}"
    planned = plan(checkpoints, out, force=True, **options)
    for journal in journals:
        check_output(planned, journal)
    unrelated = different_initializations(planned)
    notes = [] if unrelated is None else [unrelated]
    return planned, [*notes, *averages_among(planned), *copies(checkpoints)]


def _scored(
    reported: CandidateScorer,
    selecting: CandidateScorer,
    *,
    is_run: bool,
) -> list[_Scored]:
    """Score all members and their averages; a score that failed is None."""
    rows = [
        _Scored(source.name, "member", reported.single(index))
        for index, source in enumerate(reported.sources)
    ]

    def add(model: str, kind: Kind, candidate: Candidate) -> None:
        rows.append(_Scored(model, kind, candidate))

    mean, n_scorable = RuleScore(reported, MEAN), len(reported.scorable)
    add("uniform soup", "soup", mean.equal())
    if n_scorable >= FEWEST:
        median = ParametrizedRule(RULES["median"], {}, "median")
        add("median soup", "soup", RuleScore(reported, median).equal())
    selection = SELECTIONS["greedy_soup"]
    result = run_selection(
        selection, len(selecting.scorable), RuleScore(selecting, MEAN)
    )
    greedy = np.zeros(len(reported.sources))
    greedy[selecting.scorable] = result.weights
    add("greedy soup", "soup", reported.mean_of(greedy))
    averages = run_averages(n_scorable) if is_run else {}
    for name, weights in averages.items():
        add(name, "run average", mean.candidate(weights))
    return rows


def _best_member(selecting: CandidateScorer, lower_is_better: bool) -> str:
    """Name of the best member by the score that chooses."""
    sign = 1 if lower_is_better else -1
    scores = {
        selecting.sources[index].name: selecting.single(index).score
        for index in selecting.scorable
    }
    return min(scores, key=lambda name: sign * (scores[name] or 0.0))


def _notes(*, is_separate: bool) -> list[str]:
    """Notes on the choice of models, and on what is left out."""
    choice = "the best single member and the greedy soup are chosen by the other score"
    if not is_separate:
        choice = (
            "the best single member and the greedy soup are chosen by the reported "
            "score, so their values are too optimistic; pass select_score "
            "(--select-score), on other data"
        )
    return [
        choice,
        "no intervals and no prediction ensemble: a score is one number per "
        "checkpoint; ensembles.reports.compare has both",
        "parameters and memory are those of the float tensors in a file",
    ]


def _comparison(
    scored: Sequence[_Scored],
    checkpoints: Sequence[Checkpoint],
    best: str,
    notes: list[str],
    lower_is_better: bool,
) -> Comparison:
    """Table of the combinations that have a score; others have a note."""
    costs = {checkpoint.name: _cost(checkpoint) for checkpoint in checkpoints}
    done: list[tuple[_Scored, float]] = []
    for row in scored:
        if row.candidate.score is None:
            notes.append(
                f"{row.model} is left out, its score failed: {row.candidate.error}"
            )
        else:
            done.append((row, row.candidate.score))
    members = np.array([value for row, value in done if row.kind == "member"])
    median = median_index(-members if lower_is_better else members)
    reference = next((value for row, value in done if row.model == best), None)
    rows = [
        ComparisonRow(
            model=row.model,
            kind=row.kind,
            members=row.candidate.members,
            weights=row.candidate.weights,
            score=value,
            difference=None if reference is None else value - reference,
            cost=costs[row.candidate.members[0]],
            is_best_member=row.kind == "member" and row.model == best,
            is_median_member=index == median,
        )
        for index, (row, value) in enumerate(done)
    ]
    return Comparison(
        rows=tuple(rows),
        metric="score",
        reference=None if reference is None else best,
        lower_is_better=lower_is_better,
        notes=tuple(notes),
    )


def _cost(checkpoint: Checkpoint) -> Cost:
    floats = [t for t in checkpoint.layout.values() if is_float(t.dtype)]
    return Cost(
        parameters=sum(tensor.size for tensor in floats),
        n_bytes=sum(tensor.nbytes for tensor in floats),
    )
