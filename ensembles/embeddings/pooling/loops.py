# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled pooling loops over the rows of a vector table.

Each loop pools texts ``start`` to ``stop - 1`` and writes ``dim`` columns of ``out``,
starting at ``column``. Negative rows are skipped. It returns the largest row index out
of range, or -1.
"""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled, inlined

# Vectors per block summed in float32; the blocks are summed in float64.
LANE_ROWS = 64
# Vectors added to the sum at once, so that their memory accesses overlap.
GROUP = 4


@inlined
def _add_group(table, group, scales, lane):
    a, b, c, e = group[0], group[1], group[2], group[3]
    p, q, r, s = scales[0], scales[1], scales[2], scales[3]
    for d in range(lane.size):
        lane[d] += (p * np.float32(table[a, d]) + q * np.float32(table[b, d])) + (
            r * np.float32(table[c, d]) + s * np.float32(table[e, d])
        )


@compiled
def pool_mean(table, rows, offsets, weights, by_count, start, stop, column, out):
    """Weighted means: weighted sums over the sum of the weights, or over the count.

    Empty ``weights`` weigh all rows equally.
    """
    n_rows, dim = table.shape
    lane, sums = np.empty(dim, np.float32), np.empty(dim, np.float64)
    group, scales = np.empty(GROUP, np.int64), np.ones(GROUP, np.float32)
    largest = -1
    for i in range(start, stop):
        n, n_grouped, total = 0, 0, 0.0
        lane[:] = 0
        for k in range(offsets[i], offsets[i + 1]):
            row = rows[k]
            if row < 0 or row >= n_rows:
                largest = max(largest, row)
                continue
            if weights.size:
                scales[n_grouped] = weights[row]
                total += weights[row]
            group[n_grouped] = row
            n += 1
            n_grouped += 1
            if n_grouped == GROUP:
                _add_group(table, group, scales, lane)
                n_grouped = 0
            if n % LANE_ROWS == 0:
                for d in range(dim):
                    sums[d] = lane[d] + (sums[d] if n > LANE_ROWS else 0.0)
                lane[:] = 0
        for k in range(n_grouped):
            row, scale = group[k], scales[k]
            for d in range(dim):
                lane[d] += scale * np.float32(table[row, d])
        divisor = total if weights.size and not by_count else float(n)
        if divisor == 0:
            divisor = 1.0
        if n < LANE_ROWS:
            scale = np.float32(divisor)
            for d in range(dim):
                out[i, column + d] = lane[d] / scale
        else:
            for d in range(dim):
                out[i, column + d] = np.float32((sums[d] + lane[d]) / divisor)
    return largest


@compiled
def pool_extreme(table, rows, offsets, weights, sign, start, stop, column, out):
    """Elementwise maxima, minima for ``sign`` -1; rows of weight 0 are skipped."""
    n_rows, dim = table.shape
    sign = np.float32(sign)
    largest = -1
    for i in range(start, stop):
        n = 0
        for k in range(offsets[i], offsets[i + 1]):
            row = rows[k]
            if row < 0 or row >= n_rows:
                largest = max(largest, row)
                continue
            if weights.size and weights[row] == 0:
                continue
            if n == 0:
                for d in range(dim):
                    out[i, column + d] = sign * np.float32(table[row, d])
            else:
                for d in range(dim):
                    value = sign * np.float32(table[row, d])
                    if value > out[i, column + d]:
                        out[i, column + d] = value
            n += 1
        for d in range(dim):
            out[i, column + d] = sign * out[i, column + d] if n else np.float32(0)
    return largest


@compiled
def pool_power(table, rows, offsets, weights, by_count, p, start, stop, column, out):
    """Weighted power means with integer ``p``; an odd root keeps the sign."""
    n_rows, dim = table.shape
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
            weight = np.float64(weights[row]) if weights.size else 1.0
            total += weight
            for d in range(dim):
                value = np.float64(table[row, d])
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
