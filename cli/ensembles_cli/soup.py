"""``ensemble soup``: average the checkpoints that score best together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ensembles_cli.options import checkpoint, run, score
from ensembles_cli.options import sweep as sweeps
from ensembles_cli.options.schedule import ScheduleChoice
from ensembles_cli.options.types import (
    Param,
    as_params,
    complete_rule,
    complete_selection,
    split_ranges,
)
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.soup import print_soup
from ensembles_cli.reports.soup_progress import ProgressReporter, print_notes
from ensembles_cli.reports.sweep import points_of
from ensembles_cli.scoring.command import ScoringCommand


@click.command("soup")
@click.argument("members", nargs=-1, required=True, metavar="CKPT...")
@score.command(required=True)
@score.key
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output: NAME.safetensors, NAME.pt, or a directory.",
)
@run.choosing(with_direction=False)
@click.option(
    "--select",
    metavar="NAME",
    shell_complete=complete_selection,
    help=(
        "Selection that chooses the weights, here with the approximate number of "
        "scores for 10 checkpoints: best 10, listed 11, windows 19, greedy-soup 20, "
        "top-k 20, wise-ft 21, optuna 60, convex 70, greedy 500; ensemble selections "
        "describes them.  [default: greedy-soup; all members with equal weights for "
        "several rules, or one that needs --base]"
    ),
)
@click.option(
    "--select-param",
    "select_params",
    type=Param(),
    multiple=True,
    help="Parameter of --select, such as n_rounds=20; may be repeated.",
)
@sweeps.sweep_option
@sweeps.schedules_option
@sweeps.plot_option
@click.option(
    "--base",
    type=click.Path(),
    metavar="CKPT",
    help=(
        "Checkpoint that the members were fine-tuned from, for rules and selections "
        "that need one; ensemble rules and ensemble selections mark them."
    ),
)
@click.option(
    "--rule",
    default="mean",
    show_default=True,
    metavar="NAME,...",
    shell_complete=complete_rule,
    help=(
        "Rule that combines the members, as in ensemble avg. Several rules, such as "
        "mean,task_arithmetic,ties, are compared, and the best result is written."
    ),
)
@click.option(
    "--param",
    "--rule-param",
    "rule_params",
    type=Param(),
    multiple=True,
    help=(
        "Parameter of --rule, such as density=.5, or a range that --select optuna "
        "searches, such as density=.1:.9; may be repeated."
    ),
)
@score.lower_is_better
@score.timeout
@score.on_error
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
    select_params: tuple[tuple[str, Any], ...],
    rule_params: tuple[tuple[str, Any], ...],
    select: str | None,
    sweep: str | None,
    schedules: tuple[ScheduleChoice, ...],
    plot: Path | None,
    timeout: float | None,
    as_json: bool,
    base: str | None,
    rule: str,
    **options: Any,
) -> None:
    """Choose checkpoints by your own score, and average them.

    The scoring command runs on each member, then on combinations, which are written
    beside the output and removed afterwards. The greedy soup starts with the best
    member. It adds the other members from the best to the worst, and keeps each one
    that does not lower the score. Score on data that neither training nor your final
    test uses.

    \b
    ensemble soup run-*.safetensors --score 'python eval.py {}' -o s.safetensors
    ensemble soup run/ --last 8 --score './f1.sh {}' -o soup.safetensors
    ensemble soup run/ --sweep windows --score './f1.sh {}' -o soup.safetensors
    ensemble soup *.pt --score 'python eval.py {}' --score-key acc_norm -o soup.pt
    ensemble soup run*/ --score './loss.sh {}' --lower-is-better -o soup
    ensemble soup a/ b/ --base c/ --select wise-ft --score './f1.sh {}' -o soup
    ensemble soup a/ b/ --base c/ --rule mean,ties --score './f1.sh {}' -o soup

    Write {} without quotes: it is replaced by the absolute path, quoted for the shell.
    If the scoring command prints other numbers too, print the score alone in the last
    line, or as score: 0.5, or name it with --score-key.

    Combinations of PyTorch files are copies of a member with other tensors: they keep
    its optimizer state, unless --only-weights. Running statistics of BatchNorm are
    averaged: recalculate them in the command, and for the result.

    Scores are kept in OUT.journal.jsonl. After Ctrl-C or a crash, run the same command
    to continue. Scores are reused if the text of the scoring command, the folder and
    the programs named in the text, such as eval.py, are unchanged. If other inputs of
    the scoring command have changed, remove OUT.journal.jsonl.
    """
    from ensembles.checkpoints import choose_checkpoints, make_soup

    raise_file_limit()
    end_cleanly()
    scoring = ScoringCommand(text, timeout, key_of_score)
    journal = scoring.journal(f"{out}.journal.jsonl")
    sweeps.check_sweep(sweep, schedules, plot, select, {"rule": rule, **options})
    choice = run.choice_in(options, with_direction=False)
    chosen = choose_checkpoints(members, by_step=sweep is not None, **choice)
    options["key"] = options["key"] or chosen.key
    selection = sweeps.selection_of(
        select, sweep, schedules, chosen.steps, as_params(select_params)
    )
    params, ranges = split_ranges(as_params(rule_params))
    paths = chosen.paths if base is None else [base, *chosen.paths]
    is_lower_better = options["lower_is_better"]
    with ProgressReporter(journal, paths, scoring, is_lower_better) as reporter:
        print_notes(chosen.notes)
        report = make_soup(
            chosen.paths,
            scoring,
            out,
            select=selection.name,
            weights_params=selection.params,
            base=base,
            rule=rule.split(",") if "," in rule else rule,
            rule_params=params,
            rule_ranges=ranges,
            journal=journal,
            record=reporter.record,
            **options,
        )
    points = []
    if sweep is not None:
        force = options["force"]
        labels = selection.labels
        points = points_of(report, labels, chosen.steps, plot, force=force)
    print_soup(report, reporter, chosen.steps, points, as_json)
