"""Display of the path of a greedy soup."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import ArrayLike

from ensembles.checkpoints.soup_search.journal import JournalEntry, read_journal
from ensembles.checkpoints.soup_search.make_soup import SoupReport
from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    BLUE,
    GRAY,
    GREEN,
    VERMILLION,
    clear_spines,
    import_pyplot,
    short_names,
    shorten,
)

Outcome = Literal["kept", "left out", "no score"]
FEW_LABELS = 60  # members; with more, not every one has a label


class _Step(NamedTuple):
    """A member of a greedy soup, and the soup that was tried with it."""

    member: str
    score: float
    soup_score: float
    outcome: Outcome


class SoupPathDisplay(Display):
    """Path of a greedy soup: members from the best to the worst, and soups with them.

    Parameters
    ----------
    members : sequence of str
        Names of the members, in the order in which they were tried.
    scores : array-like of shape (n_members,)
        Score of each member alone; NaN for a score that failed.
    soup_scores : array-like of shape (n_members,)
        Score of the soup that was tried with each member; NaN without one.
    outcomes : sequence of {"kept", "left out", "no score"}
        Whether each member is in the soup; "no score" if the soup with it failed, or
        was not tried yet.
    uniform_score : float or None, default=None
        Score of the mean of all members; None if it is unknown.
    metric : str, default="score"
        Name of the score.
    lower_is_better : bool, default=False
        Whether the score is a loss or an error.
    notes : sequence of str, default=()
        Messages on scores that are not in the picture.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If the numbers of entries differ, no score is finite, or no member is kept.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", ICML, recipe 1.
    """

    def __init__(
        self,
        members: Sequence[str],
        scores: ArrayLike,
        soup_scores: ArrayLike,
        outcomes: Sequence[Outcome],
        *,
        uniform_score: float | None = None,
        metric: str = "score",
        lower_is_better: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        self.members = list(members)
        self.scores = finite_or_nan(scores)
        self.soup_scores = finite_or_nan(soup_scores)
        self.outcomes = list(outcomes)
        self.uniform_score = uniform_score
        self.metric = metric
        self.lower_is_better = lower_is_better
        self.notes = tuple(notes)
        sizes = [len(self.scores), len(self.soup_scores), len(self.outcomes)]
        if sizes != [len(self.members)] * 3:
            raise ValueError(
                "scores, soup_scores and outcomes must have an entry for each of "
                f"{len(self.members)} members, found {sizes}"
            )
        if not np.isfinite(self.scores).any():
            raise ValueError("no score is finite, so there is no path to draw")
        unknown = {*self.outcomes}.difference(get_args(Outcome))
        if unknown or "kept" not in self.outcomes:
            raise ValueError(
                f"outcomes must be {', '.join(get_args(Outcome))}, and 'kept' for at "
                f"least one member; found {', '.join(map(str, self.outcomes))}"
            )

    @classmethod
    def from_report(
        cls, report: SoupReport, *, metric: str = "score", ax: Any = None
    ) -> Self:
        """Draw the path of a soup that `make_soup` returned.

        Parameters
        ----------
        report : SoupReport
            Report of a soup with ``select="greedy_soup"``. Of several rules, the one
            that was written is drawn, or the first.
        metric : str, default="score"
            Name of the score.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        SoupPathDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the soup is not a greedy soup.
        """
        import_pyplot()
        rules = [result.rule for result in report.rules]
        drawn = report.chosen.rule if report.chosen.rule in rules else rules[0]
        scores = {
            frozenset(candidate.members): candidate.score
            for candidate in report.candidates
            if len(set(candidate.weights)) == 1
            and candidate.rule in (None, drawn)
            and (report.base is None or candidate.members != (report.base,))
        }
        display = cls._from_scores(
            report.members, scores, metric, report.lower_is_better, report.out
        )
        return display.plot(ax)

    @classmethod
    def from_journal(
        cls,
        path: Any,
        *,
        metric: str = "score",
        lower_is_better: bool = False,
        ax: Any = None,
    ) -> Self:
        """Draw the path of a soup from its journal, complete or not.

        A journal has neither failed scores nor the direction of the score.

        Parameters
        ----------
        path : path
            Journal of `make_soup` or ``ensemble soup``, ``OUT.journal.jsonl``. If
            several commands share it, the last one counts.
        metric : str, default="score"
            Name of the score.
        lower_is_better : bool, default=False
            Whether the score is a loss or an error.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        SoupPathDisplay

        Raises
        ------
        FileNotFoundError
            If the journal does not exist.
        ImportError
            If matplotlib is not installed.
        ValueError
            If the file is not a journal, or not of a greedy soup.
        """
        import_pyplot()
        entries = read_journal(path)
        current = _without_base(_of_last_command(entries))
        scores = {frozenset(e.members): e.score for e in current if e.is_uniform}
        members = [next(iter(key)) for key in scores if len(key) == 1]
        notes = _count_notes(
            len(entries) - len(current),
            "other commands, options or versions of a member",
        )
        off_path = [
            len(scores.keys() - _greedy_path(members, scores, direction)[1])
            for direction in (lower_is_better, not lower_is_better)
        ]
        if off_path[0] > off_path[1]:
            option = "no --lower-is-better" if lower_is_better else "--lower-is-better"
            raise ValueError(
                f"the scores of {path} are of a soup in the other direction; pass "
                f"lower_is_better={not lower_is_better} ({option})"
            )
        display = cls._from_scores(
            members, scores, metric, lower_is_better, path, notes
        )
        return display.plot(ax)

    @classmethod
    def _from_scores(
        cls,
        members: Sequence[str],
        scores: Mapping[frozenset[str], float | None],
        metric: str,
        lower_is_better: bool,
        source: Any,
        notes: Sequence[str] = (),
    ) -> Self:
        """Display of the greedy soup of members, from the scores of combinations."""
        steps, on_path = _greedy_path(members, scores, lower_is_better)
        scored = {step.member for step in steps if np.isfinite(step.score)}
        if len(scored) > 1 and not any(len(key) > 1 for key in on_path & scores.keys()):
            raise ValueError(
                f"{source} has no scores of a greedy soup, such as that of the two "
                "best members; pass a result of select='greedy_soup' (--select "
                "greedy-soup)"
            )
        uniform = frozenset(scored)
        others = [key for key in scores if key not in {*on_path, uniform}]
        names = [step.member for step in steps]
        return cls(
            short_names(names),
            [step.score for step in steps],
            [step.soup_score for step in steps],
            [step.outcome for step in steps],
            uniform_score=scores.get(uniform),
            metric=metric,
            lower_is_better=lower_is_better,
            notes=[
                *notes,
                *_count_notes(
                    len(others), "combinations that a greedy soup does not try"
                ),
            ],
        )

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        return 6.8, min(max(1.6 + 0.24 * len(self.members), 2.6), 16.0)

    @property
    def score(self) -> float:
        """Score of the soup."""
        kept = [
            score
            for score, outcome in zip(self.soup_scores, self.outcomes, strict=True)
            if outcome == "kept"
        ]
        return float(kept[-1])

    @property
    def summary(self) -> str:
        """One line with the scores of the soup, its best member and all members."""
        n_kept = self.outcomes.count("kept")
        text = f"soup of {n_kept} in {len(self.members)}: {self.metric} "
        text += f"{self.score:.6g}; best member {self.scores[0]:.6g}"
        if self.uniform_score is not None:
            text += f"; uniform soup {self.uniform_score:.6g}"
        n_missing = self.outcomes.count("no score")
        return text + f"; {n_missing} without a score" * (n_missing > 0)

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "metric": self.metric,
            "members": self.members,
            "scores": as_json(self.scores),
            "soup_scores": as_json(self.soup_scores),
            "outcomes": self.outcomes,
            "score": self.score,
            "uniform_score": as_json(self.uniform_score),
            "notes": list(self.notes),
        }

    def _draw(self, ax: Any) -> None:
        rows = np.arange(len(self.members))
        ax.plot(self.scores, rows, "D", color=GRAY, markersize=4, label="member alone")
        kept, tried = self._rows("kept"), self._rows("left out")
        ax.plot(
            self.soup_scores[kept],
            kept,
            "o-",
            color=BLUE,
            drawstyle="steps-pre",
            label="soup with it, kept",
        )
        if len(tried):
            ax.plot(
                self.soup_scores[tried],
                tried,
                "o",
                markerfacecolor="none",
                color=BLUE,
                label="soup with it, left out",
            )
        if self.uniform_score is not None:
            ax.axvline(
                self.uniform_score,
                color=GREEN,
                linestyle="--",
                linewidth=1,
                label="uniform soup",
            )
        missing = self._rows("no score")
        if len(missing):
            ax.plot(
                [0.01] * len(missing),
                missing,
                "x",
                color=VERMILLION,
                transform=ax.get_yaxis_transform(),
                label="no score",
            )
        shown = rows[:: -(-len(rows) // FEW_LABELS)]
        size = 8 if len(rows) > 20 else 9
        labels = [shorten(self.members[row]) for row in shown]
        ax.set_yticks(shown, labels, fontsize=size)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlabel(self.metric)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        clear_spines(ax)

    def _rows(self, outcome: Outcome) -> Any:
        return np.flatnonzero(np.array(self.outcomes) == outcome)


def _greedy_path(
    members: Sequence[str],
    scores: Mapping[frozenset[str], float | None],
    lower_is_better: bool,
) -> tuple[list[_Step], set[frozenset[str]]]:
    """Steps of a greedy soup, and the combinations on its path."""
    alone = {name: scores.get(frozenset([name])) for name in members}
    scored = [(name, score) for name, score in alone.items() if score is not None]
    sign = 1 if lower_is_better else -1
    scored.sort(key=lambda pair: sign * pair[1])  # stable, as in greedy_soup
    steps: list[_Step] = []
    soup: list[str] = []
    best, on_path = 0.0, {frozenset([name]) for name in members}
    for name, score in scored:
        key = frozenset([*soup, name])
        on_path.add(key)
        value = scores.get(key)
        outcome: Outcome = "no score" if value is None else "left out"
        if value is not None and (not soup or sign * value <= sign * best):
            outcome, best = "kept", value
            soup.append(name)
        steps.append(_Step(name, score, np.nan if value is None else value, outcome))
    failed = [name for name, score in alone.items() if score is None]
    steps += [_Step(name, np.nan, np.nan, "no score") for name in failed]
    return steps, on_path


def _of_last_command(entries: Sequence[JournalEntry]) -> list[JournalEntry]:
    """Entries of the last command, with the last options and versions of members."""
    last = entries[-1]
    same = [e for e in entries if e.source == last.source]
    versions: dict[str, str] = {}
    for entry in same:
        versions |= entry.members
    settings = [e.settings for e in same if len(e.members) > 1][-1:]
    return [
        e
        for e in same
        if all(versions[name] == version for name, version in e.members.items())
        and (len(e.members) == 1 or e.settings == settings[0])
    ]


def _without_base(entries: Sequence[JournalEntry]) -> list[JournalEntry]:
    """Entries without the score of the base that the rule of the others needs."""
    bases = {
        json.loads(entry.settings).get("base", {}).get("path") for entry in entries
    }
    return [e for e in entries if len(e.members) > 1 or not bases & e.members.keys()]


def _count_notes(number: int, what: str) -> list[str]:
    scores = "1 score is" if number == 1 else f"{number} scores are"
    return [f"{scores} left out, of {what}"] * (number > 0)
