"""Merge methods in float64, as their papers define them, for `bench_merging`.

Each function takes the members of a tensor, of shape (n_members, *shape), its base and
the parameters of the rule. It returns the possible results: a single one, or one for
each choice that a method leaves open, such as the random masks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.special import softmax
from scipy.stats import rankdata

Array = np.ndarray[Any, np.dtype[np.float64]]
Oracle = Callable[..., Iterable[Array]]


def task_arithmetic(stack: Array, base: Array, *, scale: float = 1) -> list[Array]:
    """Base plus the scaled sum of task vectors."""
    return [base + scale * (stack - base).sum(0)]


def magnitudes_kept(delta: Array, density: float) -> list[Array]:
    """Task vectors with their largest entries: with equal entries at the end, without.

    The paper keeps all entries that equal the last one.
    """
    n_kept = int(density * delta[0].size)
    kept = []
    for is_kept in (np.greater_equal, np.greater):
        rows = []
        for row in delta:
            sizes = np.abs(row)
            last = np.partition(sizes.reshape(-1), -n_kept)[-n_kept]
            rows.append(np.where(is_kept(sizes, last), row, 0))
        kept.append(np.array(rows))
    return kept


def elected(delta: Array, *, normalize: bool, zero_sum: str) -> Array:
    """Sum or mean of the entries whose sign is the sign of the sum."""
    total = delta.sum(0)
    total[np.abs(total) < 1e-12 * np.abs(delta).sum(0)] = 0
    sign = np.where(total == 0, {"positive": 1, "zero": 0}[zero_sum], np.sign(total))
    agrees = (np.sign(delta) == sign) & (delta != 0)
    total = np.where(agrees, delta, 0).sum(0)
    return total / np.maximum(agrees.sum(0), 1) if normalize else total


def ties(
    stack: Array,
    base: Array,
    *,
    density: float,
    scope: str = "model",
    zero_sum: str = "zero",
) -> list[Array]:
    """TIES: trim, elect the sign, and the mean of the entries that agree."""
    kept = magnitudes_kept(stack - base, density)
    return [base + elected(each, normalize=True, zero_sum=zero_sum) for each in kept]


def magnitude_prune(stack: Array, base: Array, *, density: float) -> list[Array]:
    """Sum of the task vectors' largest entries."""
    return [base + delta.sum(0) for delta in magnitudes_kept(stack - base, density)]


def without_outliers(delta: Array, density: float, gamma: float) -> list[Array]:
    """Task vectors without their largest entries and without their smallest ones."""
    size = delta[0].size
    n_top = int(gamma * size)
    n_bottom = size - int(density * size) - n_top
    kept = []
    for low, high in itertools.product(
        (np.greater_equal, np.greater), (np.less_equal, np.less)
    ):
        rows = []
        for row in delta:
            sizes = np.abs(row)
            order = np.sort(sizes, axis=None)
            is_kept = low(sizes, order[n_bottom]) & high(sizes, order[-n_top - 1])
            rows.append(np.where(is_kept, row, 0))
        kept.append(np.array(rows))
    return kept


def breadcrumbs_linear(
    stack: Array, base: Array, *, density: float, gamma: float
) -> list[Array]:
    """Breadcrumbs: the sum of task vectors without outliers and small entries."""
    kept = without_outliers(stack - base, density, gamma)
    return [base + delta.sum(0) for delta in kept]


def breadcrumbs_ties(
    stack: Array, base: Array, *, density: float, gamma: float, **election: Any
) -> list[Array]:
    """The same with the election of signs of TIES."""
    kept = without_outliers(stack - base, density, gamma)
    return [base + elected(delta, **election) for delta in kept]


def masks(n_members: int) -> list[Array]:
    """All choices of members that an entry may be kept of."""
    choices = itertools.product((0.0, 1.0), repeat=n_members)
    return [np.array(choice)[:, None] for choice in choices]


def kept_at_random(delta: Array, p: Array | float) -> Iterable[Array]:
    """Flat task vectors divided by the probability of being kept, for all masks."""
    flat = (delta / p).reshape(len(delta), -1)
    return (mask * flat for mask in masks(len(delta)))


def dare_linear(stack: Array, base: Array, *, density: float) -> Iterable[Array]:
    """DARE: the sum of rescaled task vectors, for all masks."""
    for delta in kept_at_random(stack - base, density):
        yield base + delta.sum(0).reshape(base.shape)


def dare_ties(
    stack: Array, base: Array, *, density: float, **election: Any
) -> Iterable[Array]:
    """The same with the election of signs of TIES."""
    for delta in kept_at_random(stack - base, density):
        yield base + elected(delta, **election).reshape(base.shape)


def rank_probabilities(delta: Array, density: float, epsilon: float) -> Array:
    """Probability of keeping each entry, linear in its rank in the row.

    Entries with the same 8 significant bits share the mean of their ranks.
    """
    mantissas, exponents = np.frexp(np.abs(delta))
    truncated = np.ldexp(np.floor(mantissas * 256), exponents)
    ranks = rankdata(truncated, axis=-1) - 1
    return density - epsilon + 2 * epsilon * ranks / max(delta.shape[-1] - 1, 1)


