"""``ensemble rules``: list the combination rules."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import click

from ensembles_cli.console import table


@click.command("rules")
def command() -> None:
    """List the rules that combine members, with formulas, parameters and papers.

    Pass a name of the first column to --rule, and a parameter as --rule-param
    NAME=VALUE. Weights may be negative for rules marked as signed.
    """
    from ensembles.checkpoints.methods.builtin import RULES

    rows = []
    for name, rule in sorted(RULES.items()):
        text = docstring_of(rule)
        members = "any" if rule.n_members is None else str(rule.n_members)
        members += " and a base" if rule.needs_base else ""
        members += " and moments" if rule.needs_moments else ""
        signed = "signed" if rule.signed else "not negative"
        params = shown_params(rule.params)
        rows.append([name, summary(text), params, members, signed, source(text)])
    table(["rule", "result", "parameters", "members", "weights", "source"], rows)


def docstring_of(entry: Any) -> str:
    """Docstring of a registered rule or selection."""
    return inspect.cleandoc(entry.__doc__ or "")


def shown_params(params: Mapping[str, Any]) -> str:
    """Format parameters with their defaults; a dash if there are none."""
    return ", ".join(f"{name}={default}" for name, default in params.items()) or "-"


def summary(text: str) -> str:
    """First paragraph of a docstring, on one line."""
    return " ".join(text.split("\n\n")[0].split())


def source(text: str) -> str:
    """References of a docstring, on one line; a dash if there are none."""
    _, _, references = text.partition("References\n----------\n")
    return " ".join(references.split("\n\n")[0].split()) or "-"
