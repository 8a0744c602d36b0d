"""Notes that hold for several members, written once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

MEMBER = "\0"  # stands for the name of a member in a note
SHOWN = 5


def grouped(notes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Notes with the names of all members that have the same one.

    Parameters
    ----------
    notes : iterable of (str, str)
        Name of a member, and a note in which `MEMBER` stands for it.

    Yields
    ------
    str

    Examples
    --------
    >>> list(grouped([("a", f"{MEMBER} has no card"), ("b", f"{MEMBER} has no card")]))
    ['a, b has no card']
    """
    names: dict[str, list[str]] = {}
    for name, note in notes:
        names.setdefault(note, []).append(name)
    for note, members in names.items():
        yield note.replace(MEMBER, listed(list(dict.fromkeys(members))))


def listed(names: Sequence[str], shown: int = SHOWN) -> str:
    """Names with commas between them; of many, the first ones and a number.

    Parameters
    ----------
    names : sequence of str
    shown : int, default=5

    Returns
    -------
    str

    Examples
    --------
    >>> listed(list("abcdefg"))
    'a, b, c, d, e and 2 more'
    """
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
