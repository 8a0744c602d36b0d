"""Output of ``ensemble blend``: scores of files and of their blend, and weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ensembles_cli.console import printable, table
from ensembles_cli.plot.images import write_image
from ensembles_cli.reports.soup_progress import format_score, print_notes

if TYPE_CHECKING:
    from ensembles.predictions.files import Blend
    from ensembles.predictions.files.judging import BlendScore

# Short names of metrics, and the names of the scorers.
SHORT = {
    "logloss": "neg_log_loss",
    "brier": "neg_brier_score",
    "auc": "roc_auc",
    "mcc": "matthews_corrcoef",
    "mse": "neg_mean_squared_error",
    "rmse": "neg_root_mean_squared_error",
    "mae": "neg_mean_absolute_error",
    "rmsle": "neg_root_mean_squared_log_error",
    "mape": "neg_mean_absolute_percentage_error",
}
DEFAULTS = {
    "probabilities": "log_loss",
    "values": "mean_squared_error",
    "quantiles": "weighted_interval_score",
}
MOST_FILES = 30  # rows of the table; of more files, those with the largest weights


class Scoring(NamedTuple):
    """Scorer of a metric.

    Parameters
    ----------
    metric : str or None
        Name in the table; None is the default of the predictions.
    name : str or None
        Name of the scikit-learn scorer.
    """

    metric: str | None
    name: str | None

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is a loss, the negative of the score."""
        return self.name is None or self.name.startswith("neg_")

    def value(self, score: float) -> float:
        """Metric of a score."""
        return -score if self.lower_is_better else score


def as_scoring(metric: str | None) -> Scoring:
    """Scorer of a metric by its name, with or without ``neg_``.

    Parameters
    ----------
    metric : str or None
        Name such as ``log_loss``, ``neg_log_loss`` or ``auc``; None is the default.

    Returns
    -------
    Scoring

    Raises
    ------
    ValueError
        If scikit-learn has no such scorer.
    """
    if metric is None:
        return Scoring(None, None)
    import difflib

    from sklearn.metrics import get_scorer_names

    known = get_scorer_names()
    text = metric.strip().lower().replace("-", "_")
    for name in (SHORT.get(text, text), f"neg_{text}"):
        if name in known:
            return Scoring(name.removeprefix("neg_"), name)
    names = [*SHORT, *(name.removeprefix("neg_") for name in known)]
    nearest = difflib.get_close_matches(text, names, n=3)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    raise ValueError(
        f"--metric must be a metric such as log_loss, brier_score, roc_auc, accuracy, "
        f"f1, rmse, mae or r2, or the name of a scikit-learn scorer: found "
        f"{metric!r}{hint}"
    )


def print_blend(
    blended: Blend,
    scoring: Scoring,
    out: Path | None,
    tests: Sequence[Path] | None,
    notes: Sequence[str],
    as_json: bool,
) -> None:
    """Print the table of scores, and the comparison with the best single file.

    Parameters
    ----------
    blended : Blend
        Result of `blend`.
    scoring : Scoring
        Metric of the table.
    out : Path or None
        File that was written; None if there is none.
    tests : sequence of Path or None
        Test files that the blend was applied to; None for the files themselves.
    notes : sequence of str
        Choices, and rows that are left out.
    as_json : bool
        Whether to print JSON instead of the table.
    """
    if scoring.metric is None:
        scoring = scoring._replace(metric=DEFAULTS[blended.kind])
    print_notes(list(dict.fromkeys(notes)))
    if as_json:
        click.echo(json.dumps(_to_dict(blended, scoring, out, tests, notes), indent=2))
        return
    if blended.scores_:
        _print_scores(blended, scoring)
    else:
        pairs = zip(blended.names, blended.weights_, strict=True)
        table(["file", "weight"], [[name, f"{weight:.4g}"] for name, weight in pairs])
    for title, values in _learned(blended).items():
        pairs = zip(blended.columns.tolist(), values, strict=True)
        listed = ", ".join(f"{label} {value:.4g}" for label, value in pairs)
        click.echo(printable(f"{title}: {listed}"))
    if out is not None:
        source = "the same files" if tests is None else f"{len(tests)} test files"
        click.echo(printable(f"wrote {out}, the blend of {source}"))


def _print_scores(blended: Blend, scoring: Scoring) -> None:
    shown = _shown(blended)
    table(
        ["file", str(scoring.metric), "weight"],
        [
            [
                entry.name,
                format_score(scoring.value(entry.score)),
                "" if entry.weight is None else f"{entry.weight:.4g}",
            ]
            for entry in shown
        ],
    )
    n_hidden = len(blended.scores_) - len(shown)
    if n_hidden:
        click.echo(f"{n_hidden} more files, of smaller weight, are in --json.")
    click.echo(printable(summary(blended, scoring)))


