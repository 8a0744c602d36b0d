"""Poolings: rules that turn the vectors of a text's words into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32, Float64
from ensembles.embeddings.pooling.engine import pool
from ensembles.embeddings.pooling.spec import Divide, check_power
from ensembles.embeddings.tokenization.tokenizer import Ragged
from ensembles.registry import RegisteredFunction, Table, lookup, register


class Pooling(RegisteredFunction):
    """A rule for the words of a text, with the facts that hold of it.

    Parameters
    ----------
    function : callable (stack, weights, divisor, **params) -> array
        The stack has shape (n_words, dim), float64, the weights (n_words,); both are
        of words that have a vector, at least one. The divisor is the sum of the
        weights, or the number of words.
    fused : bool, default=False
        Whether `ensembles.embeddings.pooling.engine` has a loop of that name.
    linear : bool, default=False
        Whether the result is a sum of weighted vectors over the divisor.
    """

    noun = "rule"
    n_inputs = 3

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        fused: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__(function)
        self.fused = fused
        self.linear = linear

    def __call__(
        self,
        ragged: Ragged,
        table: NDArray[Any],
        weights: Float32 | None = None,
        *,
        divide: Divide = "weights",
        **params: Any,
    ) -> Float32:
        """Vectors of texts, one after the other, without a fused loop.

        Parameters
        ----------
        ragged : Ragged
        table : ndarray of shape (n_rows, dim)
        weights : ndarray of shape (n_rows,) or None, default=None
        divide : {"weights", "count"}, default="weights"
        **params
            The pooling's own.

        Returns
        -------
        ndarray of shape (n_texts, dim), float32; zeros for a text without words
        """
        out = np.zeros((len(ragged.offsets) - 1, table.shape[1]), np.float32)
        for index, start in enumerate(ragged.offsets[:-1]):
            rows = ragged.rows[start : ragged.offsets[index + 1]]
            rows = rows[rows >= 0]
            some = np.ones(len(rows)) if weights is None else weights[rows]
            divisor = float(len(rows) if divide == "count" else some.sum())
            if divisor and some.any():
                stack = table[rows].astype(np.float64)
                found = self.function(stack, some.astype(np.float64), divisor, **params)
                out[index] = found
        return out


POOLINGS: Table[Pooling] = Table("rule", Pooling)


@register(POOLINGS, fused=True, linear=True)
def mean(stack: Float64, weights: Float64, divisor: float) -> Float64:
    """Weighted mean of the words, sum(w[i] x[i]) over the divisor.

    References
    ----------
    Wieting, Bansal, Gimpel & Livescu (2016), "Towards universal paraphrastic sentence
    embeddings", arXiv:1511.08198.
    """
    return np.asarray(weights @ stack / divisor)


@register(POOLINGS, fused=True)
def maximum(stack: Float64, weights: Float64, divisor: float) -> Float64:
    """Largest entry of any word whose weight is not zero, in each dimension.

    References
    ----------
    Shen et al. (2018), "Baseline needs more love: on simple word-embedding-based models
    and associated pooling mechanisms", arXiv:1805.09843 (SWEM-max).
    """
    return np.asarray(_counted(stack, weights).max(axis=0))


@register(POOLINGS, fused=True)
def minimum(stack: Float64, weights: Float64, divisor: float) -> Float64:
    """Smallest entry of any word whose weight is not zero, in each dimension.

    References
    ----------
    Rücklé et al. (2018), "Concatenated power mean word embeddings as universal
    cross-lingual sentence representations", arXiv:1803.01400.
    """
    return np.asarray(_counted(stack, weights).min(axis=0))


@register(POOLINGS, fused=True)
def power_mean(
    stack: Float64, weights: Float64, divisor: float, *, p: int = 3
) -> Float64:
    """Weighted power mean, the real p-th root of sum(w[i] x[i] ** p) over the divisor.

    Parameters
    ----------
    p : int from 1 to 64, default=3
        Where it is odd, the result has the sign of the sum. Larger powers leave
        float64; "maximum" is their limit.

    References
    ----------
    Rücklé et al. (2018), "Concatenated power mean word embeddings as universal
    cross-lingual sentence representations", arXiv:1803.01400; their code takes the
    real part of a complex root, which halves negative ones.
    """
    check_power(p)
    total = weights @ stack**p / divisor
    return np.asarray(np.sign(total) * np.abs(total) ** (1 / p))


@register(POOLINGS)
def hierarchical(
    stack: Float64, weights: Float64, divisor: float, *, window: int = 5
) -> Float64:
    """Largest entry of the weighted means of all ``window`` words in a row.

    The order of words counts. A text that is shorter is one window.

    Parameters
    ----------
    window : int, positive, default=5

    References
    ----------
    Shen et al. (2018), "Baseline needs more love: on simple word-embedding-based models
    and associated pooling mechanisms", arXiv:1805.09843 (SWEM-hier).
    """
    if not isinstance(window, int | np.integer) or window < 1:
        raise ValueError(
            f"window of 'hierarchical' must be a positive int, found {window!r}"
        )
    size = min(window, len(stack))
    windows = np.lib.stride_tricks.sliding_window_view
    sums = windows(weights[:, None] * stack, size, axis=0).sum(axis=-1)
    shares = windows(weights, size).sum(axis=-1)
    some = shares > 0
    return np.asarray((sums[some] / shares[some, None]).max(axis=0))


def _counted(stack: Float64, weights: Float64) -> Float64:
    return np.asarray(stack[weights != 0])


def pooled(
    ragged: Ragged,
    table: NDArray[Any],
    rules: Sequence[Pooling],
    *,
    weights: Float32 | None = None,
    divide: Divide = "weights",
    params: dict[str, dict[str, Any]],
    n_threads: int | None = 1,
) -> Float32:
    """Results of several poolings side by side, by loops as far as there are.

    Parameters
    ----------
    ragged : Ragged
    table : ndarray of shape (n_rows, dim)
    rules : sequence of Pooling
    weights : ndarray of shape (n_rows,), float32, or None, default=None
    divide : {"weights", "count"}, default="weights"
    params : dict of rule name to its parameters
    n_threads : int or None, default=1

    Returns
    -------
    ndarray of shape (n_texts, len(rules) * dim), float32
    """
    found = []
    for rule in rules:
        own = params.get(rule.name, {})
        if rule.fused:
            part = pool(
                ragged,
                table,
                rules=(rule.name,),
                weights=weights,
                divide=divide,
                n_threads=n_threads,
                **own,
            )
        else:
            part = rule(ragged, table, weights, divide=divide, **own)
        found.append(part)
    return found[0] if len(found) == 1 else np.concatenate(found, axis=1)


def rules_of(rule: Any) -> tuple[Pooling, ...]:
    """Poolings of a name, or of several whose results stand side by side.

    Parameters
    ----------
    rule : str, Pooling, or sequence of them

    Returns
    -------
    tuple of Pooling

    Raises
    ------
    ValueError
        If there is none, or a name is unknown.
    """
    named = [rule] if isinstance(rule, str | Pooling) else list(rule)
    if not named:
        raise ValueError("rule must name at least one pooling, found none")
    return tuple(
        one if isinstance(one, Pooling) else lookup(POOLINGS, one) for one in named
    )
