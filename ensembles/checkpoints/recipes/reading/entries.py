"""Entries of YAML documents with their lines, read within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LARGEST_FILE = 1 << 20  # bytes; recipes of mergekit have some thousand
LARGEST_DOCUMENT = 20_000  # entries, after aliases are expanded
DEEPEST = 50
TAG = "tag:yaml.org,2002:"
SCALARS = {f"{TAG}{name}" for name in ("str", "int", "float", "bool", "null")}
COLLECTIONS = {f"{TAG}{name}" for name in ("seq", "map")}


class Entry(NamedTuple):
    """A value of a YAML document.

    Parameters
    ----------
    value : value, list of Entry, or dict of str to Entry
        Text, number, boolean or None; the items of a list; or the entries of a mapping.
    line : int
        Line from 1; of an entry of a mapping, that of its key.
    anchors : frozenset of str, default=frozenset()
        Keys of a document whose values later entries use by an alias.
    """

    value: Any
    line: int
    anchors: frozenset[str] = frozenset()

    @property
    def plain(self) -> Any:
        """The value, with plain lists and dicts."""
        if isinstance(self.value, list):
            return [entry.plain for entry in self.value]
        if isinstance(self.value, dict):
            return {name: entry.plain for name, entry in self.value.items()}
        return self.value


@dataclass
class Findings:
    """Problems and notes of a file, with their lines.

    Parameters
    ----------
    path : Path
        The file.
    problems : list of (int, str), default=[]
        Line and message of each problem.
    notes : list of (int, str), default=[]
        Line and message of each note.
    """

    path: Path
    problems: list[tuple[int, str]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)

    def problem(self, line: int, message: str) -> None:
        """Add a problem.

        Parameters
        ----------
        line : int
            Line from 1.
        message : str
            Message without the line.
        """
        self.problems.append((line, message))

    def note(self, line: int, message: str) -> None:
        """Add a note.

        Parameters
        ----------
        line : int
            Line from 1.
        message : str
            Message without the line.
        """
        self.notes.append((line, message))

    def messages(self) -> list[str]:
        """Problems in the order of their lines, each with the file and the line.

        Returns
        -------
        list of str
        """
        return [f"{self.path}:{line}: {text}" for line, text in sorted(self.problems)]

    def take_notes(self) -> tuple[str, ...]:
        """Notes since the last call; lines of equal messages are listed together.

        Returns
        -------
        tuple of str
        """
        lines: dict[str, list[int]] = {}
        for line, text in sorted(self.notes):
            lines.setdefault(text, []).append(line)
        self.notes.clear()
        return tuple(
            f"{self.path}:{','.join(map(str, dict.fromkeys(numbers)))}: {text}"
            for text, numbers in lines.items()
        )


def read_documents(findings: Findings) -> list[Entry]:
    """Read the documents of a YAML file.

    No tag other than those of plain data is accepted, so that no object is built.

    Parameters
    ----------
    findings : Findings
        The file, and its problems, to which others are added.

    Returns
    -------
    list of Entry
        One for each document; fewer after an error of syntax.
    """
    text = _text_of(findings)
    documents: list[Entry] = []
    if text is None:
        return documents
    loader = yaml.SafeLoader("")
    try:
        _check_depth(text)
        for node in yaml.compose_all(text, yaml.SafeLoader):
            line = node.start_mark.line + 1
            try:
                document = _Converter(findings, loader).entry(node, line)
                documents.append(document._replace(anchors=_anchors(node)))
            except _Unbounded as error:
                findings.problem(line, str(error))
    except _Unbounded as error:
        findings.problem(1, str(error))
    except yaml.YAMLError as error:
        _add_syntax_error(findings, error)
    return documents


def _anchors(document: yaml.Node) -> frozenset[str]:
    """Keys whose values have nodes that entries of later keys use."""
    if not isinstance(document, yaml.MappingNode):
        return frozenset()
    used: set[int] = set()
    anchors = set()
    for key, value in reversed(document.value):
        nodes = _nodes_in(value)
        if nodes & used:
            anchors.add(key.value)
        used |= nodes
    return frozenset(name for name in anchors if isinstance(name, str))


def _nodes_in(node: yaml.Node) -> set[int]:
    """Identities of a node and all nodes in it; an alias is the node that it names."""
    nodes: set[int] = set()
    left = [node]
    while left:
        node = left.pop()
        if id(node) not in nodes:
            nodes.add(id(node))
            if isinstance(node, yaml.MappingNode):
                left += [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                left += node.value
    return nodes


class _Unbounded(ValueError):
    """A document is too large or too deep."""


def _text_of(findings: Findings) -> str | None:
    with findings.path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        findings.problem(
            1, f"a recipe must have at most {LARGEST_FILE:,} bytes; this file is larger"
        )
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        findings.problem(line, "a recipe must be YAML text in UTF-8, found binary data")
        return None


def _add_syntax_error(findings: Findings, error: yaml.YAMLError) -> None:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        context = f" {error.context}" if error.context else ""
        findings.problem(
            error.problem_mark.line + 1,
            f"this is not valid YAML: {error.problem}{context}{hint}",
        )
    else:
        reason = getattr(error, "reason", None) or str(error)
        findings.problem(1, f"this is not valid YAML: {reason}")


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise _Unbounded(
                f"a recipe must be nested at most {DEEPEST} deep, found deeper entries"
            )


class _Converter:
    """Converts the nodes of a document, and counts its entries."""

    def __init__(self, findings: Findings, loader: yaml.SafeLoader) -> None:
        self.findings = findings
        self.loader = loader
        self.n_entries = 0

    def entry(self, node: yaml.Node, line: int, depth: int = 0) -> Entry:
        """Entry of a node; aliases are expanded."""
        self._count(depth)
        if node.tag not in SCALARS | COLLECTIONS:
            self._refuse(node)
            return Entry(None, line)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.entry(item, item.start_mark.line + 1, depth + 1)
                for item in node.value
            ]
            return Entry(items, line)
        if isinstance(node, yaml.MappingNode):
            return Entry(self._mapping(node, depth), line)
        try:
            return Entry(self.loader.construct_object(node), line)
        except (ValueError, yaml.YAMLError):  # such as !!int text, or 4,300 digits
            self._refuse(node)
            return Entry(None, line)

    def _count(self, depth: int) -> None:
        self.n_entries += 1
        if self.n_entries > LARGEST_DOCUMENT or depth > DEEPEST:
            raise _Unbounded(
                f"a document must have at most {LARGEST_DOCUMENT:,} entries, nested at "
                f"most {DEEPEST} deep; its aliases expand to more"
            )

    def _refuse(self, node: yaml.Node) -> None:
        tag, line = node.tag.replace(TAG, "!!"), node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode) and tag in ("!!timestamp", "!!int"):
            message = f"{node.value[:40]!r} is read as {tag[2:]}; put it in quotes"
        else:
            message = f"tag {tag!r:.60} is not allowed in a recipe; remove it"
        self.findings.problem(line, message)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{TAG}merge":
                for origin in self._origins(value, line):
                    self._count(depth)
                    merged = {**self._mapping(origin, depth + 1), **merged}
                continue
            name = self.entry(key, line, depth + 1).value
            entry = self.entry(value, line, depth + 1)
            if not isinstance(name, str):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list"
                self.findings.problem(
                    line, f"keys must be texts, found {shown!r:.40}; put it in quotes"
                )
            elif name in entries:
                self.findings.problem(
                    line, f"{name!r} is also in line {entries[name].line}; remove one"
                )
            else:
                entries[name] = entry
        return {**merged, **entries}

    def _origins(self, value: yaml.Node, line: int) -> Iterator[yaml.MappingNode]:
        """Mappings that << merges into another."""
        for node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(node, yaml.MappingNode):
                yield node
            else:
                self.findings.problem(line, "<< must be an alias of a mapping")
