"""Accuracy of the mean probabilities, estimated from class margins."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.parallel import chunks, map_threads, resolve_n_threads
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.metrics.accuracy_loops import (
    PIECE,
    compute_margin_bounds,
    copy_margins,
    list_undecided,
    mark_correct,
    sum_correct,
    sum_correct_all_rows,
    sum_correct_cached,
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


class _UndecidedRows(NamedTuple):
    """Rows whose predicted class depends on the added member, by `list_undecided`."""

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
        self.n_slots = (stack.shape[1] + 1) // 2
        self.margins = np.empty((self.n_slots, len(stack)), stack.dtype)
        self.slots = np.full(stack.shape[1:], -1, np.int32)  # -1: not in the cache
        self.free_slots = np.arange(self.n_slots)

    def slots_of(self, rows: Counts, classes: Counts) -> Counts:
        """Rows of ``margins`` for at most ``n_slots`` pairs of row and class."""
        slots: Any = self.slots[rows, classes]
        missing = np.flatnonzero(slots < 0)
        if len(missing) > len(self.free_slots):
            # Reuse the slots of rows that are decided by now.
            self.slots[:] = -1
            self.slots[rows, classes] = slots
            is_free = np.ones(self.n_slots, bool)
            is_free[slots[slots >= 0]] = False
            self.free_slots = np.flatnonzero(is_free)
        new_slots, self.free_slots = np.split(self.free_slots, [len(missing)])
        slots[missing] = new_slots
        self._fill(new_slots, rows[missing], classes[missing])
        return np.asarray(slots)

    def _fill(self, slots: Counts, rows: Counts, classes: Counts) -> None:
        self.slots[rows, classes] = slots

        def copy_block(bounds: tuple[int, int]) -> None:
            block = slice(*bounds)
            pairs = slots[block], rows[block], classes[block]
            copy_margins(self.stack, self.codes, *pairs, self.margins)

        jobs = list(chunks(len(slots), PIECE))
        map_threads(jobs, lambda: copy_block, resolve_n_threads(None))


class Accuracy(BoundedScore):
    """Accuracy of the mean probabilities; ties go to the first class, as in the scorer.

    Rows whose predicted class no additional member can change are skipped; in the other
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
        self.is_weighted = out_of_fold.sample_weight is not None
        self.row_weights = np.ones(n_rows)  # sums of integers are exact
        if self.is_weighted:
            self.row_weights = normalized_sample_weight(
                out_of_fold.sample_weight, n_rows
            )
        self.max_margins = np.empty((n_rows, n_classes), self.stack.dtype)
        self.min_margins = np.empty((n_rows, n_classes), self.stack.dtype)

        def bound_block(bounds: tuple[int, int]) -> float:
            outputs = self.max_margins, self.min_margins
            return float(
                compute_margin_bounds(self.stack, self.codes, *bounds, *outputs)
            )

        self.running_sums = RunningSums(self.stack)
        self.cache = _MarginCache(self.stack, self.codes)
        jobs = list(chunks(n_rows, PIECE))
        largest = map_threads(jobs, lambda: bound_block, resolve_n_threads(None))
        self.max_proba = max(largest)
        if not np.isfinite(self.max_proba):
            raise NotApplicable

    def estimates(self, counts: Counts, members: Counts) -> tuple[Float64, Float64]:
        """Scores after one more copy of each of ``members``, with error bounds."""
        undecided, decided_correct = self._list_undecided(counts)
        if 2 * len(undecided.classes) > self.max_margins.size:
            sums = self.running_sums.update(counts)
            correct, uncertain = self._sum_by_member(
                sum_correct_all_rows, members, sums, undecided.slack
            )
        else:
            correct, uncertain = self._sum_undecided(undecided, members)
            correct += decided_correct
        is_ambiguous = self.ambiguous(counts, correct + uncertain / 2, uncertain / 2)
        for index in np.flatnonzero(is_ambiguous):
            exact = self._exact_correct(counts, members[index], undecided)
            correct[index] = decided_correct + exact
            uncertain[index] = 0
        if self.is_weighted:
            rounding = 2 * UNIT * len(self.row_weights)
            return correct + uncertain / 2, uncertain / 2 + rounding
        n_rows = len(self.row_weights)
        return correct / n_rows, uncertain / n_rows

    def _list_undecided(self, counts: Counts) -> tuple[_UndecidedRows, float]:
        """Undecided rows, and the total weight of the other rows that are correct."""
        sums, size = self.running_sums.update(counts), float(counts.sum() + 1)
        # Rounding: at each step of these sums and of the scored mean, in float64, and
        # once for each margin, and so for its bounds, in the dtype of the stack.
        slack = 8 * (size + 8) * UNIT * size * self.max_proba
        slack += float(np.finfo(self.stack.dtype).eps) * self.max_proba
        rows = np.empty(len(sums), np.int64)
        starts = np.empty(len(sums) + 1, np.int64)
        classes, leads = np.empty(sums.size, np.int64), np.empty(sums.size)
        n_undecided, decided_correct = list_undecided(
            *(sums, self.codes, self.row_weights, self.max_margins, self.min_margins),
            *(slack, rows, starts, classes, leads),
        )
        end = starts[n_undecided]
        undecided = _UndecidedRows(
            rows[:n_undecided],
            starts[: n_undecided + 1],
            classes[:end],
            leads[:end],
            slack,
        )
        return undecided, float(decided_correct)

    def _sum_undecided(self, undecided: _UndecidedRows, members: Counts) -> Float64:
        """Weights of undecided rows: correct ones, uncertain ones; (2, n_members)."""
        rows, starts, classes, leads, slack = undecided
        # The first n_cached rows fit into the cache.
        n_cached = int(np.searchsorted(starts, self.cache.n_slots, "right")) - 1
        sizes = np.diff(starts[: n_cached + 1])
        pair_rows = np.repeat(rows[:n_cached], sizes)
        slots = self.cache.slots_of(pair_rows, classes[: sizes.sum()])

        def sum_block(bounds: tuple[int, int]) -> Float64:
            out = np.empty((2, len(self.stack)))
            block = (rows[slice(*bounds)], starts[bounds[0] :], leads, slack)
            sum_correct_cached(self.cache.margins, slots, self.row_weights, *block, out)
            return out

        jobs = list(chunks(n_cached, PIECE))
        partials = map_threads(jobs, lambda: sum_block, resolve_n_threads(None))
        zeros = np.zeros((2, len(self.stack)))
        total = np.asarray(sum(partials, zeros))[:, members]
        if n_cached < len(rows):
            uncached = (rows[n_cached:], starts[n_cached:], classes, leads, slack)
            total += self._sum_by_member(sum_correct, members, *uncached)
        return total

    def _sum_by_member(self, loop: Any, members: Counts, *arguments: Any) -> Float64:
        """Run a loop on blocks of members; returns its output, (2, n_members)."""

        def sum_block(bounds: tuple[int, int]) -> Float64:
            block = members[slice(*bounds)]
            out = np.empty((2, len(block)))
            loop(self.stack, self.codes, self.row_weights, block, *arguments, out)
            return out

        jobs = list(chunks(len(members), CHUNK))
        return np.hstack(map_threads(jobs, lambda: sum_block, resolve_n_threads(None)))

    def _exact_correct(
        self, counts: Counts, member: int, undecided: _UndecidedRows
    ) -> float:
        """Weight of the correct undecided rows; computes the mean of uncertain rows."""
        is_correct, is_uncertain = np.empty((2, len(undecided.rows)), bool)
        mark_correct(
            self.stack[member], self.codes, *undecided, is_correct, is_uncertain
        )
        rows = undecided.rows[is_uncertain]
        increased = counts.copy()
        increased[member] += 1
        chosen = np.flatnonzero(increased)
        stack: Any = [self.stack[index][rows] for index in chosen]
        y_proba = self.combiner([stack], increased[chosen] / increased.sum())[0]
        is_right = y_proba.argmax(axis=1) == self.codes[rows]
        correct_rows = np.concatenate([undecided.rows[is_correct], rows[is_right]])
        return float(self.row_weights[correct_rows].sum())
