"""Typed access to the entries of a mapping; problems are collected, not raised."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ensembles.checkpoints.recipes.reading.entries import Entry, Findings

ANCHOR = "{} has no effect of its own: other entries use its values by an alias"


def suggestion(name: str, names: Iterable[str]) -> str:
    """The most similar of several names, as the end of a message.

    Parameters
    ----------
    name : str
        Unknown name.
    names : iterable of str
        Known names.

    Returns
    -------
    str
        Starts with a semicolon; empty if no name is similar.
    """
    names = list(names)
    by_case = {known.casefold(): known for known in names}
    nearest = difflib.get_close_matches(name.casefold(), by_case, n=1)
    return f"; did you mean {by_case[nearest[0]]!r}?" if nearest else ""


def shown(value: Any) -> str:
    """Value of an entry for messages, shortened.

    Parameters
    ----------
    value : value, list or dict
        Value of an `Entry`.

    Returns
    -------
    str
    """
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value is None else f"{value!r:.60}"


class Fields:
    """Entries of a mapping whose names are known.

    Parameters
    ----------
    entry : Entry
        The mapping; another value is a problem.
    noun : str
        What the mapping describes, for messages, such as "a model".
    names : collection of str
        Known names.
    findings : Findings
        Problems and notes, to which others are added.
    ignored : mapping of str to str or None, default=None
        Further names that mergekit ignores, and the note about each.

    Attributes
    ----------
    is_mapping : bool
        Whether it is a mapping.
    """

    def __init__(
        self,
        entry: Entry,
        noun: str,
        names: Collection[str],
        findings: Findings,
        ignored: Mapping[str, str] | None = None,
    ) -> None:
        self.noun = noun
        self.line = entry.line
        self.findings = findings
        self.entries: dict[str, Entry] = {}
        self.is_mapping = isinstance(entry.value, dict)
        if not self.is_mapping:
            findings.problem(
                entry.line,
                f"{noun} must be a mapping of {', '.join(sorted(names))}, found "
                f"{shown(entry.value)}",
            )
            return
        for name, value in entry.value.items():
            if name in names:
                self.entries[name] = value
            elif ignored and name in ignored:
                findings.note(value.line, ignored[name])
            elif name in entry.anchors:
                findings.note(value.line, ANCHOR.format(name))
            else:
                known = f" (known: {', '.join(sorted(names))})"
                findings.problem(
                    value.line,
                    f"{noun} has no entry {name!r:.60}"
                    f"{suggestion(name, names) or known}",
                )

    def __contains__(self, name: str) -> bool:
        """Whether there is an entry, other than null."""
        return name in self.entries and self.entries[name].value is not None

    def line_of(self, name: str) -> int:
        """Line of an entry; that of the mapping if there is none.

        Parameters
        ----------
        name : str
            Name of the entry.

        Returns
        -------
        int
        """
        return self.entries[name].line if name in self.entries else self.line

    def expected(self, name: str, kind: str) -> None:
        """Add the problem that an entry has another type.

        Parameters
        ----------
        name : str
            Name of the entry.
        kind : str
            Expected type, with its article.
        """
        entry = self.entries[name]
        self.findings.problem(
            entry.line,
            f"{name} of {self.noun} must be {kind}, found {shown(entry.value)}",
        )

    def text(self, name: str) -> str | None:
        """Value of an entry that is a text.

        Parameters
        ----------
        name : str
            Name of the entry.

        Returns
        -------
        str or None
            None if there is none, or it is not a text, which adds a problem.
        """
        if name not in self:
            return None
        value = self.entries[name].value
        if isinstance(value, str) and value.strip():
            return value
        is_number = isinstance(value, int | float)
        hint = "; put it in quotes" if is_number else ""
        self.expected(name, f"a text{hint}" if hint else "a text")
        return None

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        """Value of an entry that is one of several texts.

        Parameters
        ----------
        name : str
            Name of the entry.
        choices : collection of str
            Allowed texts.

        Returns
        -------
        str or None
            None if there is none, or it is not allowed, which adds a problem.
        """
        value = self.text(name)
        if value is None or value in choices:
            return value
        self.findings.problem(
            self.line_of(name),
            f"{name} must be one of {', '.join(choices)}, found {value!r:.60}"
            f"{suggestion(value, choices)}",
        )
        return None

    def number(self, name: str) -> float | None:
        """Value of an entry that is a number, or a text of one.

        Parameters
        ----------
        name : str
            Name of the entry.

        Returns
        -------
        float or None
            None if there is none, or it is not a number, which adds a problem.
        """
        if name not in self:
            return None
        value = self.entries[name].value
        try:
            if not isinstance(value, bool | list | dict):
                return float(value)
        except (ValueError, OverflowError):
            pass
        self.expected(name, "a number")
        return None

    def whole(self, name: str, *, least: int = 1) -> int | None:
        """Value of an entry that is a whole number.

        Parameters
        ----------
        name : str
            Name of the entry.
        least : int, default=1
            Smallest allowed number.

        Returns
        -------
        int or None
            None if there is none, or it is not allowed, which adds a problem.
        """
        if name not in self:
            return None
        value = whole_number(self.entries[name].value)
        if value is not None and value >= least:
            return value
        self.expected(name, f"a whole number, at least {least}")
        return None

    def flag(self, name: str) -> bool:
        """Value of an entry that is true or false.

        Parameters
        ----------
        name : str
            Name of the entry.

        Returns
        -------
        bool
            False if there is none, or it is neither, which adds a problem.
        """
        if name in self and not isinstance(self.entries[name].value, bool):
            self.expected(name, "true or false")
            return False
        return name in self and bool(self.entries[name].value)

    def items(self, name: str) -> Iterator[Entry]:
        """Items of an entry that is a list; another type is a problem.

        Parameters
        ----------
        name : str
            Name of the entry.

        Yields
        ------
        Entry
        """
        if name not in self:
            return
        value = self.entries[name].value
        if isinstance(value, list):
            yield from value
        else:
            self.expected(name, "a list")

    def mapping(self, name: str) -> dict[str, Entry]:
        """Entries of an entry that is a mapping; another type is a problem.

        Parameters
        ----------
        name : str
            Name of the entry.

        Returns
        -------
        dict of str to Entry
            Empty if there is none.
        """
        if name not in self:
            return {}
        value = self.entries[name].value
        if isinstance(value, dict):
            return value
        self.expected(name, "a mapping")
        return {}


def whole_number(value: Any) -> int | None:
    """Value as a whole number, such as 3, 3.0 or "3"; None for others.

    Parameters
    ----------
    value : value
        Value of an `Entry`.

    Returns
    -------
    int or None
    """
    if isinstance(value, bool | list | dict) or value is None:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None
