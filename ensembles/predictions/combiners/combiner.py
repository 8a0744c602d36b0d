"""The `Combiner`: a function that combines predictions, with its properties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.predictions.combiners.accumulation import Members, blocks, checked
from ensembles.registry import RegisteredFunction
from ensembles.rules.rule import Rule
from ensembles.weights import check_weights

Takes = Literal["values", "probabilities", "labels", "quantiles"]


class Combiner(RegisteredFunction):
    """A function of members and weights, with the properties that it declares.

    Parameters
    ----------
    function : callable
        ``(members, weights, **params) -> array``: members are an iterable of arrays of
        shape (n_rows, n_columns), iterated once; columns are classes, targets or
        quantiles. The result has the same shape, in float64. Rows of class
        probabilities need not sum to 1: the estimators normalize them.
    takes : {"values", "probabilities", "labels", "quantiles"}, default="probabilities"
        Content of the columns. "values" are any numbers, so that regressors and
        classifiers accept the combiner; "labels" are one-hot rows from ``predict``;
        "quantiles" are predicted by regressors only.
    signed : bool, default=False
        Whether weights may be negative.
    scaled : bool, default=False
        Whether the sum of the weights affects the result, as in a product.
    shared : bool, default=False
        Whether equal weights are 1 / n_members each instead of 1 each.
    ranked : bool, default=False
        Whether the function needs ``training``, the predictions to rank against.
    """

    noun = "rule"
    reserved = frozenset(("training", "intercept"))  # learned by the estimators

    def __init__(
        self,
        function: Callable[..., Float64],
        *,
        takes: Takes = "probabilities",
        signed: bool = False,
        scaled: bool = False,
        shared: bool = False,
        ranked: bool = False,
    ) -> None:
        super().__init__(function)
        self.takes = takes
        self.signed = signed
        self.scaled = scaled
        self.shared = shared
        self.ranked = ranked

    def check(self, n_members: int, params: Mapping[str, Any]) -> None:
        """Raise if the combiner does not accept these parameters.

        Parameters
        ----------
        n_members : int, at least 1
            Number of members.
        params : mapping of str to value
            Parameters by name, without ``training`` and ``intercept``.
        """
        self.check_names(params)
        if params:  # the function itself validates their values
            ones = np.ones((n_members, 1, 1))
            given = {"training": ones} if self.ranked else {}
            self.function(ones, np.ones(n_members), **given, **params)

    def equal(self, n_members: int) -> Float64:
        """Equal weights: 1 / n_members each if ``shared``, otherwise 1 each."""
        return np.full(n_members, 1 / n_members if self.shared else 1.0)

    def __call__(
        self, members: ArrayLike, weights: ArrayLike | None = None, **params: Any
    ) -> Float64:
        """Combine members in a single array.

        Parameters
        ----------
        members : array-like of shape (n_members, n_rows, n_columns)
            Predictions of all members.
        weights : array-like of shape (n_members,) or None, default=None
            Weights of the members; None weights all members equally.
        **params
            Parameters of the combiner, with ``training`` if it is ranked, or with
            ``intercept`` for a log-linear pool.

        Returns
        -------
        ndarray of shape (n_rows, n_columns), float64

        Raises
        ------
        ValueError
            If ``members`` is not 3-D, or weights or parameters are invalid.
        """
        stack = np.asarray(members)
        if stack.ndim != 3:
            raise ValueError(
                "members must have the shape (n_members, n_rows, n_columns), found "
                f"{stack.shape}"
            )
        checked = check_weights(weights, len(stack), signed=self.signed, rule=self.name)
        if weights is None:
            checked = self.equal(len(stack))
        known = {"training"} if self.ranked else {"intercept"} if self.scaled else set()
        own = {name: value for name, value in params.items() if name not in known}
        self.check(len(stack), own)
        return np.asarray(self.function(stack, checked, **params))


class Whole(Combiner):
    """Combiner made from an elementwise rule; it needs all members in memory.

    Parameters
    ----------
    rule : Rule, elementwise
        Rule that combines the predictions.

    Raises
    ------
    ValueError
        If the rule is not elementwise.
    """

    def __init__(self, rule: Rule) -> None:
        if not rule.is_elementwise:
            raise ValueError(
                f"rule {rule.name!r} combines members as directions; what they predict "
                "is combined by elementwise rules"
            )
        self.rule = rule
        super().__init__(self._combine, takes="values", signed=rule.signed)
        self.name = rule.name
        self.__doc__ = rule.__doc__

    def __reduce__(self) -> Any:
        """Pickle by the rule."""
        return Whole, (self.rule,)

    @property
    def params(self) -> dict[str, Any]:
        """Names of the rule's parameters, with their defaults."""
        return self.rule.params

    def _combine(self, members: Members, weights: Float64, **params: Any) -> Float64:
        held = list(checked(members, len(weights)))
        self.rule.check(len(held), params)
        out: Float64 = np.empty(held[0].shape)
        for start, stop in blocks(len(out), len(held) * out.shape[1]):
            block = np.array([member[start:stop] for member in held], np.float64)
            flat = block.reshape(len(held), -1)
            found = self.rule.combine(flat, weights, flat.dtype, params=params)
            out[start:stop] = found.reshape(out[start:stop].shape)
        return out
