"""What a rule is: a function of a stack and weights, and the facts that hold of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.kernels.casting import rounded, widened
from ensembles.kernels.gram import LEAST, MOST, gram
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.registry import RegisteredFunction
from ensembles.weights import check_weights

MODERATE = 64  # binary exponent up to which weights are taken as they are


class Rule(RegisteredFunction):
    """A function of a stack and weights, with the facts that hold of it.

    Parameters
    ----------
    function : callable
        With ``cut="element"``, ``(stack, weights, **params) -> array``: the stack has
        shape (n_members, size) and is float64, unless the rule is ``fused``. With
        ``cut="gram"``, ``(gram, weights, **params) -> coefficients``: the members'
        inner products, of shape (n_members, n_members) in float64; the result is the
        sum of the members times the coefficients.
    cut : {"element", "gram"}
        How work may be cut: anywhere, or only between a pass for the inner products
        and a pass for the sum.
    n_members : int or None, default=None
        How many members there must be, None for any number.
    domain : {"any", "non-negative"}, default="any"
        What entries must be, those of members without weight aside; NaN is let through.
    signed : bool, default=False
        Whether weights may be negative.
    symmetric : bool, default=True
        Whether the order of the members, with their weights, does not matter.
    fused : bool, default=False
        Whether the function takes members of any float format as they are stored, and
        rounds its float64 result to that format itself.
    """

    noun = "rule"

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        cut: Literal["element", "gram"],
        n_members: int | None = None,
        domain: Literal["any", "non-negative"] = "any",
        signed: bool = False,
        symmetric: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__(function)
        self.cut = cut
        self.n_members = n_members
        self.domain = domain
        self.signed = signed
        self.symmetric = symmetric
        self.fused = fused

    def __call__(
        self, stack: ArrayLike, weights: ArrayLike | None = None, **params: Any
    ) -> Array:
        """Combine members that are all at hand.

        Parameters
        ----------
        stack : array-like of shape (n_members, *shape)
        weights : array-like of shape (n_members,) or None, default=None
            None counts every member once.
        **params
            The rule's own.

        Returns
        -------
        ndarray of shape (*shape), dtype of ``stack``, float64 for integers
        """
        members = np.asarray(stack)
        if members.dtype not in FLOATS:
            members = members.astype(np.float64)
        self.check(len(members), params)
        checked = check_weights(
            weights, len(members), signed=self.signed, rule=self.name
        )
        flat = np.ascontiguousarray(members.reshape(len(members), -1))
        if self.cut == "gram":
            with np.errstate(invalid="ignore"):  # infinities of both signs
                products = gram(flat).sum(0)
            checked = self.coefficients(products, checked, **params)
        return self.combine(flat, checked, members.dtype, **params).reshape(
            members.shape[1:]
        )

    def check(self, n_members: int, params: Mapping[str, Any]) -> None:
        """Raise if the rule cannot take so many members, or these parameters."""
        if self.n_members not in (None, n_members):
            raise ValueError(
                f"rule {self.name!r} needs {self.n_members} members, found {n_members}"
            )
        self.check_names(params)
        if params:  # the rule itself says what is wrong with them, before data are read
            ones = np.ones(n_members)
            if self.cut == "gram":
                self.coefficients(np.eye(n_members), ones, **params)
            else:
                self.combine(ones[:, None], ones, np.dtype(np.float64), **params)

    def coefficients(
        self, products: Float64, weights: Float64, **params: Any
    ) -> Float64:
        """How much of each member the result holds, of shape (n_members,).

        Raises
        ------
        ValueError
            If float64 does not hold the squares of a member, as of entries around
            1e-170 or 1e160.
        """
        squares = np.diagonal(products)
        small = (squares > 0) & (squares < LEAST)
        large = (squares >= MOST) & (squares < np.inf)
        for place in np.flatnonzero(small | large):
            raise ValueError(
                f"members of rule {self.name!r} must have entries whose squares "
                f"float64 can hold: those of members[{place}] are too "
                f"{'small' if small[place] else 'large'}; multiply all members by a "
                "power of two, and divide the result by it"
            )
        with np.errstate(all="ignore"):  # what holds a NaN is told by its name
            return np.asarray(self.function(products, weights, **params), np.float64)

    def combine(
        self,
        members: Sequence[Array] | Array,
        weights: Float64,
        dtype: np.dtype[Any],
        **params: Any,
    ) -> Array:
        """Combine one block of flat members, rounding once into ``dtype``.

        Parameters
        ----------
        members : n_members arrays of shape (size,), float formats
        weights : ndarray of shape (n_members,)
            For a rule that is cut by ``"gram"``, its coefficients.
        dtype : dtype, a float format

        Returns
        -------
        ndarray of shape (size,), of ``dtype``

        Raises
        ------
        ValueError
            If an entry lies outside the rule's domain; the message names its member.
        """
        stack = as_stack(members)
        if self.cut == "element":  # else they are coefficients, of a sum over 1
            weights = moderate(weights)
        if self.domain == "non-negative":
            self._refuse_negative(stack, weights)
        if stack.dtype != dtype or not (self.fused or self.cut == "gram"):
            stack = widened(stack)
        if self.cut == "gram":
            out = weighted_mean(stack, weights, total=1.0)
        else:
            out = np.asarray(self.function(stack, weights, **params))
            if out.shape != stack.shape[1:]:
                raise ValueError(
                    f"rule {self.name!r} must return an array of shape "
                    f"{stack.shape[1:]}, found {out.shape}"
                )
        return out if out.dtype == dtype else rounded(out.astype(np.float64), dtype)

    def _refuse_negative(self, stack: Array, weights: Float64) -> None:
        for place in np.flatnonzero(weights):
            with np.errstate(invalid="ignore"):  # a signalling NaN
                below = stack[place] < 0
            if below.any():
                raise ValueError(
                    f"entries for rule {self.name!r} must not be negative: "
                    f"members[{place}] has {float(stack[place][below][0])}"
                )


def moderate(weights: Float64) -> Float64:
    """Weights by a power of two that brings the largest near 1, where it is far off.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)

    Returns
    -------
    ndarray of shape (n_members,)
        In the same proportions, exactly: sums of products with them stay within what
        float64 can hold.
    """
    exponents = np.frexp(weights[weights != 0])[1]
    if not exponents.size or abs(top := int(exponents.max())) <= MODERATE:
        return weights
    # Of weights that lie very far apart the smallest is not to become zero.
    least = int(exponents.min()) + 1_000
    return np.ldexp(weights, -(max(min(top, least), 0) if top > 0 else top))


def as_stack(members: Sequence[Array] | Array) -> Array:
    """Members as one array: as they are stored where they are alike, else in float64.

    Parameters
    ----------
    members : n_members arrays of shape (size,), float formats

    Returns
    -------
    ndarray of shape (n_members, size)
    """
    if isinstance(members, np.ndarray):
        return members
    if len({member.dtype for member in members}) == 1:
        return np.asarray(members)
    return np.array([widened(member[None])[0] for member in members])
