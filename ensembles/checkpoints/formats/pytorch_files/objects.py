"""What pickles describe: names of classes and functions, and objects made by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MOST_KEYS = 64  # values of a tuple as a key; hashing nested tuples may take forever
ATOMS = (str, int, float, bytes, bool, complex, type(None))


class Global(NamedTuple):
    """Name of a class or function in a pickle, which is not imported.

    Parameters
    ----------
    module : str
        Name of the module.
    name : str
        Qualified name in the module.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class PickledObject:
    """An object as a pickle describes it, without its class.

    Parameters
    ----------
    type : Global
        Class, or function that would make the object.
    args : tuple
        Arguments of the class or function.
    kwargs : dict
        Keyword arguments.
    state : object
        State of the object, usually a dict of its attributes; None without state.
    elements : list
        Elements that are appended or added, for subclasses of list and set.
    entries : dict
        Entries that are set, for subclasses of dict.
    """

    type: Global
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    elements: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the object from its state; empty if the state is no dict."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:  # with __slots__
            parts = [part for part in state if isinstance(part, dict)]
            return {name: value for part in parts for name, value in part.items()}
        return state if isinstance(state, dict) else {}


class Malformed(ValueError):
    """A pickle that does not follow the protocol, or would need too much memory."""


def checked_key(key: Any) -> Any:
    """Return a key that is hashed quickly, to be set in a dict.

    Parameters
    ----------
    key : object
        Plain value, name, object, or short tuple of these.

    Returns
    -------
    object
        The key.

    Raises
    ------
    Malformed
        If the key is another container, or a tuple with more than 64 values.
    """
    queue, n_values = [key], 0
    while queue:
        value = queue.pop()
        n_values += 1
        if n_values > MOST_KEYS:
            raise Malformed(f"a key must have at most {MOST_KEYS} values")
        if isinstance(value, tuple):
            queue.extend(value[:MOST_KEYS])
        elif not isinstance(value, (*ATOMS, PickledObject)):
            raise Malformed(f"a key must not contain a {type(value).__name__}")
    return key
