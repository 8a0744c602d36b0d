"""Tables of named functions: the function's name is its public name."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Container, Iterable
from typing import Any, ClassVar, TypeVar, cast

Entry = TypeVar("Entry")
# Builds an entry from a function and its properties, which depend on the table.
Make = Callable[..., Entry]


def parameters_of(
    function: Callable[..., Any], n_inputs: int, reserved: Container[str] = ()
) -> dict[str, Any]:
    """Names of a function's parameters, with their defaults.

    Parameters
    ----------
    function : callable
        Any function.
    n_inputs : int
        Number of leading arguments that are data.
    reserved : container of str, default=()
        Names of further arguments to leave out, because the library sets them.

    Returns
    -------
    dict of str to default
    """
    arguments = list(inspect.signature(function).parameters.values())[n_inputs:]
    return {
        argument.name: argument.default
        for argument in arguments
        if argument.name not in reserved
    }


class RegisteredFunction:
    """A function with its public name and its parameters.

    Derived classes store the properties that are passed to `register`, and define
    ``__call__``.

    Parameters
    ----------
    function : callable
        Function whose first ``n_inputs`` arguments are data; the others are its
        parameters.

    Attributes
    ----------
    name : str
        Public name, which is the function's ``__name__``.
    function : callable
        The function itself.
    """

    noun: ClassVar[str] = "function"  # for messages
    n_inputs: ClassVar[int] = 2
    # Arguments after the inputs that the caller sets, not the user.
    reserved: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)  # type: ignore[arg-type]
        self.name = function.__name__
        self.function = function

    def __reduce__(self) -> Any:
        """Pickle by name, which refers to this entry in the function's module."""
        return self.name

    @property
    def params(self) -> dict[str, Any]:
        """Names of the parameters, with their defaults."""
        return parameters_of(self.function, self.n_inputs, self.reserved)

    def check_names(self, params: Iterable[str]) -> None:
        """Raise if the function has no parameter of one of these names.

        Parameters
        ----------
        params : iterable of str
            Names of parameters.

        Raises
        ------
        ValueError
            If a name is unknown; the message lists the known names.
        """
        names = self.params
        for name in params:
            if name not in names:
                raise ValueError(
                    f"{self.noun} {self.name!r} has no parameter {name!r} "
                    f"(known: {', '.join(names) or 'none'})"
                )


class Table(dict[str, Entry]):
    """A dict from public names to entries, filled by `register`.

    Parameters
    ----------
    noun : str
        Kind of the entries, for messages: ``"rule"``, ``"selection"``, ``"format"``.
    make : callable (function, **properties) -> entry, or None, default=None
        Builds the entry from the registered function and its properties, such as a
        class derived from `RegisteredFunction`. With None the function itself is the
        entry, and it has no properties.

    Examples
    --------
    >>> RULES: Table[Callable[..., float]] = Table("rule")
    >>> @register(RULES)
    ... def largest(values):
    ...     return max(values)
    >>> lookup(RULES, "largest")([1, 3, 2])
    3
    """

    def __init__(self, noun: str, make: Make[Entry] | None = None) -> None:
        super().__init__()
        self.noun = noun
        self.make = make


def register(
    table: Table[Entry], **properties: Any
) -> Callable[[Callable[..., Any]], Entry]:
    """Decorator that adds a function to a table under the function's own name.

    Parameters
    ----------
    table : Table
        Table that the function is added to.
    **properties
        Properties of the function, passed to the table's ``make``.

    Returns
    -------
    callable function -> entry
        Decorator that returns the entry, so the decorated name refers to the entry.

    Raises
    ------
    ValueError
        If the table already has this name.
    TypeError
        If properties are given and the table has no ``make``.
    """

    def add(function: Callable[..., Any]) -> Entry:
        name = function.__name__
        if name in table:
            raise ValueError(
                f"{table.noun} {name!r} must be registered once, found a second one "
                f"in {function.__module__}; rename it"
            )
        table[name] = _entry(table, function, properties)
        return table[name]

    return add


def _entry(
    table: Table[Entry], function: Callable[..., Any], properties: dict[str, Any]
) -> Entry:
    if table.make is not None:
        return table.make(function, **properties)
    if properties:
        raise TypeError(
            f"a {table.noun} must be registered without properties, found "
            f"{', '.join(properties)} for {function.__name__!r}; to allow them, pass "
            "make= when the table is made"
        )
    return cast(Entry, function)


def lookup(table: Table[Entry], name: str, *, hint: str = "") -> Entry:
    """Entry of a table by its name.

    Parameters
    ----------
    table : Table
        Table to search.
    name : str
        Public name of the entry.
    hint : str, default=""
        Hint for a name that the table does not have, which starts with a semicolon;
        without one, the message suggests the most similar name.

    Returns
    -------
    entry

    Raises
    ------
    ValueError
        If the table does not have this name; the message has the hint and lists all
        names.
    TypeError
        If ``name`` is not a string.
    """
    names = f"(known: {', '.join(sorted(table))})"
    if not isinstance(name, str):
        raise TypeError(f"{table.noun} must be a name, found {name!r} {names}")
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(name.casefold(), table, n=1)
    if nearest and not hint:
        hint = f"; did you mean {nearest[0]!r}?"
    raise ValueError(f"unknown {table.noun} {name!r}{hint} {names}")
