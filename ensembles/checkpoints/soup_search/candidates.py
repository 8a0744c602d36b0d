"""Score combinations of checkpoints, each written to a temporary checkpoint."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles._typing import Counts, Float64
from ensembles.atomic_io import explain_disk_full, temporary_sibling
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.combinations import (
    Combination,
    MemberCombinations,
    is_mean,
)
from ensembles.checkpoints.merging.running_mean import RunningMean
from ensembles.checkpoints.merging.writers import write_plan_to
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.soup_search.journal import (
    Journal,
    MemberRecord,
    member_record,
    rule_identity,
)
from ensembles.registry import lookup

ScoreFile = Callable[[Path], float]
# Step of finite differences: smaller ones vanish in rounded parameters or scores.
STEP = 0.05
ROUNDING = 1e-12  # of a sum of weights: if it is nearer to 1, the base has weight 0
# Options that do not affect the tensors.
IDLE = ("only_weights", "memory", "threads", "force")


class Candidate(NamedTuple):
    """A combination of members, and its score.

    Parameters
    ----------
    members : tuple of str
        Names of the members with a weight other than 0.
    weights : tuple of float
        Their weights, with sum 1.
    score : float or None
        Score as the callable returned it; None if it failed.
    seconds : float
        Duration of the call; 0 for a score from the journal or a failure.
    reused : bool
        Whether the score was read from the journal.
    error : str or None
        Message of the failure; None after a success.
    """

    members: tuple[str, ...]
    weights: tuple[float, ...]
    score: float | None
    seconds: float
    reused: bool = False
    error: str | None = None


class ScoringJob(NamedTuple):
    """How candidates are written and scored.

    Parameters
    ----------
    score : callable (path) -> float
        Score of the checkpoint at a path; must be finite.
    out : Path
        Output of the soup; candidates are written in a temporary folder beside it.
    options : mapping of str to value
        Options of every average, without weights.
    on_error : {"raise", "drop"}
        Whether to raise if a score fails, or to continue without it.
    lower_is_better : bool
        Whether lower scores are better.
    journal : Journal or None
        Open journal of scores; None keeps none.
    record : callable (Candidate) -> None
        Called with each candidate when its score is known.
    progress : callable (int) -> None
        Called from any thread with the number of bytes read since the last call.
    """

    score: ScoreFile
    out: Path
    options: Mapping[str, Any]
    on_error: str
    lower_is_better: bool
    journal: Journal | None
    record: Callable[[Candidate], None]
    progress: Callable[[int], None]


class CandidateScorer:
    """Score of weights over the members whose own score did not fail.

    A single member is scored in place. Any other combination is written beside the
    output, scored and removed; each is scored once. A combination whose score fails
    gets a lower score than all previous ones.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members on disk, without the base.
    base : Checkpoint or None
        Base on disk; None without a base.
    job : ScoringJob
        How candidates are written and scored.

    Attributes
    ----------
    sources : tuple of Checkpoint
        The base, if any, and the members: the order of the weights of `candidate`.
    scorable : list of int
        Indices of the members with a score, without the base, after `score_members`.
    candidates : dict of bytes to Candidate
        All scored candidates, in order, by their weights.
    stream : RunningMean
        Stream of the combinations; it verifies each member once.
    """

    def __init__(
        self, members: Sequence[Checkpoint], base: Checkpoint | None, job: ScoringJob
    ) -> None:
        self.base = base
        self.sources = (*([] if base is None else [base]), *members)
        self.scorable: list[int] = []
        self.candidates: dict[bytes, Candidate] = {}
        self._job = job
        rule = job.options["rule"]
        rule = lookup(RULES, rule) if isinstance(rule, str) else rule
        self._is_mean = is_mean(rule)
        self._combinations = MemberCombinations(
            len(self.sources), memory=job.options["memory"]
        )
        self.stream = RunningMean(job.out.parent)
        self._settings = {k: v for k, v in job.options.items() if k not in IDLE}
        self._settings["rule"] = rule_identity(rule)
        self._suffix = candidate_suffix(members[0])
        self._records = [member_record(source, 1.0) for source in self.sources]
        self._arranged: dict[bytes, Combination] = {}
        self._values: list[float] = []

    def score_members(self) -> None:
        """Score the base and each member alone, and find those with a score.

        Raises
        ------
        ValueError
            If no member could be scored, or the base could not.

        Warns
        -----
        UserWarning
            For each member that is left out, and if all have the same score.
        """
        scores, error = [], None
        for index, weights in enumerate(np.eye(len(self.sources))):
            name, candidate = self.sources[index].name, self.candidate(weights)
            if candidate.score is not None:
                scores.append(candidate.score)
                if self.sources[index] is not self.base:
                    self.scorable.append(index)
            elif self.sources[index] is self.base:
                raise ValueError(
                    f"the base must have a score; scoring {name} failed: "
                    f"{candidate.error}"
                )
            else:
                error = candidate.error
                warn_caller(f"{name} is left out because scoring it failed: {error}")
        if not self.scorable:
            n_members = len(self.sources) - (self.base is not None)
            raise ValueError(
                "at least one member must have a score; scoring failed for all "
                f"{n_members}, the last time with: {error}"
            )
        if len(scores) > len(set(scores)) == 1:
            warn_caller(
                f"all members have exactly the same score, {scores[0]:.6g}; check that "
                "this is the number meant as the score"
            )

    def score_counts(self, counts: Counts) -> float:
        """Score of the weights ``counts / counts.sum()`` of the scorable members."""
        return self(counts / counts.sum(), counts)

    def __call__(self, weights: Float64, counts: Counts | None = None) -> float:
        """Score of weights of shape (n_scorable,); the base has 1 minus their sum."""
        if counts is not None:
            scorable, counts = counts, np.zeros(len(self.sources), np.int64)
            counts[self.scorable] = scorable
        score = self.candidate(self.expand(weights), counts).score
        if score is None:
            lowest = min(self._values)
            return lowest - max(1.0, abs(lowest))
        self._values.append(-score if self._job.lower_is_better else score)
        return self._values[-1]

    def gradient(self, weights: Float64) -> Float64:
        """Slopes of the score towards each member, by finite differences of `STEP`.

        Parameters
        ----------
        weights : ndarray of shape (n_scorable,)
            Weights to start each step from.

        Returns
        -------
        ndarray of shape (n_scorable,)
            All 0 if no step improves the score, so that gradient ascent stops.

        Warns
        -----
        UserWarning
            If no step changes the score.
        """
        value = self(weights)
        steps = (1 - STEP) * weights + STEP * np.eye(len(weights))
        changes = np.array([self(step) for step in steps]) - value
        if not changes.any():
            warn_caller(
                "gradient ascent needs a score that changes with the weights, but a "
                f"step of {STEP:g} towards any member does not change it; pass "
                "select='greedy_soup' (--select greedy-soup), which needs no gradient"
            )
        return changes / STEP if changes.max() > 0 else np.zeros(len(weights))

    def expand(self, weights: Float64) -> Float64:
        """Expand weights of the scorable sources to all sources, with 0 for the others.

        Parameters
        ----------
        weights : ndarray of shape (n_scorable,)
            Weights in the order of ``scorable``.

        Returns
        -------
        ndarray of shape (n_sources,)
        """
        expanded = np.zeros(len(self.sources))
        expanded[self.scorable] = weights
        if self.base is not None:
            share = 1 - math.fsum(weights)
            expanded[0] = share if abs(share) > ROUNDING else 0.0
        return expanded

    def uniform(self) -> Float64:
        """Equal weights of the members with a score, 0 for the base and the others.

        Returns
        -------
        ndarray of shape (n_sources,)
        """
        weights = np.zeros(len(self.sources))
        weights[self.scorable] = 1 / len(self.scorable)
        return weights

    def candidate(self, weights: Float64, counts: Counts | None = None) -> Candidate:
        """Candidate of the given weights, scored in the first call.

        Parameters
        ----------
        weights : ndarray of shape (n_sources,), non-negative, sum 1
            Weights of all sources.
        counts : ndarray of shape (n_sources,), int64, or None, default=None
            How often each source was added, in the ratio of the weights; None if
            members were not added one by one.

        Returns
        -------
        Candidate

        Raises
        ------
        ValueError
            If a member changes while it is scored, or a score is not finite and
            ``on_error`` is "raise".
        """
        key, job = weights.tobytes(), self._job
        if key in self.candidates:
            return self.candidates[key]
        indices = np.flatnonzero(weights).tolist()
        if counts is None and len(set(weights[indices])) == 1:
            counts = (weights != 0).astype(np.int64)
        # Even if the journal has the score: the order of members depends on earlier
        # combinations, and a resumed run must give the same as an uninterrupted one.
        counts = counts if self._is_mean else None
        self._arranged[key] = self._combinations.arrange(weights, counts)
        candidate = Candidate(
            tuple(self.sources[index].name for index in indices),
            tuple(weights[indices].tolist()),
            score=None,
            seconds=0.0,
        )
        settings = self._settings if len(indices) > 1 else {}
        known_score = None
        if job.journal is not None:
            known_score = job.journal.find(self._weighted(weights), settings)
        if known_score is not None:
            candidate = candidate._replace(score=known_score, reused=True)
        elif len(indices) == 1:
            path = Path(str(self.sources[indices[0]].path))
            candidate = self._scored(candidate, path)
        else:
            with temporary_sibling(job.out, folder=True) as folder:
                path = folder / f"candidate{self._suffix}"
                with explain_disk_full(job.out):
                    if not self._suffix:
                        path.mkdir()
                    planned = self._plan(weights, path)
                    write_plan_to(planned, path, job.progress, self.stream)
                candidate = self._scored(candidate, path)
        if not candidate.reused:
            self._check_unchanged(indices)
            if job.journal is not None and candidate.score is not None:
                records, seconds = self._weighted(weights), candidate.seconds
                job.journal.add(records, candidate.score, seconds, settings)
        self.candidates[key] = candidate
        job.record(candidate)
        return candidate

    def final_plan(self, weights: Float64) -> Plan:
        """Plan that writes a scored candidate to the output, with the same bytes.

        Parameters
        ----------
        weights : ndarray of shape (n_sources,)
            Weights of a candidate that was scored.

        Returns
        -------
        Plan

        Raises
        ------
        KeyError
            If no candidate with these weights was scored.
        """
        return self._plan(weights, self._job.out)

    def _plan(self, weights: Float64, out: Path) -> Plan:
        """Plan of a candidate, with its order of members."""
        combination = self._arranged[weights.tobytes()]
        options = {**self._job.options, "weights": combination.weights}
        if len(combination.members) == 1:  # a copy, by any rule
            options |= {"rule": "mean", "rule_params": {}}
        return plan([self.sources[i] for i in combination.members], out, **options)

    def _scored(self, candidate: Candidate, path: Path) -> Candidate:
        """Candidate with its score, or with the error message of a failure."""
        started = time.perf_counter()
        try:
            value = float(self._job.score(path))
            if not math.isfinite(value):
                raise ValueError(f"a score must be finite, found {value}")
        except Exception as error:
            if self._job.on_error == "raise":
                error.add_note(
                    f"the failed score was that of {' + '.join(candidate.members)}; "
                    "pass on_error='drop' (--on-error drop) to continue without it"
                )
                raise
            return candidate._replace(error=str(error) or type(error).__name__)
        return candidate._replace(score=value, seconds=time.perf_counter() - started)

    def _weighted(self, weights: Float64) -> list[MemberRecord]:
        """Records of the members with a weight other than 0, with these weights."""
        return [
            record._replace(weight=weight)
            for record, weight in zip(self._records, weights.tolist(), strict=True)
            if weight
        ]

    def _check_unchanged(self, indices: list[int]) -> None:
        """Raise if files of tensors changed; update the records for other changes."""
        for index in indices:
            source, before = self.sources[index], self._records[index]
            self._records[index] = now = member_record(source, 1.0)
            # Name, size and modification time: a new hard link changes only the others.
            if [file[:3] for file in now.files] != [file[:3] for file in before.files]:
                raise ValueError(
                    f"{source.name} must not change while it is scored; wait until it "
                    "is written, and start again"
                )


def candidate_suffix(member: Checkpoint) -> str:
    """File name extension of candidates in the format of a member.

    Parameters
    ----------
    member : Checkpoint
        Member on disk.

    Returns
    -------
    str
        Extension with its dot; ``""`` for a directory.
    """
    return "" if member.is_directory else os.path.splitext(str(member.path))[1]
