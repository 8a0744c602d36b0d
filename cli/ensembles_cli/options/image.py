"""Options of the commands that write an image."""

from __future__ import annotations

from pathlib import Path

import click

out = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="IMAGE",
    help="Image to write: a path with the suffix .png, .svg or .pdf.",
)
metric = click.option(
    "--metric", metavar="NAME", help="Name of the score in the image.  [default: score]"
)
force = click.option("--force", is_flag=True, help="Replace an existing image.")
