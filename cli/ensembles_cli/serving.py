"""What ``ensemble soup`` says while candidates are scored, and of the soup."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.describing import left_out
from ensembles_cli.printed_score import Reading, shortened
from ensembles_cli.printing import as_options, table
from ensembles_cli.scoring import ScoringCommand

if TYPE_CHECKING:
    from ensembles.checkpoints import Candidate, Journal, Plan, SoupReport

INTERRUPTED = "the same command goes on from there"
MOST_NAMED = 6


class Told:
    """Candidates as they are scored, told to stderr: one a line.

    Parameters
    ----------
    journal : Journal
        Where scores are kept, and taken from.
    paths : sequence of str
        Of all members, which are told by what they do not share.
    scoring : ScoringCommand
        Which knows where the last score was read.
    lower_is_better : bool
    most : int or None, default=None
        How many scores there may be, where that is known.
    """

    def __init__(
        self,
        journal: Journal,
        paths: Sequence[str],
        scoring: ScoringCommand,
        lower_is_better: bool,
        most: int | None = None,
    ) -> None:
        self.journal = journal
        self._scoring = scoring
        self._lower_is_better = lower_is_better
        self._most = "" if most is None else f" of at most {most}"
        names = [str(Path(path)) for path in paths]
        self._names = dict(zip(names, short(names), strict=True))
        self.n_scored = self.n_reused = 0
        self._n_failed = self._n_untold = 0
        self.line: str | None = None

    def __enter__(self) -> Told:
        """Begin to listen."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell what is untold; of a run that ends early, where its scores are."""
        self._tell_reused()
        n_kept = self.n_scored + self.n_reused - self._n_failed
        if error is not None and n_kept:
            click.echo(
                f"{_scores(n_kept)} kept in {self.journal.path}; {INTERRUPTED}",
                err=True,
            )

    def record(self, candidate: Candidate) -> None:
        """Tell a candidate, unless its score was known."""
        self._tell_outdated()
        if candidate.reused:
            self.n_reused += 1
            self._n_untold += 1
            return
        self._tell_reused()
        if self.line is None and self._scoring.reading is not None:
            self._tell_line(self._scoring.reading)
        self.n_scored += 1
        self._n_failed += candidate.score is None
        names = [self._names[name] for name in candidate.members]
        named = mixed(names, candidate.weights)
        number = self.n_scored + self.n_reused
        place = f"[{number}{self._most}]"
        click.echo(f"{place} {_shown(candidate.score)}  {named}", err=True)
        if candidate.error is not None and len(candidate.members) > 1:
            _echo_noted("warning", candidate.error)

    def _tell_line(self, reading: Reading) -> None:
        """Tell where the first score was read, and if it seems to be an error."""
        self.line = shortened(reading.line)
        click.echo(f"score {reading.value:g} is read from: {self.line}", err=True)
        if not self._lower_is_better and reading.is_lower_better(self._scoring.text):
            _echo_noted(
                "warning",
                "the score seems to be a loss or an error, of which the highest is "
                "taken: pass --lower-is-better if lower is better",
            )

    def _tell_outdated(self) -> None:
        if self.n_scored + self.n_reused == 0 and self.journal.n_outdated:
            number = self.journal.n_outdated
            named = ", ".join(self.journal.files) or "its files"
            kept = f"{_scores(number)} not taken from {self.journal.path}"
            click.echo(f"{kept}, {named} changed", err=True)

    def _tell_reused(self) -> None:
        if self._n_untold:
            click.echo(
                f"{_scores(self._n_untold)} taken from {self.journal.path}", err=True
            )
        self._n_untold = 0


def tell_notes(notes: Sequence[str]) -> None:
    """Say to stderr what was left out or chosen among several."""
    for note in notes:
        _echo_noted("note", note)


def _echo_noted(kind: str, text: str) -> None:
    click.echo(click.style(as_options(f"{kind}: {text}"), fg="yellow"), err=True)


def _scores(number: int) -> str:
    return "1 score is" if number == 1 else f"{number} scores are"


def print_soup(
    report: SoupReport, told: Told, steps: Sequence[Any], as_json: bool
) -> None:
    """Say what the soup is of, and whether it helps."""
    plan, rows = report.written.plan, _members(report, steps)
    noted = [f"{row['member']}: {note}" for row in rows for note in row["notes"]]
    tell_notes(list(dict.fromkeys([*noted, *plan.notes])))
    names = left_out(plan)
    if names:
        shown = ", ".join(names[:MOST_NAMED])
        more = f" and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED)
        tell_notes([f"{len(names)} tensors are left out: {shown}{more}"])
    if as_json:
        click.echo(json.dumps(described(report, told, rows), indent=2))
        return
    more_keys = [
        key
        for key in ("step", "state_dict")
        if any(row[key] is not None for row in rows)
    ]
    table(
        [
            "in",
            "member",
            "score",
            "weight",
            *(key.replace("_", " ") for key in more_keys),
        ],
        [
            [
                "*" * (row["weight"] > 0),
                row["member"],
                _shown(row["score"]),
                f"{row['weight']:.3g}" * (row["weight"] > 0),
                *("" if row[key] is None else str(row[key]) for key in more_keys),
            ]
            for row in rows
        ],
    )
    names, weights = [row["member"] for row in rows], [row["weight"] for row in rows]
    best, alone = report.best
    n_kept = sum(weight > 0 for weight in weights)
    table(
        ["compared", "score"],
        [
            ["uniform soup", _shown(report.uniform)],
            [f"soup of {n_kept} in {len(names)}", _shown(report.score)],
            [f"best alone, {best}", _shown(alone)],
        ],
    )
    click.echo(verdict(report, n_kept))
    click.echo(f"wrote {report.out}; the same file by: {as_average(report)}")


