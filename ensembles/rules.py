"""Rules that turn a stack of members into one, in any wing."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles.floats import FLOATS, Array, Float64
from ensembles.kernels.gram import gram, widened
from ensembles.kernels.mean import mean as weighted_mean
from ensembles.kernels.order import ranked, weighted_median
from ensembles.kernels.rounding import rounded
from ensembles.registry import Table, register
from ensembles.sphere import angles, centre
from ensembles.weighting import check_weights


class Rule:
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
    domain : {"any", "non-negative", "positive"}, default="any"
        What entries must be.
    signed : bool, default=False
        Whether weights may be negative.
    symmetric : bool, default=True
        Whether the order of the members, with their weights, does not matter.
    fused : bool, default=False
        Whether the function takes members of any float format as they are stored, and
        rounds its float64 result to that format itself.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        cut: Literal["element", "gram"],
        n_members: int | None = None,
        domain: Literal["any", "non-negative", "positive"] = "any",
        signed: bool = False,
        symmetric: bool = True,
        fused: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = function.__name__
        self.function = function
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
        known = self.params
        for name in params:
            if name not in known:
                raise ValueError(
                    f"rule {self.name!r} has no parameter {name!r} "
                    f"(known: {', '.join(known) or 'none'})"
                )

    @property
    def params(self) -> dict[str, Any]:
        """The rule's own parameters with their defaults."""
        signature = inspect.signature(self.function)
        return {p.name: p.default for p in list(signature.parameters.values())[2:]}

    def coefficients(
        self, products: Float64, weights: Float64, **params: Any
    ) -> Float64:
        """How much of each member the result holds, of shape (n_members,)."""
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
        """
        stack = as_stack(members)
        if stack.dtype != dtype or not (self.fused or self.cut == "gram"):
            stack = widened(stack)
        if self.cut == "gram":
            out = weighted_mean(stack, weights, total=1.0)
        else:
            out = np.asarray(self.function(stack, weights, **params))
        return out if out.dtype == dtype else rounded(out.astype(np.float64), dtype)


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


def _counted(stack: Array, weights: Float64) -> tuple[Array, Float64]:
    """Members whose weight is not zero, and their weights."""
    some = weights != 0
    return (stack, weights) if some.all() else (stack[some], weights[some])


def _make(function: Callable[..., Any], facts: dict[str, Any]) -> Rule:
    return Rule(function, **facts)


RULES: Table[Rule] = Table("rule", _make)


@register(RULES, cut="element", signed=True, fused=True)
def mean(stack: Array, weights: Float64) -> Array:
    """Weighted mean, sum(w[i] x[i]) / sum(w[i]), rounded once.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", arXiv:2203.05482,
    section 2 (the uniform soup).
    """
    return weighted_mean(stack, weights)


@register(RULES, cut="element", fused=True)
def median(stack: Array, weights: Float64) -> Array:
    """Weighted median: half of the weight lies on each side.

    Where a value parts the weight into halves, up to the rounding of the weights, the
    mean of it and the next larger one; with equal weights, the usual median. Members
    whose weight is zero are left out.

    References
    ----------
    Edgeworth (1888), "On a new method of reducing observations relating to several
    quantities", Philosophical Magazine 25.
    """
    stack, weights = _counted(stack, weights)
    if (weights == weights[0]).all():
        low, high = (len(stack) - 1) // 2, len(stack) // 2
        return weighted_mean(ranked(stack, low, high), np.ones(high - low + 1))
    out = np.empty(stack.shape[1])
    weighted_median(widened(stack), weights, out)
    return rounded(out, stack.dtype)


@register(RULES, cut="element", fused=True)
def minimum(stack: Array, weights: Float64) -> Array:
    """Smallest entry among the members whose weight is not zero.

    References
    ----------
    The power mean's limit for p towards minus infinity: Hardy, Littlewood & Pólya
    (1934), Inequalities, theorem 4.
    """
    counted, _ = _counted(stack, weights)
    return np.asarray(ranked(counted, 0, 0)[0])


@register(RULES, cut="element", fused=True)
def maximum(stack: Array, weights: Float64) -> Array:
    """Largest entry among the members whose weight is not zero.

    References
    ----------
    The power mean's limit for p towards infinity: Hardy, Littlewood & Pólya (1934),
    Inequalities, theorem 4.
    """
    counted, _ = _counted(stack, weights)
    return np.asarray(ranked(counted, len(counted) - 1, len(counted) - 1)[0])


@register(RULES, cut="gram", n_members=2)
def slerp(gram: Float64, weights: Float64) -> Float64:
    """Spherical interpolation, (sin((1-t)θ) a + sin(tθ) b) / sin θ, t = w[1] / sum(w).

    θ is the angle between the two members. Where they point the same way the limit
    for θ towards zero is the straight line between them; it is also taken where a
    member is zero or both are opposite, as no single arc joins those.

    References
    ----------
    Shoemake (1985), "Animating rotation with quaternion curves", SIGGRAPH, section
    3.3. There is no threshold on the angle: with inner products in float64 the
    formula is as exact near zero as elsewhere.
    """
    t = weights[1] / weights.sum()
    angle = angles(gram)[0, 1]
    if math.sin(angle) == 0 or angle > math.pi - 1e-7:
        return np.array([1 - t, t])
    arc = np.array([math.sin((1 - t) * angle), math.sin(t * angle)])
    return np.asarray(arc / math.sin(angle))


@register(RULES, cut="gram")
def karcher_mean(gram: Float64, weights: Float64) -> Float64:
    """Mean of directions on the sphere, scaled to the weighted mean of the lengths.

    The point from which the weighted sum of squared angles to the members is
    smallest, found by steps along the mean of the logarithms. Members of length zero
    have no direction and count in the length alone.

    References
    ----------
    Karcher (1977), "Riemannian center of mass and mollifier smoothing",
    Communications on Pure and Applied Mathematics 30; for checkpoints
    arXiv:2603.04972.
    """
    share = weights / weights.sum()
    lengths = np.sqrt(np.diagonal(gram))
    some = (lengths != 0) & (share > 0)
    if not some.any():
        return np.asarray(share)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=some)
    cosines = gram * inverse[:, None] * inverse
    point = centre(cosines, np.where(some, share, 0.0))
    return np.asarray(point * inverse * (share @ lengths))
