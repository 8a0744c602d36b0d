"""The class `Rule`: functions that combine a stack of members, and their properties."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.kernels.casting import rounded, widened
from ensembles.kernels.gram import BLOCK
from ensembles.registry import RegisteredFunction, parameters_of
from ensembles.weights import check_weights

MODERATE = 64  # largest binary exponent of weights that are used unscaled
Function = Callable[..., Any]


class Rule(RegisteredFunction):
    """A function that combines a stack of members by weights, with its properties.

    A rule that depends on whole tensors has three functions: ``statistics`` of each
    block, which a first pass computes and adds up; ``finish``, which turns the sum into
    a state; and the function itself, which receives the state. Each function receives
    the parameters that its signature names.

    Parameters
    ----------
    function : callable (stack, weights, **params) -> array
        The stack has shape (n_members, size) and is float64, unless the rule is
        ``fused``; the result has shape (size,). With ``statistics`` the function also
        takes ``state``, by keyword.
    statistics : callable (stack, **params) -> array, or None, default=None
        Returns an array of shape (n_blocks, *shape), one entry for each 65,536 elements
        of the stack; `blockwise` builds it from a function of a single block. Entries
        are added in the order of the elements. The stack is the same as in
        ``function``. None means an elementwise rule.
    finish : callable (total, weights, **params) -> state, or None, default=None
        Called once per tensor with the sum of its statistics, of shape (*shape,). None
        uses the sum as the state.
    n_members : int or None, default=None
        Number of members that the rule requires; None allows any number.
    domain : {"any", "non-negative"}, default="any"
        Allowed entries. Members with zero weight are not checked, and NaN is allowed.
    signed : bool, default=False
        Whether weights may be negative.
    symmetric : bool, default=True
        Whether the result is independent of the order of the members.
    fused : bool, default=False
        Whether the functions take members of any float format as they are stored, and
        ``function`` rounds its float64 result to that format itself.
    """

    noun = "rule"
    reserved = frozenset(("state",))

    def __init__(
        self,
        function: Function,
        *,
        statistics: Function | None = None,
        finish: Function | None = None,
        n_members: int | None = None,
        domain: Literal["any", "non-negative"] = "any",
        signed: bool = False,
        symmetric: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__(function)
        self.statistics = statistics
        self.finish = finish
        self.n_members = n_members
        self.domain = domain
        self.signed = signed
        self.symmetric = symmetric
        self.fused = fused

    def __call__(
        self, stack: ArrayLike, weights: ArrayLike | None = None, **params: Any
    ) -> Array:
        """Combine members in memory.

        Parameters
        ----------
        stack : array-like of shape (n_members, *shape)
            Members along axis 0.
        weights : array-like of shape (n_members,) or None, default=None
            Weight of each member. None gives every member the weight 1.
        **params
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (*shape), dtype of ``stack``, float64 for integers

        Raises
        ------
        ValueError, TypeError
            If the weights, a parameter, the number of members or an entry is not valid.
        """
        members = np.asarray(stack)
        if members.dtype not in FLOATS:
            members = members.astype(np.float64)
        self.check(len(members), params)
        checked = check_weights(
            weights, len(members), signed=self.signed, rule=self.name
        )
        flat = np.ascontiguousarray(members.reshape(len(members), -1))
        return self._in_memory(flat, checked, params).reshape(members.shape[1:])

    def _in_memory(self, stack: Array, weights: Float64, params: Any) -> Array:
        state = None
        if self.statistics is not None:
            state = self.state_of([self.partials(stack, params)], weights, params)
        return self.combine(stack, weights, stack.dtype, state=state, **params)

    @property
    def is_elementwise(self) -> bool:
        """Whether an entry of the result depends only on the members' same entry."""
        return self.statistics is None

    @property
    def params(self) -> dict[str, Any]:
        """Names of the parameters of all functions, with their defaults."""
        found = super().params
        if self.statistics is not None:
            found |= parameters_of(self.statistics, 1)
        if self.finish is not None:
            found |= parameters_of(self.finish, 2)
        return found

    def check(self, n_members: int, params: Mapping[str, Any]) -> None:
        """Raise if the rule does not accept the number of members or the parameters.

        Parameters
        ----------
        n_members : int
            Number of members.
        params : mapping of str to value
            Parameters of the rule.

        Raises
        ------
        ValueError
            If the rule requires another number of members, or a parameter is unknown or
            not valid.
        """
        if self.n_members not in (None, n_members):
            raise ValueError(
                f"rule {self.name!r} needs {self.n_members} members, found {n_members}"
            )
        self.check_names(params)
        if params:  # the functions validate them, here before any data is read
            one = np.ones((n_members, 1)) if self.is_elementwise else np.eye(n_members)
            self._in_memory(one, np.ones(n_members), params)

    def partials(self, members: Sequence[Array] | Array, params: Any) -> Array:
        """Statistics of each block in a contiguous part of flat members.

        Parameters
        ----------
        members : n_members arrays of shape (size,), float formats
            The part of each member, which starts at a multiple of 65,536 elements.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (n_blocks, *shape)
        """
        assert self.statistics is not None
        stack = as_stack(members)
        stack = stack if self.fused else widened(stack)
        with np.errstate(all="ignore"):  # infinities of both signs
            return np.asarray(_call(self.statistics, 1, params, stack))

    def state_of(self, partials: Sequence[Array], weights: Float64, params: Any) -> Any:
        """State of a tensor, computed from the statistics of all its parts.

        Parameters
        ----------
        partials : sequence of ndarray of shape (n_blocks, *shape)
            Return values of `partials`, in the order of the parts.
        weights : ndarray of shape (n_members,)
            Weight of each member.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        object
            The argument ``state`` of ``function``.
        """
        with np.errstate(all="ignore"):
            total = np.concatenate(partials).sum(axis=0)
            if self.finish is None:
                return total
            return _call(self.finish, 2, params, total, moderate(weights))

    def combine(
        self,
        members: Sequence[Array] | Array,
        weights: Float64,
        dtype: np.dtype[Any],
        *,
        state: Any = None,
        **params: Any,
    ) -> Array:
        """Combine one block of flat members and round once to ``dtype``.

        Parameters
        ----------
        members : n_members arrays of shape (size,), float formats
            The block of each member.
        weights : ndarray of shape (n_members,)
            Weight of each member.
        dtype : dtype, a float format
            Format of the result.
        state : object, default=None
            Return value of `state_of` for the tensor; None for elementwise rules.
        **params
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (size,), of ``dtype``

        Raises
        ------
        ValueError
            If an entry lies outside the rule's domain; the message names its member.
        """
        stack = as_stack(members)
        weights = moderate(weights)
        if self.domain == "non-negative":
            self._refuse_negative(stack, weights)
        if stack.dtype != dtype or not self.fused:
            stack = widened(stack)
        if self.statistics is not None:
            own = {"state": state}
            out = np.asarray(_call(self.function, 2, params, stack, weights, **own))
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
            with np.errstate(invalid="ignore"):  # signaling NaN
                below = stack[place] < 0
            if below.any():
                raise ValueError(
                    f"entries for rule {self.name!r} must not be negative: "
                    f"members[{place}] has {float(stack[place][below][0])}"
                )


