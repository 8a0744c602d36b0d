# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Compiled loops over the tokens of texts: products with the matrix of mean counts.

The matrix ``A`` has a row per text and a column per token: the count of the token in
the text, divided by the number of tokens of the text. It is never built: text ``i`` has
the tokens ``rows[offsets[i]:offsets[i + 1]]``.
"""

from __future__ import annotations

import numpy as np

from ensembles.kernels.jit import compiled


@compiled
def add_normal_product(rows, offsets, weights, vectors, out):
    """Add ``A.T @ diag(weights) @ A @ vectors`` to ``out``, text by text."""
    n_columns = vectors.shape[1]
    mean = np.empty(n_columns, np.float32)
    for i in range(offsets.size - 1):
        start, stop = offsets[i], offsets[i + 1]
        if start == stop:
            continue
        mean[:] = 0
        for k in range(start, stop):
            row = rows[k]
            for j in range(n_columns):
                mean[j] += vectors[row, j]
        scale = np.float32(weights[i] / (np.float64(stop - start) * (stop - start)))
        for j in range(n_columns):
            mean[j] *= scale
        for k in range(start, stop):
            row = rows[k]
            for j in range(n_columns):
                out[row, j] += mean[j]


@compiled
def add_transposed_product(rows, offsets, weights, first, targets, out):
    """Add ``A.T @ diag(weights) @ targets`` of a block of texts from ``first`` on."""
    n_columns = targets.shape[1]
    scaled = np.empty(n_columns, np.float32)
    for i in range(targets.shape[0]):
        start, stop = offsets[first + i], offsets[first + i + 1]
        if start == stop:
            continue
        scale = np.float32(weights[first + i] / np.float64(stop - start))
        for j in range(n_columns):
            scaled[j] = scale * targets[i, j]
        for k in range(start, stop):
            row = rows[k]
            for j in range(n_columns):
                out[row, j] += scaled[j]


@compiled
def add_squares(rows, offsets, weights, out):
    """Add the diagonal of ``A.T @ diag(weights) @ A``; tokens of a text are sorted."""
    for i in range(offsets.size - 1):
        start, stop = offsets[i], offsets[i + 1]
        n = np.float64(stop - start)
        k = start
        while k < stop:
            first = k
            while k < stop and rows[k] == rows[first]:
                k += 1
            share = (k - first) / n
            out[rows[first]] += weights[i] * share * share


@compiled
def descend_cosines(rows, offsets, weights, order, targets, rate, table, squares):
    """One pass of stochastic gradient descent on ``1 - cosine``; returns their sum.

    Text ``order[i]`` has the unit vector ``targets[i]`` as its target. ``squares`` has
    the sum of the squared gradients of each row so far, which divides its steps
    (Adagrad, with one sum for a row).
    """
    n_columns = table.shape[1]
    mean = np.empty(n_columns, np.float32)
    loss = 0.0
    for i in range(order.size):
        start, stop = offsets[order[i]], offsets[order[i] + 1]
        if start == stop:
            continue
        mean[:] = 0
        for k in range(start, stop):
            row = rows[k]
            for j in range(n_columns):
                mean[j] += table[row, j]
        square = np.float32(0)
        product = np.float32(0)
        for j in range(n_columns):
            square += mean[j] * mean[j]
            product += mean[j] * targets[i, j]
        if square == 0:
            continue
        norm = np.sqrt(np.float64(square))
        cosine = product / norm
        weight = np.float64(weights[order[i]])
        loss += weight * (1 - cosine)
        # Gradient of each token's row; the number of tokens cancels with the norm.
        along = np.float32(weight * cosine / square)
        across = np.float32(-weight / norm)
        size = np.float32(0)
        for j in range(n_columns):
            mean[j] = along * mean[j] + across * targets[i, j]
            size += mean[j] * mean[j]
        for k in range(start, stop):
            squares[rows[k]] += size
        for k in range(start, stop):
            row = rows[k]
            if squares[row] == 0:
                continue
            step = np.float32(rate / np.sqrt(np.float64(squares[row])))
            for j in range(n_columns):
                table[row, j] -= step * mean[j]
    return loss
