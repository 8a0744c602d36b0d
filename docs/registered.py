"""Markdown for the functions of a table, such as `RULES`, from their docstrings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ensembles.embeddings import POOLINGS, WEIGHTINGS
from ensembles.predictions import COMBINERS
from ensembles.rules import RULES
from ensembles.selection import SELECTIONS


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


PAGES = {
    "rules": Page(
        RULES,
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
    """Lines of Markdown: a table of properties, then the docstring of each function.

    Parameters
    ----------
    name : str
        Key of `PAGES`.

    Returns
    -------
    list of str
    """
    page = PAGES[name]
    titles = ["name", *page.columns]
    rows = [titles, ["---"] * len(titles)]
    for key, entry in _shipped(page):
        link = f"[`{key}`](#{page.module}.{key})"
        rows.append([link, *(column(entry) for column in page.columns.values())])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [*lines, "", *_documented(page)]


def _shipped(page: Page) -> Iterable[tuple[str, Any]]:
    """Entries of the library, without the ones that an example has registered."""
    for name, entry in page.entries.items():
        if str(entry.function.__module__).startswith("ensembles."):
            yield name, entry


def _documented(page: Page) -> Iterable[str]:
    yield "```{eval-rst}"
    for name, _ in _shipped(page):
        yield from (f".. autofunction:: {page.module}.{name}", "")
    yield "```"
