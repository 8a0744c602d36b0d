"""``ensemble plot run`` and ``soup``: scores of checkpoints and their averages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.options import checkpoint, image, score
from ensembles_cli.plot.images import report_image
from ensembles_cli.plot.scores import score_options, scored
from ensembles_cli.reports.soup_progress import print_notes

if TYPE_CHECKING:
    from ensembles.checkpoints import Run
    from ensembles.reports import RunDisplay


@click.command("run")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--metric",
    metavar="NAME",
    help=(
        "Metric in the folder of the run, or the name of the score in the image.  "
        "[default: the only metric, or score]"
    ),
)
@click.option(
    "--by",
    "counter",
    type=click.Choice(["step", "epoch", "tokens"]),
    help="Unit of the x axis.  [default: the first that all checkpoints have]",
)
@click.option(
    "--window",
    "windows",
    multiple=True,
    type=click.IntRange(min=2),
    metavar="N",
    help=(
        "Also score the mean of each N consecutive checkpoints; may be repeated. Needs "
        "--score."
    ),
)
@score_options(required=False)
@image.out
@image.force
@checkpoint.as_json
def run(
    folder: Path,
    metric: str | None,
    counter: str | None,
    windows: tuple[int, ...],
    text: str | None,
    out: Path,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw a metric along a training run, with the scores of its averages.

    Without --score, the metric is one that the trainer saved. With --score, a command
    scores each checkpoint and the mean of each window of checkpoints: the image shows
    how much averaging gains, and where along the run.

    \b
    ensemble plot run run/ --metric eval_loss -o run.png
    ensemble plot run run/ --score './loss.sh {}' --lower-is-better --window 5 \\
        -o run.svg

    Means are written beside the image, scored and removed. Scores are kept in
    IMAGE.journal.jsonl, so that an interrupted command continues.
    """
    from ensembles.checkpoints import read_run
    from ensembles.reports import RunDisplay
    from ensembles.reports.displays.figures import check_image

    check_image(out, force=force)
    if windows and text is None:
        raise click.UsageError(
            "--window needs --score COMMAND, which scores the means of checkpoints"
        )
    training = read_run(folder)
    print_notes(training.notes)
    if text is None:
        report_image(
            lambda ax: RunDisplay.from_run(training, metric, counter=counter, ax=ax),
            out,
            force=force,
            as_json=as_json,
        )
        return
    display = scored_run(
        training, counter, windows, out, metric=metric or "score", text=text, **options
    )
    report_image(display.plot, out, force=force, as_json=as_json)


def scored_run(
    training: Run,
    counter: str | None,
    windows: tuple[int, ...],
    out: Path,
    *,
    metric: str,
    **options: Any,
) -> RunDisplay:
    """Score the checkpoints of a run, and the means of windows of them.

    Parameters
    ----------
    training : Run
        Run.
    counter : str or None
        Unit of the x axis; None takes the first that the checkpoints have.
    windows : tuple of int
        Numbers of consecutive checkpoints to average.
    out : Path
        Image, beside which means are written.
    metric : str
        Name of the score.
    **options
        Options of `scored`.

    Returns
    -------
    RunDisplay
        Display, not drawn yet.
    """
    from ensembles.reports import RunDisplay
    from ensembles.reports.displays.run import positions_of, window_weights

    unit, checkpoints = positions_of(training, counter)
    positions = [float(getattr(checkpoint, unit)) for checkpoint in checkpoints]
    weights, parts = window_weights(len(positions), windows)
    paths = [str(checkpoint.path) for checkpoint in checkpoints]
    scores = scored(paths, weights, out, **options)
    averages = {
        f"mean of {size} checkpoints": (positions[size - 1 :], scores[part])
        for size, part in zip(windows, parts, strict=True)
    }
    return RunDisplay(
        positions,
        scores[: len(positions)],
        averages=averages,
        counter=unit,
        metric=metric,
    )


@click.command("soup")
@click.argument("journal", metavar="JOURNAL", type=click.Path(path_type=Path))
@score.lower_is_better
@image.metric
@image.out
@image.force
@checkpoint.as_json
def soup(
    journal: Path,
    lower_is_better: bool,
    metric: str | None,
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Draw the path of a greedy soup from its journal.

    JOURNAL is the file OUT.journal.jsonl that ensemble soup keeps beside its output,
    also of a run that was interrupted. The image shows each member alone, from the best
    to the worst, the soup that was tried with it, and the uniform soup. A journal has
    no failed scores: a soup without a score failed, or was not tried yet.

    \b
    ensemble plot soup soup.safetensors.journal.jsonl -o soup.png
    """
    from ensembles.reports import SoupPathDisplay
    from ensembles.reports.displays.figures import check_image

    check_image(out, force=force)

    def draw(ax: Any) -> SoupPathDisplay:
        display = SoupPathDisplay.from_journal(
            journal, metric=metric or "score", lower_is_better=lower_is_better, ax=ax
        )
        print_notes(display.notes)
        return display

    report_image(draw, out, force=force, as_json=as_json)
