"""Combinations of checkpoints, each scored as a file of its own."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.atomic_io import beside, telling_if_full
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.average import write_into
from ensembles.checkpoints.merging.combinations import Pool
from ensembles.checkpoints.planning.options import Options, with_defaults
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.soup_search.journal import Journal, Share, share

ScoreFile = Callable[[Path], float]
APART = ("memory", "threads", "force")  # options that no tensor depends on


class Candidate(NamedTuple):
    """A combination, and what it scores.

    Parameters
    ----------
    members : tuple of str
        Those that count, as they were named.
    weights : tuple of float
        Of each, with sum 1.
    score : float or None
        As the callable gave it; None if it failed.
    seconds : float
        That the callable took; 0 for a score from the journal.
    reused : bool
        Whether the score is from the journal.
    error : str or None
        Why there is no score.
    """

    members: tuple[str, ...]
    weights: tuple[float, ...]
    score: float | None
    seconds: float
    reused: bool = False
    error: str | None = None


class Job(NamedTuple):
    """What candidates are scored by, and where they are put.

    Parameters
    ----------
    score : callable (path) -> float
    out : Path
        What they are written beside.
    suffix : str
        What their names end in; ``""`` is a directory.
    options : Options
        Of every mean.
    on_error : {"stop", "skip"}
        Whether a score that fails ends it all.
    journal : Journal or None
        Open.
    record : callable (Candidate) -> None
    progress : callable (int) -> None
    """

    score: ScoreFile
    out: Path
    suffix: str
    options: Options
    on_error: str
    journal: Journal | None
    record: Callable[[Candidate], None]
    progress: Callable[[int], None]


class Candidates:
    """Scores of weights, each asked for once; a member is scored where it lies.

    Any other combination is written beside the output, scored and removed.

    Parameters
    ----------
    members : sequence of Checkpoint
        With paths.
    job : Job
    has_base : bool
        Whether the first is a base, to which others are not added one by one.
    """

    def __init__(
        self, members: tuple[Checkpoint, ...], job: Job, *, has_base: bool
    ) -> None:
        self.pool = Pool(members, folder=job.out.parent, options=job.options)
        self.found: dict[bytes, Candidate] = {}
        self._means: dict[bytes, tuple[Sequence[Checkpoint], Float64]] = {}
        self._job = job
        self.has_base = has_base
        self._shares = [share(member, 1.0) for member in members]
        usual = with_defaults({})
        self._settings = {
            name: value
            for name, value in job.options.items()
            if name not in APART and value != usual[name]  # type: ignore[literal-required]
        }

    def __call__(self, weights: Float64) -> Candidate:
        """Candidate of these weights, with its score.

        Parameters
        ----------
        weights : ndarray of shape (n_members,), non-negative, sum 1

        Returns
        -------
        Candidate

        Raises
        ------
        ValueError
            If a member changes meanwhile, or a score is not finite and must not fail.
        """
        key = weights.tobytes()
        if key not in self.found:
            self.found[key] = self._made(weights)
            self._job.record(self.found[key])
        return self.found[key]

    def plan(self, weights: Float64, out: Path) -> Plan:
        """Plan of a candidate that was scored: the same members in the same order.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
        out : Path

        Returns
        -------
        Plan
        """
        members, counts = self._means[weights.tobytes()]
        own: Options = {**self._job.options, "weights": counts}
        return plan(members, out, **own)

    def _made(self, weights: Float64) -> Candidate:
        places = np.flatnonzero(weights).tolist()
        shares = self._weighed(weights, places)
        # Planned even if its score is known: the order of members hangs on those
        # before, and must be that of a run that nothing has interrupted.
        planned = self._planned(weights, None)
        self._means[weights.tobytes()] = (planned.members, planned.weights)
        journal, settings = self._job.journal, self._settings if len(places) > 1 else {}
        names = tuple(self.pool.members[place].name for place in places)
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
        """Candidate with its score, or with the error that there was."""
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
        """Path of a checkpoint of these weights, for as long as it is scored."""
        single = self.pool.members[places[0]].path
        if len(places) == 1 and single is not None:
            yield single
            return
        job = self._job
        with beside(job.out, folder=True) as folder:
            place = folder / f"candidate{job.suffix}"
            with telling_if_full(job.out):
                if not job.suffix:
                    place.mkdir()
                planned = self._planned(weights, place)
                write_into(planned, place, job.progress, self.pool.stream)
            yield place

    def _planned(self, weights: Float64, out: Path | None) -> Plan:
        """Plan of a combination: of equal members, or of members that are added."""
        shares = weights[weights != 0]
        if not self.has_base or (shares == shares[0]).all():
            return self.pool.plan(weights, out)
        # Between a base and others 0.9 is no nine copies of the base.
        return self.pool.weighed(weights, out)

    def _weighed(self, weights: Float64, places: list[int]) -> list[Share]:
        return [self._shares[i]._replace(weight=float(weights[i])) for i in places]

    def _check_unchanged(self, places: list[int]) -> None:
        """Look at members again: a link, or settings, may be new, the weights not."""
        for place in places:
            member, before = self.pool.members[place], self._shares[place]
            self._shares[place] = now = share(member, 1.0)
            # Name, bytes and time.
            if [known[:3] for known in now.files] != [k[:3] for k in before.files]:
                raise ValueError(
                    f"{member.name} was changed while it was scored; wait until it is "
                    "written, and start again"
                )


def suffix_of(member: Checkpoint) -> str:
    """What the name of a candidate like this member ends in, ``""`` for a directory.

    Parameters
    ----------
    member : Checkpoint
        With a path.

    Returns
    -------
    str
    """
    return "" if member.kind == "directory" else os.path.splitext(str(member.path))[1]
