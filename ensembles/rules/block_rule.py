"""The class `BlockRule`: the functions of a rule, applied to blocks of members."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.kernels.casting import narrow, stack_members, widen
from ensembles.kernels.gram import BLOCK
from ensembles.kernels.jit import LANE
from ensembles.parallel import chunks
from ensembles.registry import RegisteredFunction
from ensembles.rules.passes import Pass, Position
from ensembles.rules.signatures import Function
from ensembles.rules.statistics import add_statistics
from ensembles.weights import moderate

Unit = Literal["element", "row", "matrix", "tensor"]

# Elements of all members in a piece: 512 KiB in float64, which fit the L2 cache.
PIECE = 65_536


class BlockRule(RegisteredFunction):
    """Part of `Rule` that applies its functions to blocks of flat members.

    The engine uses it: members have passed the checks of `Rule`. Blocks are converted
    to float64 in pieces that fit the CPU caches, and each result is rounded once.

    Attributes
    ----------
    passes, domain, weight_sum_matters, fused, unit, has_units
        Properties of the rule, see `Rule`.
    """

    passes: tuple[Pass, ...]
    domain: Literal["any", "non-negative"]
    weight_sum_matters: bool
    fused: bool
    unit: Unit
    has_units: Function | None
    # Signatures are too slow to be read for every block.
    _arguments: dict[Function, dict[str, Any]]
    _params: dict[str, Any]

    def needed_passes(self, params: Mapping[str, Any]) -> tuple[Pass, ...]:
        """Passes that parameters require.

        Parameters
        ----------
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        tuple of Pass
        """
        values = {**self._params, **params}
        return tuple(
            entry
            for entry in self.passes
            if entry.is_needed is None or self._call(entry.is_needed, values=values)
        )

    def spans_model(self, params: Mapping[str, Any]) -> bool:
        """Whether needed statistics are added up over all tensors of a checkpoint.

        Parameters
        ----------
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        bool
        """
        scope = {**self._params, **params}.get("scope")
        return scope == "model" and bool(self.needed_passes(params))

    def unit_of(self, position: Position, params: Mapping[str, Any]) -> Unit:
        """What the function needs whole of a tensor.

        Parameters
        ----------
        position : Position
            Name and shape of the tensor.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        str
            Property ``unit`` of the rule; "element" for tensors without units.
        """
        if self.has_units is None:
            return self.unit
        values = {**self._params, **params}
        has_units = self._call(self.has_units, position, values=values)
        return self.unit if has_units else "element"

    def block_size(self, position: Position, params: Mapping[str, Any]) -> int:
        """Elements of a block; members are read in multiples of it.

        Parameters
        ----------
        position : Position
            Name and shape of the tensor.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        int
            65,536; with ``unit="row"`` or "matrix" the whole units in as many elements,
            one at least; with ``unit="tensor"`` the size of the tensor.
        """
        return self._whole_units(BLOCK, position, params)

    def partial_statistics(
        self,
        entry: Pass,
        members: Sequence[Array] | Array,
        weights: Float64,
        base: Array | None,
        params: Mapping[str, Any],
        *,
        position: Position,
        state: Any = None,
        before: Array | None = None,
        moments: Sequence[Array] | None = None,
    ) -> Array:
        """Statistics of the blocks in a contiguous part of flat members.

        Parameters
        ----------
        entry : Pass
            Pass of the rule.
        members : n_members arrays of shape (size,), float formats
            The part of each member, which starts at a multiple of `block_size`.
        weights : ndarray of shape (n_members,)
            Weight of each member.
        base : ndarray of shape (size,) or None
            The same part of the base; None for rules without a base.
        params : mapping of str to value
            Parameters of the rule.
        position : Position
            Position of the part.
        state : object, default=None
            State of the pass before; None in the first.
        before : ndarray or None, default=None
            Return value for the elements directly before the part, to which its
            statistics are appended or added; it may be modified. None starts anew.
        moments : n_members arrays or None, default=None
            Moments of each member: of the same part, or with ``unit="tensor"`` of the
            whole tensor, in their own shapes. None for rules without moments.

        Returns
        -------
        ndarray of shape (n_blocks, *shape)
            One entry, for statistics that count.
        """
        values = {
            **params,
            "weights": self._moderate(weights),
            "state": state,
            "moments": moments,
        }
        counts = "total" in self._arguments[entry.statistics]
        total = None if before is None else before[0]
        blocks = [] if before is None else [before]
        size, step = len(members[0]), self.block_size(position, params)
        if self._takes_as_stored(entry.statistics, members, base):
            step = size
        elif counts:
            n_rows = len(members) + (base is not None)
            step = self._piece_size(n_rows, position, params)
        with np.errstate(all="ignore"):  # infinities of both signs
            for start in range(0, max(size, 1), max(step, 1)):
                part = slice(start, start + step)
                values |= {"total": total, "position": position.advanced(start)}
                total = self._of_part(entry.statistics, members, base, part, values)
                blocks.append(total)
        return np.asarray(total)[None] if counts else np.concatenate(blocks)

    def compute_state(
        self,
        entry: Pass,
        total: Array,
        weights: Float64,
        params: Mapping[str, Any],
        *,
        position: Position,
        state: Any = None,
    ) -> Any:
        """State of a tensor after a pass, computed from the total of its statistics.

        Parameters
        ----------
        entry : Pass
            Pass of the rule.
        total : ndarray of shape (*shape,)
            Return value of ``add_statistics`` for the last part.
        weights : ndarray of shape (n_members,)
            Weight of each member.
        params : mapping of str to value
            Parameters of the rule.
        position : Position
            Name and shape of the tensor.
        state : object, default=None
            State of the pass before; None in the first.

        Returns
        -------
        object
            The argument ``state`` of the next pass, or of ``function``.
        """
        if entry.finish is None:
            return total
        values = {**params, "state": state, "position": position}
        with np.errstate(all="ignore"):
            return self._call(
                entry.finish, total, self._moderate(weights), values=values
            )

    def state_of(
        self,
        members: Sequence[Array] | Array,
        weights: Float64,
        base: Array | None,
        params: Mapping[str, Any],
        *,
        position: Position,
        moments: Sequence[Array] | None = None,
    ) -> Any:
        """State of a tensor in memory, after all passes.

        Parameters
        ----------
        members, weights, base, params, position, moments
            As in `partial_statistics`, for the whole tensor.

        Returns
        -------
        object
            None for rules without passes.
        """
        given = members, weights, base, params, position, moments
        return [None, *(state for _, state in self._passed(*given))][-1]

    def _passed(
        self,
        members: Sequence[Array] | Array,
        weights: Float64,
        base: Array | None,
        params: Mapping[str, Any],
        position: Position,
        moments: Sequence[Array] | None,
    ) -> Iterator[tuple[Array, Any]]:
        """Total and state of a tensor in memory after each pass."""
        state = None
        for entry in self.needed_passes(params):
            how: dict[str, Any] = {"position": position, "state": state}
            partial = self.partial_statistics(
                entry, members, weights, base, params, moments=moments, **how
            )
            total = add_statistics(None, partial)
            state = self.compute_state(entry, total, weights, params, **how)
            yield total, state

    def combine(
        self,
        members: Sequence[Array] | Array,
        weights: Float64,
        dtype: np.dtype[Any],
        *,
        params: Mapping[str, Any] | None = None,
        base: Array | None = None,
        moments: Sequence[Array] | None = None,
        state: Any = None,
        position: Position | None = None,
    ) -> Array:
        """Combine one block of flat members and round once to ``dtype``.

        Parameters
        ----------
        members : n_members arrays of shape (size,), float formats
            The block of each member: whole rows or the whole tensor, if the ``unit`` of
            the rule is not "element".
        weights : ndarray of shape (n_members,)
            Weight of each member.
        dtype : dtype, a float format
            Format of the result.
        params : mapping of str to value or None, default=None
            Parameters of the rule; None means the defaults.
        base : ndarray of shape (size,) or None, default=None
            The block of the base; None for rules without a base.
        moments : n_members arrays or None, default=None
            Moments of each member: of the same part, or with ``unit="tensor"`` of the
            whole tensor, in their own shapes. None for rules without moments.
        state : object, default=None
            Return value of `compute_state` for the tensor; None without statistics.
        position : Position or None, default=None
            Position of the block; None means a vector without a name.

        Returns
        -------
        ndarray of shape (size,), of ``dtype``

        Raises
        ------
        ValueError
            If an entry lies outside the rule's domain; the message names its member.
        """
        size = len(members[0])
        position = Position("", (size,)) if position is None else position
        weights = self._moderate(weights)
        values = {**(params or {}), "state": state, "position": position}
        values["moments"] = moments
        with np.errstate(all="ignore"):  # NaN and infinity pass through
            if self._takes_as_stored(self.function, members, base, dtype):
                return self._rounded(members, weights, base, slice(size), values, dtype)
            out = np.empty(size, dtype)
            n_rows = len(members) + (base is not None) + len(moments or ())
            step = self._piece_size(n_rows, position, params or {})
            for start, stop in chunks(size, max(step, 1)):
                values["position"] = position.advanced(start)
                part = slice(start, stop)
                out[part] = self._rounded(members, weights, base, part, values, dtype)
        return out

    def _piece_size(
        self, n_rows: int, position: Position, params: Mapping[str, Any]
    ) -> int:
        """Elements of a piece whose rows fit the CPU cache in float64."""
        n_elements = max(PIECE // n_rows // LANE, 1) * LANE
        return self._whole_units(n_elements, position, params)

    def _whole_units(
        self, n_elements: int, position: Position, params: Mapping[str, Any]
    ) -> int:
        """Elements of the whole units in a number of elements, one unit at least."""
        unit = self.unit_of(position, params)
        if unit == "element":
            return n_elements
        if unit == "tensor":
            return math.prod(position.shape)
        size = position.row_size if unit == "row" else position.matrix_size
        return max(n_elements // max(size, 1), 1) * size

    def _takes_as_stored(
        self,
        function: Function,
        members: Sequence[Array] | Array,
        base: Array | None,
        dtype: np.dtype[Any] | None = None,
    ) -> bool:
        """Whether a function takes members and base without conversion."""
        is_fused = self.fused
        for entry in self.passes:
            if entry.statistics is function and entry.fused is not None:
                is_fused = entry.fused
        if not is_fused:
            return False
        arrays = [members] if isinstance(members, np.ndarray) else [*members]
        dtypes = {array.dtype for array in (*arrays, base) if array is not None}
        return len(dtypes | ({dtype} if dtype else set())) == 1

    def _of_part(
        self,
        function: Function,
        members: Sequence[Array] | Array,
        base: Array | None,
        part: slice,
        values: dict[str, Any],
        *inputs: Any,
        dtype: np.dtype[Any] | None = None,
    ) -> Any:
        """Call a function of a stack with a part of members and base.

        A function that rounds its result gets them in float64 for another ``dtype``.
        """
        if isinstance(members, np.ndarray):
            stack = members[:, part]
        else:
            stack = stack_members([row[part] for row in members])
        base = None if base is None else base[part]
        if values["moments"] is not None:
            values = {**values, "moments": self._part_of(values["moments"], part)}
        if not self._takes_as_stored(function, members, base, dtype):
            stack = np.ascontiguousarray(widen(stack))
            base = None if base is None else widen(base[None])[0]
        if self.domain == "non-negative" and function is self.function:
            self._check_not_negative(stack, inputs[0])
        return self._call(function, stack, *inputs, values={**values, "base": base})

    def _part_of(
        self, moments: Sequence[Array], part: slice
    ) -> Sequence[Array] | Float64:
        """Moments of a part of the members in float64, or of the tensor as stored."""
        if self.unit == "tensor":
            return moments
        return np.array([widen(m.reshape(1, -1)[:, part])[0] for m in moments])

    def _rounded(
        self,
        members: Sequence[Array] | Array,
        weights: Float64,
        base: Array | None,
        part: slice,
        values: dict[str, Any],
        dtype: np.dtype[Any],
    ) -> Array:
        """Combine a part of the members, and round the result once."""
        out = self._of_part(
            self.function, members, base, part, values, weights, dtype=dtype
        )
        out, shape = np.asarray(out), members[0][part].shape
        if out.shape != shape:
            raise ValueError(
                f"rule {self.name!r} must return an array of shape {shape}, found "
                f"{out.shape}"
            )
        return out if out.dtype == dtype else narrow(np.asarray(out, np.float64), dtype)

    def _call(self, function: Function, *inputs: Any, values: Mapping[str, Any]) -> Any:
        """Call a function of the rule with the arguments that it names."""
        names = self._arguments[function]
        named = {name: value for name, value in values.items() if name in names}
        return function(*inputs, **named)

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
