"""``ensemble plot``: images of runs, soups and loss landscapes."""

from __future__ import annotations

import click

from ensembles_cli.plot.checkpoints import cosines, difference
from ensembles_cli.plot.curves import run, soup
from ensembles_cli.plot.landscape import line, plane


@click.group("plot")
def command() -> None:
    """Draw runs, soups and loss landscapes.

    Each kind of image is a command of its own. An image is written to a .png, .svg or
    .pdf file, and its result is printed; --json prints all of its numbers. Images need
    matplotlib: pip install 'ensemble-avg[plot]'.

    \b
    ensemble plot run run/ --metric eval_loss -o run.png
    ensemble plot soup soup.pt.journal.jsonl -o soup.png
    ensemble plot line a.pt b.pt --score 'python eval.py {}' -o line.png
    ensemble plot plane a.pt b.pt c.pt --score 'python eval.py {}' -o plane.png
    ensemble plot cosines run-*.pt --base base.pt -o cosines.png
    ensemble plot difference base/ fine-tuned/ -o change.png

    Help for one kind: ensemble plot line --help
    """


for kind in (run, soup, line, plane, cosines, difference):
    command.add_command(kind)
