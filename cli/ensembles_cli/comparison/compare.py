"""``ensemble compare``: members, averages and ensembles in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ensembles_cli.comparison.report import print_comparison
from ensembles_cli.options import checkpoint, run, score
from ensembles_cli.process import allow_long_fields, end_cleanly, raise_file_limit
from ensembles_cli.reports.soup_progress import ProgressReporter, print_notes
from ensembles_cli.scoring.command import ScoringCommand

JOURNAL = "compare.journal.jsonl"
N_RESAMPLES = 2000  # of the pairs: the intervals equal those of ensemble evaluate


@click.command("compare")
@click.argument("members", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--score",
    "text",
    metavar="COMMAND",
    help="Shell command that scores the checkpoint at {}, as in ensemble soup.",
)
@click.option(
    "--select-score",
    "select_text",
    metavar="COMMAND",
    help=(
        "Scoring command on other data, which chooses the best single member and the "
        "greedy soup.  [default: that of --score, which is too optimistic]"
    ),
)
@score.key
@click.option(
    "--pairs",
    type=click.Path(path_type=Path, exists=True),
    metavar="TABLE",
    help=(
        "CSV or TSV table with two texts and their similarity rating per row: compares "
        "text embedding models, as ensemble evaluate does."
    ),
)
@click.option(
    "--select-pairs",
    type=click.Path(path_type=Path, exists=True),
    metavar="TABLE",
    help=(
        "Other pairs, which choose the best single model, the greedy soup and the "
        "weights of the fitted ensemble.  [default: these are left out]"
    ),
)
@click.option(
    "--columns",
    metavar="A,B,SCORE",
    help="Columns of both tables, as in ensemble evaluate.",
)
@click.option(
    "--lower-is-better", is_flag=True, help="The score of --score is a loss or error."
)
@run.choosing(with_direction=False)
@score.timeout
@score.on_error
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    default=JOURNAL,
    show_default=True,
    help=(
        "File that keeps the scores, for the same command after an interruption; that "
        "of ensemble soup has the scores of its members. Averages are written beside "
        "it and removed."
    ),
)
@checkpoint.integers
@checkpoint.missing
@checkpoint.include
@checkpoint.exclude
@checkpoint.key
@checkpoint.memory
@checkpoint.threads
@checkpoint.as_json
@click.pass_context
def command(
    context: click.Context,
    /,
    members: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Compare models with their averages: scores, gains and costs.

    With --score, members are checkpoints, scored by a command of your own. The table
    has each member, the uniform, the median and the greedy soup, and with --last N
    averages over windows of the run and exponential averages.

    With --pairs, members are text embedding models. The table has bootstrap intervals,
    the ensemble of their similarities, and what a prediction costs: parameters, memory,
    operations, time.

    \b
    ensemble compare run-*.safetensors --score 'python eval.py {}'
    ensemble compare a.pt b.pt --score 'python test.py {}' \\
        --select-score 'python eval.py {}'
    ensemble compare run/ --last 8 --score './loss.sh {}' --lower-is-better
    ensemble compare member-*/ --pairs sts-test.csv --select-pairs sts-dev.csv

    Choose by data other than the reported data: the best of several models on the data
    that chose it is too optimistic. The last line of the output says which model is
    best, how much better than the best single member, and at which cost.
    """
    from ensembles.checkpoints import choose_checkpoints

    _check_usage(context, options)
    raise_file_limit()
    end_cleanly()
    choice = run.choice_in(options, with_direction=False)
    chosen = choose_checkpoints(members, **choice)
    print_notes(chosen.notes)
    if len(chosen.paths) < 2:
        raise click.UsageError(
            f"pass at least two models, found {', '.join(map(str, chosen.paths))}; of "
            "the folder of a training run, --last N takes checkpoints"
        )
    compare = _compare_by_command if options["pairs"] is None else _compare_encoders
    is_run = any(value is not None for value in choice.values())
    comparison = compare(chosen.paths, is_run=is_run, **options)
    print_comparison(comparison, as_json)


def _check_usage(context: click.Context, options: dict[str, Any]) -> None:
    """Raise unless the options are those of one kind of comparison."""
    if (options["text"] is None) == (options["pairs"] is None):
        raise click.UsageError("pass either --score COMMAND or --pairs TABLE")
    by_command = {"columns", "select_pairs"}
    unused = by_command if options["pairs"] is None else options.keys() - by_command
    unused -= {"pairs", "members", "as_json", *run.OPTIONS}
    source = click.core.ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in unused and context.get_parameter_source(name) is source:
            kind = "--score" if options["pairs"] is None else "--pairs"
            raise click.UsageError(f"{parameter.opts[0]} cannot be used with {kind}")


def _compare_by_command(
    paths: list[str],
    *,
    is_run: bool,
    text: str,
    select_text: str | None,
    key_of_score: str | None,
    timeout: float | None,
    journal: Path,
    pairs: None,
    select_pairs: None,
    columns: None,
    **options: Any,
) -> Any:
    """Compare checkpoints by the score that a command prints."""
    from ensembles.reports import compare_checkpoints

    score = ScoringCommand(text, timeout, key_of_score)
    select_score = ScoringCommand(select_text or text, timeout, key_of_score)
    lower = options["lower_is_better"]
    kept = score.journal(str(journal))
    select_kept = select_score.journal(f"{journal}.select")
    with (
        ProgressReporter(kept, paths, score, lower) as reporter,
        ProgressReporter(select_kept, paths, select_score, lower) as select_reporter,
    ):
        return compare_checkpoints(
            paths,
            score,
            select_score=None if select_text is None else select_score,
            is_run=is_run,
            folder=journal.parent,
            journal=kept,
            select_journal=None if select_text is None else select_kept,
            record=reporter.record,
            select_record=select_reporter.record,
            **options,
        )


def _compare_encoders(
    paths: list[str],
    *,
    is_run: bool,
    pairs: Path,
    select_pairs: Path | None,
    columns: str | None,
    **_: Any,
) -> Any:
    """Compare text embedding models by human similarity ratings."""
    allow_long_fields()
    from ensembles.embeddings import read_similarity_pairs
    from ensembles.reports import compare
    from ensembles.reports.displays.figures import without_common_folder

    names = None if columns is None else columns.split(",")
    return compare(
        paths,
        read_similarity_pairs(pairs, names),
        X_select=select_pairs and read_similarity_pairs(select_pairs, names),
        names=without_common_folder(paths),
        is_run=is_run,
        n_resamples=N_RESAMPLES,
    )
