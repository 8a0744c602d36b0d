"""``ensemble soup``: average the checkpoints that score best together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ensembles_cli.options import checkpoint
from ensembles_cli.options.types import (
    Param,
    as_params,
    complete_rule,
    complete_selection,
)
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.soup import print_soup
from ensembles_cli.reports.soup_progress import ProgressReporter, print_notes
from ensembles_cli.scoring.command import ScoringCommand


@click.command("soup")
@click.argument("members", nargs=-1, required=True, metavar="CKPT...")
@click.option(
    "--score",
    "text",
    required=True,
    metavar="COMMAND",
    help=(
        "Shell command that scores the checkpoint at {}. The score is the only number "
        "that it prints, or the number alone in the last line, or the one named score "
        "there or in JSON."
    ),
)
@click.option(
    "--score-key",
    "key_of_score",
    metavar="KEY",
    help=(
        "Name of the score in the output of the command: a dotted path into JSON, in "
        "which * matches anything, or the name before a number, such as acc_norm."
    ),
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output: NAME.safetensors, NAME.pt, or a directory.",
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
    help="Checkpoint that the members were fine-tuned from, for wise-ft.",
)
@click.option(
    "--rule",
    default="mean",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_rule,
    help="Rule that combines the members; ensemble rules lists all of them.",
)
@click.option(
    "--param",
    "params",
    type=Param(),
    multiple=True,
    help=(
        "Parameter of the selection or of the rule, such as n_rounds=20; may be "
        "repeated."
    ),
)
@click.option(
    "--lower-is-better", is_flag=True, help="Minimize the score: it is a loss or error."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Kill the command and its child processes after this time.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help=(
        "How to handle a checkpoint that cannot be scored: stop ends the run; skip "
        "leaves out a member, and counts a combination as the worst."
    ),
)
@checkpoint.integers
@checkpoint.missing
@checkpoint.include
@checkpoint.exclude
@checkpoint.key
@checkpoint.only_weights
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
    rule: str,
    timeout: float | None,
    as_json: bool,
    base: str | None,
    **options: Any,
) -> None:
    """Average the checkpoints that score best together, by your own score.

    The command scores each member in place, then combinations, which are written
    beside the output and removed. The greedy soup starts with the best member and adds
    the others, from the best to the worst, each if it does not lower the score. Score
    on data that neither training nor your final test uses.

    \b
    ensemble soup run-*.safetensors --score 'python eval.py {}' -o s.safetensors
    ensemble soup run/ --last 8 --score './f1.sh {}' -o soup.safetensors
    ensemble soup *.pt --score 'python eval.py {}' --score-key acc_norm -o soup.pt
    ensemble soup run*/ --score './loss.sh {}' --lower-is-better -o soup
    ensemble soup a/ b/ --base c/ --select wise-ft --score './f1.sh {}' -o soup

    Write {} without quotes: it is replaced by the absolute path, quoted for the shell.
    If the command prints other numbers too, print the score alone in the last line, or
    as score: 0.5, or name it with --score-key.

    Combinations of PyTorch files are copies of a member with other tensors: they keep
    its optimizer state, unless --only-weights. Running statistics of BatchNorm are
    averaged: recalculate them in the command, and for the result.

    Scores are kept in OUT.journal.jsonl. After Ctrl-C or a crash, the same command
    continues from there. Scores are reused for the same text of the command, in the
    same folder, while the programs in it, such as eval.py, are unchanged; if anything
    else that it uses has changed, remove that file.
    """
    from ensembles.checkpoints import Journal, make_soup
    from ensembles.checkpoints.directories.discovery import discover_checkpoints

    raise_file_limit()
    end_cleanly()
    scoring = ScoringCommand(text, timeout, key_of_score)
    name = select.replace("-", "_")
    weights_params, rule_params = split_params(params, name, rule)
    command_text = (
        text if key_of_score is None else f"{text} --score-key {key_of_score}"
    )
    journal = Journal(f"{out}.journal.jsonl", command_text, scoring.files())
    found = discover_checkpoints(members, last=last)
    paths = found.paths if base is None else [base, *found.paths]
    is_lower_better = options["lower_is_better"]
    with ProgressReporter(journal, paths, scoring, is_lower_better) as reporter:
        print_notes(found.notes)
        report = make_soup(
            found.paths,
            scoring,
            out,
            select=name,
            weights_params=weights_params,
            base=base,
            rule=rule,
            rule_params=rule_params,
            journal=journal,
            record=reporter.record,
            **options,
        )
    print_soup(report, reporter, found.steps, as_json)


def split_params(
    pairs: Sequence[tuple[str, Any]], select: str, rule: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide parameters into those of the selection and those of the rule.

    Parameters
    ----------
    pairs : sequence of (str, value)
        Parameters as given on the command line.
    select, rule : str
        Names of the selection and of the rule.

    Returns
    -------
    weights_params, rule_params : dict of str to value

    Raises
    ------
    ValueError
        If the selection or the rule is unknown.
    click.UsageError
        If a name occurs twice, or is not a parameter of exactly one of them.
    """
    from ensembles.checkpoints.soup_selection import resolve_selection
    from ensembles.registry import lookup
    from ensembles.rules import RULES

    selection = resolve_selection(select)
    of_selection = {} if selection is None else selection.params
    of_rule = lookup(RULES, rule).params
    params = as_params(pairs)
    for name in params:
        if (name in of_selection) == (name in of_rule):
            which = "both" if name in of_rule else "neither"
            raise click.UsageError(
                "--param must name a parameter of either the selection or the rule: "
                f"{name!r} is one of {which}. Parameters of --select "
                f"{select.replace('_', '-')}: {', '.join(of_selection) or 'none'}; of "
                f"--rule {rule}: {', '.join(of_rule) or 'none'}"
            )
    return (
        {name: value for name, value in params.items() if name in of_selection},
        {name: value for name, value in params.items() if name in of_rule},
    )
