"""``ensemble rules``: list the combination rules."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import table
from ensembles_cli.options.types import complete_rule

if TYPE_CHECKING:
    from ensembles.rules import Rule


COLUMNS = (
    *("rule", "result", "parameters", "members", "needs", "unit", "scope"),
    *("weights", "source"),
)
NARROW = ("rule", "result", "needs")  # all columns are too wide for a terminal


@click.command("rules")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_rule)
def command(names: tuple[str, ...]) -> None:
    """List the rules that combine members, with formulas, parameters and papers.

    Pass a name of the first column to --rule, and a parameter as --param NAME=VALUE. A
    terminal shows a few columns of all rules, and all columns of the rules whose NAME
    is given.

    The column "needs" shows rules that need the checkpoint that the members were
    fine-tuned from (--base), or second moments of each member's data. The unit is read
    whole: an element, a row of a matrix, or a tensor. The scope is where statistics
    such as thresholds are computed: in each tensor or over the model; the first is the
    default. Weights may be negative for rules marked as signed.
    """
    from ensembles.checkpoints.methods.builtin import RULES
    from ensembles.registry import lookup

    entries = {name: lookup(RULES, name) for name in names or sorted(RULES)}
    rows = [dict(zip(COLUMNS, cells(*e), strict=True)) for e in entries.items()]
    if not sys.stdout.isatty():
        table(COLUMNS, [list(row.values()) for row in rows])
    elif names:
        for row in rows:
            table(["rule", row.pop("rule")], list(row.items()))
    else:
        table(NARROW, [[row[column] for column in NARROW] for row in rows])


def cells(name: str, rule: Rule) -> list[str]:
    """Cells of a row of the table."""
    text = docstring_of(rule)
    members = "any" if rule.n_members is None else str(rule.n_members)
    signed = "signed" if rule.signed else "not negative"
    params, needs = shown_params(rule.params), shown_needs(rule)
    data = [members, needs, rule.unit, shown_scope(rule), signed]
    return [name, summary(text), params, *data, source(text)]


def shown_needs(rule: Rule) -> str:
    """Format what a rule needs beside the members; a dash for nothing."""
    moments = [] if rule.needs_moments is None else [f"{rule.needs_moments} moments"]
    return " and ".join(["base"] * rule.needs_base + moments) or "-"


def shown_scope(rule: Rule) -> str:
    """Format the scope of a rule's statistics, the default first, or a dash."""
    default = rule.params.get("scope")
    if default is None:
        return "tensor" if rule.passes else "-"
    return f"{default} or {'model' if default == 'tensor' else 'tensor'}"


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
