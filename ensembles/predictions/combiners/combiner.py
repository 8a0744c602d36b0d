"""What a combiner is: a function of what members say, and the facts that hold of it."""

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
    """A function of members and weights, with the facts that hold of it.

    Parameters
    ----------
    function : callable
        ``(members, weights, **params) -> array``: members are an iterable of arrays of
        shape (n_rows, n_columns), gone through once; columns are classes, targets or
        quantiles. The result has their shape, in float64. Of classes it need not have
        the sum 1 in each row: an estimator sees to that.
    takes : {"values", "probabilities", "labels", "quantiles"}, default="probabilities"
        What the columns hold. Values may be anything, so that regressors and
        classifiers take such a combiner; labels are probabilities of 0 and 1, from
        ``predict``; quantiles are a regressor's.
    signed : bool, default=False
        Whether weights may be negative.
    scaled : bool, default=False
        Whether the sum of the weights says something, as in a product.
    shared : bool, default=False
        Whether members that count alike share a weight of 1, rather than have 1 each.
    ranked : bool, default=False
        Whether it needs ``training``, predictions to compare with.
    """

    noun = "rule"
    reserved = frozenset(("training", "intercept"))  # which estimators learn

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
        """Raise if the combiner cannot take these parameters.

        Parameters
        ----------
        n_members : int, at least 1
        params : mapping of str to value
            Without ``training``.
        """
        self.check_names(params)
        if params:  # the function itself says what is wrong with them
            ones = np.ones((n_members, 1, 1))
            given = {"training": ones} if self.ranked else {}
            self.function(ones, np.ones(n_members), **given, **params)

    def equal(self, n_members: int) -> Float64:
        """Weights that count every member alike."""
        return np.full(n_members, 1 / n_members if self.shared else 1.0)

    def __call__(
        self, members: ArrayLike, weights: ArrayLike | None = None, **params: Any
    ) -> Float64:
        """Combine members that are all at hand.

        Parameters
        ----------
        members : array-like of shape (n_members, n_rows, n_columns)
        weights : array-like of shape (n_members,) or None, default=None
            None counts every member alike.
        **params
            The combiner's own, ``training`` where it is ranked, ``intercept`` of a
            log-linear pool.

        Returns
        -------
        ndarray of shape (n_rows, n_columns), float64

        Raises
        ------
        ValueError
            If the members have another shape, or weights or parameters are wrong.
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
    """What a rule for anything does with predictions: all members have to be at hand.

    Parameters
    ----------
    rule : Rule, elementwise

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
        """It is made again from its rule."""
        return Whole, (self.rule,)

    @property
    def params(self) -> dict[str, Any]:
        """The rule's own parameters with their defaults."""
        return self.rule.params

    def _combine(self, members: Members, weights: Float64, **params: Any) -> Float64:
        held = list(checked(members, len(weights)))
        self.rule.check(len(held), params)
        out: Float64 = np.empty(held[0].shape)
        for start, stop in blocks(len(out), len(held) * out.shape[1]):
            block = np.array([member[start:stop] for member in held], np.float64)
            flat = block.reshape(len(held), -1)
            found = self.rule.combine(flat, weights, flat.dtype, **params)
            out[start:stop] = found.reshape(out[start:stop].shape)
        return out
