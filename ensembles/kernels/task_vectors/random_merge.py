# mypy: disable-error-code="no-untyped-def"
"""Base plus merged task vectors with randomly dropped elements, rounded once."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ensembles._typing import Array, Counts, Float64
from ensembles.kernels.jit import compiled
from ensembles.kernels.ranking import magnitude_ranks, rank_row
from ensembles.kernels.task_vectors.random_masks import (
    Words,
    find_bounds,
    mask_row,
    scale_randomly,
    scale_row,
    stream_key,
)
from ensembles.kernels.task_vectors.sign_election import (
    N_SUMS,
    Sign,
    elected_sum_loop,
    elected_sum_reference,
    terms_of,
    votes_of,
)
from ensembles.kernels.task_vectors.stored_members import (
    SPAN,
    merge_stored,
    read_delta,
    read_lane,
    write_lane,
)
from ensembles.kernels.task_vectors.trimmed_merge import (
    add_scaled,
    add_scaled_reference,
)


class Masks(NamedTuple):
    """Random masks of members in consecutive elements of a tensor.

    Parameters
    ----------
    members : ndarray of shape (n_members,), uint32
        Index of each member.
    lowest, highest : ndarray of shape (n_members,), from 2**-32 to 1
        Probability of keeping the difference of smallest and of largest magnitude in a
        row. Other differences have one by their rank.
    factors : ndarray of shape (n_members,)
        Factor of the differences of each member.
    is_ranked : bool
        Whether differences are ranked; else all have the lowest probability.
    is_rescaled : bool
        Whether differences are divided by their probability.
    row_size : int
        Elements of a row.
    seed : int
        Seed of a merge.
    name : str
        Name of the tensor.
    start : int
        Index of the first element in the flat tensor.
    """

    members: Words
    lowest: Float64
    highest: Float64
    factors: Float64
    is_ranked: bool
    is_rescaled: bool
    row_size: int
    seed: int
    name: str
    start: int

    def of(self, rows: Counts) -> Masks:
        """Masks of some members.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), int64
            Their indices among the members.

        Returns
        -------
        Masks
        """
        return self._replace(
            members=self.members[rows],
            lowest=self.lowest[rows],
            highest=self.highest[rows],
            factors=self.factors[rows],
        )


def masked_deltas(stack: Float64, base: Float64, masks: Masks) -> Float64:
    """Difference of each member from the base, 0 where it is dropped.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), float64
        Members along axis 0; whole rows if differences are ranked.
    base : ndarray of shape (size,), float64
        Common ancestor of the members.
    masks : Masks
        Masks of the members.

    Returns
    -------
    ndarray of shape (n_members, size)
        A difference that is NaN or infinite is NaN where it is dropped.
    """
    deltas = stack - base
    rows = zip(deltas, *masks[:4], strict=True)
    for values, member, lowest, highest, factor in rows:
        p: Float64 = np.full(base.size, lowest)
        if masks.is_ranked:
            p = magnitude_ranks(values.reshape(-1, masks.row_size)).reshape(-1)
            p *= (highest - lowest) / (masks.row_size - 1)
            p += lowest
        scale_randomly(
            values,
            p,
            factor / (p if masks.is_rescaled else np.ones(p.shape)),
            seed=masks.seed,
            name=masks.name,
            member=int(member),
            start=masks.start,
        )
    return deltas


def merge_randomly(
    stack: Array,
    weights: Float64,
    base: Array,
    masks: Masks,
    *,
    scale: float = 1.0,
    sign: Sign | None = "mass",
    normalize: bool | Literal["count"] = True,
    zero_sum: int = 0,
) -> Array:
    """Base plus the scaled `elected_sum` of task vectors with random masks.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size), a float format
        Members along axis 0; whole rows if differences are ranked.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign.
    base : ndarray of shape (size,), dtype of ``stack``
        Common ancestor of the members.
    masks : Masks
        Masks of the members.
    scale : float, default=1.0
        Factor of the sum.
    sign : {"mass", "unweighted_mass", "count"} or None, default="mass"
        How a sign is elected, see `elected_sum`; None elects none.
    normalize : bool or "count", default=True
        Divisor of the sum, see `elected_sum`.
    zero_sum : {-1, 0, 1}, default=0
        Sign that is elected in a zero sum; 0 makes the sum 0.

    Returns
    -------
    ndarray of shape (size,), dtype of ``stack``

    Raises
    ------
    ValueError
        If ``sign`` or ``normalize`` is unknown.
    """
    if not weights.all():
        rows = np.flatnonzero(weights)
        stack, weights, masks = stack[rows], weights[rows], masks.of(rows)
    how = terms_of(weights, sign, normalize), votes_of(sign), zero_sum
    key = stream_key(masks.seed, masks.name)
    unit = masks.row_size if masks.is_ranked else SPAN

    def loop(stack: Array, base: Array, start: int, out: Array) -> None:
        place = masks.start + start
        _merge_randomly(stack, base, *masks[:6], key, place, unit, *how, scale, out)

    def reference(stack: Array, base: Array, start: int, out: Array) -> None:
        part = masks._replace(start=masks.start + start)
        elected_sum_reference(masked_deltas(stack, base, part), *how, out)
        add_scaled_reference(out, scale, 1.0, base)

    return merge_stored(loop, reference, stack, base, unit=unit)


@compiled
def _merge_randomly(
    stack,
    base,
    members,
    lowest,
    highest,
    factors,
    is_ranked,
    is_rescaled,
    key,
    place,
    unit,
    terms,
    votes,
    zero_sum,
    scale,
    out,
):
    n_members, unit = len(stack), max(min(unit, out.size), 1)
    deltas, origin, merged = np.empty((n_members, unit)), np.empty(unit), np.empty(unit)
    n_rows = 1 if is_ranked else n_members
    probabilities, scales = np.empty((n_rows, unit)), np.empty((n_rows, unit))
    bounds = np.empty((n_rows, unit), np.uint16)
    words, mask = np.empty(unit, np.uint32), np.empty(unit, np.uint8)
    sums = np.empty((8, N_SUMS))
    for i in range(n_rows):
        probabilities[i] = lowest[i]
        _find_scales(probabilities[i], factors[i], is_rescaled, scales[i])
        find_bounds(probabilities[i], bounds[i])
    for start in range(0, out.size, unit):
        stop = min(start + unit, out.size)
        size = stop - start
        read_lane(base[start:stop], origin)
        for i in range(n_members):
            k = 0 if is_ranked else i
            row, p = deltas[i, :size], probabilities[k]
            read_delta(stack[i, start:stop], origin, row)
            if is_ranked:
                rank_row(row, words, p)
                _spread(p, lowest[i], highest[i])
                _find_scales(p, factors[i], is_rescaled, scales[k])
                find_bounds(p, bounds[k])
            stream = key[0], key[1], key[2], members[i]
            mask_row(p, bounds[k], stream, place + start, mask[:size])
            scale_row(row, mask, scales[k])
        elected_sum_loop(deltas, terms, votes, zero_sum, sums, merged[:size])
        add_scaled(merged[:size], scale, 1.0, origin)
        write_lane(merged, words, out[start:stop])


@compiled
def _spread(ranks, lowest, highest):
    """Replace ranks by probabilities."""
    step = (highest - lowest) / (ranks.size - 1)
    for j in range(ranks.size):
        ranks[j] = ranks[j] * step + lowest


@compiled
def _find_scales(probabilities, factor, is_rescaled, scales):
    scales[:] = factor
    if is_rescaled:
        np.divide(scales, probabilities, scales)  # unlike /, it is vectorized
