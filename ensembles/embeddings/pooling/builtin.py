"""The registered poolings, such as the mean, maximum and power mean of words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._sklearn import check_mapping
from ensembles._typing import Float32, Float64
from ensembles.embeddings.pooling.engine import Divide, check_power, pool, pooling_spec
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows
from ensembles.registry import RegisteredFunction, Table, lookup, register


class Pooling(RegisteredFunction):
    """A registered pooling rule and its properties.

    Parameters
    ----------
    function : callable (stack, weights, divisor, **params) -> array
        Returns the pooled vector of shape (dim,). ``stack`` has shape (n_words, dim)
        and ``weights`` shape (n_words,), both float64, and contain only words that have
        a vector, at least one. Some weights may be 0, but not all. ``divisor`` is the
        sum of the weights or the number of words. ``fit`` calls the function on one
        word to validate ``params``: it raises ValueError for wrong values.
    fused : bool, default=False
        Whether `ensembles.embeddings.pooling.engine` has a compiled loop of this name.
    linear : bool, default=False
        Whether the result is the sum of the weighted vectors over the divisor.
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
        ragged: RaggedRows,
        table: NDArray[Any],
        weights: Float32 | None = None,
        *,
        divide: Divide = "weights",
        **params: Any,
    ) -> Float32:
        """Pool the words of each text with a Python loop.

        Parameters
        ----------
        ragged : RaggedRows
            Rows of the tokens of each text; -1 is skipped.
        table : ndarray of shape (n_rows, dim)
            Vector table.
        weights : ndarray of shape (n_rows,) or None, default=None
            Weight of each row. None is 1 for all.
        divide : {"weights", "count"}, default="weights"
            Divisor: the sum of the weights, or the number of known words.
        **params
            Parameters of the pooling function.

        Returns
        -------
        ndarray of shape (n_texts, dim), float32
            One vector per text; zero for a text without known words, or if all its
            weights are zero.
        """
        out = np.zeros((len(ragged.offsets) - 1, table.shape[1]), np.float32)
        for index, start in enumerate(ragged.offsets[:-1]):
            rows = ragged.rows[start : ragged.offsets[index + 1]]
            rows = rows[rows >= 0]
            w = np.ones(len(rows)) if weights is None else weights[rows]
            divisor = float(len(rows) if divide == "count" else w.sum())
            if divisor and w.any():
                stack, w = table[rows].astype(np.float64), w.astype(np.float64)
                out[index] = self.function(stack, w, divisor, **params)
        return out


POOLINGS: Table[Pooling] = Table("rule", Pooling)


@register(POOLINGS, fused=True, linear=True)
def mean(stack: Float64, weights: Float64, divisor: float) -> Float64:
    """Weighted mean of the word vectors, sum(w[i] x[i]) over the divisor.

    References
    ----------
    Wieting, Bansal, Gimpel & Livescu (2016), "Towards universal paraphrastic sentence
    embeddings", arXiv:1511.08198.
    """
    return np.asarray(weights @ stack / divisor)


@register(POOLINGS, fused=True)
def maximum(stack: Float64, weights: Float64, divisor: float) -> Float64:
    """Elementwise maximum over the words with nonzero weight.

    References
    ----------
    Shen et al. (2018), "Baseline needs more love: on simple word-embedding-based models
    and associated pooling mechanisms", arXiv:1805.09843 (SWEM-max).
    """
    return np.asarray(_with_weight(stack, weights).max(axis=0))


@register(POOLINGS, fused=True)
def minimum(stack: Float64, weights: Float64, divisor: float) -> Float64:
    """Elementwise minimum over the words with nonzero weight.

    References
    ----------
    Rücklé et al. (2018), "Concatenated power mean word embeddings as universal
    cross-lingual sentence representations", arXiv:1803.01400.
    """
    return np.asarray(_with_weight(stack, weights).min(axis=0))


@register(POOLINGS, fused=True)
def power_mean(
    stack: Float64, weights: Float64, divisor: float, *, p: int = 3
) -> Float64:
    """Weighted power mean, the real p-th root of sum(w[i] x[i] ** p) over the divisor.

    Parameters
    ----------
    stack : ndarray of shape (n_words, dim)
        Vectors of the words.
    weights : ndarray of shape (n_words,)
        Weight of each word.
    divisor : float
        Sum of the weights, or number of words.
    p : int from 1 to 64, default=3
        Power. For odd ``p`` the result has the sign of the sum. Larger powers may
        overflow float64; "maximum" is their limit for non-negative entries.

    References
    ----------
    Rücklé et al. (2018), "Concatenated power mean word embeddings as universal
    cross-lingual sentence representations", arXiv:1803.01400; their code takes the
    real part of a complex root, which halves negative results.
    """
    check_power(p)
    total = weights @ stack**p / divisor
    return np.asarray(np.sign(total) * np.abs(total) ** (1 / p))


