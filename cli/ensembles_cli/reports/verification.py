"""Output of ``ensemble verify``: contents that match, and the first that differs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ensembles_cli.console import CONTROLS

if TYPE_CHECKING:
    from ensembles.checkpoints import Verification


def print_verification(found: Verification, as_json: bool) -> None:
    """Print the outcome; raise `ValueError` for the red line if anything differs."""
    if as_json:
        facts = {
            "path": str(found.path),
            "intact": found.is_intact,
            "verified": found.verified,
            "unverified": found.unverified,
            "problems": [*found.problems],
            "differing_tensors": found.differing_tensors,
            "provenance": found.recipe,
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        for what, lines in (
            ("verified", found.verified),
            ("not verified", found.unverified),
            ("differs", found.problems),
        ):
            for line in lines:
                click.echo(f"{what}: {line}".translate(CONTROLS))
    if found.problems:
        more = len(found.problems) - 1
        raise ValueError(found.problems[0] + f" (and {more} more)" * (more > 0))
    if not as_json:
        click.echo(f"{found.path} matches everything that is recorded")
