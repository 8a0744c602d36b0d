"""Pairs of function signatures and descriptions from installed libraries."""

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

# Modules outside the public API: tests, vendored packages and pytest hooks.
SKIPPED_MODULES = {"conftest", "externals", "tests"}
SHORTEST_DESCRIPTION = 4  # words; "Wrapper for sgemv." adds nothing to the name
LONGEST_DESCRIPTION = 20  # words; a batch takes as long as its longest text
LONGEST_SIGNATURE = 6  # parameters; later ones rarely matter in a search


class Pair(NamedTuple):
    """Signature of a function and the first sentence of its docstring."""

    signature: str
    description: str


def find_pairs(*libraries: str) -> list[Pair]:
    """Collect the documented public functions of installed libraries.

    Parameters
    ----------
    *libraries : str
        Names of importable packages, such as "numpy".

    Returns
    -------
    list of Pair
        Pairs without duplicate signatures or descriptions, in a reproducible order.
    """
    pairs = (
        pair
        for library in libraries
        for module in walk(importlib.import_module(library))
        for pair in pairs_of(module, library)
    )
    return without_duplicates(pairs)


def walk(module: ModuleType) -> Iterator[ModuleType]:
    """Yield a package and its public modules, depth first."""
    yield module
    for entry in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if entry.name.startswith("_") or entry.name in SKIPPED_MODULES:
            continue
        # Deprecated modules warn on import.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                submodule = importlib.import_module(f"{module.__name__}.{entry.name}")
            except ImportError:  # a module with a missing optional dependency
                continue
            yield from walk(submodule)


def pairs_of(module: ModuleType, library: str) -> Iterator[Pair]:
    """Yield pairs of the public functions in a module that belong to the library."""
    for name, value in sorted(vars(module).items()):
        defining_module = getattr(value, "__module__", None) or library
        if name.startswith("_") or not defining_module.startswith(library):
            continue
        if callable(value) and not inspect.isclass(value):
            description = first_sentence(inspect.getdoc(value) or "")
            if is_description(description):
                yield Pair(signature_of(name, value), description)


def is_description(sentence: str) -> bool:
    """Whether a sentence has a suitable length and does not refer to another text."""
    n_words = len(sentence.split())
    is_suitable = SHORTEST_DESCRIPTION <= n_words <= LONGEST_DESCRIPTION
    return is_suitable and not sentence.startswith("See ")


def signature_of(name: str, function: Callable[..., Any]) -> str:
    """Name and positional parameters, e.g. ``"norm(x, ord)"``; the name if unknown."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled functions without a signature
        return name
    names = [p.name for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    return f"{name}({', '.join(names[:LONGEST_SIGNATURE])})"


def first_sentence(docstring: str) -> str:
    """First sentence of a docstring as plain text; empty if there is none.

    A paragraph that starts with a call is skipped, because docstrings of compiled
    functions start with the signature.
    """
    for paragraph in docstring.split("\n\n"):
        text = " ".join(paragraph.split())
        if text and not re.match(r"[\w, .]*=? ?\w+\(", text):
            text = re.sub(r":\w+:`~?([^`<]*?) *(<[^`]*)?`", r"\1", text).replace(
                "`", ""
            )
            return re.split(r"(?<=\w[.!?]) ", text, maxsplit=1)[0].strip()
    return ""


def without_duplicates(
    pairs: Iterable[Pair], *, excluded: Sequence[Pair] = ()
) -> list[Pair]:
    """Pairs whose signature and description are not in an earlier or excluded pair."""
    signatures = {pair.signature for pair in excluded}
    descriptions = {pair.description.lower() for pair in excluded}
    kept = []
    for pair in pairs:
        description = pair.description.lower()
        if pair.signature not in signatures and description not in descriptions:
            signatures.add(pair.signature)
            descriptions.add(description)
            kept.append(pair)
    return kept


def hold_out(
    pairs: Sequence[Pair], *, fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Split pairs at random into training pairs and held-out pairs."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    n_held_out = round(fraction * len(pairs))
    held_out, training = order[:n_held_out], np.sort(order[n_held_out:])
    return [pairs[i] for i in training], [pairs[i] for i in np.sort(held_out)]
