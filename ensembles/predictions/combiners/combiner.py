"""The `Combiner`: a function that combines predictions, with its properties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.predictions.combiners.accumulation import (
    Members,
    Transform,
    check_member,
    check_n_members,
    row_blocks,
)
from ensembles.registry import RegisteredFunction
from ensembles.rules.rule import Rule
from ensembles.weights import check_weights

Input = Literal["values", "probabilities", "labels", "quantiles"]


class Terms(NamedTuple):
    """Terms of a combiner that ranks the classes by a sum over the members.

    The class with the largest sum of ``weights[i] * transform(rows of member i)``, plus
    a learned intercept, is the class with the largest combined prediction.

    Parameters
    ----------
    transform : callable or None
        ``(rows, index) -> array``, as in `weighted_sum`; None adds the rows.
    span : float
        Upper bound of the difference between two entries of a transformed row of
        probabilities.
    is_logarithmic : bool, default=False
        Whether the sums are logarithms of the combined probabilities, except for a
        constant of each row, rather than proportional to them.
    """

    transform: Transform | None
    span: float
    is_logarithmic: bool = False


class Combiner(RegisteredFunction):
    """A function of members and weights, with the properties that it declares.

    Parameters
    ----------
    function : callable
        ``(members, weights, **params) -> array``: members are an iterable of arrays of
        shape (n_rows, n_columns), iterated once; columns are classes, targets or
        quantiles. The result has the same shape, in float64. Rows of class
        probabilities need not sum to 1: the estimators normalize them. Members with
        weight 0 must not affect the result, even if they contain NaN.
    input : {"values", "probabilities", "labels", "quantiles"}, default="probabilities"
        Content of the columns. "values" are any numbers, so that regressors and
        classifiers accept the combiner; "labels" are one-hot rows from ``predict``;
        "quantiles" are predicted by regressors only.
    signed : bool, default=False
        Whether weights may be negative.
    weight_sum_matters : bool, default=False
        Whether the sum of the weights affects the result, as in a product.
    equal_weights_sum_to_one : bool, default=False
        Whether equal weights are 1 / n_members each instead of 1 each.
    needs_training_predictions : bool, default=False
        Whether the function needs ``training``, the predictions to rank against.
    terms : callable or None, default=None
        ``(**params) -> Terms``: the terms whose weighted sum ranks the classes of
        probabilities or labels. None means that there is no such sum; then a cascade
        cannot bound the effect of members that have not predicted yet.
    """

    noun = "rule"
    reserved = frozenset(("training", "intercept"))  # learned by the estimators

    def __init__(
        self,
        function: Callable[..., Float64],
        *,
        input: Input = "probabilities",
        signed: bool = False,
        weight_sum_matters: bool = False,
        equal_weights_sum_to_one: bool = False,
        needs_training_predictions: bool = False,
        terms: Callable[..., Terms] | None = None,
    ) -> None:
        super().__init__(function)
        self.input = input
        self.signed = signed
        self.weight_sum_matters = weight_sum_matters
        self.equal_weights_sum_to_one = equal_weights_sum_to_one
        self.needs_training_predictions = needs_training_predictions
        self.terms = terms

    def check(self, n_members: int, params: Mapping[str, Any]) -> None:
        """Raise if the combiner does not accept these parameters.

        Parameters
        ----------
        n_members : int, at least 1
            Number of members.
        params : mapping of str to value
            Parameters by name, without ``training`` and ``intercept``.
        """
        if params:  # the function itself validates their values
            self.check_names(params)
            ones = np.ones((n_members, 1, 1))
            learned = {"training": ones} if self.needs_training_predictions else {}
            self.function(ones, np.ones(n_members), **learned, **params)

    def equal_weights(self, n_members: int) -> Float64:
        """Equal weights: 1 / n_members each, or 1 each, as the combiner declares.

        Parameters
        ----------
        n_members : int, at least 1
            Number of members.

        Returns
        -------
        ndarray of shape (n_members,)
        """
        return np.full(
            n_members, 1 / n_members if self.equal_weights_sum_to_one else 1.0
        )

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
            Parameters of the combiner, with ``training`` if it needs training
            predictions, or with ``intercept`` for a log-linear pool.

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
        values = check_weights(weights, len(stack), signed=self.signed, rule=self.name)
        if weights is None:
            values = self.equal_weights(len(stack))
        learned = set[str]()
        if self.needs_training_predictions:
            learned = {"training"}
        elif self.weight_sum_matters:
            learned = {"intercept"}
        rule_params = {n: value for n, value in params.items() if n not in learned}
        self.check(len(stack), rule_params)
        return np.asarray(self.function(stack, values, **params))


class ElementwiseCombiner(Combiner):
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
                f"rule must be elementwise to combine predictions: {rule.name!r} is not"
            )
        self.rule = rule
        super().__init__(self._combine, input="values", signed=rule.signed)
        self.name = rule.name
        self.__doc__ = rule.__doc__

    def __reduce__(self) -> Any:
        """Pickle by the rule."""
        return ElementwiseCombiner, (self.rule,)

    @property
    def params(self) -> dict[str, Any]:
        """Names of the rule's parameters, with their defaults."""
        return self.rule.params

    def _combine(self, members: Members, weights: Float64, **params: Any) -> Float64:
        arrays = list(members)
        for index, array in enumerate(arrays):
            check_member(array, arrays[0].shape, index, len(weights))
        check_n_members(len(arrays), len(weights))
        self.rule.check(len(arrays), params)
        combined: Float64 = np.empty(arrays[0].shape)
        for block in row_blocks(len(combined), len(arrays) * combined.shape[1]):
            stack = np.array([array[block] for array in arrays], np.float64)
            flat = stack.reshape(len(arrays), -1)
            values = self.rule.combine(flat, weights, flat.dtype, params=params)
            combined[block] = values.reshape(combined[block].shape)
        return combined
