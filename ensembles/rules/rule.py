"""What a rule is: its functions, and the properties that it declares."""

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

MODERATE = 64  # binary exponent up to which weights are taken as they are
Function = Callable[..., Any]


class Rule(RegisteredFunction):
    """A function of a stack and weights, with the properties that it declares.

    A rule that needs to see a whole tensor first has three functions: ``statistics`` of
    each block in a first pass, added up; ``finish``, from the sum to a state; and the
    function itself, which is given the state. Each takes the parameters that its
    signature names.

    Parameters
    ----------
    function : callable (stack, weights, **params) -> array
        The stack has shape (n_members, size) and is float64, unless the rule is
        ``fused``; the result has shape (size,). With ``statistics`` the function also
        takes ``state``, by keyword.
    statistics : callable (stack, **params) -> array, or None, default=None
        Returns an array of shape (n_blocks, *shape), one entry for each 65,536 elements
        of the stack; `blockwise` makes one of a function of a single block. Entries are
        added in the order of the elements. The stack is as that of ``function``.
    finish : callable (total, weights, **params) -> state, or None, default=None
        Called once a tensor with the sum of its statistics, of shape (*shape,). None
        takes the sum itself for the state.
    n_members : int or None, default=None
        Number of members that the rule takes, None for any.
    domain : {"any", "non-negative"}, default="any"
        Which entries are allowed, those of members without weight aside; NaN passes.
    signed : bool, default=False
        Whether weights may be negative.
    symmetric : bool, default=True
        Whether the order of the members, with their weights, does not matter.
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
        """Combine members that are all in memory.

        Parameters
        ----------
        stack : array-like of shape (n_members, *shape)
            Members along axis 0.
        weights : array-like of shape (n_members,) or None, default=None
            Weight of each member. None counts every member once.
        **params
            Parameters of the rule.

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
        return self._in_memory(flat, checked, params).reshape(members.shape[1:])

    def _in_memory(self, stack: Array, weights: Float64, params: Any) -> Array:
        state = None
        if self.statistics is not None:
            state = self.state_of([self.partials(stack, params)], weights, params)
        return self.combine(stack, weights, stack.dtype, state=state, **params)

    @property
    def is_elementwise(self) -> bool:
        """Whether each entry of the result depends on the same entries alone."""
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
        """Raise if the rule cannot take so many members, or these parameters.

        Parameters
        ----------
        n_members : int
            Number of members.
        params : mapping of str to value
            Parameters of the rule.
        """
        if self.n_members not in (None, n_members):
            raise ValueError(
                f"rule {self.name!r} needs {self.n_members} members, found {n_members}"
            )
        self.check_names(params)
        if params:  # the functions themselves refuse wrong ones, before data are read
            self._in_memory(np.eye(n_members), np.ones(n_members), params)

    def partials(self, members: Sequence[Array] | Array, params: Any) -> Array:
        """Statistics of a stretch of flat members, before they are added up.

        Parameters
        ----------
        members : n_members arrays of shape (size,), float formats
            The stretch starts at a multiple of 65,536 elements.
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
        """State of a tensor, from the statistics of all its stretches in their order.

        Parameters
        ----------
        partials : sequence of ndarray of shape (n_blocks, *shape)
            As `partials` returns them.
        weights : ndarray of shape (n_members,)
            Weight of each member.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        object
            What ``function`` takes as ``state``.
        """
        with np.errstate(all="ignore"):
            total = np.concatenate(partials).sum(axis=0)
            if self.finish is None:
                return total
            return _call(self.finish, 2, params, total, weights)

    def combine(
        self,
        members: Sequence[Array] | Array,
        weights: Float64,
        dtype: np.dtype[Any],
        *,
        state: Any = None,
        **params: Any,
    ) -> Array:
        """Combine one block of flat members, rounding once into ``dtype``.

        Parameters
        ----------
        members : n_members arrays of shape (size,), float formats
            The block of each member.
        weights : ndarray of shape (n_members,)
            Weight of each member.
        dtype : dtype, a float format
            Of the result.
        state : object, default=None
            What `state_of` returned for the tensor, of a rule with statistics.
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
            with np.errstate(invalid="ignore"):  # a signalling NaN
                below = stack[place] < 0
            if below.any():
                raise ValueError(
                    f"entries for rule {self.name!r} must not be negative: "
                    f"members[{place}] has {float(stack[place][below][0])}"
                )


def _call(
    function: Function, n_inputs: int, params: Any, *inputs: Any, **own: Any
) -> Any:
    """Call one of a rule's functions with those of the parameters that it names."""
    names = parameters_of(function, n_inputs)
    return function(*inputs, **own, **{n: v for n, v in params.items() if n in names})


def blockwise(function: Function) -> Function:
    """Statistics of a stack, from a function of a single block.

    Parameters
    ----------
    function : callable (block, **params) -> array of shape (*shape,)
        The block has shape (n_members, at most 65,536).

    Returns
    -------
    callable (stack, **params) -> array of shape (n_blocks, *shape)
    """

    @functools.wraps(function)
    def statistics(stack: Array, **params: Any) -> Array:
        starts = range(0, stack.shape[1], BLOCK)
        blocks = (np.ascontiguousarray(stack[:, s : s + BLOCK]) for s in starts)
        return np.array([function(block, **params) for block in blocks])

    return statistics


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
