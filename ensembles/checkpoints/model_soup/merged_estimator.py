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
from ensembles.checkpoints.planning.notices import base_problems
from ensembles.checkpoints.planning.options import Integers
from ensembles.checkpoints.planning.warnings import check_related, warn_of_statistics
from ensembles.checkpoints.soup_selection import scaled_weights, single_member
from ensembles.rules.builtin import RULES
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
        Base that the members were fine-tuned from. A rule that needs a base gets it;
        for other rules it is a member, whose weight is 1 minus the sum of the others.
        None without a base.
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

    Attributes
    ----------
    has_base : bool
        Whether there is a base.
    rule : Rule
        Rule that combines the members.
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
        self.has_base = base is not None
        self.rule = rule
        self._access = access
        self._finish = finish
        self._formats = {
            name: (tensor.device, tensor.dtype) for name, tensor in self._tensors()
        }
        parameters = access.get(estimator)
        self._torch = {name for name, value in parameters.items() if is_torch(value)}
        arrays, self._aliases = _output_arrays(parameters)
        sources = [*members] if base is None else [base, *members]
        # Sets the base or a member itself, which a rule with a base would change.
        self._writer = self._copier = ParameterWriter(
            sources,
            arrays,
            rule=RULES["mean"] if rule.needs_base else rule,
            params={} if rule.needs_base else params,
            integers=integers,
        )
        if rule.needs_base:
            self._writer = ParameterWriter(
                members,
                arrays,
                rule=rule,
                params=params,
                integers=integers,
                base=base,
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
        if self.has_base and not self.rule.needs_base:
            share = 1 - math.fsum(weights)
            weights = np.array([share if abs(share) > ROUNDING else 0.0, *weights])
        self._writer(weights, counts)
        return self._estimator_with_arrays()

    def set_chosen(self, weights: Float64, counts: Counts | None = None) -> Any:
        """Combine the members by weights of a selection, see `weights_of_rule`.

        Parameters
        ----------
        weights, counts : ndarray
            As in `set_weights`, with sum 1. With a rule that needs a base, a member
            with all the weight is set itself, not changed by the rule.

        Returns
        -------
        object
            The estimator, as from `set_weights`.
        """
        alone = single_member(weights) if self.rule.needs_base else None
        if alone is not None:
            return self.set_member(alone)
        return self.set_weights(self.weights_of_rule(weights, counts), counts)

    def weights_of_rule(
        self, weights: Float64, counts: Counts | None = None
    ) -> Float64:
        """Weights that the rule gets for weights of a selection.

        Parameters
        ----------
        weights, counts : ndarray
            As in `set_chosen`.

        Returns
        -------
        ndarray of the shape of ``weights``
            With a mean of 1 over the members in use, if the rule needs a base;
            otherwise unchanged.
        """
        return scaled_weights(weights, counts) if self.rule.needs_base else weights

    def set_member(self, index: int | None) -> Any:
        """Set the parameters of a member, or of the base, in the estimator.

        Parameters
        ----------
        index : int or None
            Index of the member; None is the base.

        Returns
        -------
        object
            The estimator, as from `set_weights`.
        """
        weights = np.zeros(len(self.members) + self.has_base)
        weights[0 if index is None else index + self.has_base] = 1
        self._copier(weights)
        return self._estimator_with_arrays()

    def _estimator_with_arrays(self) -> Any:
        """Estimator with the parameters in ``arrays``."""
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
    rule.check(
        len(members) + (base is not None and not rule.needs_base),
        params,
        has_base=rule.needs_base and base is not None,
    )
    for member, name in zip(members, names, strict=True):
        if rule.needs_base and member is base:
            raise ValueError(f"{name} is the base; leave it out of the members")
    models = members if base is None or rule.needs_base else [base, *members]
    if base is not None:
        members, names = [base, *members], ["base", *names]
    for member, name in zip(members, names, strict=True):
        check_type(estimator, member, name)
    template = make_template(estimator, models, labels)
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
    problems = base_problems(opened[1:], opened[0]) if rule.needs_base else iter(())
    for problem in problems:
        raise ValueError(problem)
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
