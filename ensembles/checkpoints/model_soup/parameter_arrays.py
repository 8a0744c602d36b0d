"""Combine members into arrays, which are overwritten for each set of weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ensembles._typing import Array, Counts, Float64
from ensembles.checkpoints.compatibility.integers import resolve_integers
from ensembles.checkpoints.compatibility.layers import layers_of
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.formats.output import ArraySink
from ensembles.checkpoints.merging.combinations import MemberCombinations, is_mean
from ensembles.checkpoints.merging.running_mean import RunningMean
from ensembles.checkpoints.merging.streaming import naming
from ensembles.checkpoints.planning.buffers import fit_to_memory, minimum_memory
from ensembles.checkpoints.planning.options import MEMORY, Integers
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.dtypes import is_float
from ensembles.rules.builtin import RULES
from ensembles.rules.passes import Position
from ensembles.rules.rule import Rule

SMALL = 16 << 20  # bytes of all members; more are streamed by several threads


class ParameterWriter:
    """Combines members into preallocated arrays.

    Small members in memory are stacked, and the rule combines whole tensors. Files and
    large members are streamed by one plan, whose weights are replaced for each
    combination. The results are the same, byte for byte.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members with the tensor names and shapes of ``arrays``.
    arrays : mapping of str to ndarray
        Output arrays by tensor name, C-contiguous; each call overwrites them.
    rule : Rule
        Rule that combines the members.
    params : mapping of str to value
        Parameters of the rule.
    integers : {"error", "first", "max"}
        How to resolve integer tensors that differ.
    base : Checkpoint or None, default=None
        Base of the members, with the same tensor names and shapes, for a rule that
        needs one; None for other rules.

    Raises
    ------
    ValueError
        If the dtypes of the members do not match.
    """

    def __init__(
        self,
        members: Sequence[Checkpoint],
        arrays: Mapping[str, Array],
        *,
        rule: Rule,
        params: Mapping[str, Any],
        integers: Integers,
        base: Checkpoint | None = None,
    ) -> None:
        self.arrays = arrays
        self._rule = rule
        self._params = params
        self._integers = integers
        self._combinations = MemberCombinations(len(members))
        self._plan: Plan | None = None
        self._base_rows: dict[str, Array] = {}
        sources = [*members] if base is None else [*members, base]
        if _fits_in_memory(sources, arrays) and not rule.spans_model(params):
            self._rows = {
                name: [_read(member.layout[name]) for member in members]
                for name in arrays
            }
            if base is not None:
                self._base_rows = {name: _read(base.layout[name]) for name in arrays}
        else:
            self._plan = _plan(members, base, arrays, rule, params, integers)
            self._stream = RunningMean()

    @property
    def layers(self) -> dict[str, list[str]]:
        """Names of the tensors by layer, for weights of shape (n_members, n_layers)."""
        return layers_of(self.arrays)

    def __call__(self, weights: Float64, counts: Counts | None = None) -> None:
        """Combine the members into the arrays.

        Parameters
        ----------
        weights : ndarray of shape (n_members,) or (n_members, n_layers)
            Member weights; with two axes, a column for each of ``layers``, in order. A
            single weight other than 0 copies that member, unless the rule has a base.
        counts : ndarray of shape (n_members,), int64, or None, default=None
            How often each member was added, in the ratio of the weights; None if
            members were not added one by one.
        """
        rule, params = self._rule, self._params
        members: list[int] = list(range(len(weights)))
        member_weights: Float64 | None = weights
        if rule.needs_base:
            members = np.flatnonzero(weights).tolist()
            member_weights = weights[members]
        elif weights.ndim == 1:
            members, member_weights = self._combinations.arrange(
                weights, counts if is_mean(rule) else None
            )
        if member_weights is None:
            rule, params, member_weights = RULES["mean"], {}, np.ones(len(members))
        if self._plan is not None:
            self._write_streamed(members, member_weights, rule, params)
            return
        columns = self._columns(member_weights)
        for name, array in self.arrays.items():
            rows, out = self._rows[name], array.reshape(-1)
            block = [rows[index] for index in members]
            if not is_float(out.dtype):
                out[:] = resolve_integers(name, block, self._integers)
            elif out.size:
                out[:] = self._combined(name, block, columns[name], rule, params)

    def _combined(
        self,
        name: str,
        rows: list[Array],
        weights: Float64,
        rule: Rule,
        params: Mapping[str, Any],
    ) -> Array:
        """Combination of one tensor of members in memory."""
        array, base = self.arrays[name], self._base_rows.get(name)
        position = Position(name, array.shape)
        with naming(name):
            state = rule.state_of(rows, weights, base, params, position=position)
            return rule.combine(
                rows,
                weights,
                array.dtype,
                params=params,
                base=base,
                state=state,
                position=position,
            )

    def _columns(self, weights: Float64) -> dict[str, Float64]:
        """Weights of the members by tensor name."""
        if weights.ndim == 1:
            return dict.fromkeys(self.arrays, weights)
        return {
            name: column
            for names, column in zip(self.layers.values(), weights.T, strict=True)
            for name in names
        }

    def _write_streamed(
        self,
        members: list[int],
        weights: Float64,
        rule: Rule,
        params: Mapping[str, Any],
    ) -> None:
        assert self._plan is not None
        columns = self._columns(weights)
        targets = [
            target._replace(members=tuple(target.members[i] for i in members))
            for target in self._plan.targets
        ]
        layers = self.layers if weights.ndim == 2 else {"": list(self.arrays)}
        for names in layers.values():
            layer = [target for target in targets if target.name in set(names)]
            derived = replace(
                self._plan,
                members=tuple(self._plan.members[index] for index in members),
                targets=layer,
                rule=rule,
                weights=columns[names[0]],
                rule_params=dict(params),
            )
            sinks = {
                target.name: ArraySink(self.arrays[target.name]) for target in layer
            }
            self._stream(derived, sinks, lambda n_read: None)


def _fits_in_memory(members: Sequence[Checkpoint], arrays: Mapping[str, Array]) -> bool:
    """Whether members are small, in memory, and of dtypes that can be combined."""
    n_bytes = 0
    for member in members:
        if member.path is not None:
            return False
        for name, array in arrays.items():
            dtype = member.layout[name].dtype
            n_bytes += member.layout[name].nbytes
            if dtype != array.dtype and not (is_float(dtype) and is_float(array.dtype)):
                return False  # the plan raises the error
    return n_bytes <= SMALL


def _read(tensor: Tensor) -> Array:
    """Elements of a tensor in memory, flat."""
    row = np.empty(tensor.size, tensor.dtype)
    tensor.source.read_into(row.view(np.uint8).data, tensor.offset)
    return row


def _plan(
    members: Sequence[Checkpoint],
    base: Checkpoint | None,
    arrays: Mapping[str, Array],
    rule: Rule,
    params: Mapping[str, Any],
    integers: Integers,
) -> Plan:
    """Plan of all members, with at least the memory that they need."""
    planned = plan(
        members,
        base=base,
        rule=rule,
        rule_params=params,
        integers=integers,
        memory=sys.maxsize,
    )
    targets = [
        target._replace(dtype=arrays[target.name].dtype)
        if is_float(target.dtype)
        else target
        for target in planned.targets
    ]
    memory = max(MEMORY, minimum_memory(targets, rule, params))
    _, threads = fit_to_memory(targets, rule, params, memory, planned.threads)
    options = replace(planned.options, memory=memory)
    return replace(planned, targets=targets, options=options, threads=threads)
