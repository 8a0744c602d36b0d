# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled pooling loops over the rows of a vector table.

Each loop pools texts ``start`` to ``stop - 1`` and writes ``dim`` columns of ``out``,
starting at ``column``. Negative rows are skipped. It returns the largest row index out
of range, or -1.

All loops read a table in the same way. ``stored`` has float32 or int8 numbers, or the
bits of bfloat16 numbers if ``narrow`` is True, of float16 if also ``half`` is True.
The vector of row ``r`` is ``stored[r]``, or ``stored[mapping[r]]`` with a mapping,
times ``scales[r]`` with scales; each product is rounded to float32. So the result is
that of a float32 table of these vectors, bit for bit. Numba compiles a variant for
each combination of arguments that are None, without code for them.
"""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled, inlined

# Vectors per block summed in float32; the blocks are summed in float64.
LANE_ROWS = 64
# Vectors added to the sum at once, so that their memory accesses overlap.
GROUP = 4


@compiled
def widened(number, narrow, half):
    """Float32 of a stored number: exact, also for subnormal numbers and NaN."""
    if narrow is None:
        return np.float32(number)
    if half is None:
        return np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    # The sign extension fills the bits between sign and exponent: mask them out.
    shifted = np.uint32(np.int32(number) << np.int32(13))
    word = np.uint32(shifted & np.uint32(0x8FFFE000))
    # Exact, and makes subnormal numbers normal.
    scaled = np.float32(word.view(np.float32) * np.float32(2.0**112))
    is_special = np.uint32(word & np.uint32(0x0F800000)) == np.uint32(0x0F800000)
    beyond = np.uint32(0x7F800000) if is_special else np.uint32(0)
    return np.uint32(scaled.view(np.uint32) | beyond).view(np.float32)


@compiled
def _term(number, narrow, half, scale, weight):
    """Weighted number of a scaled row; None is 1."""
    value = widened(number, narrow, half)
    if scale is not None:
        value = scale * value
    if weight is not None:
        value = weight * value
    return value


@compiled
def _at(values, k):
    """Element ``k``, or None without values."""
    if values is None:
        return None
    return values[k]


@compiled
def _stored_row(row, mapping):
    if mapping is None:
        return np.int64(row)
    return np.int64(mapping[row])


@compiled
def _room(values):
    """Array for the values of a group, or None without values."""
    if values is None:
        return None
    return np.empty(GROUP, np.float32)


@compiled
def _copy_to(group, k, values, row):
    if values is not None:
        group[k] = values[row]


@inlined
def _add_group(stored, narrow, half, group, scales, weights, lane):
    a, b, c, e = group[0], group[1], group[2], group[3]
    p, q, r, s = _at(scales, 0), _at(scales, 1), _at(scales, 2), _at(scales, 3)
    w, x, y, z = _at(weights, 0), _at(weights, 1), _at(weights, 2), _at(weights, 3)
    for d in range(lane.size):
        lane[d] += (
            _term(stored[a, d], narrow, half, p, w)
            + _term(stored[b, d], narrow, half, q, x)
        ) + (
            _term(stored[c, d], narrow, half, r, y)
            + _term(stored[e, d], narrow, half, s, z)
        )


@compiled
def pool_mean(
    stored,
    narrow,
    half,
    mapping,
    scales,
    n_rows,
    rows,
    offsets,
    weights,
    by_count,
    start,
    stop,
    column,
    out,
):
    """Weighted means: weighted sums over the sum of the weights, or over the count.

    ``weights`` None weighs all rows equally.
    """
    dim = stored.shape[1]
    lane, sums = np.empty(dim, np.float32), np.empty(dim, np.float64)
    group = np.empty(GROUP, np.int64)
    group_scales, group_weights = _room(scales), _room(weights)
    largest = -1
    for i in range(start, stop):
        n, n_grouped, total = 0, 0, 0.0
        lane[:] = 0
        for k in range(offsets[i], offsets[i + 1]):
            row = rows[k]
            if row < 0 or row >= n_rows:
                largest = max(largest, row)
                continue
            if weights is not None:
                total += weights[row]
            _copy_to(group_weights, n_grouped, weights, row)
            _copy_to(group_scales, n_grouped, scales, row)
            group[n_grouped] = _stored_row(row, mapping)
            n += 1
            n_grouped += 1
            if n_grouped == GROUP:
                _add_group(
                    stored, narrow, half, group, group_scales, group_weights, lane
                )
                n_grouped = 0
            if n % LANE_ROWS == 0:
                for d in range(dim):
                    sums[d] = lane[d] + (sums[d] if n > LANE_ROWS else 0.0)
                lane[:] = 0
        for k in range(n_grouped):
            row, scale, weight = group[k], _at(group_scales, k), _at(group_weights, k)
            for d in range(dim):
                lane[d] += _term(stored[row, d], narrow, half, scale, weight)
        divisor = float(n) if weights is None or by_count else total
        if divisor == 0:
            divisor = 1.0
        if n < LANE_ROWS:
            divisor_32 = np.float32(divisor)
            for d in range(dim):
                out[i, column + d] = lane[d] / divisor_32
        else:
            for d in range(dim):
                out[i, column + d] = np.float32((sums[d] + lane[d]) / divisor)
    return largest


@compiled
def pool_extreme(
    stored,
    narrow,
    half,
    mapping,
    scales,
    n_rows,
    rows,
    offsets,
    weights,
    sign,
    start,
    stop,
    column,
    out,
):
    """Elementwise maxima, minima for ``sign`` -1; rows of weight 0 are skipped."""
    dim = stored.shape[1]
    sign = np.float32(sign)
    largest = -1
    for i in range(start, stop):
        n = 0
        for k in range(offsets[i], offsets[i + 1]):
            row = rows[k]
            if row < 0 or row >= n_rows:
                largest = max(largest, row)
                continue
            if weights is not None and weights[row] == 0:
                continue
            at, scale = _stored_row(row, mapping), _at(scales, row)
            for d in range(dim):
                value = sign * _term(stored[at, d], narrow, half, scale, None)
                if n == 0 or value > out[i, column + d]:
                    out[i, column + d] = value
            n += 1
        for d in range(dim):
            out[i, column + d] = sign * out[i, column + d] if n else np.float32(0)
    return largest


@compiled
def pool_power(
    stored,
    narrow,
    half,
    mapping,
    scales,
    n_rows,
    rows,
    offsets,
    weights,
    by_count,
    p,
    start,
    stop,
    column,
    out,
):
    """Weighted power means with integer ``p``; an odd root keeps the sign."""
    dim = stored.shape[1]
    sums = np.empty(dim, np.float64)
    largest = -1
    for i in range(start, stop):
        n, total = 0, 0.0
        sums[:] = 0
        for k in range(offsets[i], offsets[i + 1]):
            row = rows[k]
            if row < 0 or row >= n_rows:
                largest = max(largest, row)
                continue
            n += 1
            weight = 1.0 if weights is None else np.float64(weights[row])
            total += weight
            at, scale = _stored_row(row, mapping), _at(scales, row)
            for d in range(dim):
                value = np.float64(_term(stored[at, d], narrow, half, scale, None))
                power = value
                for _ in range(p - 1):
                    power *= value
                sums[d] += weight * power
        if by_count:
            total = float(n)
        divisor = total if total != 0 else 1.0
        for d in range(dim):
            mean = sums[d] / divisor
            root = abs(mean) ** (1.0 / p)
            out[i, column + d] = np.float32(-root if mean < 0 else root)
    return largest


@compiled
def normalize_rows(vectors, start, stop):
    """L2-normalize rows in place; rows of zeros stay zero.

    Lengths and quotients are computed in float64; eight partial sums of the squares
    are independent of each other, so that the processor adds them at once.
    """
    dim = vectors.shape[1]
    whole = dim - dim % 8
    for i in range(start, stop):
        squares = np.zeros(8)
        for d in range(0, whole, 8):
            for k in range(8):
                x = np.float64(vectors[i, d + k])
                squares[k] += x * x
        for d in range(whole, dim):
            x = np.float64(vectors[i, d])
            squares[d - whole] += x * x
        square = ((squares[0] + squares[1]) + (squares[2] + squares[3])) + (
            (squares[4] + squares[5]) + (squares[6] + squares[7])
        )
        if square > 0:
            inverse = 1.0 / np.sqrt(square)
            for d in range(dim):
                vectors[i, d] = np.float32(np.float64(vectors[i, d]) * inverse)
