"""Queries and documents of the retrieval benchmark: docstrings, Debian packages.

A docstring's first sentence is the query, and the rest of it the document; a package's
short description is the query, and its long description the document. No document
contains its query. Documents with the same text are one document, queries with the same
text one query, for which every document of theirs is relevant.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

MIN_WORDS = (3, 15)  # of a query, of a document
SECTION = re.compile(r"\n(?=[A-Z][A-Za-z ]+\n-{3,}\n)")
# They repeat the first sentences of other functions, or are not about the function.
DROPPED = ("See Also", "References")
PRIVATE = re.compile(r"_|test|conf|setup")
FIRST_SENTENCE = re.compile(r"(.+?)(?:(?<=\.)\s+(?=[A-Z`])|\n\s*\n|$)(.*)", re.DOTALL)


class RetrievalSet(NamedTuple):
    """Queries, documents and which belong together.

    Parameters
    ----------
    queries : list of str
        Texts to search for, each once.
    documents : list of str
        Texts to search in, each once.
    relevant : list of set of int
        Positions of the relevant documents of each query.
    """

    queries: list[str]
    documents: list[str]
    relevant: list[set[int]]


def build(pairs: Iterable[tuple[str, str]]) -> RetrievalSet:
    """Retrieval set of (query, document) pairs, in their order.

    Pairs of too few words are left out, and so is a document that contains its query.
    """
    queries: dict[str, set[int]] = {}
    documents: dict[str, int] = {}
    for query, document in pairs:
        sizes = len(query.split()), len(document.split())
        if sizes < MIN_WORDS or sizes[1] < MIN_WORDS[1]:
            continue
        if squeezed(query) in squeezed(document):
            continue
        row = documents.setdefault(document, len(documents))
        queries.setdefault(query, set()).add(row)
    return RetrievalSet(list(queries), list(documents), list(queries.values()))


def squeezed(text: str) -> str:
    """Lowercase letters and digits of a text, to compare texts by."""
    return " ".join(re.findall(r"\w+", text.lower()))


def docstrings(*packages: str) -> Iterator[tuple[str, str]]:
    """First sentence and rest of the docstring of each public function and class."""
    for name, thing in _functions(packages):
        text = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
        parts = SECTION.split(_without_signature(text, name))
        found = FIRST_SENTENCE.match(parts[0])
        if found is None:
            continue
        kept = [p for p in parts[1:] if not p.startswith(DROPPED)]
        rest = "\n".join([found[2], *kept])
        yield _line(found[1]), f"{name}: {_line(rest)}"


def _functions(packages: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Public functions and classes of packages, each once, by qualified name."""
    seen: set[int] = set()
    for package in packages:
        for module in _modules(package):
            for name in sorted(getattr(module, "__all__", None) or vars(module)):
                thing = vars(module).get(name)
                is_public = callable(thing) and not name.startswith("_")
                is_own = str(getattr(thing, "__module__", "")).startswith(package)
                if is_public and is_own and id(thing) not in seen:
                    seen.add(id(thing))
                    yield f"{module.__name__}.{name}", thing


def _modules(package: str) -> Iterator[ModuleType]:
    """Public modules of a package, two levels deep; the shortest names first."""
    names = [package]
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated modules
                module = importlib.import_module(name)
        except ImportError:  # needs an optional package
            continue
        yield module
        if name.count(".") < 2:
            below = pkgutil.iter_modules(getattr(module, "__path__", []))
            names += [f"{name}.{m.name}" for m in below if not PRIVATE.match(m.name)]


def _without_signature(text: str, name: str) -> str:
    """Docstring without the signature that compiled functions begin with."""
    first, _, rest = text.partition("\n")
    starts = first.startswith((name.rsplit(".", 1)[-1] + "(", "("))
    return rest.strip() if starts else text


def packages(path: Path) -> Iterator[tuple[str, str]]:
    """Short and long description of each Debian package in a Translation-en file.

    Of packages whose long descriptions begin with the same paragraph, only the first is
    kept: libraries of one source share it, and the query cannot tell them apart.
    """
    seen: set[str] = set()
    for entry in path.read_text("utf-8").split("\n\n"):
        _, _, description = entry.partition("\nDescription-en: ")
        short, _, long = description.partition("\n")
        paragraphs = [_line(p) for p in re.split(r"\n \.(?=\n|$)", long)]
        if description and paragraphs[0] not in seen:
            seen.add(paragraphs[0])
            yield _line(short), "\n".join(paragraphs).strip()


def halves(pairs: Iterable[tuple[str, str]]) -> tuple[list[Any], list[Any]]:
    """Pairs in two halves, by a checksum of the document's first ten words."""
    parts: tuple[list[Any], list[Any]] = ([], [])
    for pair in pairs:
        start = " ".join(pair[1].split()[:10])
        parts[zlib.crc32(start.encode()) % 2].append(pair)
    return parts


def _line(text: str) -> str:
    return " ".join(text.split())
