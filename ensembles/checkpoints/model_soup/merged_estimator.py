"""Combine members in one estimator, again for each set of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles._typing import Array, Counts, Float64
from ensembles.checkpoints.compatibility.configuration import differences
from ensembles.checkpoints.compatibility.key_mapping import map_keys
from ensembles.checkpoints.directories.unsupported import unsupported_reasons
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.formats.state_dict import (
    as_array,
    as_torch,
    is_torch,
    place_of,
)
from ensembles.checkpoints.model_soup.parameter_arrays import ParameterWriter
from ensembles.checkpoints.parameters.access import parameter_access
from ensembles.checkpoints.parameters.table import ParameterAccess
from ensembles.checkpoints.parameters.template import (
    check_type,
    make_template,
    open_member_for,
)
from ensembles.checkpoints.planning.options import Integers
from ensembles.checkpoints.planning.warnings import check_related, warn_of_statistics
from ensembles.rules.rule import Rule

ROUNDING = 1e-12  # of a sum of weights: if it is nearer to 1, the base has weight 0


class MergedEstimator:
    """Estimator that receives the combined parameters of its members.

    Parameters
    ----------
    estimator : object
        Estimator with parameters of the right shapes, which are overwritten.
    access : ParameterAccess
        Getter and setter of the estimator's parameters.
    members : sequence of Checkpoint
        Members, with the tensor names of the estimator.
    base : Checkpoint or None
        Base that the members were fine-tuned from; it has the weight 1 minus the sum of
        their weights. None without a base.
    rule : Rule
        Rule that combines the members.
    params : mapping of str to value
        Parameters of the rule.
    integers : {"error", "first", "max"}
        How to resolve integer and boolean tensors that differ: raise, take those of the
        first member, or take the maximum.
    finish : callable (estimator) or None
        Called after each combination, e.g. to recompute running statistics; None does
        nothing.
    """

    def __init__(
        self,
        estimator: Any,
        access: ParameterAccess,
        members: Sequence[Checkpoint],
        base: Checkpoint | None,
        *,
        rule: Rule,
        params: Mapping[str, Any],
        integers: Integers,
        finish: Callable[[Any], object] | None,
    ) -> None:
        self.estimator = estimator
        self.members = tuple(members)
        self._has_base = base is not None
        self._access = access
        self._finish = finish
        self._formats = {
            name: (tensor.device, tensor.dtype) for name, tensor in self._tensors()
        }
        parameters = access.get(estimator)
        self._torch = {name for name, value in parameters.items() if is_torch(value)}
        arrays, self._aliases = _output_arrays(parameters)
        sources = [*members] if base is None else [base, *members]
        self._writer = ParameterWriter(
            sources, arrays, rule=rule, params=params, integers=integers
        )

    @property
    def has_module(self) -> bool:
        """Whether the estimator holds a PyTorch module, so that it has gradients."""
        return self._access.module is not None

    def module_of(self, estimator: Any) -> Any:
        """PyTorch module of an estimator of the same kind; None if it has no module."""
        return None if self._access.module is None else self._access.module(estimator)

    @property
    def arrays(self) -> Mapping[str, Array]:
        """Combined parameters by tensor name; tensors that share memory appear once."""
        return self._writer.arrays

    @property
    def layers(self) -> dict[str, list[str]]:
        """Names of the tensors by layer, for weights of shape (n_members, n_layers)."""
        return self._writer.layers

    def set_weights(self, weights: Float64, counts: Counts | None = None) -> Any:
        """Combine the members in the estimator.

        Parameters
        ----------
        weights : ndarray of shape (n_members,) or (n_members, n_layers)
            Member weights; with two axes, a column for each of ``layers``, in order.
        counts : ndarray of shape (n_members,), int64, or None, default=None
            How often each member was added, in the ratio of the weights; None if
            members were not added one by one.

        Returns
        -------
        object
            The estimator with the combined parameters, the same object for every call.
        """
        if self._has_base:
            share = 1 - math.fsum(weights)
            weights = np.array([share if abs(share) > ROUNDING else 0.0, *weights])
        self._writer(weights, counts)
        parameters: dict[str, Any] = {
            name: as_torch(array) if name in self._torch else array
            for name, array in self.arrays.items()
        }
        parameters |= {alias: parameters[name] for alias, name in self._aliases.items()}
        self._restore_formats()
        self._access.set(self.estimator, parameters)
        if self._finish is not None:
            self._finish(self.estimator)
        if self._access.module is not None:
            self._access.module(self.estimator).eval()
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


def _output_arrays(
    parameters: Mapping[str, Any],
) -> tuple[dict[str, Array], dict[str, str]]:
    """Writable arrays of the parameters, and aliases of tensors that share memory."""
    arrays: dict[str, Array] = {}
    aliases: dict[str, str] = {}
    first_names: dict[Any, str] = {}
    for name, value in parameters.items():
        array = np.require(as_array(value, name), requirements=["C", "W"])
        memory = place_of(value, array)
        if array.size and memory in first_names:
            aliases[name] = first_names[memory]
        else:
            first_names[memory] = name
            arrays[name] = array
    return arrays, aliases


def build_merged_estimator(
    estimator: Any,
    members: Sequence[Any],
    names: Sequence[str],
    *,
    base: Any = None,
    rule: Rule,
    params: Mapping[str, Any],
    integers: Integers = "error",
    shared_init: str = "error",
    device: str | None = None,
    finish: Callable[[Any], object] | None = None,
    labels: Any = None,
) -> MergedEstimator:
    """Check that the members match, and prepare the estimator that combines them.

    Parameters
    ----------
    estimator : object
        Estimator to combine the members in, fitted or not; it is copied.
    members : sequence of paths, state dicts or fitted estimators
        Members.
    names : sequence of str
        Names of the members in messages; checkpoints on disk are named by their paths.
    base : path, state dict, fitted estimator or None, default=None
        Base that the members were fine-tuned from; None without a base.
    rule : Rule
        Rule that combines the members.
    params : mapping of str to value
        Parameters of the rule.
    integers : {"error", "first", "max"}, default="error"
        How to resolve integer and boolean tensors that differ: raise, take those of the
        first member, or take the maximum.
    shared_init : {"error", "warn"}, default="error"
        Whether to raise or to warn if networks do not share an initialization.
    device : str or None, default=None
        Device that a PyTorch module is moved to; None leaves it in place.
    finish : callable (estimator) or None, default=None
        Called after each combination; None does nothing.
    labels : array-like or None, default=None
        Targets, for estimators that take only their classes from them, such as a
        skorch net; None leaves the classes unset.

    Returns
    -------
    MergedEstimator

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
    if base is not None:
        members, names = [base, *members], ["base", *names]
    rule.check(len(members), params)
    for member, name in zip(members, names, strict=True):
        check_type(estimator, member, name)
    template = make_template(estimator, members, labels)
    access = parameter_access(template)
    if device is not None and access.module is not None:
        access.module(template).to(device)
    opened = [
        open_member_for(template, member, name)
        for member, name in zip(members, names, strict=True)
    ]
    if access.module is not None or any(member.path for member in opened):
        _check_contents(opened)
    layout = state_dict.read(access.get(template), "the estimator")
    opened = [map_keys(member, layout) for member in opened]
    network = access.permutable_names(template)
    if network:
        check_related(opened, set(network), shared_init)
    if finish is None and access.module is not None:
        warn_of_statistics(opened)
    return MergedEstimator(
        template,
        access,
        opened if base is None else opened[1:],
        None if base is None else opened[0],
        rule=rule,
        params=params,
        integers=integers,
        finish=finish,
    )


def _check_contents(members: Sequence[Checkpoint]) -> None:
    """Raise for checkpoints that cannot be averaged, and warn if files differ."""
    reasons = [reason for member in members for reason in unsupported_reasons(member)]
    if reasons:
        raise ValueError(reasons[0])
    for member in members:
        for note in member.notes:
            warn_caller(f"{member.name}: {note}")
    for note in differences(members):
        warn_caller(note)
