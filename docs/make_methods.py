"""Writes methods.md, beside this file, from the docstrings of what is registered."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensembles.embeddings.pooling.builtin import POOLINGS, Pooling
from ensembles.embeddings.weighting.builtin import WEIGHTINGS, Weighting
from ensembles.predictions.combiners.builtin import COMBINERS
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.rules import RULES
from ensembles.rules.rule import Rule
from ensembles.selection import SELECTIONS

PAGE = Path(__file__).with_name("methods.md")
SHOWN = ("Parameters", "References", "Examples")

OPENING = """\
# Methods

Written by `make docs` from the docstrings of what is registered; change it there.

A **rule** turns a stack of members into one. `x[i]` is member i, `w[i]` its weight. A
**combiner** is a rule for what models say: it meets their predictions one member after
the other. A **selection** chooses the weights: it sees nothing but a score. A
**pooling** is a rule for the words of a text, a **weighting** says what each counts.

## Rules

Properties of each, which the tests take at their word. The result of a rule over
*elements* depends, at each place, on the members' entries there alone; a rule over
*tensors* reads a whole tensor twice: first for statistics of the members, such as their
inner products, then to combine them.

| rule | members | entries | weights | order of members | over |
| --- | --- | --- | --- | --- | --- |
"""

COMBINING = """\
## Combiners

`p[i]` is what member i says of a row: of each class its probability, for a combiner of
values any number. Each keeps a running sum, and one member at a time is at hand. All
rules over *elements* above combine predictions too, of classes or values, all
members at hand; where both have a name, classes are combined as it stands here. What
comes back of classes is scaled to sum 1 by the estimator.

| combiner | combines | weights | sum of the weights | equal weights |
| --- | --- | --- | --- | --- |
"""

POOLING = """\
## Poolings

`x[i]` is the vector of the text's word i, `w[i]` its weight; words without a vector are
left out. The divisor is the sum of the weights or the number of words, as the weighting
says. A text without words has a vector of zeros, by every pooling.

| pooling | loop of its own | linear in the words |
| --- | --- | --- |
"""

WEIGHTING = """\
## Weightings

`p(word)` is the share of a word among all that were counted.

| weighting | learns from | sum over | components are removed |
| --- | --- | --- | --- |
"""


def methods() -> str:
    """The page: tables of facts, then all that is registered in its own words.

    Returns
    -------
    str, in Markdown
    """
    return (
        OPENING
        + "".join(_row(rule) for rule in RULES.values())
        + "\n"
        + "".join(_entry(name, rule) for name, rule in RULES.items())
        + COMBINING
        + "".join(_combiner_row(combiner) for combiner in COMBINERS.values())
        + "\n"
        + "".join(_entry(name, combiner) for name, combiner in COMBINERS.items())
        + POOLING
        + "".join(_pooling_row(pooling) for pooling in POOLINGS.values())
        + "\n"
        + "".join(_entry(name, pooling) for name, pooling in POOLINGS.items())
        + WEIGHTING
        + "".join(_weighting_row(weighting) for weighting in WEIGHTINGS.values())
        + "\n"
        + "".join(_entry(name, weighting) for name, weighting in WEIGHTINGS.items())
        + "## Selections\n\n"
        + "".join(_entry(name, found) for name, found in SELECTIONS.items())
    ).rstrip() + "\n"


def _row(rule: Rule) -> str:
    members = "any number" if rule.n_members is None else str(rule.n_members)
    signed = "any sign" if rule.signed else "not negative"
    order = "does not matter" if rule.symmetric else "matters"
    cells = [
        f"`{rule.name}`",
        members,
        _entries(rule),
        signed,
        order,
        "elements" if rule.is_elementwise else "tensors",
    ]
    return f"| {' | '.join(cells)} |\n"


def _entries(rule: Rule) -> str:
    return "not negative" if rule.domain == "non-negative" else "any"


def _combiner_row(combiner: Combiner) -> str:
    signed = "any sign" if combiner.signed else "not negative"
    total = "counts" if combiner.weight_sum_matters else "does not matter"
    equal = "1 / number of members" if combiner.equal_weights_sum_to_one else "1"
    cells = [f"`{combiner.name}`", combiner.input, signed, total, equal]
    return f"| {' | '.join(cells)} |\n"


def _pooling_row(pooling: Pooling) -> str:
    fused, linear = (
        "yes" if fact else "no" for fact in (pooling.fused, pooling.linear)
    )
    return f"| `{pooling.name}` | {fused} | {linear} |\n"


def _weighting_row(weighting: Weighting) -> str:
    needs = {"counts": "counts", "documents": "texts", "nothing": "the order of rows"}
    total = {"count": "the number of words", "weights": "the weights"}[weighting.divide]
    removed = "by their shares" if weighting.by_variance_share else "whole"
    cells = [f"`{weighting.name}`", needs[weighting.needs], total, removed]
    return f"| {' | '.join(cells)} |\n"


def _entry(name: str, registered: Any) -> str:
    text = inspect.getdoc(registered) or ""
    opening, sections = _split(text)
    if "Parameters" in sections:  # those that a user sets, without the data
        items = re.findall(
            r"^\S.*\n(?:[ ]+.*\n?)*", sections["Parameters"] + "\n", re.M
        )
        own = "".join(i for i in items if set(_names(i)) & set(registered.params))
        sections = {**sections, "Parameters": own} if own else _without(sections)
    found = [f"### {name}", _prose(opening)]
    found += [_SHOW[title](sections[title]) for title in SHOWN if title in sections]
    return "\n\n".join(found) + "\n\n"


def _names(item: str) -> list[str]:
    """Names that an item of a numpydoc section describes."""
    return item.partition(" : ")[0].split(", ")


def _without(sections: dict[str, str]) -> dict[str, str]:
    return {title: body for title, body in sections.items() if title != "Parameters"}


def _split(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the underlined headings, and what under each."""
    opening, *rest = re.split(r"^(\w+)\n-+\n", text, flags=re.MULTILINE)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return opening.strip(), {title: body.strip("\n") for title, body in pairs}


def _prose(text: str) -> str:
    """Paragraphs and lists with Markdown's code marks."""
    return text.replace("``", "`").strip()


def _parameters(body: str) -> str:
    return "\n".join(_items(body))


def _items(body: str) -> Iterator[str]:
    for name, about in re.findall(r"^(\S.*)\n((?:[ ]+.*\n?)*)", body, re.MULTILINE):
        colon = ":" if about.strip() else ""
        yield _filled(f"- `{name}`{colon} {_prose(about)}", "  ")


def _source(body: str) -> str:
    return _filled(f"Source: {_prose(body)}")


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        88,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _example(body: str) -> str:
    return f"```pycon\n{body}\n```"


_SHOW = {"Parameters": _parameters, "References": _source, "Examples": _example}


if __name__ == "__main__":
    PAGE.write_text(methods(), encoding="utf-8")
    print(f"wrote {PAGE}")
