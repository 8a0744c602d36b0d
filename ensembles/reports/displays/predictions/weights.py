"""Display of the weights of an ensemble's members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    BLUE,
    LIGHT,
    VERMILLION,
    clear_spines,
    import_pyplot,
    shorten,
)
from ensembles.reports.displays.predictions.member_predictions import (
    check_predictions,
    fitted_names,
    learn_weights,
    metric_of,
    metric_of_estimator,
)

MOST_BARS = 40  # members; with more, the smallest weights share one bar


class WeightsDisplay(Display):
    """Weights of the members as bars, from the largest to the smallest.

    The scores of single members are at the right edge: a good member with a small
    weight adds little to the others. Members with weight 0 share one line.

    Parameters
    ----------
    weights : array-like of shape (n_members,)
        Weights of the members.
    names : sequence of str
        Names of the members.
    scores : array-like of shape (n_members,) or None, default=None
        Score of each member alone; None draws none.
    score : float or None, default=None
        Score of the ensemble; None if it is unknown.
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
        If the numbers of entries differ, or a weight is not finite.

    Examples
    --------
    >>> WeightsDisplay([0.2, 0, 0.8], names=["a", "b", "c"]).summary
    '2 of 3 members have weight: c 0.8, a 0.2'
    """

    def __init__(
        self,
        weights: ArrayLike,
        *,
        names: Sequence[str],
        scores: ArrayLike | None = None,
        score: float | None = None,
        metric: str = "score",
        lower_is_better: bool = False,
    ) -> None:
        self.weights = np.asarray(weights, np.float64)
        self.names = list(names)
        self.scores = None if scores is None else finite_or_nan(scores)
        self.score = score
        self.metric = metric
        self.lower_is_better = lower_is_better
        shapes = [self.weights.shape]
        shapes += [] if self.scores is None else [self.scores.shape]
        if any(shape != (len(self.names),) for shape in shapes):
            raise ValueError(
                f"weights and scores must have an entry for each of {len(self.names)} "
                f"names, found shapes {shapes}"
            )
        if not len(self.names) or not np.isfinite(self.weights).all():
            raise ValueError(f"weights must be finite, found {self.weights.tolist()}")

    @classmethod
    def from_estimator(
        cls, ensemble: Any, *, names: Sequence[str] | None = None, ax: Any = None
    ) -> Self:
        """Draw the weights of a fitted ensemble, and the scores that it has.

        Parameters
        ----------
        ensemble : EnsembleClassifier, EnsembleRegressor or QuantileEnsemble
            Fitted ensemble.
        names : sequence of str or None, default=None
            Names of the members; None uses those of the ensemble, or letters.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        WeightsDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the ensemble is not fitted.
        """
        import_pyplot()
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(ensemble)
        metric = metric_of_estimator(ensemble)
        scores, score = ensemble.scores_, ensemble.oof_score_
        display = cls(
            ensemble.weights_,
            names=fitted_names(ensemble, names),
            scores=None if scores is None else metric.values(scores),
            score=None if score is None else float(metric.values(score)),
            metric=metric.name,
            lower_is_better=metric.lower_is_better,
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
        rule: Any = None,
        weights: Any = "convex",
        rule_params: Any = None,
        weights_params: Any = None,
        scoring: Any = None,
        thresholds: Any = "auto",
        ax: Any = None,
    ) -> Self:
        """Learn weights from predictions, as the estimators do, and draw them.

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
            Index of the split that each row was held out in, for the cross-fitted score
            of the ensemble; None uses stratified folds.
        rule : str, Combiner, Rule or None, default=None
            Rule that combines the predictions; None means ``"log_pool"`` for class
            probabilities and ``"mean"`` for values.
        weights : array-like of shape (n_members,), str or None, default="convex"
            Weights, or the name of a selection, as in `EnsembleClassifier`.
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
        WeightsDisplay

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
        fit = learn_weights(
            members,
            rule=rule,
            weights=weights,
            rule_params=rule_params,
            weights_params=weights_params,
            scoring=scoring,
            thresholds=thresholds,
        )
        metric = metric_of(scoring, is_classifier=members.is_classifier)
        display = cls(
            fit.selected.weights,
            names=members.names,
            scores=metric.values(fit.selected.scores),
            score=float(metric.values(fit.score)),
            metric=metric.name,
            lower_is_better=metric.lower_is_better,
        )
        return display.plot(ax)

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        return 6.4, 1.3 + 0.28 * len(self._bars()[0])

    @property
    def summary(self) -> str:
        """One line with the largest weights, and the score of the ensemble."""
        used = int(np.count_nonzero(self.weights))
        largest = [index for index in self._order()[:3] if self.weights[index]]
        listed = [f"{self.names[index]} {self.weights[index]:.3g}" for index in largest]
        text = f"{used} of {len(self.names)} members have weight"
        text += f": {', '.join(listed)}" if listed else ""
        if self.score is None:
            return text
        return f"{text}; {self.metric} of the ensemble {self.score:.6g}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "names": self.names,
            "weights": as_json(self.weights),
            "scores": as_json(self.scores),
            "score": as_json(self.score),
        }

    def _order(self) -> Any:
        """Indices of the members, from the largest weight to the smallest."""
        return np.argsort(-np.abs(self.weights), kind="stable")

    def _bars(self) -> tuple[list[str], list[float], list[str]]:
        """Labels, weights and scores of the bars."""
        order = self._order()
        drawn = order[self.weights[order] != 0][:MOST_BARS]
        rest = order[len(drawn) :]
        if len(rest) == 1:
            drawn, rest = order, order[:0]
        labels = [shorten(self.names[index]) for index in drawn]
        values = self.weights[drawn].tolist()
        scores = [""] * len(drawn)
        if self.scores is not None:
            scores = [f"{self.scores[index]:.4g}" for index in drawn]
        if len(rest):
            labels.append(f"{len(rest)} others")
            values.append(float(self.weights[rest].sum()))
            scores.append("")
        return labels, values, scores

    def _draw(self, ax: Any) -> None:
        labels, values, scores = self._bars()
        rows = np.arange(len(labels))
        colors = [VERMILLION if value < 0 else BLUE for value in values]
        bars = ax.barh(rows, values, color=colors, height=0.7)
        ax.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
        ax.axvline(0, color=LIGHT, linewidth=1)
        ax.set_yticks(rows, labels)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.margins(x=0.12)
        ax.set_xlabel("weight")
        clear_spines(ax)
        if self.scores is not None:
            right = ax.secondary_yaxis("right")
            right.set_yticks(rows, scores)
            right.tick_params(length=0)
            right.spines["right"].set_visible(False)
            heading = f"{shorten(self.metric, 18)}\nalone"
            place = {"transform": ax.transAxes, "ha": "left", "va": "bottom"}
            ax.text(1.01, 1.01, heading, fontsize=9, **place)
        if self.score is not None:
            text = f"{shorten(self.metric)} of the ensemble {self.score:.4g}"
            ax.set_title(text, loc="left", fontsize=9)
