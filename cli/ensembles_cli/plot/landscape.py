"""``ensemble plot line`` and ``plane``: scores between checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ensembles_cli.options import checkpoint, image
from ensembles_cli.plot.images import report_image
from ensembles_cli.plot.scores import score_options, scored


@click.command("line")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@score_options(required=True)
@click.option(
    "--points",
    type=click.IntRange(min=3),
    default=11,
    show_default=True,
    help="Number of checkpoints to score, with both ends.",
)
@image.metric
@image.out
@image.force
@checkpoint.as_json
def line(
    a: str,
    b: str,
    points: int,
    metric: str | None,
    out: Path,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw the score along the line between two checkpoints.

    Scores (1 - alpha) A + alpha B for alpha from 0 to 1. If A is a base and B was
    fine-tuned from it, this is the curve of WiSE-FT, and its best alpha is marked. If A
    and B are two runs, it shows the barrier between them: the largest difference of the
    loss from the line between both ends. Averages of two runs are useful if there is no
    barrier.

    \b
    ensemble plot line base/ tuned/ --score 'python eval.py {}' -o wise-ft.png
    ensemble plot line a.pt b.pt --score './loss.sh {}' --lower-is-better -o line.svg

    Checkpoints are written beside the image, scored and removed. Scores are kept in
    IMAGE.journal.jsonl, so that an interrupted command continues.
    """
    from ensembles.reports import InterpolationDisplay
    from ensembles.reports.displays.figures import check_image, member_names
    from ensembles.reports.displays.interpolation import line_weights

    check_image(out, force=force)
    weights = line_weights(points)
    first, second = member_names([a, b])
    display = InterpolationDisplay(
        weights[:, 1],
        scored([a, b], weights, out, **options),
        names=(first, second),
        metric=metric or "score",
        lower_is_better=options["lower_is_better"],
    )
    report_image(display.plot, out, force=force, as_json=as_json)


@click.command("plane")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("c", metavar="C")
@score_options(required=True)
@click.option(
    "--points",
    type=click.IntRange(min=2),
    default=9,
    show_default=True,
    help="Number of points in each direction; N points take N * N + 4 scores.",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0),
    default=0.25,
    show_default=True,
    help="Width of the border around the checkpoints, relative to their extent.",
)
@image.metric
@image.out
@image.force
@checkpoint.as_json
def plane(
    a: str,
    b: str,
    c: str,
    points: int,
    margin: float,
    metric: str | None,
    out: Path,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw the score over the plane through three checkpoints.

    The checkpoints and their mean are marked. A mean in the middle of a flat region
    scores better than its members; a mean behind a barrier is useless.

    \b
    ensemble plot plane a.pt b.pt c.pt --score './loss.sh {}' --lower-is-better \\
        -o plane.png

    Checkpoints are written beside the image, scored and removed. Scores are kept in
    IMAGE.journal.jsonl, so that an interrupted command continues.
    """
    from ensembles.reports import PlaneDisplay
    from ensembles.reports.displays.figures import check_image, member_names
    from ensembles.reports.displays.plane import gram_of_plane, plane_through

    check_image(out, force=force)
    members = [a, b, c]
    reading = {k: options[k] for k in ("key", "missing", "memory", "threads")}
    grid_plane = plane_through(gram_of_plane(members, **reading), points, margin)
    grid, corner_scores = grid_plane.split(
        scored(members, grid_plane.weights, out, **options)
    )
    display = PlaneDisplay(
        grid_plane.x,
        grid_plane.y,
        grid,
        grid_plane.corners,
        corner_scores=corner_scores,
        names=member_names(members),
        metric=metric or "score",
        lower_is_better=options["lower_is_better"],
    )
    report_image(display.plot, out, force=force, as_json=as_json)
