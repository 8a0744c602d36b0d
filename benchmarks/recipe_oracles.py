"""Tensors of merged models in float64, as the formulas of the methods define them.

Each function takes the tensors of the members, in float64, and the values of the
parameters for one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
LAYER = re.compile(r"(.*?\.(?:layers|layer|h|block)\.)(\d+)(\..*)")


def layer_of(name: str) -> int | None:
    """Number of the layer of a tensor; None outside of layers."""
    match = LAYER.fullmatch(name)
    return int(match[2]) if match else None


def renumbered(name: str, layer: int) -> str:
    """Name of the same tensor of another layer."""
    match = LAYER.fullmatch(name)
    return name if match is None else f"{match[1]}{layer}{match[3]}"


def at_depth(values: Sequence[float], name: str, n_layers: int) -> float:
    """Value of a gradient at a tensor: the first one outside of layers."""
    layer = layer_of(name)
    share = 0.0 if layer is None else layer / (n_layers - 1)
    return float(np.interp(share, np.linspace(0, 1, len(values)), values))


def linear(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    """Weighted mean."""
    pairs = zip(weights, arrays, strict=True)
    return np.asarray(sum(w * a for w, a in pairs) / sum(weights))


def slerp(first: Array, second: Array, t: float) -> Array:
    """Point on the arc from the first tensor (t = 0) to the second."""
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    cosine = float((first * second).sum() / norms) if norms else 1.0
    angle = np.arccos(np.clip(cosine, -1, 1))
    if angle < 1e-6:
        return (1 - t) * first + t * second
    parts = np.sin((1 - t) * angle) * first + np.sin(t * angle) * second
    return np.asarray(parts / np.sin(angle))


def task_arithmetic(
    base: Array, arrays: Sequence[Array], weights: Sequence[float], scale: float = 1
) -> Array:
    """Base plus the weighted sum of task vectors."""
    pairs = zip(weights, arrays, strict=True)
    return np.asarray(base + scale * sum(w * (a - base) for w, a in pairs))


def ties(
    base: Array,
    arrays: Sequence[Array],
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    normalize: bool,
) -> Array:
    """TIES with weights: the largest entries, then those of the elected sign."""
    deltas = []
    for array, density in zip(arrays, densities, strict=True):
        delta = array - base
        n_kept = max(int(density * delta.size), 1)
        least = np.sort(np.abs(delta), axis=None)[-n_kept]
        deltas.append(np.where(np.abs(delta) >= least, delta, 0))
    factors = np.reshape(weights, (-1, *[1] * base.ndim))
    stack = np.array(deltas) * factors
    # Sums that differ from 0 by rounding only are positive.
    sign = np.where(stack.sum(0) >= -1e-12 * np.abs(stack).sum(0), 1, -1)
    agrees = np.sign(stack) == sign
    total = np.where(agrees, stack, 0).sum(0)
    divisor = (factors * agrees).sum(0)
    mean = total / np.where(divisor == 0, 1, divisor)
    return np.asarray(base + (mean if normalize else total))


def model_stock(base: Array, arrays: Sequence[Array]) -> Array:
    """Model Stock with the mean cosine of all pairs."""
    deltas = np.array([(array - base).ravel() for array in arrays])
    norms = np.linalg.norm(deltas, axis=1)
    if not norms.all():
        return np.asarray(np.mean(arrays, 0))
    cosines = deltas @ deltas.T / np.outer(norms, norms)
    n = len(arrays)
    cosine = (cosines.sum() - n) / (n * (n - 1))
    t = n * cosine / (1 + (n - 1) * cosine)
    return np.asarray(t * np.mean(arrays, 0) + (1 - t) * base)
