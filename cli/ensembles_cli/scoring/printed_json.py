"""Search for JSON documents and numbers in the output of a command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any


def documents(text: str) -> Iterator[Any]:
    """Yield JSON documents: the one that ends the text, then lines, last first."""
    document = last_document(text)
    if document is not None:
        yield document
    for line in reversed(text.splitlines()):
        if line.lstrip().startswith(("{", "[")):
            found = _parsed(line)
            if found is not None:
                yield found


def last_document(text: str) -> Any:
    """JSON document that starts on a line and ends the text; None without one."""
    stripped = text.strip()
    if not stripped.endswith(("}", "]")):
        return None
    starts = [match.start() for match in re.finditer(r"^[{\[]", stripped, re.MULTILINE)]
    # The first start that parses: a nested list or object starts on a later line.
    for start in starts[-50:]:
        found = _parsed(stripped[start:])
        if found is not None:
            return found
    return None


def _parsed(text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def numbers_in(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in a JSON value with their dotted paths."""
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
    for name, inner in pairs:
        yield from numbers_in(inner, f"{path}.{name}" if path else str(name))
