"""Display of the steps of a selection of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Counts, Float64
from ensembles.predictions.fitting.weight_fitting import WeightFit
from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    BLUE,
    GRAY,
    GREEN,
    VERMILLION,
    clear_spines,
    import_pyplot,
    shorten,
)
from ensembles.reports.displays.predictions.member_predictions import (
    Metric,
    check_predictions,
    fitted_names,
    learn_weights,
    metric_of,
    metric_of_estimator,
)
from ensembles.selection.score import Trial

FEW_LABELS = 60  # steps; with more, not every one has a label
LONGEST_NAME = 20  # characters of a member's name in the label of a step


class SelectionPathDisplay(Display):
    """Score of each step of a selection, with the member that was added.

    The steps are scored on the rows that the weights are learned from, so that a long
    path looks better than it is. The cross-fitted score of the ensemble, with weights
    learned on other folds, is drawn beside it.

    Parameters
    ----------
    steps : sequence of str
        Label of each step, such as the name of the member that was added.
    scores : array-like of shape (n_steps,)
        Score of the weights of each step.
    best_member : float or None, default=None
        Score of the best single member; None if it is unknown.
    cross_fitted : float or None, default=None
        Score of the ensemble with weights learned on other folds; None if it is
        unknown.
    metric : str, default="score"
        Name of the score.
    lower_is_better : bool, default=False
        Whether the score is a loss or an error.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If the numbers of entries differ, or no score is finite.

    Examples
    --------
    >>> SelectionPathDisplay(["+ a", "+ b"], [0.8, 0.9], best_member=0.8).summary
    'best score 0.9 in step 2 of 2; best member 0.8'
    """

    def __init__(
        self,
        steps: Sequence[str],
        scores: ArrayLike,
        *,
        best_member: float | None = None,
        cross_fitted: float | None = None,
        metric: str = "score",
        lower_is_better: bool = False,
    ) -> None:
        self.steps = list(steps)
        self.scores = finite_or_nan(scores)
        self.best_member = best_member
        self.cross_fitted = cross_fitted
        self.metric = metric
        self.lower_is_better = lower_is_better
        if self.scores.shape != (len(self.steps),):
            raise ValueError(
                f"scores must have an entry for each of {len(self.steps)} steps, found "
                f"shape {self.scores.shape}"
            )
        if not np.isfinite(self.scores).any():
            raise ValueError("no score is finite, so there is no path to draw")

    @classmethod
    def from_estimator(
        cls, ensemble: Any, *, names: Sequence[str] | None = None, ax: Any = None
    ) -> Self:
        """Draw the selection of a fitted ensemble.

        Parameters
        ----------
        ensemble : EnsembleClassifier, EnsembleRegressor or QuantileEnsemble
            Fitted ensemble that learned its weights.
        names : sequence of str or None, default=None
            Names of the members; None uses those of the ensemble, or letters.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        SelectionPathDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the ensemble is not fitted.
        ValueError
            If the ensemble did not learn its weights.
        """
        import_pyplot()
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(ensemble)
        display = cls._from_history(
            ensemble.history_,
            fitted_names(ensemble, names),
            ensemble.scores_,
            ensemble.oof_score_,
            metric_of_estimator(ensemble),
        )
        return display.plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        predictions: Any,
        *,
        names: Sequence[str] | None = None,
        classes: Any = None,
        sample_weight: Any = None,
        folds: Any = None,
        rule: Any = "mean",
        weights: Any = "greedy",
        rule_params: Any = None,
        weights_params: Any = None,
        scoring: Any = None,
        thresholds: Any = "auto",
        ax: Any = None,
    ) -> Self:
        """Select weights by predictions, as the estimators do, and draw the steps.

        Parameters
        ----------
        y_true : array-like of shape (n_rows,)
            True labels or values.
        predictions : array-like of shape (n_members, n_rows[, n_classes])
            Class probabilities, or values of a regression, for rows that the members
            were not fitted to, such as ``oof_`` of an ensemble.
        names : sequence of str or None, default=None
            Names of the members; None uses letters.
        classes : array-like of shape (n_classes,) or None, default=None
            Sorted labels of the columns; None uses the labels in ``y_true``.
        sample_weight : array-like of shape (n_rows,) or None, default=None
            Sample weights; None weights all rows equally.
        folds : array-like of shape (n_rows,) or None, default=None
            Index of the split that each row was held out in, for the cross-fitted
            score; None uses stratified folds.
        rule : str, Combiner or Rule, default="mean"
            Rule that combines the predictions.
        weights : str, default="greedy"
            Name of a selection.
        rule_params : dict or None, default=None
            Parameters of the rule; None means its defaults.
        weights_params : dict or None, default=None
            Parameters of the selection; None means its defaults.
        scoring : str, callable or None, default=None
            Scorer; None means the log-loss or the mean squared error.
        thresholds : {"auto"}, array-like of shape (n_classes,) or None, default="auto"
            Thresholds of the classes, as in `EnsembleClassifier`: ``"auto"`` scores
            weights at the thresholds that are best for them, if the scorer supports it.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        SelectionPathDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, a prediction is not finite, or a name is unknown.
        """
        import_pyplot()
        members = check_predictions(
            y_true,
            predictions,
            names=names,
            classes=classes,
            sample_weight=sample_weight,
            folds=folds,
        )
        fit: WeightFit = learn_weights(
            members,
            rule=rule,
            weights=weights,
            rule_params=rule_params,
            weights_params=weights_params,
            scoring=scoring,
            thresholds=thresholds,
        )
        display = cls._from_history(
            fit.selected.history,
            members.names,
            fit.selected.scores,
            fit.score,
            metric_of(scoring, is_classifier=members.is_classifier),
        )
        return display.plot(ax)

    @classmethod
    def _from_history(
        cls,
        history: Sequence[Trial],
        names: Sequence[str],
        member_scores: Float64 | None,
        score: float | None,
        metric: Metric,
    ) -> Self:
        if not history or member_scores is None:
            raise ValueError(
                "the ensemble must learn its weights to have a path: pass the name of "
                "a selection, such as weights='greedy'"
            )
        return cls(
            step_labels(history, names),
            metric.values([trial.score for trial in history]),
            best_member=float(metric.values(max(member_scores))),
            cross_fitted=None if score is None else float(metric.values(score)),
            metric=metric.name,
            lower_is_better=metric.lower_is_better,
        )

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        return 6.8, min(max(1.6 + 0.24 * len(self.steps), 2.6), 12.0)

    @property
    def best(self) -> int:
        """Index of the step with the best score, the first among equals."""
        sign = 1 if self.lower_is_better else -1
        return int(np.nanargmin(sign * self.scores))

    @property
    def summary(self) -> str:
        """One line with the best step, and the scores that are compared with it."""
        text = f"best {self.metric} {self.scores[self.best]:.6g} in step "
        text += f"{self.best + 1} of {len(self.steps)}"
        if self.cross_fitted is not None:
            text += f"; cross-fitted {self.cross_fitted:.6g}"
        if self.best_member is not None:
            text += f"; best member {self.best_member:.6g}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "steps": self.steps,
            "scores": as_json(self.scores),
            "best_member": as_json(self.best_member),
            "cross_fitted": as_json(self.cross_fitted),
        }

    def _draw(self, ax: Any) -> None:
        rows = np.arange(len(self.steps))
        size = 4 if len(rows) <= FEW_LABELS else 2
        ax.plot(self.scores, rows, "o-", color=BLUE, markersize=size, label="step")
        best = self.best
        ax.plot(self.scores[best], best, "o", color=VERMILLION, label="best step")
        for score, color, style, label in (
            (self.best_member, GRAY, "--", "best member"),
            (self.cross_fitted, GREEN, "-.", "ensemble, cross-fitted"),
        ):
            if score is not None:
                ax.axvline(score, color=color, linestyle=style, label=label)
        shown = rows[:: -(-len(rows) // FEW_LABELS)]
        labels = [self.steps[row] for row in shown]
        ax.set_yticks(shown, labels, fontsize=8 if len(rows) > 20 else 9)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlabel(
            shorten(self.metric) + " (lower is better)" * self.lower_is_better
        )
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        clear_spines(ax)


def step_labels(history: Sequence[Trial], names: Sequence[str]) -> list[str]:
    """Labels of the steps of a selection: the member that was added, or the weights.

    Parameters
    ----------
    history : sequence of Trial
        Steps of a selection.
    names : sequence of str
        Names of the members.

    Returns
    -------
    list of str

    Examples
    --------
    >>> counts = [np.array([1, 0]), np.array([1, 1])]
    >>> steps = [Trial(count / count.sum(), 0.5, count) for count in counts]
    >>> step_labels(steps, ["forest", "bayes"])
    ['forest', '+ bayes']
    """
    labels = []
    before: Counts | None = None
    for trial in history:
        added = _added_member(before, trial.counts)
        if added is None:
            labels.append(_weights_label(trial.weights, names))
        else:
            labels.append("+ " + shorten(names[added], LONGEST_NAME))
        before = trial.counts
    return labels


def _added_member(before: Counts | None, counts: Counts | None) -> int | None:
    """Member whose count is larger by one, if all others are as before."""
    if before is None or counts is None:
        return None
    (changed,) = np.nonzero(counts - before)
    is_one_more = len(changed) == 1 and counts[changed[0]] == before[changed[0]] + 1
    return int(changed[0]) if is_one_more else None


def _weights_label(weights: Float64, names: Sequence[str]) -> str:
    """Members with weight in one line, the largest weight first."""
    order = [i for i in np.argsort(-np.abs(weights), kind="stable") if weights[i]]
    if not order:
        return "no member"
    first = shorten(names[order[0]], LONGEST_NAME)
    if len(order) == 1:
        return first
    if len(order) == len(weights) and np.ptp(weights) == 0:
        return "equal weights"
    return f"{first} {weights[order[0]]:.2f}, {len(order) - 1} more"
