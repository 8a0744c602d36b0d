"""Score combinations of checkpoints, each written to a temporary checkpoint."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.soup_search.journal import (
    Journal,
    MemberRecord,
    member_record,
    to_json,
)
from ensembles.checkpoints.soup_search.rule_parameters import MEAN, ParametrizedRule
from ensembles.checkpoints.soup_selection import single_member
from ensembles.rules.rule import Rule

ScoreFile = Callable[[Path], float]
# Options that do not affect the tensors.
IDLE = ("only_weights", "memory", "threads", "force")


class Key(NamedTuple):
    """Weights as bytes, and the rule with its parameters; "" for a single source."""

    weights: bytes
    rule: str


class Candidate(NamedTuple):
    """A combination of members, and its score.

    Parameters
    ----------
    members : tuple of str
        Names of the members with a weight other than 0.
    weights : tuple of float
        Their weights, with sum 1, or a mean of 1 for a rule that needs a base.
    score : float or None
        Score as the callable returned it; None if it failed.
    seconds : float
        Duration of the call; 0 for a score from the journal or a failure.
    reused : bool
        Whether the score was read from the journal.
    error : str or None
        Message of the failure; None after a success.
    rule : str or None
        Name of the rule; None for a single checkpoint itself.
    rule_params : tuple of (str, value)
        Parameters of the rule; empty for a single checkpoint itself.
    """

    members: tuple[str, ...]
    weights: tuple[float, ...]
    score: float | None
    seconds: float
    reused: bool = False
    error: str | None = None
    rule: str | None = None
    rule_params: tuple[tuple[str, Any], ...] = ()


class ScoringJob(NamedTuple):
    """How candidates are written and scored.

    Parameters
    ----------
    score : callable (path) -> float
        Score of the checkpoint at a path; must be finite.
    out : Path
        Output of the soup; candidates are written in a temporary folder beside it.
    options : mapping of str to value
        Options of every average, without weights and rule.
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
    """Scores single checkpoints in place, and combinations of them beside the output.

    A combination is written, scored and removed; each is scored once.

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
        The base, if any, and the members: the order of the weights of candidates.
    scorable : list of int
        Indices of the members with a score, without the base, after `score_members`.
    candidates : list of Candidate
        All scored candidates, in order.
    stream : RunningMean
        Stream of the combinations; it verifies each member once.
    """

    def __init__(
        self, members: Sequence[Checkpoint], base: Checkpoint | None, job: ScoringJob
    ) -> None:
        self.base = base
        self.sources = (*([] if base is None else [base]), *members)
        self.job = job
        self.scorable: list[int] = []
        self._combinations = MemberCombinations(
            len(self.sources), memory=job.options["memory"]
        )
        self.stream = RunningMean(job.out.parent)
        self._settings = {k: v for k, v in job.options.items() if k not in IDLE}
        self._suffix = candidate_suffix(members[0])
        self._records = [member_record(source, 1.0) for source in self.sources]
        self._scored: dict[Key, Candidate] = {}
        # Sources to read, in order, and options of `plan`.
        self._jobs: dict[Key, tuple[list[Checkpoint], dict[str, Any]]] = {}

    @property
    def candidates(self) -> list[Candidate]:
        """All scored candidates, in order."""
        return list(self._scored.values())

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
        for index, source in enumerate(self.sources):
            candidate = self.single(index)
            if candidate.score is not None:
                scores.append(candidate.score)
                if source is not self.base:
                    self.scorable.append(index)
            elif source is self.base:
                raise ValueError(
                    f"the base must have a score; scoring {source.name} failed: "
                    f"{candidate.error}"
                )
            else:
                error = candidate.error
                warn_caller(
                    f"{source.name} is left out because scoring it failed: {error}"
                )
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

    def single(self, index: int) -> Candidate:
        """Candidate of a single source itself, scored in the first call.

        Parameters
        ----------
        index : int
            Index in ``sources``.

        Returns
        -------
        Candidate
        """
        weights = np.zeros(len(self.sources))
        weights[index] = 1.0
        key = Key(weights.tobytes(), "")
        if key not in self._scored:
            name = self.sources[index].name
            candidate = Candidate((name,), (1.0,), score=None, seconds=0.0)
            self._jobs[key] = [self.sources[index]], dict(self.job.options)
            self._score(key, candidate, weights, {})
        return self._scored[key]

    def mean_of(self, weights: Float64) -> Candidate:
        """Candidate of a weighted mean, or of the source that has all the weight.

        Parameters
        ----------
        weights : ndarray of shape (n_sources,), sum 1
            Weights of all sources.

        Returns
        -------
        Candidate
        """
        alone = single_member(weights)
        if alone is not None:
            return self.single(alone)
        return self.combination(weights, MEAN)

    def combination(
        self,
        weights: Float64,
        how: ParametrizedRule,
        counts: Counts | None = None,
    ) -> Candidate:
        """Candidate of sources combined by a rule, scored in the first call.

        Parameters
        ----------
        weights : ndarray of shape (n_sources,), non-negative
            Weights of all sources; 0 for the base if the rule needs one.
        how : ParametrizedRule
            Rule that combines the sources.
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
        settings = self._settings | {"rule": how.identity, "rule_params": how.params}
        key = Key(weights.tobytes(), to_json([how.identity, how.params]))
        if key in self._scored:
            return self._scored[key]
        indices = np.flatnonzero(weights).tolist()
        # Even if the journal has the score: the order of members depends on earlier
        # combinations, and a resumed run must give the same as an uninterrupted one.
        arranged = self._arranged(weights, how.rule, counts)
        options = {
            **self.job.options,
            "rule": how.rule,
            "rule_params": how.params,
            "weights": arranged.weights,
        }
        if how.rule.needs_base:
            options["base"] = self.base
            settings["base"] = self._records[0]._asdict()
        self._jobs[key] = [self.sources[i] for i in arranged.members], options
        candidate = Candidate(
            tuple(self.sources[index].name for index in indices),
            tuple(weights[indices].tolist()),
            score=None,
            seconds=0.0,
            rule=how.rule.name,
            rule_params=tuple(how.params.items()),
        )
        return self._score(key, candidate, weights, settings)

    def best(self, candidates: Iterable[Candidate]) -> Candidate | None:
        """Candidate with the best score, the first among equals.

        Parameters
        ----------
        candidates : iterable of Candidate
            Candidates, with or without a score.

        Returns
        -------
        Candidate or None
            None if no candidate has a score.
        """
        scored = [c for c in candidates if c.score is not None]
        choose = min if self.job.lower_is_better else max
        return choose(scored, key=lambda c: float(c.score or 0), default=None)

    def final_plan(self, candidate: Candidate) -> Plan:
        """Plan that writes a scored candidate to the output, with the same bytes.

        Parameters
        ----------
        candidate : Candidate
            A candidate that was scored.

        Returns
        -------
        Plan
        """
        key = next(key for key, other in self._scored.items() if other is candidate)
        return self._plan(key, self.job.out)

    def _plan(self, key: Key, out: Path) -> Plan:
        sources, options = self._jobs[key]
        return plan(sources, out, **options)

    def _arranged(
        self, weights: Float64, rule: Rule, counts: Counts | None
    ) -> Combination:
        """Members in the order in which they are read, and their weights."""
        members = np.flatnonzero(weights).tolist()
        if rule.needs_base:
            return Combination(members, weights[members])
        if counts is None and len(set(weights[members])) == 1:
            counts = (weights != 0).astype(np.int64)
        return self._combinations.arrange(weights, counts if is_mean(rule) else None)

    def _score(
        self,
        key: Key,
        candidate: Candidate,
        weights: Float64,
        settings: dict[str, Any],
    ) -> Candidate:
        """Candidate with its score, from the journal or by the callable."""
        job, known_score = self.job, None
        if job.journal is not None:
            known_score = job.journal.find(self._weighted(weights), settings)
        if known_score is not None:
            candidate = candidate._replace(score=known_score, reused=True)
        elif candidate.rule is None:
            path = Path(str(self.sources[int(np.argmax(weights))].path))
            candidate = self._with_score(candidate, path)
        else:
            candidate = self._score_beside(candidate, key)
        if not candidate.reused:
            indices = np.flatnonzero(weights).tolist()
            self._check_unchanged([0, *indices] if "base" in settings else indices)
            if job.journal is not None and candidate.score is not None:
                records, seconds = self._weighted(weights), candidate.seconds
                job.journal.add(records, candidate.score, seconds, settings)
        self._scored[key] = candidate
        job.record(candidate)
        return candidate

    def _score_beside(self, candidate: Candidate, key: Key) -> Candidate:
        """Candidate with the score of its file, which is removed afterwards."""
        job = self.job
        with temporary_sibling(job.out, folder=True) as folder:
            path = folder / f"candidate{self._suffix}"
            with explain_disk_full(job.out):
                if not self._suffix:
                    path.mkdir()
                planned = self._plan(key, path)
                write_plan_to(planned, path, job.progress, self.stream)
            return self._with_score(candidate, path)

    def _with_score(self, candidate: Candidate, path: Path) -> Candidate:
        """Candidate with its score, or with the error message of a failure."""
        started = time.perf_counter()
        try:
            value = float(self.job.score(path))
            if not math.isfinite(value):
                raise ValueError(f"a score must be finite, found {value}")
        except Exception as error:
            if self.job.on_error == "raise":
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
