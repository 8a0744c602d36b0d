"""Signatures of the functions of a rule: their arguments, and whether they fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]
ENGINE = ("base", "state")  # arguments that the library passes by keyword
# Further names that the library or its users pass beside the parameters of a rule.
RESERVED = ("stack", "members", "weights", "dtype")


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
        Parameters, and ``base`` and ``state`` if the function has them.

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
        if argument.name in RESERVED:
            raise TypeError(
                f"parameters of rule {rule!r} must not be named {argument.name!r}, "
                "which the library uses itself; rename it"
            )
    return {argument.name: argument.default for argument in arguments}


def check_signatures(
    rule: str,
    combine: dict[str, Any],
    statistics: dict[str, Any] | None,
    finish: dict[str, Any] | None,
    *,
    needs_base: bool,
) -> dict[str, Any]:
    """Parameters of a rule with their defaults, from the arguments of its functions.

    Parameters
    ----------
    rule : str
        Name of the rule, for messages.
    combine : dict of str to default
        Arguments of the function that combines, as from `named_arguments`.
    statistics, finish : dict of str to default, or None
        Arguments of the other two functions; None if the rule does not have them.
    needs_base : bool
        Whether the rule needs a base.

    Returns
    -------
    dict of str to default

    Raises
    ------
    TypeError
        If the arguments do not suit the properties of the rule, or a parameter has two
        different defaults.
    """
    functions = [f for f in (combine, statistics, finish) if f is not None]
    if any("base" in arguments for arguments in functions) != needs_base:
        raise TypeError(
            f"rule {rule!r} must have a function with the argument 'base' if and only "
            f"if it needs one, found needs_base={needs_base}"
        )
    if finish is not None and statistics is None:
        raise TypeError(f"rule {rule!r} must have statistics, because it has finish")
    if ("state" in combine) != (statistics is not None):
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
