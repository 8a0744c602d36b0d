"""The class `Rule`: a function that combines a stack of members, and its properties."""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.kernels.casting import narrow, widen
from ensembles.kernels.gram import BLOCK
from ensembles.registry import RegisteredFunction
from ensembles.rules.signatures import Function, check_signatures, named_arguments
from ensembles.rules.statistics import add_statistics
from ensembles.weights import check_weights, moderate


class Rule(RegisteredFunction):
    """A function that combines a stack of members by weights, with its properties.

    A rule that depends on whole tensors has three functions: ``statistics`` of each
    block, which a first pass computes and adds up; ``finish``, which turns the sum into
    a state; and the function itself, which receives the state. Each function receives
    the parameters that its signature names.

    Members with weight 0 must not change the result. NaN and infinity in members should
    pass through: the functions run without NumPy's floating-point warnings. To validate
    parameters, the functions raise ValueError: parameters that a user passes are tried
    on a small stack before any data is read.

    Parameters
    ----------
    function : callable (stack, weights, *, base, state, **params) -> array
        The stack has shape (n_members, size) and is float64, unless the rule is
        ``fused``; the result has shape (size,). The signature has ``base`` if the rule
        needs a base, an array of shape (size,) in the format of the stack, and
        ``state`` if it has ``statistics``.
    statistics : callable (stack, base, **params) -> array, or None, default=None
        Returns an array of shape (n_blocks, *shape), one entry for each 65,536 elements
        of the stack; `blockwise` builds it from a function of a single block. Entries
        are added in the order of the elements. The signature has ``base`` only if the
        rule needs a base. Stack and base are the same as in ``function``. None means
        that the rule needs no first pass.
    finish : callable (total, weights, **params) -> state, or None, default=None
        Called once per tensor with the sum of its statistics, of shape (*shape,). None
        uses the sum as the state.
    needs_base : bool, default=False
        Whether the rule needs a base: a common ancestor of the members, which is not a
        member and has no weight.
    n_members : int or None, default=None
        Number of members that the rule requires; None allows any number.
    domain : {"any", "non-negative"}, default="any"
        Allowed entries of members. Members with zero weight are not checked, and NaN is
        allowed.
    signed : bool, default=False
        Whether weights may be negative.
    weight_sum_matters : bool or None, default=None
        Whether multiplying all weights by a number changes the result. If so, the
        function gets the weights unscaled, and they may sum to zero, as in the
        difference of two task vectors; otherwise it may get them multiplied by a power
        of two. None is the same as ``needs_base``.
    symmetric : bool, default=True
        Whether the result is independent of the order of the members.
    fused : bool, default=False
        Whether the functions take members of any float format as they are stored, and
        ``function`` rounds its float64 result to that format itself.

    Raises
    ------
    TypeError
        If the signatures do not fit together: a function takes an argument that the
        library does not pass, a parameter has the name of such an argument or two
        different defaults, or ``finish`` is given without ``statistics``.
    """

    noun = "rule"

    def __init__(
        self,
        function: Function,
        *,
        statistics: Function | None = None,
        finish: Function | None = None,
        needs_base: bool = False,
        n_members: int | None = None,
        domain: Literal["any", "non-negative"] = "any",
        signed: bool = False,
        weight_sum_matters: bool | None = None,
        symmetric: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__(function)
        self.statistics = statistics
        self.finish = finish
        self.needs_base = needs_base
        self.n_members = n_members
        self.domain = domain
        self.signed = signed
        self.weight_sum_matters = (
            needs_base if weight_sum_matters is None else weight_sum_matters
        )
        self.symmetric = symmetric
        self.fused = fused
        # Read once: signatures are too slow to be read for every block.
        self._combine = named_arguments(self.name, function, 2)
        self._statistics = statistics and named_arguments(self.name, statistics, 1)
        self._finish = finish and named_arguments(self.name, finish, 2)
        self._params = check_signatures(
            self.name,
            self._combine,
            self._statistics,
            self._finish,
            needs_base=needs_base,
        )

    def __call__(
        self,
        stack: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        base: ArrayLike | None = None,
        **params: Any,
    ) -> Array:
        """Combine members in memory.

        Parameters
        ----------
        stack : array-like of shape (n_members, *shape)
            Members along axis 0.
        weights : array-like of shape (n_members,) or None, default=None
            Weight of each member. None gives every member the weight 1.
        base : array-like of shape (*shape,) or None, default=None
            Common ancestor of the members; required if the rule needs a base, else
            None.
        **params
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (*shape), dtype of ``stack``, float64 for integers

        Raises
        ------
        ValueError, TypeError
            If the weights, the base, a parameter, the number of members or an entry is
            not valid.
        """
        members = _as_floats(stack)
        self.check(len(members), params, has_base=base is not None)
        checked = self.check_weights(weights, len(members))
        flat = np.ascontiguousarray(members.reshape(len(members), -1))
        flat_base = None
        if base is not None:
            ancestor = _as_floats(base)
            if ancestor.shape != members.shape[1:]:
                raise ValueError(
                    f"base must have the shape of a member, {members.shape[1:]}, found "
                    f"{ancestor.shape}"
                )
            flat_base = np.ascontiguousarray(ancestor.reshape(-1))
        out = self._combine_at_once(flat, checked, flat_base, params)
        return out.reshape(members.shape[1:])

    @property
    def is_elementwise(self) -> bool:
        """Whether an entry of the result depends only on the members' same entry."""
        return self.statistics is None and not self.needs_base

    @property
    def params(self) -> dict[str, Any]:
        """Names of the parameters of all functions, with their defaults."""
        return dict(self._params)

    def check(
        self, n_members: int, params: Mapping[str, Any], *, has_base: bool = False
    ) -> None:
        """Raise if the rule does not accept the members, the base or the parameters.

        Parameters
        ----------
        n_members : int
            Number of members.
        params : mapping of str to value
            Parameters of the rule.
        has_base : bool, default=False
            Whether a base is given.

        Raises
        ------
        ValueError
            If the rule requires another number of members, needs a base and has none,
            does not use its base, or a parameter is unknown or not valid.
        """
        if self.needs_base and not has_base:
            raise ValueError(
                f"rule {self.name!r} needs the checkpoint that the members were "
                "fine-tuned from; pass it as base=PATH (--base PATH)"
            )
        if has_base and not self.needs_base:
            raise ValueError(
                f"rule {self.name!r} does not use a base; leave base=PATH "
                "(--base PATH) out, or choose a rule that needs a base"
            )
        if self.n_members not in (None, n_members):
            raise ValueError(
                f"rule {self.name!r} needs {self.n_members} members, found {n_members}"
            )
        self.check_names(params)
        if params:  # the functions validate them, here before any data is read
            stack = (
                np.ones((n_members, 1)) if self.is_elementwise else np.eye(n_members)
            )
            base = np.zeros(stack.shape[1]) if has_base else None
            self._combine_at_once(stack, np.ones(n_members), base, params)

    def check_weights(self, weights: ArrayLike | None, n_members: int) -> Float64:
        """Validate member weights by the rule's properties, see `check_weights`.

        Parameters
        ----------
        weights : array-like of shape (n_members,) or None
            Weight of each member; None gives every member the weight 1.
        n_members : int
            Number of members.

        Returns
        -------
        ndarray of shape (n_members,), float64

        Raises
        ------
        ValueError, TypeError
            If the weights are not valid.
        """
        return check_weights(
            weights,
            n_members,
            signed=self.signed,
            weight_sum_matters=self.weight_sum_matters,
            rule=self.name,
        )

    def partial_statistics(
        self,
        members: Sequence[Array] | Array,
        base: Array | None,
        params: Mapping[str, Any],
    ) -> Array:
        """Statistics of each block in a contiguous part of flat members.

        Parameters
        ----------
        members : n_members arrays of shape (size,), float formats
            The part of each member, which starts at a multiple of 65,536 elements.
        base : ndarray of shape (size,) or None
            The same part of the base; None for rules without a base.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (n_blocks, *shape)
        """
        assert self.statistics is not None
        stack = stack_members(members)
        if not self.fused or (base is not None and base.dtype != stack.dtype):
            stack, base = widen(stack), _widened(base)
        arguments = _chosen(self._statistics, {**params, "base": base})
        with np.errstate(all="ignore"):  # infinities of both signs
            return np.asarray(self.statistics(stack, **arguments))

    def compute_state(
        self, total: Array, weights: Float64, params: Mapping[str, Any]
    ) -> Any:
        """State of a tensor, computed from the total of its statistics.

        Parameters
        ----------
        total : ndarray of shape (*shape,)
            Return value of ``add_statistics`` for the last part.
        weights : ndarray of shape (n_members,)
            Weight of each member.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        object
            The argument ``state`` of ``function``.
        """
        if self.finish is None:
            return total
        arguments = _chosen(self._finish, params)
        with np.errstate(all="ignore"):
            return self.finish(total, self._moderate(weights), **arguments)

    def combine(
        self,
        members: Sequence[Array] | Array,
        weights: Float64,
        dtype: np.dtype[Any],
        *,
        params: Mapping[str, Any] | None = None,
        base: Array | None = None,
        state: Any = None,
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
        params : mapping of str to value or None, default=None
            Parameters of the rule; None means the defaults.
        base : ndarray of shape (size,) or None, default=None
            The block of the base; None for rules without a base.
        state : object, default=None
            Return value of `compute_state` for the tensor; None without statistics.

        Returns
        -------
        ndarray of shape (size,), of ``dtype``

        Raises
        ------
        ValueError
            If an entry lies outside the rule's domain; the message names its member.
        """
        stack = stack_members(members)
        weights = self._moderate(weights)
        if self.domain == "non-negative":
            self._check_not_negative(stack, weights)
        one_format = stack.dtype == dtype and (base is None or base.dtype == dtype)
        if not (one_format and self.fused):
            stack, base = widen(stack), _widened(base)
        arguments: dict[str, Any] = {}
        if params or base is not None or self.statistics is not None:
            engine = {"base": base, "state": state}
            arguments = _chosen(self._combine, {**(params or {}), **engine})
        with np.errstate(all="ignore"):  # NaN and infinity pass through
            out = np.asarray(self.function(stack, weights, **arguments))
        if out.shape != stack.shape[1:]:
            raise ValueError(
                f"rule {self.name!r} must return an array of shape "
                f"{stack.shape[1:]}, found {out.shape}"
            )
        return out if out.dtype == dtype else narrow(out.astype(np.float64), dtype)

    def _combine_at_once(
        self,
        stack: Array,
        weights: Float64,
        base: Array | None,
        params: Mapping[str, Any],
    ) -> Array:
        """Combine flat members that are complete, without blocks."""
        state = None
        if self.statistics is not None:
            partial = self.partial_statistics(stack, base, params)
            total = add_statistics(None, partial)
            state = self.compute_state(total, weights, params)
        return self.combine(
            stack, weights, stack.dtype, params=params, base=base, state=state
        )

    def _moderate(self, weights: Float64) -> Float64:
        """Weights of moderate size, unless their size affects the result."""
        return weights if self.weight_sum_matters else moderate(weights)

    def _check_not_negative(self, stack: Array, weights: Float64) -> None:
        for index in np.flatnonzero(weights):
            with np.errstate(invalid="ignore"):  # signaling NaN
                is_negative = stack[index] < 0
            if is_negative.any():
                raise ValueError(
                    f"entries for rule {self.name!r} must not be negative: "
                    f"members[{index}] has {float(stack[index][is_negative][0])}"
                )


def _chosen(names: Container[str] | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the arguments that a function has."""
    return {name: value for name, value in values.items() if name in (names or ())}


def blockwise(function: Function) -> Function:
    """Build the ``statistics`` of a rule from a function of a single block.

    Parameters
    ----------
    function : callable (block, base, **params) -> array of shape (*shape,)
        Called with blocks of shape (n_members, size), of at most 65,536 elements each.
        It has the argument ``base``, of shape (size,), only if the rule needs a base.

    Returns
    -------
    callable (stack, base, **params) -> array of shape (n_blocks, *shape)
    """

    @functools.wraps(function)
    def statistics(stack: Array, base: Array | None = None, **params: Any) -> Array:
        partials = []
        # An empty tensor is one empty block, which gives the statistics their shape.
        for start in range(0, max(stack.shape[1], 1), BLOCK):
            if base is not None:
                params["base"] = base[start : start + BLOCK]
            block = np.ascontiguousarray(stack[:, start : start + BLOCK])
            partials.append(function(block, **params))
        return np.array(partials)

    return statistics


def stack_members(members: Sequence[Array] | Array) -> Array:
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
    return np.array([widen(member[None])[0] for member in members])


def _widened(base: Array | None) -> Array | None:
    return None if base is None else widen(base[None])[0]


def _as_floats(values: ArrayLike) -> Array:
    """Array in a float format; other numbers become float64."""
    array = np.asarray(values)
    return array if array.dtype in FLOATS else array.astype(np.float64)
