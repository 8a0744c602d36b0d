"""Markdown for the entries of a table, such as `RULES`, from their properties."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ensembles.checkpoints.directories.unreadable import LAYOUTS
from ensembles.checkpoints.formats.builtin import FORMATS
from ensembles.checkpoints.formats.recognized import RECOGNIZED
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.runs.schedules.builtin import SCHEDULES
from ensembles.embeddings import POOLINGS, WEIGHTINGS
from ensembles.predictions import COMBINERS
from ensembles.selection import SELECTIONS

MARKUP = re.compile(r"[*_|<>`\[\]]")  # characters that Markdown interprets


class Page(NamedTuple):
    """A table, the module that its functions are documented in, and its columns."""

    entries: Mapping[str, Any]
    module: str
    columns: dict[str, Callable[[Any], str]]


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


def _sign(entry: Any) -> str:
    return "any sign" if entry.signed else "not negative"


def _n_scores(selection: Any) -> str:
    """Number of scores for ten members with the default parameters."""
    return "" if selection.n_scores is None else str(selection.n_scores(10))


def _parameters(entry: Any) -> str:
    return ", ".join(f"`{name}`" for name in entry.params)


def _defined_in(package: str) -> dict[str, Any]:
    """Rules whose functions are defined in a package."""
    return {
        name: rule
        for name, rule in RULES.items()
        if rule.function.__module__.startswith(f"{package}.")
    }


PAGES = {
    "rules": Page(
        _defined_in("ensembles.rules"),
        "ensembles.rules",
        {
            "members": lambda rule: str(rule.n_members or "any number"),
            "entries": lambda rule: rule.domain.replace("non-negative", "not negative"),
            "weights": _sign,
            "order matters": lambda rule: _yes(not rule.symmetric),
            "depends on": lambda rule: "entries" if rule.is_elementwise else "tensors",
            "parameters": _parameters,
        },
    ),
    "methods": Page(
        _defined_in("ensembles.checkpoints.methods"),
        "ensembles.checkpoints.methods",
        {
            "base": lambda rule: _yes(rule.needs_base),
            "moments": lambda rule: rule.needs_moments or "-",
            "weights": _sign,
            "sum of weights matters": lambda rule: _yes(rule.weight_sum_matters),
            "reads": lambda rule: f"{1 + len(rule.passes)} times",
            "needs whole": lambda rule: rule.unit.replace("element", "-"),
            "parameters": _parameters,
        },
    ),
    "selections": Page(
        SELECTIONS,
        "ensembles.selection",
        {
            "needs a base": lambda selection: _yes(selection.needs_base),
            "order matters": lambda selection: _yes(not selection.symmetric),
            "scores for 10 members": _n_scores,
            "parameters": _parameters,
        },
    ),
    "schedules": Page(
        SCHEDULES,
        "ensembles.checkpoints.runs.schedules.builtin",
        {"parameters": _parameters},
    ),
    "combiners": Page(
        COMBINERS,
        "ensembles.predictions.combiners.builtin",
        {
            "combines": lambda combiner: combiner.input,
            "weights": _sign,
            "scale of the weights matters": lambda combiner: _yes(
                combiner.weight_sum_matters
            ),
            "parameters": _parameters,
        },
    ),
    "poolings": Page(
        POOLINGS,
        "ensembles.embeddings.pooling.builtin",
        {
            "compiled": lambda pooling: _yes(pooling.fused),
            "linear in the words": lambda pooling: _yes(pooling.linear),
            "parameters": _parameters,
        },
    ),
    "weightings": Page(
        WEIGHTINGS,
        "ensembles.embeddings.weighting.builtin",
        {
            "learned from": lambda weighting: {
                "counts": "word counts",
                "documents": "training texts",
            }.get(weighting.needs, "order of the vectors"),
            "parameters": _parameters,
        },
    ),
}


def markdown(name: str) -> list[str]:
    """Lines of Markdown for a directive ``{registered} NAME``.

    Parameters
    ----------
    name : str
        Key of `PAGES`, ``"formats"``, ``"refused_formats"`` or
        ``"refused_directories"``.

    Returns
    -------
    list of str
    """
    if name == "formats":
        return _formats()
    if name == "refused_formats":
        return _refused_formats()
    if name == "refused_directories":
        return [f"- {_escaped(text.format('NAMES'))}" for _, text in LAYOUTS]
    page = PAGES[name]
    rows = [
        [
            f"[`{key}`](#{page.module}.{key})",
            *(column(entry) for column in page.columns.values()),
        ]
        for key, entry in _shipped(page)
    ]
    return [*_table(["name", *page.columns], rows), "", *_documented(page)]


def _formats() -> list[str]:
    """Properties of the checkpoint formats that are read."""
    titles = ["name", "suffixes", "written", "metadata", "main file in a directory"]
    rows = [
        [
            f"`{name}`",
            _codes(entry.suffixes),
            _yes(entry.write is not None),
            "kept" if entry.keeps_metadata else "left out",
            _codes(entry.main_files),
        ]
        for name, entry in FORMATS.items()
        if _is_shipped(entry.read)
    ]
    return _table(titles, rows)


def _refused_formats() -> list[str]:
    """Messages about the formats that are recognized and not read."""
    rows = [
        [_codes(entry.suffixes), f"FILE {_escaped(entry.advice)}"]
        for entry in RECOGNIZED
    ]
    return _table(["suffixes", "message"], rows)


def _escaped(text: str) -> str:
    return MARKUP.sub(r"\\\g<0>", text)


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _shipped(page: Page) -> Iterable[tuple[str, Any]]:
    """Entries of the library, without the ones that an example has registered."""
    for name, entry in page.entries.items():
        if _is_shipped(entry.function):
            yield name, entry


def _is_shipped(function: Callable[..., Any]) -> bool:
    return str(function.__module__).startswith("ensembles.")


def _documented(page: Page) -> Iterable[str]:
    yield "```{eval-rst}"
    for name, _ in _shipped(page):
        yield from (f".. autofunction:: {page.module}.{name}", "")
    yield "```"
