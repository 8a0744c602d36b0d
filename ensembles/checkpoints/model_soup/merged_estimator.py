"""An estimator that takes the parameters of its members, combined."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import warn_user
from ensembles._typing import Array, Float64
from ensembles.checkpoints.compatibility.configuration import differences
from ensembles.checkpoints.compatibility.key_mapping import matched
from ensembles.checkpoints.directories.unsupported import refused
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.formats.state_dict import (
    as_array,
    as_torch,
    is_torch,
    place_of,
)
from ensembles.checkpoints.merging.combinations import Pool
from ensembles.checkpoints.model_soup.parameter_arrays import Mixture
from ensembles.checkpoints.parameters.access import state_of
from ensembles.checkpoints.parameters.table import State
from ensembles.checkpoints.parameters.template import check_kind, home_of, opened_for
from ensembles.checkpoints.planning.buffers import least_memory
from ensembles.checkpoints.planning.options import MEMORY, Options
from ensembles.checkpoints.planning.plan import plan
from ensembles.checkpoints.planning.warnings import check_related, warn_of_statistics
from ensembles.registry import lookup
from ensembles.rules.builtin import RULES
from ensembles.rules.rule import Rule


class Merged:
    """An estimator that takes the parameters of any combination of the members.

    Parameters
    ----------
    estimator : object
        With parameters of its own, which are lost.
    state : State
        How they are put in.
    pool : Pool
        Of members by the estimator's names.
    finish : callable (estimator) or None, default=None
        Called after each combination, such as to recalculate running statistics.
    """

    def __init__(
        self,
        estimator: Any,
        state: State,
        pool: Pool,
        finish: Callable[[Any], object] | None = None,
    ) -> None:
        self.estimator = estimator
        self._finish = finish
        self.members = pool.members
        self.pool = pool
        self._state = state
        held = state.get(estimator)
        self._formats = {
            name: (tensor.device, tensor.dtype) for name, tensor in self._tensors()
        }
        self._torch = {name for name, value in held.items() if is_torch(value)}
        self._aliases: dict[str, str] = {}
        arrays: dict[str, Array] = {}
        seen: dict[Any, str] = {}
        for name, value in held.items():
            array = np.require(as_array(value, name), requirements=["C", "W"])
            place = place_of(value, array)
            if array.size and place in seen:
                self._aliases[name] = seen[place]
            else:
                seen[place] = name
                arrays[name] = array
        self._mixture = Mixture(pool, arrays)
        self._holds: bytes | None = None

    @property
    def has_module(self) -> bool:
        """Whether gradients can be had, of a torch module."""
        return self._state.module is not None

    def module_of(self, estimator: Any) -> Any:
        """The torch module of an estimator of the kind."""
        return None if self._state.module is None else self._state.module(estimator)

    @property
    def arrays(self) -> dict[str, Any]:
        """Arrays that combinations are put into, by name, each once."""
        return dict(self._mixture.arrays)

    @property
    def layers(self) -> dict[str, list[str]]:
        """Names of the tensors by layer, for weights of shape (n_members, n_layers)."""
        return self._mixture.layers

    def put(self, weights: Float64) -> Any:
        """Estimator that has the members' combination for its parameters.

        Parameters
        ----------
        weights : ndarray of shape (n_members,) or (n_members, n_layers)

        Returns
        -------
        object
            The same one each time.
        """
        key = weights.tobytes()
        if key != self._holds:
            self._holds = None
            self._mixture(weights)
            arrays = self._mixture.arrays
            found = {
                name: as_torch(array) if name in self._torch else array
                for name, array in arrays.items()
            }
            found |= {alias: found[name] for alias, name in self._aliases.items()}
            self._restore_formats()
            self._state.set(self.estimator, found)
            if self._finish is not None:
                self._finish(self.estimator)
            self._holds = key
        if self.has_module:
            self.module_of(self.estimator).eval()
        return self.estimator

    def _tensors(self) -> list[tuple[str, Any]]:
        """Parameters and buffers of the module, if the estimator has one."""
        module = self.module_of(self.estimator)
        if module is None:
            return []
        return [*module.named_parameters(), *module.named_buffers()]

    def _restore_formats(self) -> None:
        """Undo a move or a cast, such as an evaluation in bfloat16 leaves."""
        for name, tensor in self._tensors():
            device, dtype = self._formats.get(name, (tensor.device, tensor.dtype))
            if (tensor.device, tensor.dtype) != (device, dtype):
                tensor.data = tensor.data.to(device, dtype)

    def lent(self) -> Any:
        """Forget what the estimator holds: who is given it may change it."""
        self._holds = None


class Combining(NamedTuple):
    """What is combined, how, and into what.

    Parameters
    ----------
    estimator : object
    members : sequence of paths, state dicts or fitted estimators
    names : sequence of str
        Of the members, for messages; a path is its own.
    rule : str or Rule
    params : dict
        Of the rule.
    counted : bool
        Whether weights stand for members that are added one by one.
    integers : str
        How integers that differ are settled.
    device : str or None
        Where a torch module is put.
    shared_init : {"error", "warn"}, default="error"
        What happens to networks that were not trained from one initialization.
    finish : callable (estimator) or None, default=None
        Called after each combination.
    """

    estimator: Any
    members: Sequence[Any]
    names: Sequence[str]
    rule: str | Rule
    params: dict[str, Any]
    counted: bool
    integers: str
    device: str | None
    shared_init: str = "error"
    finish: Callable[[Any], object] | None = None


def merge(combining: Combining, labels: Any = None) -> Merged:
    """Estimator that takes the parameters of members, known to fit it and each other.

    Parameters
    ----------
    combining : Combining
    labels : array-like or None, default=None
        What an estimator is to predict, where it learns its classes from that alone.

    Returns
    -------
    Merged

    Raises
    ------
    TypeError
        If a member, or the estimator, is of a kind that cannot be averaged.
    ValueError
        If members differ in names, shapes or classes, or networks were not trained
        from one initialization.

    Warns
    -----
    UserWarning
        If what lies around the members differs, such as their tokenizers, or networks
        lie far apart.
    """
    estimator, members, names = combining[:3]
    device = combining.device
    rule = named_rule(combining.rule)
    rule.check(len(members), combining.params)
    for member, name in zip(members, names, strict=True):
        check_kind(estimator, member, name)
    held = home_of(estimator, members, labels)
    state = state_of(held)
    if device is not None:
        if state.module is None:
            raise ValueError(
                f"device must be None for a {type(held).__name__}, which is no torch "
                f"module; found {device!r}"
            )
        state.module(held).to(device)
    home = state_dict.read(state.get(held), "the estimator")
    found = [
        opened_for(held, member, name)
        for member, name in zip(members, names, strict=True)
    ]
    reasons = [reason for member in found for reason in refused(member)]
    if reasons:
        raise ValueError(reasons[0])
    for member in found:
        for note in member.notes:
            warn_user(f"{member.name}: {note}")
    for note in differences(found):
        warn_user(note)
    opened = [matched(member, home) for member in found]
    network = state.network(held)
    if network:
        check_related(opened, set(network), combining.shared_init)
    if combining.finish is None:
        warn_of_statistics(opened)
    options: Options = {"integers": combining.integers, "memory": sys.maxsize}
    needed = least_memory(plan(opened, **options).targets, rule)
    pool = Pool(
        opened,
        rule=rule,
        params=combining.params,
        options={**options, "memory": max(MEMORY, needed)},
        counted=combining.counted,
    )
    return Merged(held, state, pool, combining.finish)


def named_rule(rule: str | Rule) -> Rule:
    """Rule of that name, or the rule itself.

    Parameters
    ----------
    rule : str or Rule

    Returns
    -------
    Rule
    """
    return rule if isinstance(rule, Rule) else lookup(RULES, rule)
