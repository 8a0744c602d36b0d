"""Comparison of the rules of ``ensemble soup`` with each other and single members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ensembles_cli.console import printable, table
from ensembles_cli.reports.soup_progress import format_params, format_score

if TYPE_CHECKING:
    from ensembles.checkpoints import Candidate, SoupReport

CAVEAT = " (on the data of the selection; check on held-out data)"


MEAN = "the mean of the members"


class Row(NamedTuple):
    """A row of the comparison; ``score`` is None if it failed."""

    name: str
    score: float | None
    n_scores: int
    candidate: Candidate | None = None


def print_rules(report: SoupReport) -> None:
    """Print each rule beside base, best member and mean, and say whether one helps."""
    rows = []
    for row in (*_references(report), *_rules(report)):
        candidate, score = row.candidate, format_score(row.score)
        params = "" if candidate is None else " ".join(format_params(candidate))
        members = "" if candidate is None else str(len(candidate.members))
        name = row.name.removeprefix("the ")
        rows.append([name, params, members, score, str(row.n_scores)])
    table(["compared", "parameters", "members", "score", "scored"], rows)
    click.echo(printable(rule_summary(report)))


def rule_summary(report: SoupReport) -> str:
    """Sentence on the checkpoint that was written: what it beats, and what equals it.

    Parameters
    ----------
    report : SoupReport
        Report of a soup that compares rules.

    Returns
    -------
    str
    """
    references, rules = _references(report), _rules(report)
    written, names = report.chosen, [row.name for row in rules]
    name = written.rule if written.rule in names else MEAN
    if written.rule is None:
        is_base = written.members[0] == report.base
        name = references[0 if is_base or report.base is None else 1].name
    others = [row for row in (*references, *rules) if row.name != name]
    same = [row.name for row in others if row.score == report.score]
    better = [row.name for row in others if _is_better(report, row.score)]
    equal_or_better = [name, *same, *better]
    beaten = [row.name for row in references if row.name not in equal_or_better]
    by = "by " * (name in names)
    text = f"The output is {by}{name}, which scores {report.score:.6g}"
    if name not in names:
        text += ": no rule scores better, so merging does not help"
    elif beaten:
        text += f", better than {_listed(beaten)}"
    if same:
        text += f"; {_listed(same)} score{'s' * (len(same) == 1)} the same"
    if better:
        text += f"; {_listed(better)} score{'s' * (len(better) == 1)} better"
    return f"{text}{CAVEAT}."


def _references(report: SoupReport) -> list[Row]:
    """Base, if there is one, best single member, and mean unless it is a rule."""
    scored = [
        (name, score)
        for name, score in zip(report.members, report.scores, strict=True)
        if score is not None
    ]
    choose = min if report.lower_is_better else max
    member, score = choose(scored, key=lambda pair: pair[1])
    rows = [Row(f"the best single member ({member})", score, len(report.members))]
    if report.base is not None:
        rows.insert(0, Row(f"the base ({report.base})", report.base_score, 1))
    if "mean" not in [result.rule for result in report.rules]:
        rows.append(Row(MEAN, report.uniform_score, 1))
    return rows


def _rules(report: SoupReport) -> list[Row]:
    """Best combination by each rule."""
    return [
        Row(
            result.rule,
            result.candidate.score if result.candidate else None,
            result.n_scores,
            result.candidate,
        )
        for result in report.rules
    ]


def rules_as_json(report: SoupReport) -> list[dict[str, Any]]:
    """Best combination by each rule, as JSON values."""
    return [
        {
            "rule": row.name,
            "params": dict(row.candidate.rule_params) if row.candidate else {},
            "members": list(row.candidate.members) if row.candidate else [],
            "weights": list(row.candidate.weights) if row.candidate else [],
            "score": row.score,
            "scored": row.n_scores,
        }
        for row in _rules(report)
    ]


def _listed(names: Sequence[str]) -> str:
    """Names with commas, and "and" before the last."""
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])


def _is_better(report: SoupReport, score: float | None) -> bool:
    if score is None:
        return False
    return score < report.score if report.lower_is_better else score > report.score
