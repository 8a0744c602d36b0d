"""Lists of registered names that are written by hand are complete."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
import pytest

from ensembles.checkpoints import ModelSoup
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.embeddings import POOLINGS, WEIGHTINGS, SentenceEmbedder
from ensembles.predictions import COMBINERS, EnsembleClassifier, EnsembleRegressor
from ensembles.selection import SELECTIONS
from ensembles_cli.listing.selections import N_SCORED
from ensembles_cli.main import cli
from tests.conftest import ROOT


def shipped(
    entries: Mapping[str, Any], condition: Callable[[Any], bool] = lambda entry: True
) -> list[str]:
    """Names of the library's own entries that fulfill a condition."""
    return [
        name
        for name, entry in entries.items()
        if entry.function.__module__.startswith("ensembles.") and condition(entry)
    ]


def described(estimator: type, parameter: str) -> str:
    """Description of a parameter in the docstring of an estimator."""
    pattern = rf"^    {parameter} : .*\n(?:(?:     .*)?\n)*"
    match = re.search(pattern, estimator.__doc__ or "", re.MULTILINE)
    assert match is not None, f"{estimator.__name__} does not document {parameter}"
    return match[0]


def option_help(command: str, option: str) -> str:
    """Help text of an option."""
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    (param,) = (p for p in found.params if option in p.opts)
    assert isinstance(param, click.Option)
    return param.help or ""


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def without(names: Iterable[str], text: str) -> list[str]:
    """Names that do not occur in a text as a word."""
    return [n for n in names if not re.search(rf"(?<![\w-]){n}(?![\w-])", text)]


def test_rules_are_in_the_help_of_the_command() -> None:
    assert not without(shipped(RULES), option_help("avg", "--rule"))


def test_selections_are_in_the_help_with_their_numbers_of_scores() -> None:
    names = []
    for name in shipped(SELECTIONS):
        n_scores = SELECTIONS[name].n_scores
        assert n_scores is not None
        names.append(f"{name.replace('_', '-')} {n_scores(N_SCORED)}")
    assert not without(names, option_help("soup", "--select"))


def test_selections_are_on_the_page_of_the_command() -> None:
    names = [name.replace("_", "-") for name in shipped(SELECTIONS)]
    assert not without(names, page("tasks/choose_a_soup.md"))


def test_selections_are_in_the_documentation_of_model_soups() -> None:
    assert not without(shipped(SELECTIONS), described(ModelSoup, "weights"))
    assert not without(shipped(SELECTIONS), page("guide/soups.md"))


@pytest.mark.parametrize("estimator", [EnsembleClassifier, EnsembleRegressor])
def test_selections_are_in_the_docstrings_of_ensembles(estimator: type) -> None:
    names = shipped(SELECTIONS, lambda selection: not selection.needs_base)
    assert not without(names, described(estimator, "weights"))


def test_combiners_are_in_the_docstrings_of_ensembles() -> None:
    quantiles = shipped(COMBINERS, lambda combiner: combiner.input == "quantiles")
    others = set(shipped(COMBINERS)) - set(quantiles)
    assert not without(others, described(EnsembleClassifier, "rule"))
    assert not without(quantiles, described(EnsembleRegressor, "rule"))


def test_poolings_are_in_the_docstring_and_in_the_help() -> None:
    assert not without(shipped(POOLINGS), described(SentenceEmbedder, "rule"))
    assert not without(shipped(POOLINGS), option_help("embed", "--rule"))


def test_word_weightings_are_in_the_docstring_and_in_the_help() -> None:
    assert not without(shipped(WEIGHTINGS), described(SentenceEmbedder, "weights"))
    assert not without(shipped(WEIGHTINGS), option_help("embed", "--weights"))


def test_a_missing_name_is_found() -> None:
    assert without(["top_k", "greedy", "best"], "best, greedy_soup") == [
        "top_k",
        "greedy",
    ]
