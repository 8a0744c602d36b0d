# mypy: disable-error-code="no-untyped-def"
"""Sums and means of the members' deltas that agree with an elected sign."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ensembles._typing import Float64
from ensembles.kernels.jit import PIECE, compiled, use_loops
from ensembles.parallel import chunks

Sign = Literal["mass", "unweighted_mass", "count"]
SIGNS = ("mass", "unweighted_mass", "count")
MASS, UNWEIGHTED_MASS, COUNT = range(3)  # indices in SIGNS
SUM = -1  # without an election
EPS = 2.0**-52
N_SUMS = 512  # elements per step: 32 KiB of sums, which stay in the L1 cache


def elected_sum(
    deltas: Float64,
    weights: Float64,
    *,
    sign: Sign | None = "mass",
    normalize: bool | Literal["count"] = True,
    zero_sum: int = 0,
) -> Float64:
    """Sum or mean of the weighted deltas whose sign is elected, elementwise.

    The positive and the negative deltas of an element have votes each, and the side
    with more votes is elected. A zero delta has no vote and does not agree with either
    side; a member of weight 0 does not count at all. Votes that are equal up to the
    rounding of their sums, within ``n_members * 2**-52``, are a zero sum, so that the
    order of the members does not elect a sign.

    Parameters
    ----------
    deltas : ndarray of shape (n_members, size), float64
        Difference of each member from the base; 0 where it is masked. A NaN makes the
        result NaN. An infinity on the elected side makes it infinite, and an infinity
        in a zero sum makes it NaN.
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign.
    sign : {"mass", "unweighted_mass", "count"} or None, default="mass"
        ``"mass"`` elects the sign of the sum of weighted deltas, ``"count"`` the sign
        that more of the weighted deltas have. ``"unweighted_mass"`` elects the sign of
        the sum of deltas before they are multiplied by the weights, and deltas of this
        sign agree, whatever the sign of their weights. None elects no sign: the result
        is the sum of all weighted deltas, in the order of the members.
    normalize : bool or "count", default=True
        Divisor of the sum of agreeing weighted deltas: True is the sum of the absolute
        weights of the agreeing members, ``"count"`` their number, False is 1.
    zero_sum : {-1, 0, 1}, default=0
        Sign that is elected in a zero sum; 0 makes the result 0.

    Returns
    -------
    ndarray of shape (size,)

    Raises
    ------
    ValueError
        If ``sign`` or ``normalize`` is unknown.
    """
    if not weights.all():
        deltas, weights = deltas[weights != 0], weights[weights != 0]
    terms, votes = terms_of(weights, sign, normalize), votes_of(sign)
    out = np.empty(deltas.shape[1])
    if use_loops(4 * deltas.size):  # NumPy takes some 20 ns for each entry of deltas
        sums = np.empty((8, N_SUMS))
        elected_sum_loop(deltas, terms, votes, zero_sum, sums, out)
    else:
        elected_sum_reference(deltas, terms, votes, zero_sum, out)
    return out


def votes_of(sign: Sign | None) -> int:
    """Number of a parameter ``sign`` for the loops of `elected_sum`.

    Parameters
    ----------
    sign : {"mass", "unweighted_mass", "count"} or None
        How a sign is elected.

    Returns
    -------
    int
    """
    return SUM if sign is None else SIGNS.index(sign)


def terms_of(
    weights: Float64, sign: Sign | None, normalize: bool | Literal["count"]
) -> Float64:
    """Terms of members for the loops of `elected_sum`.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Weight of each member, of any sign but not zero.
    sign : {"mass", "unweighted_mass", "count"} or None
        How a sign is elected.
    normalize : bool or "count"
        Divisor of the sum.

    Returns
    -------
    ndarray of shape (3, at least n_members)
        See `elected_sum_reference`.

    Raises
    ------
    ValueError
        If ``sign`` or ``normalize`` is unknown.
    """
    if sign is not None and sign not in SIGNS:
        raise ValueError(f"sign must be one of {', '.join(SIGNS)}, found {sign!r}")
    if not (isinstance(normalize, bool) or normalize == "count"):
        raise ValueError(
            f"normalize must be True, False or 'count', found {normalize!r}"
        )
    n_members = len(weights)
    # The loops take three members at a time: members without a share complete them.
    terms = np.zeros((3, n_members + -n_members % 3))
    terms[0, :n_members] = weights
    terms[1, :n_members] = 1.0 if sign == "unweighted_mass" else np.sign(weights)
    if normalize:
        terms[2, :n_members] = np.abs(weights) if normalize is True else 1.0
    return terms


def elected_sum_reference(
    deltas: Float64, terms: Float64, votes: int, zero_sum: int, out: Float64
) -> None:
    """NumPy reference of the compiled loop of `elected_sum`.

    Parameters
    ----------
    deltas : ndarray of shape (n_members, size), float64
        Difference of each member from the base.
    terms : ndarray of shape (3, at least n_members)
        For each member its weight; the factor of its deltas, -1 or 1, whose product
        with a delta is positive on the positive side; and its term in the divisor,
        which is 0 for all members if the divisor is 1.
    votes : int
        Return value of `votes_of`.
    zero_sum : {-1, 0, 1}
        Sign that is elected in a zero sum.
    out : ndarray of shape (size,)
        Receives the result.
    """
    slack = 1.0 + len(deltas) * EPS
    for start, stop in chunks(out.size, PIECE):
        if votes == SUM:
            out[start:stop] = 0.0
            for row, weight in zip(deltas[:, start:stop], terms[0], strict=False):
                out[start:stop] += weight * row
            continue
        totals, total_shares, total_votes = np.zeros((3, 2, stop - start))
        for row, (weight, side, share) in zip(
            deltas[:, start:stop], terms.T[: len(deltas)], strict=True
        ):
            row_votes = np.abs(row) if votes == UNWEIGHTED_MASS else 1.0
            for k, factor in enumerate((side, -side)):
                is_agreeing = ~(factor * row <= 0)
                totals[k] += np.where(is_agreeing, weight * row, 0.0)
                total_shares[k] += np.where(is_agreeing, share, 0.0)
                total_votes[k] += np.where(is_agreeing, row_votes, 0.0)
        (up, down), (up_share, down_share) = totals, total_shares
        up_votes, down_votes = (up, -down) if votes == MASS else total_votes
        elected = np.where(down_votes > up_votes * slack, -1, zero_sum)
        elected = np.where(up_votes > down_votes * slack, 1, elected)
        value, share = (up + down) * 0.0, np.zeros(stop - start)
        for sign, total, total_share in ((-1, down, down_share), (1, up, up_share)):
            value = np.where(elected == sign, total, value)
            share = np.where(elected == sign, total_share, share)
        out[start:stop] = value / np.where(share == 0, 1.0, share)


@compiled
def elected_sum_loop(deltas, terms, votes, zero_sum, sums, out):
    """Compiled loop of `elected_sum`, equal to `elected_sum_reference`.

    ``sums`` is scratch space, a float64 array of shape (8, N_SUMS).
    """
    n_members, slack = len(deltas), 1.0 + len(deltas) * EPS
    if votes == SUM:
        out[:] = 0.0
        for i in range(n_members):
            _add_weighted(deltas[i], terms[0, i], out)
        return
    # By index: unpacked rows count as strided, and their loops are not vectorized.
    up, down, up_share, down_share = sums[0], sums[1], sums[2], sums[3]
    up_votes, down_votes, none, elected = sums[4], sums[5], sums[6], sums[7]
    for start in range(0, out.size, N_SUMS):
        stop = min(start + N_SUMS, out.size)
        sums[:7] = 0.0
        for i in range(0, n_members, 3):
            a = deltas[i, start:stop]
            b = deltas[i + 1, start:stop] if i + 1 < n_members else none[: a.size]
            c = deltas[i + 2, start:stop] if i + 2 < n_members else none[: a.size]
            _add(a, b, c, terms[:, i : i + 3], 1.0, up, up_share)
            _add(a, b, c, terms[:, i : i + 3], -1.0, down, down_share)
        if votes == MASS:
            _elect(up, down, -1.0, slack, zero_sum, elected)
        else:
            for i in range(n_members):
                row = deltas[i, start:stop]
                _vote(row, terms[1, i], votes, up_votes)
                _vote(row, -terms[1, i], votes, down_votes)
            _elect(up_votes, down_votes, 1.0, slack, zero_sum, elected)
        part = out[start:stop]
        _choose_value(up, down, elected, part)
        _choose_share(up_share, down_share, elected)
        np.divide(part, elected[: part.size], part)  # unlike /, it is vectorized


# Loops over more than five arrays are not vectorized.


@compiled
def _add_weighted(row, weight, total):
    for j in range(total.size):
        total[j] += weight * row[j]


@compiled
def _add(a, b, c, terms, direction, total, total_share):
    """Add three members where their deltas are on a side; NaN is on both."""
    weight_a, weight_b, weight_c = terms[0, 0], terms[0, 1], terms[0, 2]
    side_a, side_b, side_c = terms[1, 0], terms[1, 1], terms[1, 2]
    share_a, share_b, share_c = terms[2, 0], terms[2, 1], terms[2, 2]
    side_a, side_b, side_c = direction * side_a, direction * side_b, direction * side_c
    for j in range(a.size):
        out_a, out_b, out_c = a[j] * side_a <= 0, b[j] * side_b <= 0, c[j] * side_c <= 0
        value = total[j] + (0.0 if out_a else weight_a * a[j])
        value += 0.0 if out_b else weight_b * b[j]
        total[j] = value + (0.0 if out_c else weight_c * c[j])
        share = total_share[j] + (0.0 if out_a else share_a)
        share += 0.0 if out_b else share_b
        total_share[j] = share + (0.0 if out_c else share_c)


@compiled
def _vote(row, side, votes, total_votes):
    """Add the votes of a member where its deltas are on a side."""
    for j in range(row.size):
        row_votes = abs(row[j]) if votes == UNWEIGHTED_MASS else 1.0
        total_votes[j] += row_votes if not side * row[j] <= 0 else 0.0


@compiled
def _elect(up_votes, down_votes, down_sign, slack, zero_sum, elected):
    for j in range(elected.size):
        up, down = up_votes[j], down_sign * down_votes[j]
        other = -1.0 if down > up * slack else np.float64(zero_sum)
        elected[j] = 1.0 if up > down * slack else other


@compiled
def _choose_value(up, down, elected, out):
    for j in range(out.size):
        up_value, down_value = up[j], down[j]  # a load in a branch is not vectorized
        value = (up_value + down_value) * 0.0
        value = down_value if elected[j] < 0 else value
        out[j] = up_value if elected[j] > 0 else value


@compiled
def _choose_share(up_share, down_share, elected):
    """Replace the elected sign by the divisor, 1 for an empty sum."""
    for j in range(elected.size):
        sign, up, down = elected[j], up_share[j], down_share[j]
        share = down if sign < 0 else 0.0
        share = up if sign > 0 else share
        elected[j] = 1.0 if share == 0 else share
