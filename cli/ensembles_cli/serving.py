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

from ensembles_cli.describing import print_notes
from ensembles_cli.printing import as_options, table

if TYPE_CHECKING:
    from ensembles.checkpoints import Candidate, Plan, SoupReport

INTERRUPTED = "the same command goes on from there"
MOST_NAMED = 6


class Told:
    """Candidates as they are scored, told to stderr: one a line.

    Parameters
    ----------
    journal : Path
        Where scores are kept, and taken from.
    paths : sequence of str
        Of all members, which are told by what they do not share.
    most : int or None, default=None
        How many scores there may be, where that is known.
    """

    def __init__(
        self, journal: Path, paths: Sequence[str], most: int | None = None
    ) -> None:
        self.journal = journal
        self._most = "" if most is None else f" of at most {most}"
        names = [str(Path(path)) for path in paths]
        self._names = dict(zip(names, short(names), strict=True))
        self.n_scored = self.n_reused = 0
        self._n_failed = self._n_untold = 0

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
                f"{_scores(n_kept)} kept in {self.journal}; {INTERRUPTED}", err=True
            )

    def record(self, candidate: Candidate) -> None:
        """Tell a candidate, unless its score was known."""
        if candidate.reused:
            self.n_reused += 1
            self._n_untold += 1
            return
        self._tell_reused()
        self.n_scored += 1
        self._n_failed += candidate.score is None
        names = [self._names[name] for name in candidate.members]
        named = mixed(names, candidate.weights)
        number = self.n_scored + self.n_reused
        place = f"[{number}{self._most}]"
        click.echo(f"{place} {_shown(candidate.score)}  {named}", err=True)
        if candidate.error is not None and len(candidate.members) > 1:
            words = as_options(f"warning: {candidate.error}")
            click.echo(click.style(words, fg="yellow"), err=True)

    def _tell_reused(self) -> None:
        if self._n_untold:
            click.echo(f"{_scores(self._n_untold)} taken from {self.journal}", err=True)
        self._n_untold = 0


def _scores(number: int) -> str:
    return "1 score is" if number == 1 else f"{number} scores are"


def print_soup(report: SoupReport, told: Told, as_json: bool) -> None:
    """Say what the soup is of, and whether it helps."""
    print_notes(report.written.plan.notes)
    if as_json:
        click.echo(json.dumps(described(report, told), indent=2))
        return
    names = [*report.members] if report.base is None else [report.base, *report.members]
    own, weights = [*report.scores], [*report.weights]
    if report.base is not None:
        own, weights = [report.base_score, *own], [report.base_weight, *weights]
    table(
        ["in", "member", "score", "weight"],
        [
            ["*" * (weight > 0), name, _shown(score), f"{weight:.3g}" * (weight > 0)]
            for name, score, weight in zip(names, own, weights, strict=True)
        ],
    )
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
    """One sentence that says whether the soup beats the best member."""
    best, alone = report.best
    better = "; all members alike do better still" * report.uniform_is_better
    if report.helps:
        return (
            f"The soup beats {best}, the best alone: {report.score:.6g} against "
            f"{alone:.6g}{better}."
        )
    if n_kept == 1 and report.score == alone:
        return f"No soup that was tried beats {best}: the output is that alone{better}."
    if report.score == alone:
        return f"The soup and {best} alone both score {alone:.6g}: use either{better}."
    return (
        f"The soup does not beat {best} alone, {report.score:.6g} against "
        f"{alone:.6g}: use that one."
    )


def described(report: SoupReport, told: Told) -> dict[str, Any]:
    """A soup as JSON has it."""
    plan, (best, alone) = report.written.plan, report.best
    entries = zip(report.members, report.scores, report.weights, strict=True)
    base = {"member": report.base, "score": report.base_score}
    return {
        "out": str(report.out),
        "members": [
            {"member": name, "score": score, "weight": weight}
            for name, score, weight in entries
        ],
        "base": {**base, "weight": report.base_weight} if report.base else None,
        "soup": {
            "score": report.score,
            "members": [member.name for member in plan.members],
            "weights": plan.weights.tolist(),
        },
        "uniform": report.uniform,
        "best": {"member": best, "score": alone},
        "beats_best": report.helps,
        "lower_is_better": report.lower_is_better,
        "scored": told.n_scored,
        "reused": told.n_reused,
        "journal": str(told.journal),
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
