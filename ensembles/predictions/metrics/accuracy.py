"""Accuracy of a mean of probabilities, by margins."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import count_threads, cut, spread
from ensembles.predictions.members.out_of_fold import Held
from ensembles.predictions.members.outputs import Labels
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
from ensembles.predictions.metrics.log_loss import row_shares, suited
from ensembles.predictions.metrics.scorer import (
    UNIT,
    Bounded,
    Combine,
    RunningSums,
    Unsuited,
)

CHUNK = 16  # members that a thread takes at a time


class _Listed(NamedTuple):
    """Rows that a member may flip, as the loops take them."""

    rows: Counts
    starts: Counts
    classes: Counts
    leads: Float64
    slack: float


class _Moves:
    """What members say of classes that may come to lead, the members side by side.

    Rows that are left in doubt lie far from each other in the members' predictions,
    and mostly stay so: they are read once. There is room for half as many numbers as
    there are rows, for each member.
    """

    def __init__(self, stack: Float64, codes: Counts) -> None:
        self.stack, self.codes = stack, codes
        self.room = (stack.shape[1] + 1) // 2
        self.moves = np.empty((self.room, len(stack)), stack.dtype)
        self.places = np.full(stack.shape[1:], -1, np.int32)
        self.free = np.arange(self.room)

    def of(self, rows: Counts, classes: Counts) -> Counts:
        """Places of rows and classes among the moves, of no more than there is room."""
        places: Any = self.places[rows, classes]
        lacking = np.flatnonzero(places < 0)
        if len(lacking) > len(self.free):
            # Those of rows that are settled by now are free again.
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

        jobs = list(cut(len(places), PIECE))
        spread(jobs, lambda: work, count_threads(None))


class Accuracy(Bounded):
    """Accuracy of the mean; of equal classes the first counts, as the scorer has it.

    Rows are skipped where no member, counted once more, can change the answer; of the
    others only classes that can come to lead are looked at. Where a lead is as small
    as the rounding of the mean, the mean itself decides.

    Parameters
    ----------
    held : Held
    combine : callable
    scoring : str
    """

    def __init__(self, held: Held, combine: Combine, scoring: Any) -> None:
        super().__init__(held, combine, scoring)
        if not isinstance(held.answers, Labels) or len(held.stacks) != 1:
            raise Unsuited
        self.stack = suited(held.stacks[0])
        self.codes = held.answers.codes(held.y)[0]
        n_rows, n_classes = self.stack.shape[1:]
        self.weighted = held.sample_weight is not None
        self.shares = np.ones(n_rows)  # whole numbers add up exactly
        if self.weighted:
            self.shares = row_shares(held.sample_weight, n_rows)
        self.most, self.least = np.empty((2, n_rows, n_classes), self.stack.dtype)

        def look(part: tuple[int, int]) -> float:
            found = reach(self.stack, self.codes, *part, self.most, self.least)
            return float(found)

        self.running = RunningSums(self.stack)
        self.moves = _Moves(self.stack, self.codes)
        jobs = list(cut(n_rows, PIECE))
        self.highest = max(spread(jobs, lambda: look, count_threads(None)))
        if not np.isfinite(self.highest):
            raise Unsuited

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after adding each of some members once more, and their errors."""
        listed, right = self._listed(counts)
        if 2 * len(listed.classes) > self.most.size:
            sure, maybe = self._counted(
                count_all, members, self.running.at(counts), listed.slack
            )
        else:
            sure, maybe = self._counted_listed(listed, members)
            sure += right
        near = self.in_doubt(counts, sure + maybe / 2, maybe / 2)
        for place in np.flatnonzero(near):
            sure[place] = right + self._settled(counts, members[place], listed)
            maybe[place] = 0
        if self.weighted:
            return sure + maybe / 2, maybe / 2 + 2 * UNIT * len(self.shares)
        n_rows = len(self.shares)
        return sure / n_rows, maybe / n_rows

    def _listed(self, counts: Counts) -> tuple[_Listed, float]:
        sums, size = self.running.at(counts), float(counts.sum() + 1)
        # Both the sums here and the mean that is scored are rounded at each step, and
        # moves once, and so the most and least of them, in the dtype of the stack.
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
        """What counts of the listed rows for sure, and what may, by member."""
        rows, starts, classes, leads, slack = listed
        # Rows that there is room for, and the others.
        n_moved = int(np.searchsorted(starts, self.moves.room, "right")) - 1
        sizes = np.diff(starts[: n_moved + 1])
        places = self.moves.of(np.repeat(rows[:n_moved], sizes), classes[: sizes.sum()])

        def work(part: tuple[int, int]) -> Float64:
            out = np.empty((2, len(self.stack)))
            known = (rows[slice(*part)], starts[part[0] :], leads, slack)
            count_moved(self.moves.moves, places, self.shares, *known, out)
            return out

        jobs = list(cut(n_moved, PIECE))
        found = spread(jobs, lambda: work, count_threads(None))
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

        jobs = list(cut(len(members), CHUNK))
        return np.hstack(spread(jobs, lambda: work, count_threads(None)))

    def _settled(self, counts: Counts, member: int, listed: _Listed) -> float:
        """What counts of the listed rows, those in doubt by the mean itself."""
        surely, unsure = np.empty((2, len(listed.rows)), bool)
        tell(self.stack[member], self.codes, *listed, surely, unsure)
        rows = listed.rows[unsure]
        more = counts.copy()
        more[member] += 1
        some = np.flatnonzero(more)
        parts: Any = [self.stack[one][rows] for one in some]
        answer = self.combine([parts], more[some] / more.sum())[0]
        right = answer.argmax(axis=1) == self.codes[rows]
        known = np.concatenate([listed.rows[surely], rows[right]])
        return float(self.shares[known].sum())
