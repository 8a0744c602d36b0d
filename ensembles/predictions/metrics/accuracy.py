"""Accuracy of the mean probabilities, estimated from class margins."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks, map_threads, resolve_n_threads
from ensembles.predictions.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.metrics.accuracy_loops import (
    PIECE,
    contenders,
    count,
    count_all,
    count_moved,
    fill,
    reach,
    tell,
)
from ensembles.predictions.metrics.scorer import (
    UNIT,
    BoundedScore,
    NotApplicable,
    RunningSums,
    as_float_array,
    normalized_sample_weight,
)

CHUNK = 16  # members per job of a thread


class _Listed(NamedTuple):
    """Rows whose prediction one more member may change, as `contenders` lists them."""

    rows: Counts
    starts: Counts
    classes: Counts
    leads: Float64
    slack: float


class _MarginCache:
    """Cache of the members' margins over the true class, contiguous over members.

    The undecided rows are scattered in the stack and mostly remain undecided in later
    rounds, so their margins are gathered only once. The cache holds half as many pairs
    of row and class as there are rows, for each member.
    """

    def __init__(self, stack: Float64, codes: Counts) -> None:
        self.stack, self.codes = stack, codes
        self.room = (stack.shape[1] + 1) // 2
        self.moves = np.empty((self.room, len(stack)), stack.dtype)
        self.places = np.full(stack.shape[1:], -1, np.int32)
        self.free = np.arange(self.room)

    def of(self, rows: Counts, classes: Counts) -> Counts:
        """Cache indices of (row, class) pairs; at most ``room`` pairs at a time."""
        places: Any = self.places[rows, classes]
        lacking = np.flatnonzero(places < 0)
        if len(lacking) > len(self.free):
            # Reuse the entries of rows that are decided by now.
            self.places[:] = -1
            self.places[rows, classes] = places
            is_free = np.ones(self.room, bool)
            is_free[places[places >= 0]] = False
            self.free = np.flatnonzero(is_free)
        taken, self.free = np.split(self.free, [len(lacking)])
        places[lacking] = taken
        self._fill(taken, rows[lacking], classes[lacking])
        return np.asarray(places)

    def _fill(self, places: Counts, rows: Counts, classes: Counts) -> None:
        self.places[rows, classes] = places

        def work(part: tuple[int, int]) -> None:
            some = slice(*part)
            known = places[some], rows[some], classes[some]
            fill(self.stack, self.codes, *known, self.moves)

        jobs = list(chunks(len(places), PIECE))
        map_threads(jobs, lambda: work, resolve_n_threads(None))


class Accuracy(BoundedScore):
    """Accuracy of the mean probabilities; ties go to the first class, as in the scorer.

    Rows whose prediction no additional member can change are skipped; for the other
    rows only the classes that can take the lead are compared. If a lead is within the
    rounding error of the mean, the mean itself is computed.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Class probabilities of one target.
    combiner : FittedCombiner
        Rule "mean".
    scoring : str
        "accuracy".

    Raises
    ------
    NotApplicable
        If there are several outputs, or if probabilities are negative, not finite, or
        all zero for a sample.
    """

    def __init__(
        self, out_of_fold: OutOfFold, combiner: FittedCombiner, scoring: Any
    ) -> None:
        super().__init__(out_of_fold, combiner, scoring)
        if (
            not isinstance(out_of_fold.outputs, ClassOutputs)
            or len(out_of_fold.stacks) != 1
        ):
            raise NotApplicable
        self.stack = as_float_array(out_of_fold.stacks[0])
        self.codes = out_of_fold.outputs.encode(out_of_fold.y)[0]
        n_rows, n_classes = self.stack.shape[1:]
        self.weighted = out_of_fold.sample_weight is not None
        self.shares = np.ones(n_rows)  # sums of integers are exact
        if self.weighted:
            self.shares = normalized_sample_weight(out_of_fold.sample_weight, n_rows)
        self.most, self.least = np.empty((2, n_rows, n_classes), self.stack.dtype)

        def look(part: tuple[int, int]) -> float:
            found = reach(self.stack, self.codes, *part, self.most, self.least)
            return float(found)

        self.running = RunningSums(self.stack)
        self.moves = _MarginCache(self.stack, self.codes)
        jobs = list(chunks(n_rows, PIECE))
        self.highest = max(map_threads(jobs, lambda: look, resolve_n_threads(None)))
        if not np.isfinite(self.highest):
            raise NotApplicable

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after one more copy of each of ``members``, with error bounds."""
        listed, right = self._listed(counts)
        if 2 * len(listed.classes) > self.most.size:
            sure, maybe = self._counted(
                count_all, members, self.running.update(counts), listed.slack
            )
        else:
            sure, maybe = self._counted_listed(listed, members)
            sure += right
        near = self.ambiguous(counts, sure + maybe / 2, maybe / 2)
        for place in np.flatnonzero(near):
            sure[place] = right + self._settled(counts, members[place], listed)
            maybe[place] = 0
        if self.weighted:
            return sure + maybe / 2, maybe / 2 + 2 * UNIT * len(self.shares)
        n_rows = len(self.shares)
        return sure / n_rows, maybe / n_rows

    def _listed(self, counts: Counts) -> tuple[_Listed, float]:
        sums, size = self.running.update(counts), float(counts.sum() + 1)
        # Rounding: at each step of these sums and of the scored mean, in float64, and
        # once for each margin, and so for most and least, in the dtype of the stack.
        slack = 8 * (size + 8) * UNIT * size * self.highest
        slack += float(np.finfo(self.stack.dtype).eps) * self.highest
        rows = np.empty(len(sums), np.int64)
        starts = np.empty(len(sums) + 1, np.int64)
        classes, leads = np.empty(sums.size, np.int64), np.empty(sums.size)
        n_listed, right = contenders(
            *(sums, self.codes, self.shares, self.most, self.least, slack),
            *(rows, starts, classes, leads),
        )
        end = starts[n_listed]
        listed = _Listed(
            rows[:n_listed], starts[: n_listed + 1], classes[:end], leads[:end], slack
        )
        return listed, float(right)

    def _counted_listed(self, listed: _Listed, members: Counts) -> Float64:
        """Weights of the listed rows that are right and in doubt, (2, n_members)."""
        rows, starts, classes, leads, slack = listed
        # The first n_moved rows fit into the cache.
        n_moved = int(np.searchsorted(starts, self.moves.room, "right")) - 1
        sizes = np.diff(starts[: n_moved + 1])
        places = self.moves.of(np.repeat(rows[:n_moved], sizes), classes[: sizes.sum()])

        def work(part: tuple[int, int]) -> Float64:
            out = np.empty((2, len(self.stack)))
            known = (rows[slice(*part)], starts[part[0] :], leads, slack)
            count_moved(self.moves.moves, places, self.shares, *known, out)
            return out

        jobs = list(chunks(n_moved, PIECE))
        found = map_threads(jobs, lambda: work, resolve_n_threads(None))
        total = np.asarray(sum(found, np.zeros((2, len(self.stack)))))[:, members]
        if n_moved < len(rows):
            others = (rows[n_moved:], starts[n_moved:], classes, leads, slack)
            total += self._counted(count, members, *others)
        return total

    def _counted(self, loop: Any, members: Counts, *known: Any) -> Float64:
        def work(part: tuple[int, int]) -> Float64:
            chosen = members[slice(*part)]
            out = np.empty((2, len(chosen)))
            loop(self.stack, self.codes, self.shares, chosen, *known, out)
            return out

        jobs = list(chunks(len(members), CHUNK))
        return np.hstack(map_threads(jobs, lambda: work, resolve_n_threads(None)))

    def _settled(self, counts: Counts, member: int, listed: _Listed) -> float:
        """Weight of listed rows that are right; computes the mean for rows in doubt."""
        surely, unsure = np.empty((2, len(listed.rows)), bool)
        tell(self.stack[member], self.codes, *listed, surely, unsure)
        rows = listed.rows[unsure]
        more = counts.copy()
        more[member] += 1
        some = np.flatnonzero(more)
        parts: Any = [self.stack[one][rows] for one in some]
        answer = self.combiner([parts], more[some] / more.sum())[0]
        right = answer.argmax(axis=1) == self.codes[rows]
        known = np.concatenate([listed.rows[surely], rows[right]])
        return float(self.shares[known].sum())
