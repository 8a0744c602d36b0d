"""Score combinations of checkpoints, each written to a temporary checkpoint."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.atomic_io import beside, telling_if_full
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.combinations import Combination, MemberCombinations
from ensembles.checkpoints.merging.running_mean import RunningMean
from ensembles.checkpoints.merging.writers import write_plan_to
from ensembles.checkpoints.planning.options import MEMORY, MergeOptions
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.soup_search.journal import Journal, Share, share

ScoreFile = Callable[[Path], float]
APART = ("memory", "threads", "force")  # options that do not affect the tensors


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


class Job(NamedTuple):
    """How candidates are written and scored.

    Parameters
    ----------
    score : callable (path) -> float
        Score of the checkpoint at a path; must be finite.
    out : Path
        Output of the soup; candidates are written in a temporary folder beside it.
    suffix : str
        File name extension of candidates; ``""`` writes a directory.
    options : dict
        Options of every mean, as in `average`.
    on_error : {"stop", "skip"}
        Whether to raise if a score fails, or to continue without it.
    journal : Journal or None
        Open journal of scores; None keeps none.
    record : callable (Candidate) -> None
        Called with each candidate when its score is known.
    progress : callable (int) -> None
        Called from any thread with the number of bytes read since the last call.
    """

    score: ScoreFile
    out: Path
    suffix: str
    options: dict[str, Any]
    on_error: str
    journal: Journal | None
    record: Callable[[Candidate], None]
    progress: Callable[[int], None]


class Candidates:
    """Candidates by their weights, each scored once.

    A single member is scored in place. Any other combination is written beside the
    output, scored and removed.

    Parameters
    ----------
    members : tuple of Checkpoint
        Members on disk, after the base if there is one.
    job : Job
        How candidates are written and scored.
    has_base : bool
        Whether the first member is a base.

    Attributes
    ----------
    stream : RunningMean
        Function that streams the plan of a candidate.
    """

    def __init__(
        self, members: tuple[Checkpoint, ...], job: Job, *, has_base: bool
    ) -> None:
        self.members = members
        self.stream = RunningMean(job.out.parent)
        self.found: dict[bytes, Candidate] = {}
        memory = job.options.get("memory", MEMORY)
        self._combinations = MemberCombinations(len(members), memory=memory)
        self._arranged: dict[bytes, Combination] = {}
        self._job = job
        self.has_base = has_base
        self._shares = [share(member, 1.0) for member in members]
        defaults = MergeOptions()
        self._settings = {
            name: value
            for name, value in job.options.items()
            if name not in APART and value != getattr(defaults, name)
        }

    def __call__(self, weights: Float64, counts: Counts | None = None) -> Candidate:
        """Candidate of the given weights, scored in the first call.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1
            Weights of all members, the base included.
        counts : ndarray of shape (n_members,), int64, or None, default=None
            How often each member was added, in the ratio of the weights; None if
            members were not added one by one.

        Returns
        -------
        Candidate

        Raises
        ------
        ValueError
            If a member changes while it is scored, or a score is not finite and
            ``on_error`` is "stop".
        """
        key = weights.tobytes()
        if key not in self.found:
            self.found[key] = self._made(weights, counts)
            self._job.record(self.found[key])
        return self.found[key]

    def plan(self, weights: Float64, out: Path) -> Plan:
        """Plan of a candidate, with its order of members.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weights of a candidate.
        out : Path
            Output of the plan.

        Returns
        -------
        Plan

        Raises
        ------
        KeyError
            If no candidate has these weights.
        """
        combination = self._arranged[weights.tobytes()]
        members = [self.members[index] for index in combination.members]
        return plan(members, out, weights=combination.weights, **self._job.options)

    def _made(self, weights: Float64, counts: Counts | None) -> Candidate:
        places = np.flatnonzero(weights).tolist()
        shares = self._weighed(weights, places)
        if counts is None and len(set(weights[places])) == 1:
            counts = (weights != 0).astype(np.int64)
        # Even if the journal has the score: the order of members depends on earlier
        # combinations, and a resumed run must give the same as an uninterrupted one.
        combination = self._combinations.arrange(weights, counts)
        self._arranged[weights.tobytes()] = combination
        journal, settings = self._job.journal, self._settings if len(places) > 1 else {}
        names = tuple(self.members[place].name for place in places)
        found = Candidate(names, tuple(s.weight for s in shares), None, 0.0)
        known = None if journal is None else journal.find(shares, settings)
        if known is not None:
            return found._replace(score=known, reused=True)
        with self._served(weights, places) as path:
            found = self._scored(found, path)
        self._check_unchanged(places)
        if journal is not None and found.score is not None:
            journal.add(
                self._weighed(weights, places), found.score, found.seconds, settings
            )
        return found

    def _scored(self, candidate: Candidate, path: Path) -> Candidate:
        """Candidate with its score, or with the error message of a failure."""
        started = time.perf_counter()
        try:
            value = float(self._job.score(path))
            if not math.isfinite(value):
                raise ValueError(f"a score must be finite, found {value}")
        except Exception as error:
            if self._job.on_error == "stop":
                named = " + ".join(candidate.members)
                error.add_note(
                    f"this was the score of {named}; on_error='skip' goes on without it"
                )
                raise
            return candidate._replace(error=str(error) or type(error).__name__)
        return candidate._replace(score=value, seconds=time.perf_counter() - started)

    @contextmanager
    def _served(self, weights: Float64, places: list[int]) -> Iterator[Path]:
        """Path of a checkpoint with these weights, temporary unless it is a member."""
        single = self.members[places[0]].path
        if len(places) == 1 and single is not None:
            yield single
            return
        job = self._job
        with beside(job.out, folder=True) as folder:
            place = folder / f"candidate{job.suffix}"
            with telling_if_full(job.out):
                if not job.suffix:
                    place.mkdir()
                write_plan_to(
                    self.plan(weights, place), place, job.progress, self.stream
                )
            yield place

    def _weighed(self, weights: Float64, places: list[int]) -> list[Share]:
        return [self._shares[i]._replace(weight=float(weights[i])) for i in places]

    def _check_unchanged(self, places: list[int]) -> None:
        """Raise if files of tensors changed; update the shares for other changes."""
        for place in places:
            member, before = self.members[place], self._shares[place]
            self._shares[place] = now = share(member, 1.0)
            # Name, size and modification time: a new hard link changes only the others.
            if [known[:3] for known in now.files] != [k[:3] for k in before.files]:
                raise ValueError(
                    f"{member.name} was changed while it was scored; wait until it is "
                    "written, and start again"
                )


def suffix_of(member: Checkpoint) -> str:
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
