"""Pairs of a function's signature and its description, from installed libraries."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

# Tests, vendored copies and pytest's hooks are not what a library offers.
NOT_OFFERED = {"conftest", "externals", "tests"}
SHORTEST_DESCRIPTION = 4  # words; "Wrapper for sgemv." says no more than the name
LONGEST_DESCRIPTION = 20  # words; a batch takes as long as its longest text
LONGEST_SIGNATURE = 6  # parameters; what follows is rarely what one searches for


class Pair(NamedTuple):
    """What one function is called and what its documentation says it does."""

    signature: str
    description: str


def find_pairs(*libraries: str) -> list[Pair]:
    """Pairs of all documented public functions of installed libraries.

    Parameters
    ----------
    *libraries : str
        Names to import, such as "numpy".

    Returns
    -------
    list of Pair
        No signature and no description comes twice; in the order of the modules'
        names, which does not change from run to run.
    """
    found = (
        pair
        for library in libraries
        for module in walk(importlib.import_module(library))
        for pair in pairs_of(module, library)
    )
    return without_repeats(found)


def walk(module: ModuleType) -> Iterator[ModuleType]:
    """Yield a package and, depth first, every public module inside it."""
    yield module
    for entry in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if entry.name.startswith("_") or entry.name in NOT_OFFERED:
            continue
        # Old names that a library still carries warn when they are imported.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                child = importlib.import_module(f"{module.__name__}.{entry.name}")
            except ImportError:  # a part that needs a package that is not here
                continue
            yield from walk(child)


def pairs_of(module: ModuleType, library: str) -> Iterator[Pair]:
    """Yield the pairs of the public functions in a module that a library defines."""
    for name, value in sorted(vars(module).items()):
        home = getattr(value, "__module__", None) or library
        if name.startswith("_") or not home.startswith(library):
            continue
        if callable(value) and not inspect.isclass(value):
            description = first_sentence(inspect.getdoc(value) or "")
            if describes(description):
                yield Pair(signature_of(name, value), description)


def describes(sentence: str) -> bool:
    """Whether a sentence says something, briefly, and not only where to look."""
    n_words = len(sentence.split())
    fits = SHORTEST_DESCRIPTION <= n_words <= LONGEST_DESCRIPTION
    return fits and not sentence.startswith("See ")


def signature_of(name: str, function: Callable[..., Any]) -> str:
    """Name and positional parameters, as ``"norm(x, ord)"``; else the name alone."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled, and silent about its parameters
        return name
    named = [p.name for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    return f"{name}({', '.join(named[:LONGEST_SIGNATURE])})"


def first_sentence(docstring: str) -> str:
    """First sentence of a docstring as plain text; empty if there is none.

    A paragraph that holds a call, as compiled functions repeat their signature, is
    passed over.
    """
    for paragraph in docstring.split("\n\n"):
        text = " ".join(paragraph.split())
        if text and not re.match(r"[\w, .]*=? ?\w+\(", text):
            text = re.sub(r":\w+:`~?([^`<]*?) *(<[^`]*)?`", r"\1", text).replace(
                "`", ""
            )
            return re.split(r"(?<=\w[.!?]) ", text, maxsplit=1)[0].strip()
    return ""


def without_repeats(pairs: Iterable[Pair], *, known: Sequence[Pair] = ()) -> list[Pair]:
    """Pairs whose signature and description are new, ``known`` ones not kept either."""
    signatures = {pair.signature for pair in known}
    descriptions = {pair.description.lower() for pair in known}
    kept = []
    for pair in pairs:
        description = pair.description.lower()
        if pair.signature not in signatures and description not in descriptions:
            signatures.add(pair.signature)
            descriptions.add(description)
            kept.append(pair)
    return kept


def hold_out(
    pairs: Sequence[Pair], *, share: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on, and the share of them, drawn by a seed, that is kept back."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    n_held_out = round(share * len(pairs))
    held_out, training = order[:n_held_out], np.sort(order[n_held_out:])
    return [pairs[i] for i in training], [pairs[i] for i in np.sort(held_out)]
