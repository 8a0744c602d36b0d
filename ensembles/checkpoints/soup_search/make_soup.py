"""Write a soup of checkpoints on disk, selected by the score of a callable."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensembles._sklearn import warn_user
from ensembles._typing import Float64
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.average import MergeReport, write
from ensembles.checkpoints.merging.relations import (
    averages_among,
    copies,
    different_initializations,
)
from ensembles.checkpoints.planning.plan import Plan
from ensembles.checkpoints.planning.warnings import warn_of_candidates
from ensembles.checkpoints.soup_search.candidate_score import Tasting
from ensembles.checkpoints.soup_search.candidates import (
    Candidate,
    Candidates,
    Job,
    ScoreFile,
    suffix_of,
)
from ensembles.checkpoints.soup_search.checks import (
    check_apart,
    options_for,
    paths_of,
    plan_of_all,
    rehearsed,
)
from ensembles.checkpoints.soup_search.journal import Journal
from ensembles.checkpoints.soup_selection import with_patience
from ensembles.selection.choose import run_selection


@dataclass(frozen=True)
class SoupReport:
    """Members, weights and scores of a soup.

    Parameters
    ----------
    out : Path
        Path of the soup.
    members : tuple of str
        Names of all members, without the base.
    scores : tuple of float or None
        Score of each member alone; None if it failed.
    weights : tuple of float
        Weight of each member; with ``base_weight`` they sum to 1.
    base : str or None
        Name of the base; None without a base.
    base_score : float or None
        Score of the base; None without a base.
    base_weight : float
        Weight of the base; 0 without a base.
    score : float
        Score of the soup.
    uniform : float or None
        Score of the mean of all members that could be scored, without the base; None
        if it failed.
    lower_is_better : bool
        Whether lower scores are better.
    candidates : tuple of Candidate
        All scored candidates, in order.
    written : MergeReport
        Report of the average that was written; its plan has the members in order.
    checkpoints : tuple of Checkpoint
        All members, after the base if there is one.
    """

    out: Path
    members: tuple[str, ...]
    scores: tuple[float | None, ...]
    weights: tuple[float, ...]
    base: str | None
    base_score: float | None
    base_weight: float
    score: float
    uniform: float | None
    lower_is_better: bool
    candidates: tuple[Candidate, ...] = field(repr=False)
    written: MergeReport = field(repr=False)
    checkpoints: tuple[Checkpoint, ...] = field(repr=False)

    @property
    def best(self) -> tuple[str, float]:
        """Name and score of the best single member, or of the base if as good."""
        names = [str(self.base), *self.members]
        scores = [self.base_score, *self.scores]
        alone = [(n, s) for n, s in zip(names, scores, strict=True) if s is not None]
        sign = -1 if self.lower_is_better else 1
        return max(alone, key=lambda found: sign * found[1])

    @property
    def helps(self) -> bool:
        """Whether the soup beats every single member and the base."""
        return self._beats(self.score, self.best[1])

    @property
    def uniform_is_better(self) -> bool:
        """Whether the mean of all members beats the soup."""
        return self.uniform is not None and self._beats(self.uniform, self.score)

    def _beats(self, score: float, other: float) -> bool:
        return score < other if self.lower_is_better else score > other


def _forget(candidate: Candidate) -> None:
    """Ignore a candidate; the default of ``record``."""


def _silent(n_bytes: int) -> None:
    """Ignore progress; the default of ``progress``."""


def make_soup(
    members: Sequence[str | os.PathLike[str]],
    score: ScoreFile,
    out: str | os.PathLike[str],
    *,
    select: str = "greedy_soup",
    base: str | os.PathLike[str] | None = None,
    params: Mapping[str, Any] | None = None,
    lower_is_better: bool = False,
    on_error: str = "stop",
    journal: Journal | None = None,
    record: Callable[[Candidate], None] = _forget,
    progress: Callable[[int], None] = _silent,
    force: bool = False,
    options: Mapping[str, Any] | None = None,
) -> SoupReport:
    """Select the checkpoints whose average scores best, and write that average.

    Single members are scored in place. Any other combination is written beside the
    output, in the format of the first member, scored and removed.

    Parameters
    ----------
    members : sequence of paths
        Paths of the members; with the base at least two, all different.
    score : callable (path) -> float
        Score of the checkpoint at a path; must be finite.
    out : path
        Output, as in `average`. The file is identical, byte for byte, to the output of
        `average` for the members and weights in ``written.plan`` of the report.
    select : str, default="greedy_soup"
        Selection of the weights: a name in `ensembles.selection.SELECTIONS`.
    base : path or None, default=None
        Common ancestor of the fine-tuned members; required by ``"wise_ft"``, else None.
    params : mapping of str to value or None, default=None
        Parameters of the selection; None means defaults.
    lower_is_better : bool, default=False
        Whether lower scores are better.
    on_error : {"stop", "skip"}, default="stop"
        How to handle a score that raises or is not finite. With "stop" the error is
        raised. With "skip" a member is left out with a warning, and a combination
        counts as the worst.
    journal : Journal or None, default=None
        File in which scores are kept as soon as they are known, and found again by
        later runs. It is opened and closed here; None keeps no scores.
    record : callable, default does nothing
        Called with each `Candidate` when its score is known.
    progress : callable, default does nothing
        Called from any thread with the number of bytes read since the last call.
    force : bool, default=False
        Whether an existing output is replaced.
    options : mapping of str to value or None, default=None
        Options of every mean, as in `average`, except base, rule, weights, rule_params
        and force; None means defaults.

    Returns
    -------
    SoupReport

    Raises
    ------
    FileNotFoundError
        If a member does not exist.
    FileExistsError
        If ``out`` exists and ``force`` is False.
    BlockingIOError
        If another run has locked the journal.
    TypeError, ValueError
        If an argument is invalid or the members do not match, before the first score;
        or if no member, or not the selected combination, can be scored.

    Warns
    -----
    UserWarning
        If a member may not be fine-tuned from the same initialization as the first, is
        a copy or itself an average, or is left out, or if all scores are equal.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", ICML.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error must be 'stop' or 'skip', found {on_error!r}")
    paths = paths_of(members, base, select)
    selection = rehearsed(select, params or {}, len(members))
    own = with_patience(selection, params or {}, len(members))
    given = options_for(options, force=force)
    planned, place = plan_of_all(paths, out, given)
    places = [place] if journal is None else [place, journal.path]
    check_apart(places, planned.members)
    _warn_of_members(planned)
    suffix = suffix_of(planned.members[len(paths) - len(members)])
    job = Job(score, place, suffix, given, on_error, journal, record, progress)
    with nullcontext() if journal is None else journal:
        candidates = Candidates(planned.members, job, has_base=base is not None)
        tasted = Tasting(candidates, lower_is_better=lower_is_better)
        chosen = run_selection(selection, len(tasted.kept), tasted, **own)
        weights = tasted.full(chosen.weights)
        if candidates(weights).score is None:
            raise ValueError(
                f"what {select!r} chose could not be scored: "
                f"{candidates(weights).error}; choose by another selection"
            )
        candidates(tasted.uniform())
        written = write(
            candidates.plan(weights, place),
            progress=progress,
            stream=candidates.stream,
        )
    return _report(tasted, weights, written)


def _warn_of_members(planned: Plan) -> None:
    """Warn about members whose average may be useless, before the first score."""
    apart = different_initializations(planned)
    told = [] if apart is None else [apart]
    for sentence in (*told, *averages_among(planned), *copies(planned.members)):
        warn_user(sentence)
    warn_of_candidates(planned.members)


def _report(tasted: Tasting, weights: Float64, written: MergeReport) -> SoupReport:
    candidates, first = tasted.candidates, int(tasted.candidates.has_base)
    own = [found.score for found in tasted.own]
    score = candidates(weights).score
    return SoupReport(
        out=written.out,
        members=tuple(member.name for member in candidates.members[first:]),
        scores=tuple(own[first:]),
        weights=tuple(weights[first:].tolist()),
        base=candidates.members[0].name if first else None,
        base_score=own[0] if first else None,
        base_weight=float(weights[0]) if first else 0.0,
        score=math.nan if score is None else score,
        uniform=candidates(tasted.uniform()).score,
        lower_is_better=tasted.lower_is_better,
        candidates=tuple(candidates.found.values()),
        written=written,
        checkpoints=candidates.members,
    )