@register(POOLINGS)
def hierarchical(
    stack: Float64, weights: Float64, divisor: float, *, window: int = 5
) -> Float64:
    """Elementwise maximum of the weighted means over sliding windows of words.

    The result depends on the order of the words.

    Parameters
    ----------
    stack : ndarray of shape (n_words, dim)
        Vectors of the words, in the order of the text.
    weights : ndarray of shape (n_words,)
        Weight of each word; windows whose weights are all zero are skipped.
    divisor : float
        Not used; each window is divided by the sum of its weights.
    window : int, positive, default=5
        Number of consecutive words per window; a shorter text is one window.

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
    totals = windows(weights, size).sum(axis=-1)
    is_weighted = totals > 0
    means = sums[is_weighted] / totals[is_weighted, None]
    return np.asarray(means.max(axis=0))


def _with_weight(stack: Float64, weights: Float64) -> Float64:
    return np.asarray(stack[weights != 0])


def apply_poolings(
    ragged: RaggedRows,
    table: NDArray[Any],
    rules: Sequence[Pooling],
    *,
    weights: Float32 | None = None,
    divide: Divide = "weights",
    params: dict[str, dict[str, Any]],
    n_threads: int | None = 1,
) -> Float32:
    """Apply several poolings and concatenate their results.

    Poolings with a compiled loop use it.

    Parameters
    ----------
    ragged : RaggedRows
        Rows of the tokens of each text; -1 is skipped.
    table : ndarray of shape (n_rows, dim)
        Vector table.
    rules : sequence of Pooling
        Poolings to apply.
    weights : ndarray of shape (n_rows,), float32, or None, default=None
        Weight of each row. None is 1 for all.
    divide : {"weights", "count"}, default="weights"
        Divisor: the sum of the weights, or the number of known words.
    params : dict of rule name to its parameters
        Keyword arguments of each pooling; missing names use the defaults.
    n_threads : int or None, default=1
        Threads of the compiled loops; None is all processors.

    Returns
    -------
    ndarray of shape (n_texts, len(rules) * dim), float32
        The results, side by side.
    """
    results = []
    for rule in rules:
        rule_params = params.get(rule.name, {})
        if rule.fused:
            spec = pooling_spec(
                table,
                rules=(rule.name,),
                weights=weights,
                divide=divide,
                **rule_params,
            )
            result = pool(ragged, spec, n_threads=n_threads)
        else:
            result = rule(ragged, table, weights, divide=divide, **rule_params)
        results.append(result)
    return results[0] if len(results) == 1 else np.concatenate(results, axis=1)


def resolve_poolings(rule: Any) -> tuple[Pooling, ...]:
    """Look up poolings by name.

    Parameters
    ----------
    rule : str, Pooling, or sequence of them
        One pooling or several, by name or as objects.

    Returns
    -------
    tuple of Pooling
        The poolings, in the given order.

    Raises
    ------
    ValueError
        If the sequence is empty, or a name is unknown.
    TypeError
        If ``rule`` is of another type.
    """
    if not isinstance(rule, str | Pooling | Iterable):
        raise TypeError(f"rule must be a name or a list of names, found {rule!r}")
    rules = [rule] if isinstance(rule, str | Pooling) else list(rule)
    if not rules:
        raise ValueError("rule must name at least one pooling, found an empty list")
    return tuple(
        rule if isinstance(rule, Pooling) else lookup(POOLINGS, rule) for rule in rules
    )


def split_rule_params(
    rules: Sequence[Pooling], params: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Distribute parameters over the rules that have them.

    Parameters
    ----------
    rules : sequence of Pooling
        Poolings to apply.
    params : mapping or None
        Values by parameter name; several rules may have a parameter of one name. None
        uses the defaults.

    Returns
    -------
    dict of rule name to dict
        Parameters of each rule.

    Raises
    ------
    ValueError
        If no rule has a parameter of a name, or a rule rejects a value.
    TypeError
        If ``params`` is neither a mapping nor None.
    """
    params = check_mapping("rule_params", params)
    names = {name for rule in rules for name in rule.params}
    for name in params:
        if name not in names:
            raise ValueError(
                f"rule_params must name parameters of {_names(rules)}: found {name!r} "
                f"(known: {', '.join(sorted(names)) or 'none'})"
            )
    by_rule = {
        rule.name: {name: params[name] for name in rule.params if name in params}
        for rule in rules
    }
    for rule in rules:  # a call on one row raises the rule's own error for wrong values
        rule.function(np.ones((1, 1)), np.ones(1), 1.0, **by_rule[rule.name])
    return by_rule


def _names(rules: Sequence[Pooling]) -> str:
    return ", ".join(repr(rule.name) for rule in rules)
