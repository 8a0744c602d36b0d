"""Combine equal notes on several members into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

MEMBER = "\0"  # placeholder for the name of a member in a note
SHOWN = 5


def grouped(notes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Merge equal notes, each with the names of all its members.

    Parameters
    ----------
    notes : iterable of (str, str)
        Name of a member, and a note with `MEMBER` as the placeholder for it.

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
    """Join names with commas; a long list is cut, with the number of omitted names.

    Parameters
    ----------
    names : sequence of str
        Names to join.
    shown : int, default=5
        Number of names to show.

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
