"""Combine members in one estimator, again for each set of weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import warn_user
from ensembles._typing import Array, Float64
from ensembles.checkpoints.compatibility.configuration import differences
from ensembles.checkpoints.compatibility.key_mapping import map_keys
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
from ensembles.checkpoints.parameters.access import parameter_access
from ensembles.checkpoints.parameters.table import ParameterAccess
from ensembles.checkpoints.parameters.template import (
    check_type,
    make_template,
    open_member_for,
)
from ensembles.checkpoints.planning.buffers import least_memory
from ensembles.checkpoints.planning.options import MEMORY, Options
from ensembles.checkpoints.planning.plan import plan
from ensembles.checkpoints.planning.warnings import check_related, warn_of_statistics
from ensembles.registry import lookup
from ensembles.rules.builtin import RULES
from ensembles.rules.rule import Rule


class Merged:
    """Estimator that receives the combined parameters of its members.

    Parameters
    ----------
    estimator : object
        Estimator with parameters of the right shapes, which are overwritten.
    state : ParameterAccess
        Getter and setter of the estimator's parameters.
    pool : Pool
        Members, with the tensor names of the estimator.
    finish : callable (estimator) or None, default=None
        Called after each combination, e.g. to recompute running statistics.
    """

    def __init__(
        self,
        estimator: Any,
        state: ParameterAccess,
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
        """Whether the estimator holds a PyTorch module, so that it has gradients."""
        return self._state.module is not None

    def module_of(self, estimator: Any) -> Any:
        """PyTorch module of an estimator of the same kind; None if it has no module."""
        return None if self._state.module is None else self._state.module(estimator)

    @property
    def arrays(self) -> dict[str, Any]:
        """Combined parameters by tensor name; tensors that share memory appear once."""
        return dict(self._mixture.arrays)

    @property
    def layers(self) -> dict[str, list[str]]:
        """Names of the tensors by layer, for weights of shape (n_members, n_layers)."""
        return self._mixture.layers

    def put(self, weights: Float64) -> Any:
        """Combine the members, unless the estimator holds that combination already.

        Parameters
        ----------
        weights : ndarray of shape (n_members,) or (n_members, n_layers)
            Member weights; with two axes, a column for each of ``layers``, in order.

        Returns
        -------
        object
            The estimator with the combined parameters, the same object for every call.
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
        """Names and tensors of the module, buffers included; empty without a module."""
        module = self.module_of(self.estimator)
        if module is None:
            return []
        return [*module.named_parameters(), *module.named_buffers()]

    def _restore_formats(self) -> None:
        """Restore devices and dtypes, e.g. after an evaluation in bfloat16."""
        for name, tensor in self._tensors():
            device, dtype = self._formats.get(name, (tensor.device, tensor.dtype))
            if (tensor.device, tensor.dtype) != (device, dtype):
                tensor.data = tensor.data.to(device, dtype)

    def lent(self) -> Any:
        """Discard the cached weights: a scorer may have modified the estimator."""
        self._holds = None


class Combining(NamedTuple):
    """Members, the settings of their combination, and the estimator for the result.

    Parameters
    ----------
    estimator : object
        Estimator to combine the members in, fitted or not; it is copied.
    members : sequence of paths, state dicts or fitted estimators
        Members, after the base if there is one.
    names : sequence of str
        Names of the members in messages; checkpoints on disk are named by their paths.
    rule : str or Rule
        Rule that combines the members, or its name.
    params : dict
        Parameters of the rule.
    counted : bool
        Whether weights come from adding members one at a time, so that a running sum
        can be reused.
    integers : {"error", "first", "max"}
        How to resolve integer and boolean tensors that differ: raise, take those of the
        first member, or take the maximum.
    device : str or None
        Device that a PyTorch module is moved to; None leaves it in place.
    shared_init : {"error", "warn"}, default="error"
        Whether to raise or to warn if networks do not share an initialization.
    finish : callable (estimator) or None, default=None
        Called after each combination; None does nothing.
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
    """Check that the members match, and prepare the estimator that combines them.

    Parameters
    ----------
    combining : Combining
        Members, settings and estimator.
    labels : array-like or None, default=None
        Targets, for estimators that take only their classes from them, such as a
        skorch net; None leaves the classes unset.

    Returns
    -------
    Merged

    Raises
    ------
    TypeError
        If a member or the estimator is of a kind that cannot be averaged.
    ValueError
        If members differ in names, shapes or classes, or networks were not fine-tuned
        from the same initialization.

    Warns
    -----
    UserWarning
        If auxiliary files or BatchNorm statistics of members differ, or the parameters
        of networks have a low cosine similarity.
    """
    estimator, members, names = combining[:3]
    device = combining.device
    rule = named_rule(combining.rule)
    rule.check(len(members), combining.params)
    for member, name in zip(members, names, strict=True):
        check_type(estimator, member, name)
    held = make_template(estimator, members, labels)
    state = parameter_access(held)
    if device is not None:
        if state.module is None:
            raise ValueError(
                f"device must be None for a {type(held).__name__}, which is no torch "
                f"module; found {device!r}"
            )
        state.module(held).to(device)
    home = state_dict.read(state.get(held), "the estimator")
    found = [
        open_member_for(held, member, name)
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
    opened = [map_keys(member, home) for member in found]
    network = state.permutable_names(held)
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
    """Look up a rule by name.

    Parameters
    ----------
    rule : str or Rule
        Name in `ensembles.rules.RULES`; a rule is returned unchanged.

    Returns
    -------
    Rule

    Raises
    ------
    TypeError, ValueError
        If ``rule`` is neither a rule nor a string, or the name is unknown.
    """
    return rule if isinstance(rule, Rule) else lookup(RULES, rule)
