"""The class `Rule`: a function that combines a stack of members, and its properties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Array, Float64
from ensembles.dtypes import FLOATS
from ensembles.rules.block_rule import BlockRule, Unit
from ensembles.rules.passes import Pass, Position
from ensembles.rules.signatures import Function, check_signatures, named_arguments
from ensembles.weights import check_weights


class Rule(BlockRule):
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
    function : callable (stack, weights, *, base, moments, state, position, **params)
        Returns an array of shape (size,). The stack has shape (n_members, size) and is
        float64, unless the rule is ``fused``. The signature has ``base`` if the rule
        needs a base, an array of shape (size,) in the format of the stack, ``state`` if
        it has ``statistics`` or ``passes``, and ``position``, a `Position`, if the
        result depends on the name or shape of the tensor or on the place in it. The
        argument ``moments`` is for rules that need them: float64 of shape
        (n_members, size), or with ``unit="tensor"`` a list of an array per member,
        as stored.
    statistics : callable (stack, *, weights, base, position, **params), or None
        Returns an array of shape (n_blocks, *shape), one entry for each block of the
        stack, of 65,536 elements or, with ``unit="row"``, of the whole rows in them;
        `blockwise` builds it from a function of a single block. Entries are added in
        the order of the elements. Statistics that count, so that the order does not
        matter, may have the argument ``total``: None, or the array that they returned
        for elements before, which they add to in place and return. The signature has
        ``base`` only if the rule needs a base, and ``weights`` if statistics of several
        members depend on which of them have a weight. None means that the rule needs no
        first pass.
    finish : callable (total, weights, *, position, **params) -> state, or None
        Called once per tensor with the sum of its statistics, of shape (*shape,), or
        once for all tensors if a parameter ``scope`` is "model". None uses the sum as
        the state.
    passes : sequence of Pass, default=()
        Several passes, instead of ``statistics`` and ``finish``.
    needs_base : bool, default=False
        Whether the rule needs a base: a common ancestor of the members, which is not a
        member and has no weight.
    needs_moments : {"fisher", "gram"} or None, default=None
        Kind of second moments of each member's data that the rule needs, from
        ``collect_fisher`` or ``collect_gram``. Tensors without moments are averaged.
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
    weighted : bool, default=True
        Whether the weights affect the result. If not, weights other than 0 must be
        equal.
    symmetric : bool, default=True
        Whether the result is independent of the order of the members.
    fused : bool, default=False
        Whether the functions take members of any float format as they are stored, and
        ``function`` rounds its float64 result to that format itself.
    unit : {"element", "row", "matrix", "tensor"}, default="element"
        What the function needs whole: nothing, the rows of a tensor (its last axis; a
        vector is one row), its matrices (the last two axes), or the tensor.
    has_units : callable (position, **params) -> bool, or None, default=None
        Whether the function needs units of a tensor whole, by its name, its shape and
        the parameters. Other tensors are combined element by element. None means all.
    workspace : int, default=0
        Arrays of float64 with the size of a unit that the function of a rule whose unit
        is not "element" needs beside its arguments in float64 and its result.

    Raises
    ------
    TypeError
        If the signatures do not fit together: a function takes an argument that the
        library does not pass, a parameter has the name of such an argument or two
        different defaults, ``finish`` is given without ``statistics``, or
        ``statistics`` beside ``passes``.
    """

    noun = "rule"

    def __init__(
        self,
        function: Function,
        *,
        statistics: Function | None = None,
        finish: Function | None = None,
        passes: Sequence[Pass] = (),
        needs_base: bool = False,
        needs_moments: Literal["fisher", "gram"] | None = None,
        n_members: int | None = None,
        domain: Literal["any", "non-negative"] = "any",
        signed: bool = False,
        weight_sum_matters: bool | None = None,
        weighted: bool = True,
        symmetric: bool = True,
        fused: bool = False,
        unit: Unit = "element",
        has_units: Function | None = None,
        workspace: int = 0,
    ) -> None:
        super().__init__(function)
        if finish is not None and statistics is None:
            raise TypeError(
                f"rule {self.name!r} must have statistics, because it has finish"
            )
        if statistics is not None and passes:
            raise TypeError(
                f"rule {self.name!r} must have statistics or passes, not both"
            )
        self.passes = (
            tuple(passes) if statistics is None else (Pass(statistics, finish),)
        )
        self.needs_base = needs_base
        self.needs_moments = needs_moments
        self.n_members = n_members
        self.domain = domain
        self.signed = signed
        self.weight_sum_matters = (
            needs_base if weight_sum_matters is None else weight_sum_matters
        )
        self.weighted = weighted
        self.symmetric = symmetric
        self.fused = fused
        self.unit = unit
        self.has_units = has_units
        self.workspace = workspace
        # Read once: signatures are too slow to be read for every block.
        self._arguments = {
            function: named_arguments(self.name, function, n_inputs)
            for function, n_inputs in self._functions()
        }
        combine, *others = self._arguments.values()
        self._params = check_signatures(
            self.name,
            combine,
            others,
            has_passes=bool(self.passes),
            needs_base=needs_base,
            needs_moments=needs_moments is not None,
        )

    def _functions(self) -> Iterator[tuple[Function, int]]:
        """All functions, and how many inputs each takes before its arguments."""
        yield self.function, 2
        if self.has_units is not None:
            yield self.has_units, 1
        for statistics, finish, is_needed, _ in self.passes:
            yield statistics, 1
            if finish is not None:
                yield finish, 2
            if is_needed is not None:
                yield is_needed, 0

    def __call__(
        self,
        stack: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        base: ArrayLike | None = None,
        moments: Sequence[ArrayLike] | Array | None = None,
        name: str = "",
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
        moments : sequence of n_members array-likes or None, default=None
            Second moments of the data of each member, as in `Moments`; required if the
            rule needs them, else None.
        name : str, default=""
            Name of the tensor, which determines the random numbers of the rule.
        **params
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (*shape), dtype of ``stack``, float64 for integers

        Raises
        ------
        ValueError, TypeError
            If the weights, the base, the moments, a parameter, the number of members or
            an entry is not valid.
        """
        members = _as_floats(stack)
        n_moments = 0 if moments is None else len(moments)
        self.check(len(members), params, has_base=base is not None, n_moments=n_moments)
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
        position = Position(name, members.shape[1:])
        of_members = None if moments is None else [_as_floats(m) for m in moments]
        out = self._combine_at_once(
            flat, checked, flat_base, of_members, params, position
        )
        return out.reshape(members.shape[1:])

    @property
    def is_elementwise(self) -> bool:
        """Whether an entry of the result depends only on the members' same entry."""
        return (
            not self.passes
            and not self.needs_base
            and self.needs_moments is None
            and self.unit == "element"
            and "position" not in self._arguments[self.function]
        )

    @property
    def params(self) -> dict[str, Any]:
        """Names of the parameters of all functions, with their defaults."""
        return dict(self._params)

    def check(
        self,
        n_members: int,
        params: Mapping[str, Any],
        *,
        has_base: bool = False,
        n_moments: int = 0,
    ) -> None:
        """Raise if the rule does not accept members, base, moments or parameters.

        Parameters
        ----------
        n_members : int
            Number of members.
        params : mapping of str to value
            Parameters of the rule.
        has_base : bool, default=False
            Whether a base is given.
        n_moments : int, default=0
            Number of members whose moments are given.

        Raises
        ------
        ValueError
            If the rule requires another number of members, needs a base and has none,
            does not use its base, the same of moments, or a parameter is unknown or not
            valid.
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
        self._check_moments(n_members, n_moments)
        if self.n_members not in (None, n_members):
            raise ValueError(
                f"rule {self.name!r} needs {self.n_members} members, found {n_members}"
            )
        self.check_names(params)
        if params:
            self.try_out(np.ones(n_members), params, has_base=has_base)

    def try_out(
        self, weights: Float64, params: Mapping[str, Any], *, has_base: bool
    ) -> None:
        """Combine a small stack, so that the functions validate what they take.

        Parameters
        ----------
        weights : ndarray of shape (n_members,)
            Weight of each member, as from `check_weights`.
        params : mapping of str to value
            Parameters of the rule.
        has_base : bool
            Whether a base is given.

        Raises
        ------
        ValueError
            If a parameter is not valid, or does not suit the weights.
        """
        stack, base, moments = self._small_stack(len(weights), has_base=has_base)
        position = Position("", stack.shape[1:])
        self._combine_at_once(stack, weights, base, moments, params, position)

    def statistics_bytes(self, n_members: int, params: Mapping[str, Any]) -> int:
        """Bytes of the total of the statistics, the most after any pass.

        Parameters
        ----------
        n_members : int
            Number of members.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        int
            0 for rules without passes.
        """
        stack, base, moments = self._small_stack(n_members, has_base=self.needs_base)
        position, weights = Position("", stack.shape[1:]), np.ones(n_members)
        passed = self._passed(stack, weights, base, params, position, moments)
        return max((total.nbytes for total, _ in passed), default=0)

    def _small_stack(
        self, n_members: int, *, has_base: bool
    ) -> tuple[Float64, Float64 | None, list[Array] | None]:
        """Members, base and moments of few elements, to try the functions out."""
        stack = np.ones((n_members, 1)) if self.is_elementwise else np.eye(n_members)
        base = np.zeros(stack.shape[1]) if has_base else None
        if self.needs_moments is None:
            return stack, base, None
        return stack, base, [stack] * n_members if self.unit == "tensor" else [*stack]

    def _check_moments(self, n_members: int, n_moments: int) -> None:
        """Raise unless there are as many moments as the rule needs."""
        if self.needs_moments is None and n_moments:
            raise ValueError(
                f"rule {self.name!r} does not use moments; leave moments=PATHS "
                "(--moments PATH) out, or choose a rule that needs them"
            )
        if self.needs_moments is not None and n_moments != n_members:
            kind = self.needs_moments
            raise ValueError(
                f"rule {self.name!r} needs the second moments of the data of each of "
                f"{n_members} members, found {n_moments}; collect them with "
                f"collect_{kind}(model, batches).save(PATH), and pass moments=PATHS "
                "(--moments PATH for each member), in the order of the members"
            )

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
        checked = check_weights(
            weights,
            n_members,
            signed=self.signed,
            weight_sum_matters=self.weight_sum_matters,
            rule=self.name,
        )
        if not self.weighted and len(set(checked[checked != 0].tolist())) > 1:
            raise ValueError(
                f"weights of {self.name!r} must be equal, because they do not affect "
                f"the result, found {checked.tolist()}; leave them out"
            )
        return checked

    def _combine_at_once(
        self,
        stack: Array,
        weights: Float64,
        base: Array | None,
        moments: Sequence[Array] | None,
        params: Mapping[str, Any],
        position: Position,
    ) -> Array:
        """Combine flat members that are complete, without blocks."""
        state = self.state_of(
            stack, weights, base, params, position=position, moments=moments
        )
        return self.combine(
            stack,
            weights,
            stack.dtype,
            params=params,
            base=base,
            moments=moments,
            state=state,
            position=position,
        )


def _as_floats(values: ArrayLike) -> Array:
    """Array in a float format; other numbers become float64."""
    array = np.asarray(values)
    return array if array.dtype in FLOATS else array.astype(np.float64)