def _call(
    function: Function, n_inputs: int, params: Any, *inputs: Any, **own: Any
) -> Any:
    """Call a function of a rule with the parameters in its signature."""
    if not params:  # called once a block: signatures are read only if needed
        return function(*inputs, **own)
    names = parameters_of(function, n_inputs)
    return function(*inputs, **own, **{n: v for n, v in params.items() if n in names})


def blockwise(function: Function) -> Function:
    """Build the ``statistics`` of a rule from a function of a single block.

    Parameters
    ----------
    function : callable (block, **params) -> array of shape (*shape,)
        Called with blocks of shape (n_members, size), of at most 65,536 elements each.

    Returns
    -------
    callable (stack, **params) -> array of shape (n_blocks, *shape)
    """

    @functools.wraps(function)
    def statistics(stack: Array, **params: Any) -> Array:
        # An empty tensor is one empty block, which gives the statistics their shape.
        starts = range(0, max(stack.shape[1], 1), BLOCK)
        blocks = (np.ascontiguousarray(stack[:, s : s + BLOCK]) for s in starts)
        return np.array([function(block, **params) for block in blocks])

    return statistics


def moderate(weights: Float64) -> Float64:
    """Weights scaled by a power of two, if they are very large or very small.

    Parameters
    ----------
    weights : ndarray of shape (n_members,)
        Weight of each member.

    Returns
    -------
    ndarray of shape (n_members,)
        Weights in exactly the same proportions, with the largest near 1, so that sums
        of products with them stay in the range of float64.
    """
    exponents = np.frexp(weights[weights != 0])[1]
    if not exponents.size or abs(top := int(exponents.max())) <= MODERATE:
        return weights
    # Scale less if the smallest weight would underflow to zero.
    least = int(exponents.min()) + 1_000
    return np.ldexp(weights, -(max(min(top, least), 0) if top > 0 else top))


def as_stack(members: Sequence[Array] | Array) -> Array:
    """Stack of members.

    Parameters
    ----------
    members : n_members arrays of shape (size,), float formats
        Members; an array of shape (n_members, size) is returned unchanged.

    Returns
    -------
    ndarray of shape (n_members, size)
        In the format of the members if they share one, else in float64.
    """
    if isinstance(members, np.ndarray):
        return members
    if len({member.dtype for member in members}) == 1:
        return np.asarray(members)
    return np.array([widened(member[None])[0] for member in members])
