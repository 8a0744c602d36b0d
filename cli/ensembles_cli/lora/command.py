"""``ensemble lora``: apply adapters to a base, and extract them from models."""

from __future__ import annotations

import click

from ensembles_cli.lora.apply import apply
from ensembles_cli.lora.extract import extract


@click.group("lora")
def command() -> None:
    """Apply low-rank adapters (LoRA) to a base, and extract them from models.

    ensemble avg merges adapters; with --base, it merges them as models.

    \b
    ensemble lora apply base/ adapter/ -o model/
    ensemble lora extract fine-tuned/ base/ -o adapter/ --rank 32
    ensemble avg adapter-a/ adapter-b/ -o merged/
    ensemble avg adapter-a/ adapter-b/ --base base/ --rule ties -o model/

    Help for one command: ensemble lora apply --help
    """


for part in (apply, extract):
    command.add_command(part)
