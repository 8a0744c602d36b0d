"""A merge method of mergekit, and what it makes of the parameters of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.recipes.document import Settings, Source
from ensembles.checkpoints.recipes.parameters import (
    REQUIRED,
    Input,
    Parameter,
    value_of,
)


class Values(NamedTuple):
    """Values of a method's parameters for a tensor, by mergekit's names.

    Parameters
    ----------
    rule : str
        Name of the rule that combines the members.
    shared : mapping of str to value
        Parameters of the merge.
    of_models : mapping of str to list
        Parameters with one value for each member.
    """

    rule: str
    shared: Mapping[str, Any]
    of_models: Mapping[str, list[Any]]

    @property
    def weights(self) -> list[float]:
        """Weight of each member."""
        return self.of_models["weight"]


@dataclass(frozen=True)
class Method:
    """A merge method of mergekit.

    Parameters
    ----------
    rule : str
        Rule that computes it.
    parameters : tuple of Parameter
        Its parameters, by mergekit's names.
    settings : callable Values -> TensorSettings
        Weights and parameters of the rule.
    base : {"member", "first", "ancestor", "optional"}, default="member"
        What ``base_model`` is: a member like the others, the first of two members, the
        base of the rule, or the base if the recipe names one.
    n_members : (int, int or None), default=(1, None)
        Smallest and largest number of members, without a base of the rule.
    rule_with_base : str, default=""
        Rule that computes it with an optional base.
    rule_of_sums : str, default=""
        Rule that computes it if ``normalize`` is not true for all tensors.
    note : str, default=""
        How results differ from mergekit's, for the plan.
    """

    rule: str
    parameters: tuple[Parameter, ...]
    settings: Callable[[Values], TensorSettings]
    base: Literal["member", "first", "ancestor", "optional"] = "member"
    n_members: tuple[int, int | None] = (1, None)
    rule_with_base: str = ""
    rule_of_sums: str = ""
    note: str = ""

    def members_of(
        self, sources: Sequence[Source], base_model: str | None
    ) -> tuple[list[Source], Source | None]:
        """Members of the rule in their order, and its base.

        Parameters
        ----------
        sources : sequence of Source
            Models of the merge or of a slice, with the base.
        base_model : str or None
            Path of the base.

        Returns
        -------
        (list of Source, Source or None)
            Without other models the base is the only member, which is copied.
        """
        bases = [source for source in sources if source.model == base_model]
        others = [source for source in sources if source.model != base_model]
        if self.base == "member" or not others:
            return list(sources), None
        if self.base == "first":
            return [*bases, *others], None
        return others, bases[0] if bases else None

    def rule_for(self, *, has_base: bool, scopes: Iterable[Settings]) -> str:
        """Name of the rule.

        Parameters
        ----------
        has_base : bool
            Whether the rule gets a base.
        scopes : iterable of mapping
            All parameters of the recipe: of models, slices, modules and the merge.

        Returns
        -------
        str
        """
        if self.base == "ancestor" and not has_base:
            return "mean"
        if self.base == "optional" and has_base:
            return self.rule_with_base
        if self.rule_of_sums and any(
            scope.get("normalize", True) is not True for scope in scopes
        ):
            return self.rule_of_sums
        return self.rule


def tensor_settings(
    method: Method,
    rule: str,
    tensor: str,
    t: float,
    inputs: Sequence[Input],
    shared: Sequence[Settings],
) -> TensorSettings:
    """Weights and parameters of the rule for a tensor.

    Parameters
    ----------
    method : Method
        Merge method.
    rule : str
        Name of its rule, from ``rule_for``.
    tensor : str
        Name of the tensor in the result.
    t : float
        Position of its layer in the slice, from 0 to 1; 0 outside of layers.
    inputs : sequence of Input
        Tensors of the members, in their order.
    shared : sequence of mapping
        Parameters of the slice, of the module and of the merge, in this order.

    Returns
    -------
    TensorSettings

    Raises
    ------
    ValueError
        If a required parameter has no value for the tensor.
    """
    if method.base == "ancestor" and rule == "mean":
        return TensorSettings([1.0])
    values: dict[str, Any] = {}
    of_models: dict[str, list[Any]] = {}
    for parameter in method.parameters:
        if not parameter.of_model:
            values[parameter.name] = value_of(parameter, shared, tensor, t)
            _check_present(parameter, values[parameter.name], f"tensor {tensor!r}")
            continue
        of_models[parameter.name] = []
        for entry in inputs:
            scopes = (entry.parameters, *shared)
            value = value_of(parameter, scopes, entry.tensor, t)
            where = f"tensor {entry.tensor!r} of model {entry.model}"
            _check_present(parameter, value, where)
            of_models[parameter.name].append(value)
    try:
        return method.settings(Values(rule, values, of_models))
    except ValueError as error:
        raise ValueError(f"tensor {tensor!r}: {error}") from None


def _check_present(parameter: Parameter, value: Any, where: str) -> None:
    if value is None and parameter.default is REQUIRED:
        raise ValueError(
            f"{parameter.name} must have a value for {where}, which no filter matches; "
            "add an entry without a filter"
        )