def draw_weights(blended: Blend, scoring: Scoring, path: Path, *, force: bool) -> None:
    """Draw the weights of the files, with their scores.

    Parameters
    ----------
    blended : Blend
        Result of `blend`.
    scoring : Scoring
        Metric of the scores.
    path : Path
        Image to write.
    force : bool
        Whether an existing image is replaced.
    """
    from ensembles.reports.displays.predictions.weights import WeightsDisplay

    scores: dict[str, Any] = {}
    if blended.scores_:
        n_members = len(blended.names)
        values = [scoring.value(entry.score) for entry in blended.scores_]
        scores = {"scores": values[:n_members], "score": values[-1]}
    display = WeightsDisplay(
        blended.weights_,
        names=blended.names,
        metric=scoring.metric or DEFAULTS[blended.kind],
        lower_is_better=scoring.lower_is_better,
        **scores,
    )
    write_image(display.plot, path, force=force)


def _shown(blended: Blend) -> list[BlendScore]:
    """Rows of the table; with many files, those with the largest weights."""
    files = blended.scores_[: len(blended.names)]
    if len(files) > MOST_FILES:
        order = sorted(range(len(files)), key=lambda i: -abs(blended.weights_[i]))
        files = tuple(files[i] for i in sorted(order[:MOST_FILES]))
    return [*files, *blended.scores_[len(blended.names) :]]


def summary(blended: Blend, scoring: Scoring) -> str:
    """Sentences that compare the blend with the best file and with equal weights.

    Parameters
    ----------
    blended : Blend
        Result of `blend`.
    scoring : Scoring
        Metric of the table.

    Returns
    -------
    str
    """
    blend, best = blended.score("blend"), blended.score("best single file")
    equal = blended.score("equal weights")
    others = blended.scores_[len(blended.names) : -1]
    values = [f"{scoring.value(entry.score):.6g}" for entry in (blend, best, equal)]
    pairs = [
        (ours, other)
        for ours, other in zip(blend.fold_scores, best.fold_scores, strict=True)
        if math.isfinite(ours) and math.isfinite(other)
    ]
    n_better = sum(ours > other for ours, other in pairs)
    folds = f"better in {n_better} of {len(pairs)} folds"
    verb = "beats" if blend.score > best.score else "does not beat"
    text = (
        f"The blend {verb} the best single file, {scoring.metric} {values[0]} against "
        f"{values[1]} ({folds}); equal weights have {values[2]}."
    )
    better = max(others, key=lambda entry: entry.score)
    if blend.score < better.score:
        fix = "--weights equal" if better is equal else "--weights best"
        if better is best and len(others) > 2:
            fix += " without --calibrate"
        text += f" Use the {better.name}: {fix}."
    direction = "lower" if scoring.lower_is_better else "higher"
    return (
        f"{text} Each score is of {blended.n_judged} rows, with weights learned from "
        f"other rows; {direction} is better."
    )


def _learned(blended: Blend) -> dict[str, Any]:
    """Learned values of each class, by title."""
    learned = {"intercept": blended.intercept_, "threshold": blended.thresholds_}
    return {
        title: values.tolist()
        for title, values in learned.items()
        if values is not None and len(values) == len(blended.columns)
    }


def _to_dict(
    blended: Blend,
    scoring: Scoring,
    out: Path | None,
    tests: Sequence[Path] | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the blend as JSON values."""
    paths = [str(file.path) for file in blended.files]
    entries = [_entry(entry, scoring) for entry in blended.scores_]
    members, combinations = entries[: len(paths)], entries[len(paths) :]
    if not entries:
        members = [
            {"name": name, "weight": weight}
            for name, weight in zip(
                blended.names, blended.weights_.tolist(), strict=True
            )
        ]
    return {
        "metric": scoring.metric,
        "lower_is_better": scoring.lower_is_better,
        "kind": blended.kind,
        "columns": blended.columns.tolist(),
        "members": [
            {"path": path, **entry} for path, entry in zip(paths, members, strict=True)
        ],
        "combinations": combinations,
        **_learned(blended),
        "rows": {
            "complete": blended.n_rows,
            "learned": blended.n_learned,
            "judged": blended.n_judged,
        },
        "out": None if out is None else str(out),
        "test_files": None if tests is None else [str(path) for path in tests],
        "notes": list(notes),
    }


def _entry(entry: BlendScore, scoring: Scoring) -> dict[str, Any]:
    scores = [scoring.value(score) for score in entry.fold_scores]
    return {
        "name": entry.name,
        "score": scoring.value(entry.score),
        "folds": [score if math.isfinite(score) else None for score in scores],
        "weight": entry.weight,
    }
