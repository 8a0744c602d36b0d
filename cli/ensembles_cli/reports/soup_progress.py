"""Progress output of ``ensemble soup`` while candidates are scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from ensembles.reports.displays.figures import without_common_folder
from ensembles_cli.console import printable
from ensembles_cli.scoring.command import ScoringCommand
from ensembles_cli.scoring.printed_score import Reading, shortened

if TYPE_CHECKING:
    from ensembles.checkpoints import Candidate, Journal

MAX_NAMES = 6


class ProgressReporter:
    """Print each scored candidate on one line of stderr.

    Parameters
    ----------
    journal : Journal
        Journal that stores the scores and provides scores of earlier runs.
    paths : sequence of str
        Paths of all members; they are printed without their common directory.
    scoring : ScoringCommand
        Scoring command, whose last reading shows the line of the score.
    lower_is_better : bool
        Whether lower scores are better.

    Attributes
    ----------
    n_scored, n_reused : int
        Number of candidates that were scored, and whose score was in the journal.
    line : str or None
        Line of output that the first score was read from; None before that.
    """

    def __init__(
        self,
        journal: Journal,
        paths: Sequence[str],
        scoring: ScoringCommand,
        lower_is_better: bool,
    ) -> None:
        self.journal = journal
        self._scoring = scoring
        self._lower_is_better = lower_is_better
        names = [str(Path(path)) for path in paths]
        self._names = dict(zip(names, without_common_folder(names), strict=True))
        self.n_scored = self.n_reused = 0
        self._n_failed = self._n_unreported = 0
        self.line: str | None = None

    def __enter__(self) -> ProgressReporter:
        """Enter the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Print pending output and, after an error, the path of the kept scores."""
        self._print_reused()
        n_kept = self.n_scored + self.n_reused - self._n_failed
        if error is not None and n_kept:
            click.echo(
                f"{_scores(n_kept)} kept in {self.journal.path}; run the same command "
                "again to continue",
                err=True,
            )

    def record(self, candidate: Candidate) -> None:
        """Print a candidate, or count it if its score is reused from the journal."""
        if self.n_scored + self.n_reused == 0:
            self._print_outdated()
        if candidate.reused:
            self.n_reused += 1
            self._n_unreported += 1
            return
        self._print_reused()
        if self.line is None and self._scoring.reading is not None:
            self._print_line(self._scoring.reading)
        self.n_scored += 1
        self._n_failed += candidate.score is None
        names = [self._names[name] for name in candidate.members]
        mixture = format_mixture(names, candidate.weights)
        number = self.n_scored + self.n_reused
        rule = f"  ({format_rule(candidate)})" if candidate.rule != "mean" else ""
        rule *= candidate.rule is not None
        line = f"[{number}] {format_score(candidate.score)}  {mixture}{rule}"
        click.echo(printable(line), err=True)
        if candidate.error is not None and len(candidate.members) > 1:
            _echo("warning", candidate.error)

    def _print_line(self, reading: Reading) -> None:
        """Print the line of the first score, and warn if it seems to be a loss."""
        self.line = shortened(reading.line)
        line = f"score {reading.value:g} is read from: {self.line}"
        click.echo(printable(line), err=True)
        if not self._lower_is_better and reading.is_lower_better(self._scoring.text):
            _echo(
                "warning",
                "the score seems to be a loss or an error, but the highest is "
                "selected; pass --lower-is-better if lower is better",
            )

    def _print_outdated(self) -> None:
        if self.journal.n_outdated:
            files = ", ".join(self.journal.files) or "its files"
            click.echo(
                f"{_scores(self.journal.n_outdated)} not taken from "
                f"{self.journal.path} because {files} changed",
                err=True,
            )

    def _print_reused(self) -> None:
        if self._n_unreported:
            number = _scores(self._n_unreported)
            click.echo(f"{number} taken from {self.journal.path}", err=True)
        self._n_unreported = 0


def print_notes(notes: Sequence[str]) -> None:
    """Print notes to stderr."""
    for note in notes:
        _echo("note", note)


def _echo(kind: str, text: str) -> None:
    click.echo(click.style(f"{kind}: {text}", fg="yellow"), err=True)


def _scores(number: int) -> str:
    return "1 score is" if number == 1 else f"{number} scores are"


def format_mixture(names: Sequence[str], weights: Sequence[float]) -> str:
    """Format members as a sum, with weights unless equal; many as a count.

    Examples
    --------
    >>> format_mixture(["a.pt", "b.pt"], [0.5, 0.5])
    'a.pt + b.pt'
    >>> format_mixture(["a.pt", "b.pt"], [0.75, 0.25])
    '0.75 a.pt + 0.25 b.pt'
    """
    if len(names) > MAX_NAMES:
        return f"{len(names)} members"
    if len(set(weights)) == 1:
        return " + ".join(names)
    pairs = zip(names, weights, strict=True)
    return " + ".join(f"{weight:.3g} {name}" for name, weight in pairs)


def format_rule(candidate: Candidate) -> str:
    """Format the rule of a candidate and its parameters."""
    return " ".join([candidate.rule or "", *format_params(candidate)])


def format_params(candidate: Candidate) -> list[str]:
    """Format the parameters of a rule as name=value, numbers with a few digits."""
    return [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in candidate.rule_params
    ]


def format_score(score: float | None) -> str:
    """Format a score; None is "failed"."""
    return "failed" if score is None else f"{score:.6g}"