def verdict(report: SoupReport, n_kept: int) -> str:
    """One sentence that says whether the soup beats the best member, on which data."""
    best, alone = report.best
    where = " (on the data that it was chosen by; check on held-out data)"
    better = "; all members alike do better still" * report.uniform_is_better
    if report.helps:
        return (
            f"The soup beats {best}, the best alone: {report.score:.6g} against "
            f"{alone:.6g}{better}{where}."
        )
    if n_kept == 1 and report.score == alone:
        return (
            f"No soup that was tried beats {best}: the output is that alone{better}"
            f"{where}."
        )
    if report.score == alone:
        return (
            f"The soup and {best} alone both score {alone:.6g}: use either{better}"
            f"{where}."
        )
    return (
        f"The soup does not beat {best} alone, {report.score:.6g} against "
        f"{alone:.6g}: use that one{where}."
    )


def _members(report: SoupReport, steps: Sequence[Any]) -> list[dict[str, Any]]:
    """Facts about each member, the base first where there is one."""
    scores, weights = [*report.scores], [*report.weights]
    numbers = [None if step is None else as_number(step) for step in steps]
    if report.base is not None:
        scores, weights = [report.base_score, *scores], [report.base_weight, *weights]
        numbers = [None, *numbers]
    rows = zip(report.checkpoints, scores, weights, numbers, strict=True)
    return [
        {
            "member": member.name,
            "score": score,
            "weight": weight,
            "step": step,
            "state_dict": member.state_dict,
            "notes": list(map(as_options, member.notes)),
        }
        for member, score, weight, step in rows
    ]


def as_number(step: Any) -> int | float:
    """A step as JSON has it: whole where it is whole."""
    return int(step) if step == int(step) else float(step)


def described(
    report: SoupReport, told: Told, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """A soup as JSON has it."""
    plan, (best, alone) = report.written.plan, report.best
    n_base = int(report.base is not None)
    return {
        "out": str(report.out),
        "members": rows[n_base:],
        "base": rows[0] if n_base else None,
        "soup": {
            "score": report.score,
            "members": [member.name for member in plan.members],
            "weights": plan.weights.tolist(),
        },
        "uniform": report.uniform,
        "best": {"member": best, "score": alone},
        "beats_best": report.helps,
        "lower_is_better": report.lower_is_better,
        "score_line": told.line,
        "scored": told.n_scored,
        "reused": told.n_reused,
        "journal": str(told.journal.path),
        "left_out": left_out(plan),
        "notes": list(map(as_options, plan.notes)),
        "average": as_average(report),
        "digest": f"xxh3-128:{report.written.digest}",
    }


def as_average(report: SoupReport) -> str:
    """The command that writes the same file."""
    plan = report.written.plan
    words = [member.name for member in plan.members]
    if (plan.weights != 1).any():
        weights = plan.weights.tolist()
        words = [f"{n}:{w!r}" for n, w in zip(words, weights, strict=True)]
    line = ["ensemble", "avg", *words, *_options(plan), "-o", str(report.out)]
    return shlex.join(line)


def _options(plan: Plan) -> list[str]:
    found = []
    if plan.options["integers"] != "error":
        found += ["--integers", plan.options["integers"]]
    if plan.options["missing"] != "error":
        found += ["--missing", plan.options["missing"]]
    for name in ("include", "exclude"):
        patterns: Sequence[str] = plan.options[name]
        found += [word for p in patterns for word in (f"--{name}", p)]
    if plan.options["key"] is not None:
        found += ["--key", plan.options["key"]]
    return found


def mixed(names: Sequence[str], weights: Sequence[float]) -> str:
    """Members as a sum, with their weights where those differ; of many, how many.

    Examples
    --------
    >>> mixed(["a.pt", "b.pt"], [0.5, 0.5])
    'a.pt + b.pt'
    >>> mixed(["a.pt", "b.pt"], [0.75, 0.25])
    '0.75 a.pt + 0.25 b.pt'
    """
    if len(names) > MOST_NAMED:
        return f"{len(names)} members"
    if len(set(weights)) == 1:
        return " + ".join(names)
    pairs = zip(names, weights, strict=True)
    return " + ".join(f"{weight:.3g} {name}" for name, weight in pairs)


def short(names: Sequence[str]) -> list[str]:
    """Paths from the folder that holds them all.

    Examples
    --------
    >>> short(["runs/1/model.pt", "runs/2/model.pt"])
    ['1/model.pt', '2/model.pt']
    >>> short([])
    []
    """
    if not names:
        return []
    full = [os.path.abspath(name) for name in names]
    shared = os.path.commonpath([os.path.dirname(name) for name in full])
    return [os.path.relpath(name, shared) for name in full]


def _shown(score: float | None) -> str:
    return "failed" if score is None else f"{score:.6g}"
