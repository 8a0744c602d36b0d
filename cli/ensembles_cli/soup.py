"""``ensemble soup``: average the checkpoints that score best together."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from ensembles_cli.options import checkpoint
from ensembles_cli.options.types import Param, as_params, complete_selection
from ensembles_cli.process import end_cleanly, load_numba, raise_file_limit
from ensembles_cli.reports.soup import print_soup
from ensembles_cli.reports.soup_progress import Told, tell_notes
from ensembles_cli.scoring.command import ScoringCommand


@click.command("soup")
@click.argument("members", nargs=-1, required=True, metavar="CKPT...")
@click.option(
    "--score",
    "text",
    required=True,
    metavar="COMMAND",
    help=(
        "A shell command that scores a checkpoint: {} stands for its path, the number "
        "in the last line that it prints is the score."
    ),
)
@click.option(
    "--score-key",
    "key_of_score",
    metavar="KEY",
    help=(
        "Name of the score in what the command prints: a dotted path into JSON, in "
        "which * stands for anything, or the name before a number, as acc_norm."
    ),
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Where to write: NAME.safetensors, NAME.pt, or a directory.",
)
@checkpoint.last
@click.option(
    "--select",
    default="greedy-soup",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_selection,
    help=(
        "Selection method. Approximate number of scores for n checkpoints: greedy-soup "
        "or top-k (2n at most), best (n), wise-ft (n + 10), convex (7n), optuna "
        "(n + 50), greedy (50n)."
    ),
)
@click.option(
    "--base",
    type=click.Path(),
    metavar="CKPT",
    help="What the members were fine-tuned from, for wise-ft.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), metavar="N", help="Trials of optuna."
)
@click.option(
    "--param",
    "params",
    type=Param(),
    multiple=True,
    help="A parameter of the selection, such as n_rounds=20; may be repeated.",
)
@click.option(
    "--lower-is-better", is_flag=True, help="The score is a loss, or an error."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Kill the command if it takes longer, with all that it has started.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help=(
        "What becomes of a checkpoint that cannot be scored: stop ends the run; skip "
        "leaves a member out, and counts a combination as the worst."
    ),
)
@checkpoint.integers
@checkpoint.missing
@checkpoint.include
@checkpoint.exclude
@checkpoint.key
@checkpoint.memory
@checkpoint.threads
@checkpoint.force
@checkpoint.as_json
def command(
    members: tuple[str, ...],
    text: str,
    key_of_score: str | None,
    out: Path,
    params: tuple[tuple[str, Any], ...],
    last: int | None,
    select: str,
    trials: int | None,
    timeout: float | None,
    as_json: bool,
    base: str | None,
    lower_is_better: bool,
    on_error: str,
    force: bool,
    **options: Any,
) -> None:
    """Average the checkpoints that score best together, by your own score.

    The command runs on each member where it lies, then on combinations, which are
    written beside the output and removed. The greedy soup starts from the best
    member and adds the others, from the best to the worst, each if the score with it
    is no lower. Score on data that neither training nor your final test uses.

    \b
    ensemble soup run-*.safetensors --score 'python eval.py {}' -o s.safetensors
    ensemble soup run/ --last 8 --score './f1.sh {}' -o soup.safetensors
    ensemble soup *.pt --score 'python eval.py {}' --score-key acc_norm -o soup.pt
    ensemble soup run*/ --score './loss.sh {}' --lower-is-better -o soup
    ensemble soup a/ b/ --base c/ --select wise-ft --score './f1.sh {}' -o soup

    Write {} without quotes of your own; the path that it stands for is absolute. The
    score must be alone in the last line with a number, or be named by --score-key.

    Combinations of PyTorch files are written as plain state dicts, without what a
    training checkpoint has around them, and running statistics of BatchNorm are
    averaged: recalculate them in the command, and of the result.

    Scores are kept in OUT.journal.jsonl: after Ctrl-C, or a crash, the same command
    goes on where it stopped. They count for the same text of the command in the same
    folder while the programs that it names, such as eval.py, are unchanged; if
    something else that it uses has changed, remove that file.
    """
    load_numba()
    from ensembles.checkpoints import Journal, make_soup
    from ensembles.checkpoints.directories.discovery import expand

    raise_file_limit()
    end_cleanly()
    scoring = ScoringCommand(text, timeout, key_of_score)
    name = select.replace("-", "_")
    if trials is not None and "n_trials" not in parameters(name):
        raise click.UsageError(f"--trials is for --select optuna, found {select}")
    own = as_params([*params, *[("n_trials", trials)] * (trials is not None)])
    asked = text if key_of_score is None else f"{text} --score-key {key_of_score}"
    journal = Journal(f"{out}.journal.jsonl", asked, scoring.files())
    found = expand(members, last=last)
    paths = found.paths
    most = most_scores(name, len(paths))
    every = paths if base is None else [base, *paths]
    with Told(journal, every, scoring, lower_is_better, most) as told:
        tell_notes(found.notes)
        report = make_soup(
            paths,
            scoring,
            out,
            select=name,
            base=base,
            params=own,
            lower_is_better=lower_is_better,
            on_error=on_error,
            journal=journal,
            record=told.record,
            force=force,
            options=options,
        )
    print_soup(report, told, found.steps, as_json)


def parameters(select: str) -> Collection[str]:
    """Parameter names of a selection; empty for an unknown one."""
    from ensembles.selection import SELECTIONS

    return SELECTIONS[select].params if select in SELECTIONS else ()


def most_scores(select: str, n_members: int) -> int | None:
    """Maximum number of candidates to score; None if not known in advance."""
    from ensembles.selection import SELECTIONS

    selection = SELECTIONS.get(select)
    if selection is None or selection.n_scores is None or selection.params:
        return None
    return selection.n_scores(n_members) if selection.adds_members else None
