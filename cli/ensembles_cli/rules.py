"""``ensemble rules``: the rules there are."""

from __future__ import annotations

import inspect

import click

from ensembles_cli.printing import table


@click.command("rules")
def command() -> None:
    """List the rules that combine members, with formulas and papers.

    The name in the first column is what --rule takes. Weights may be negative where
    it says signed.
    """
    from ensembles.rules import RULES

    rows = []
    for name, rule in sorted(RULES.items()):
        text = inspect.cleandoc(rule.__doc__ or "")
        members = "any" if rule.n_members is None else str(rule.n_members)
        signed = "signed" if rule.signed else "not negative"
        rows.append([name, _summary(text), members, signed, _source(text)])
    table(["rule", "what it is", "members", "weights", "source"], rows)


def _summary(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _source(text: str) -> str:
    _, _, source = text.partition("References\n----------\n")
    return " ".join(source.split())
