"""Tables of named functions: the function's name is its public name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeVar, cast

Entry = TypeVar("Entry")
# What is registered differs by table, and so do the facts: only `make` knows both.
Make = Callable[[Callable[..., Any], dict[str, Any]], Entry]


class Table(dict[str, Entry]):
    """A dict of named entries that knows what one of them is called.

    Parameters
    ----------
    noun : str
        What an entry is, for messages: ``"rule"``, ``"selection"``, ``"format"``.
    make : callable (function, facts) -> entry, or None, default=None
        Builds the entry from the registered function and its facts. With None the
        function itself is the entry, and it has no facts.

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
    table: Table[Entry], **facts: Any
) -> Callable[[Callable[..., Any]], Entry]:
    """Enter the decorated function into a table under its own name.

    Parameters
    ----------
    table : Table
    **facts
        What is true of the function; the table's ``make`` takes them.

    Returns
    -------
    callable function -> entry
        It returns what it stores, so the decorated name is the entry.

    Raises
    ------
    ValueError
        If the name is taken.
    TypeError
        If facts are given and the table has no ``make``.
    """

    def enter(function: Callable[..., Any]) -> Entry:
        name = function.__name__
        if name in table:
            raise ValueError(
                f"{table.noun} {name!r} must be registered once, found a second one "
                f"in {function.__module__}; rename it"
            )
        table[name] = _entry(table, function, facts)
        return table[name]

    return enter


def _entry(
    table: Table[Entry], function: Callable[..., Any], facts: dict[str, Any]
) -> Entry:
    if table.make is not None:
        return table.make(function, facts)
    if facts:
        raise TypeError(
            f"a {table.noun} has no facts, found {', '.join(facts)} on "
            f"{function.__name__!r}; give the table a make that takes them"
        )
    return cast(Entry, function)


def lookup(table: Table[Entry], name: str) -> Entry:
    """Entry of that name.

    Parameters
    ----------
    table : Table
    name : str

    Returns
    -------
    entry

    Raises
    ------
    ValueError
        If the table has no such name; the message offers the nearest, and all.
    TypeError
        If ``name`` is not a string.
    """
    known = f"(known: {', '.join(sorted(table))})"
    if not isinstance(name, str):
        raise TypeError(f"{table.noun} must be a name, found {name!r} {known}")
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(name.casefold(), table, n=1)
    offer = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"unknown {table.noun} {name!r}{offer} {known}")
