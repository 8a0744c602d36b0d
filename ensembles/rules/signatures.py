"""Signatures of the functions of a rule: their arguments, and whether they fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Function = Callable[..., Any]
# Arguments that the library passes by keyword.
ENGINE = ("base", "weights", "moments", "state", "position", "total")
# Further names that the library or its users pass beside the parameters of a rule.
RESERVED = ("stack", "members", "dtype", "name")


def named_arguments(rule: str, function: Function, n_inputs: int) -> dict[str, Any]:
    """Arguments of a rule's function after its inputs, with their defaults.

    Parameters
    ----------
    rule : str
        Name of the rule, for messages.
    function : callable
        Function of the rule.
    n_inputs : int
        Number of leading arguments that are passed by position.

    Returns
    -------
    dict of str to default
        Parameters, and those of `ENGINE` that the function has.

    Raises
    ------
    TypeError
        If arguments are not named one by one, or have a name that the library uses.
    """
    arguments = list(inspect.signature(function).parameters.values())[n_inputs:]
    for argument in arguments:
        if argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL):
            raise TypeError(
                f"functions of rule {rule!r} must name each parameter, found {argument}"
            )
        is_input = argument.name == "weights" and n_inputs != 1
        if argument.name in RESERVED or is_input:
            raise TypeError(
                f"parameters of rule {rule!r} must not be named {argument.name!r}, "
                "which the library uses itself; rename it"
            )
    return {argument.name: argument.default for argument in arguments}


def check_signatures(
    rule: str,
    combine: Mapping[str, Any],
    others: Sequence[Mapping[str, Any]],
    *,
    has_passes: bool,
    needs_base: bool,
    needs_moments: bool,
) -> dict[str, Any]:
    """Parameters of a rule with their defaults, from the arguments of its functions.

    Parameters
    ----------
    rule : str
        Name of the rule, for messages.
    combine : mapping of str to default
        Arguments of the function that combines, as from `named_arguments`.
    others : sequence of mappings of str to default
        Arguments of all other functions of the rule.
    has_passes : bool
        Whether the rule has passes.
    needs_base : bool
        Whether the rule needs a base.
    needs_moments : bool
        Whether the rule needs second moments of the members' data.

    Returns
    -------
    dict of str to default

    Raises
    ------
    TypeError
        If the arguments do not suit the properties of the rule, or a parameter has two
        different defaults.
    """
    functions = [combine, *others]
    for name, is_needed in (("base", needs_base), ("moments", needs_moments)):
        if any(name in arguments for arguments in functions) != is_needed:
            raise TypeError(
                f"rule {rule!r} must have a function with the argument {name!r} if "
                f"and only if it needs one, found needs_{name}={is_needed}"
            )
    if ("state" in combine) != has_passes:
        raise TypeError(
            f"rule {rule!r} must have the argument 'state' if and only if it has "
            "statistics, from which the state is computed"
        )
    params: dict[str, Any] = {}
    for arguments in functions:
        for name, default in arguments.items():
            # As text: arrays have no single truth value, and NaN is not equal to NaN.
            if repr(params.setdefault(name, default)) != repr(default):
                raise TypeError(
                    f"parameter {name!r} of rule {rule!r} must have the same default "
                    f"in all functions, found {params[name]!r} and {default!r}"
                )
    return {name: v for name, v in params.items() if name not in ENGINE}
