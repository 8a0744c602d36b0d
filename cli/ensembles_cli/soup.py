"""``ensemble soup``: the checkpoints that score best together, averaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli import means
from ensembles_cli.parsing import Param, as_params, complete_selection
from ensembles_cli.scoring import ScoringCommand
from ensembles_cli.serving import Told, print_soup
from ensembles_cli.starting import end_cleanly, load_numba, raise_file_limit

if TYPE_CHECKING:
    from ensembles.checkpoints import Options


@click.command("soup")
@click.argument("members", nargs=-1, required=True, metavar="CKPT...")
@click.option(
    "--score",
    "text",
    required=True,
    metavar="COMMAND",
    help=(
        "A shell command that scores a checkpoint: {} stands for its path, the last "
        "number that it prints is the score."
    ),
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Where to write: NAME.safetensors, NAME.pt, or a directory.",
)
@click.option(
    "--select",
    default="greedy-soup",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_selection,
    help=(
        "How weights are chosen, of n members by about so many scores: greedy-soup or "
        "top-k (2n at most), best (n), wise-ft (n + 10), convex (7n), optuna (n + "
        "50), greedy (50n)."
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
@means.integers
@means.missing
@means.key
@means.memory
@means.threads
@means.force
@means.as_json
def command(
    members: tuple[str, ...],
    text: str,
    out: Path,
    params: tuple[tuple[str, Any], ...],
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
    ensemble soup *.safetensors --score 'python eval.py {}' -o soup.safetensors
    ensemble soup run*/ --score './loss.sh {}' --lower-is-better -o soup
    ensemble soup a/ b/ --base c/ --select wise-ft --score './f1.sh {}' -o soup
    ensemble soup *.pt --score './f1.sh {}' --select optuna --trials 80 -o soup.pt

    Write {} without quotes of your own; the path that it stands for is absolute.
    Scores are kept in OUT.journal.jsonl: the same command goes on where it was
    interrupted. They count for the same text of the command in the same folder; if
    what it does has changed, remove that file.
    """
    load_numba()
    from ensembles.checkpoints import Journal, make_soup
    from ensembles.checkpoints.members import expand

    raise_file_limit()
    end_cleanly()
    scoring, name = ScoringCommand(text, timeout), select.replace("-", "_")
    if trials is not None and name != "optuna":
        raise click.UsageError(f"--trials is for --select optuna, found {select}")
    own = as_params([*params, *[("n_trials", trials)] * (trials is not None)])
    given: Options = {**options}  # type: ignore[typeddict-item]  # declared in means
    journal, paths = Journal(f"{out}.journal.jsonl", text), expand(members).paths
    most = 2 * len(paths) if name == "greedy_soup" else None
    with Told(journal.path, paths if base is None else [base, *paths], most) as told:
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
            options=given,
        )
    print_soup(report, told, as_json)