def della_linear(
    stack: Array, base: Array, *, density: float, epsilon: float
) -> Iterable[Array]:
    """DELLA: the sum of task vectors divided by their probabilities, for all masks."""
    delta = stack - base
    for kept in kept_at_random(delta, rank_probabilities(delta, density, epsilon)):
        yield base + kept.sum(0).reshape(base.shape)


def della_ties(
    stack: Array, base: Array, *, density: float, epsilon: float, **election: Any
) -> Iterable[Array]:
    """The same with the election of signs of TIES."""
    delta = stack - base
    for kept in kept_at_random(delta, rank_probabilities(delta, density, epsilon)):
        yield base + elected(kept, **election).reshape(base.shape)


def model_stock(stack: Array, base: Array) -> list[Array]:
    """Model Stock, with the mean cosine of all pairs."""
    delta = (stack - base).reshape(len(stack), -1)
    units = delta / np.linalg.norm(delta, axis=1, keepdims=True)
    cosines = units @ units.T
    n_members = len(stack)
    cosine = max((cosines.sum() - np.trace(cosines)) / n_members / (n_members - 1), 0)
    t = n_members * cosine / (1 + (n_members - 1) * cosine)
    return [t * stack.mean(0) + (1 - t) * base]


def sce(stack: Array, base: Array, *, density: float, normalize: bool) -> list[Array]:
    """SCE: select by variance, weigh by mean squares, erase minority signs."""
    delta = stack - base
    variances = delta.var(0).astype(np.float32)
    n_kept = int(np.count_nonzero(variances) * density)
    last = np.partition(variances.reshape(-1), -n_kept)[-n_kept]
    results = []
    for is_kept in (np.greater_equal, np.greater):
        chosen = np.where(is_kept(variances, last), delta, 0)
        shares = (chosen**2).reshape(len(delta), -1).mean(1)
        shares = (shares / shares.sum()).reshape(-1, *[1] * base.ndim)
        agrees = np.sign(chosen) == np.where(chosen.sum(0) >= 0, 1, -1)
        divisor = (shares * agrees).sum(0) if normalize else np.ones(base.shape)
        total = (shares * agrees * chosen).sum(0)
        results.append(base + total / np.where(divisor > 0, divisor, 1))
    return results


def ram(stack: Array, base: Array, *, epsilon: float) -> list[Array]:
    """RAM: changes of one member are kept, changes of several are averaged."""
    delta = stack - base
    is_active = np.abs(delta) > epsilon
    total = np.where(is_active, delta, 0).sum(0)
    return [base + total / np.maximum(is_active.sum(0), 1)]


def lengths(stack: Array) -> Array:
    """Norms of whole tensors, of a shape that divides the stack."""
    norms = np.linalg.norm(stack.reshape(len(stack), -1), axis=1)
    return norms.reshape(-1, *[1] * (stack.ndim - 1))


def karcher_mean(stack: Array, base: None) -> list[Array]:
    """Karcher mean of the directions, with the mean length."""
    norms = lengths(stack)
    units = (stack / norms).reshape(len(stack), -1)
    mean = units.mean(0)
    for _ in range(100):
        mean /= np.linalg.norm(mean)
        cosines = np.clip(units @ mean, -1, 1)
        factors = np.arccos(cosines) / np.sqrt(1 - cosines**2)
        tangent = ((units - cosines[:, None] * mean) * factors[:, None]).mean(0)
        size = np.linalg.norm(tangent)
        if size < 1e-13:
            break
        mean = np.cos(size) * mean + np.sin(size) / size * tangent
    return [norms.mean() * mean.reshape(stack.shape[1:])]


def multislerp(stack: Array, base: None) -> list[Array]:
    """Mean direction with the mean length."""
    norms = lengths(stack)
    mean = (stack / norms).mean(0)
    return [norms.mean() * mean / np.linalg.norm(mean)]


def slerp(stack: Array, base: None) -> list[Array]:
    """The middle of the arc between two members."""
    norms = lengths(stack)
    cosine = (stack[0] * stack[1]).sum() / norms.prod()
    angle = np.arccos(np.clip(cosine, -1, 1))
    return [np.sin(angle / 2) / np.sin(angle) * stack.sum(0)]


def geometric_median(stack: Array, base: None) -> list[Array]:
    """Point with the least sum of distances, by Weiszfeld's iteration."""
    point = stack.mean(0)
    for _ in range(300):
        factors = 1 / lengths(stack - point)
        moved = (factors * stack).sum(0) / factors.sum()
        if np.abs(moved - point).max() < 1e-15:
            break
        point = moved
    return [point]


def nearswap(stack: Array, base: None, *, t: float) -> list[Array]:
    """The first member, moved to the second where the two are near."""
    first, second = stack
    distance = np.abs(first - second)
    share = np.clip(t / np.where(distance > 0, distance, 1), 0, 1)
    return [first + share * (second - first)]


def arcee_fusion(stack: Array, base: None) -> list[Array]:
    """The second member where its change is important, else the first."""
    first, second = stack
    p, q = (softmax(each, axis=-1) + 1e-8 for each in (second, first))
    divergence = (p * np.log(p / q)).sum(-1, keepdims=True)
    importance = (np.abs(second - first) * divergence).astype(np.float32)
    order = np.sort(importance, axis=None)
    ranks = [int(share * (order.size - 1)) for share in (0.25, 0.5, 0.75)]
    low, median, high = order[ranks].astype(np.float64)
    return [np.where(importance >= median + 1.5 * (high - low), second, first)]
