"""Display of scores of predicted labels against the threshold of a class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Counts, Float64
from ensembles.predictions.combiners.builtin import COMBINERS
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.thresholds.learning import check_thresholds
from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    BLUE,
    CURVES,
    GRAY,
    clear_spines,
    import_pyplot,
    shorten,
)
from ensembles.reports.displays.predictions.member_predictions import (
    check_predictions,
    metric_of,
)

MOST_POINTS = 100  # thresholds that are scored
SCORING = ("balanced_accuracy", "f1_macro", "matthews_corrcoef")


class ThresholdDisplay(Display):
    """Scores of predicted labels against the threshold of one class.

    The label with the largest quotient of probability and threshold is predicted, and
    the thresholds of all classes sum to 1. With two classes, the class is predicted if
    its probability is above its threshold.

    Parameters
    ----------
    thresholds : array-like of shape (n_thresholds,)
        Thresholds of the class, in ascending order.
    scores : mapping of str to array-like of shape (n_thresholds,)
        Scores by the names of the metrics; greater is better.
    label : str
        Class whose threshold is varied.
    chosen : float or None, default=None
        Threshold of the class in the ensemble; None draws none.
    default : float or None, default=None
        Threshold with which the most probable label is predicted; None draws none.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If there are no scores, or their number is not that of the thresholds.

    Examples
    --------
    >>> scores = {"accuracy": [0.6, 0.8]}
    >>> ThresholdDisplay([0.2, 0.5], scores, label="yes").summary
    'best accuracy 0.8 at the threshold 0.5 of yes'
    """

    def __init__(
        self,
        thresholds: ArrayLike,
        scores: Mapping[str, ArrayLike],
        *,
        label: str,
        chosen: float | None = None,
        default: float | None = None,
    ) -> None:
        self.thresholds = np.asarray(thresholds, np.float64)
        self.scores = {name: finite_or_nan(curve) for name, curve in scores.items()}
        self.label = label
        self.chosen = chosen
        self.default = default
        shapes = {name: curve.shape for name, curve in self.scores.items()}
        if not shapes or {*shapes.values()} != {self.thresholds.shape}:
            raise ValueError(
                "scores must have at least one metric, and an entry for each of "
                f"{len(self.thresholds)} thresholds: found shapes {shapes}"
            )
        if not all(np.isfinite(curve).any() for curve in self.scores.values()):
            raise ValueError("no score is finite, so there is no curve to draw")

    @classmethod
    def from_estimator(
        cls,
        ensemble: Any,
        X: Any,
        y: Any,
        *,
        pos_label: Any = None,
        scoring: Sequence[str] = SCORING,
        ax: Any = None,
    ) -> Self:
        """Predict with a fitted ensemble, and draw the scores of its labels.

        Parameters
        ----------
        ensemble : EnsembleClassifier
            Fitted ensemble with a single target; its ``thresholds_`` are drawn.
        X : array-like of shape (n_rows, ...)
            Rows that the ensemble was not fitted to.
        y : array-like of shape (n_rows,)
            True labels.
        pos_label : label or None, default=None
            Class whose threshold is varied; None means the last class.
        scoring : sequence of str, default=balanced accuracy, macro F1, MCC
            Scorers of labels by their names in scikit-learn.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        ThresholdDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the ensemble is not fitted.
        ValueError
            If the ensemble has several targets, or ``pos_label`` is not a class.
        """
        import_pyplot()
        y_proba = ensemble.predict_proba(X)
        if isinstance(y_proba, list):
            raise ValueError(
                "a display needs an ensemble with one target, found several"
            )
        return cls.from_predictions(
            y,
            y_proba,
            thresholds=getattr(ensemble, "thresholds_", None),
            classes=ensemble.classes_,
            pos_label=pos_label,
            scoring=scoring,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_proba: Any,
        *,
        thresholds: Any = None,
        classes: Any = None,
        sample_weight: Any = None,
        pos_label: Any = None,
        scoring: Sequence[str] = SCORING,
        ax: Any = None,
    ) -> Self:
        """Draw the scores of labels at the thresholds that change a prediction.

        Parameters
        ----------
        y_true : array-like of shape (n_rows,)
            True labels.
        y_proba : array-like of shape (n_rows,) or (n_rows, n_classes)
            Probabilities; with one dimension, that of the second of two classes.
        thresholds : array-like of shape (n_classes,) or None, default=None
            Thresholds of all classes. The varied one is marked, and the others keep
            their ratios. None means equal thresholds, which predict the most probable
            label.
        classes : array-like of shape (n_classes,) or None, default=None
            Sorted labels of the columns; None uses the labels in ``y_true``.
        sample_weight : array-like of shape (n_rows,) or None, default=None
            Sample weights of the scores; None weights all rows equally.
        pos_label : label or None, default=None
            Class whose threshold is varied; None means the last class.
        scoring : sequence of str, default=balanced accuracy, macro F1, MCC
            Scorers of labels by their names in scikit-learn.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        ThresholdDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, ``pos_label`` is not a class, or a threshold is not
            positive.
        """
        import_pyplot()
        combined = np.asarray(y_proba, np.float64)
        if combined.ndim == 1:
            combined = np.column_stack([1 - combined, combined])
        out_of_fold = check_predictions(
            y_true, combined[None], classes=classes, sample_weight=sample_weight
        ).out_of_fold
        outputs: Any = out_of_fold.outputs
        labels = outputs.classes[0].tolist()
        label = labels[-1] if pos_label is None else pos_label
        if label not in labels:
            raise ValueError(f"pos_label must be one of {labels}, found {label!r}")
        column = labels.index(label)
        given = check_thresholds(thresholds, outputs)
        shares = given[0] if given else np.full(len(labels), 1 / len(labels))
        margins, rivals = _margins(out_of_fold.stacks[0][0], shares, column)
        points = _points(margins)
        curves = {
            metric_of(name, is_classifier=True).name: _scores(
                out_of_fold, name, margins, rivals, points, column
            )
            for name in scoring
        }
        return cls(
            points,
            curves,
            label=str(label),
            chosen=float(shares[column]) if given else None,
            default=1 / len(labels) if len(labels) == 2 or not given else None,
        ).plot(ax)

    @property
    def best(self) -> dict[str, tuple[float, float]]:
        """Threshold with the best score of each metric, and that score."""
        indices = {name: int(np.nanargmax(c)) for name, c in self.scores.items()}
        return {
            name: (float(self.thresholds[n]), float(self.scores[name][n]))
            for name, n in indices.items()
        }

    @property
    def summary(self) -> str:
        """One line with the best threshold of each metric."""
        parts = [
            f"{name} {score:.4g} at the threshold {threshold:.3g}"
            for name, (threshold, score) in self.best.items()
        ]
        text = f"best {', '.join(parts)} of {self.label}"
        return text if self.chosen is None else f"{text}; chosen {self.chosen:.3g}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "label": self.label,
            "thresholds": as_json(self.thresholds),
            "scores": {name: as_json(curve) for name, curve in self.scores.items()},
            "chosen": as_json(self.chosen),
            "default": as_json(self.default),
        }

    def _draw(self, ax: Any) -> None:
        colors = (BLUE, *CURVES)
        for number, (name, curve) in enumerate(self.scores.items()):
            color = colors[number % len(colors)]
            ax.plot(self.thresholds, curve, color=color, label=shorten(name))
            ax.plot(*self.best[name], "o", color=color, markersize=5)
        for threshold, style, name in (
            (self.chosen, "-", "threshold of the ensemble"),
            (self.default, ":", "most probable label"),
        ):
            if threshold is not None:
                ax.axvline(threshold, color=GRAY, linestyle=style, label=name)
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel(f"threshold of {shorten(self.label)}")
        ax.set_ylabel("score")
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        clear_spines(ax)


def _margins(y_proba: Float64, shares: Float64, column: int) -> tuple[Float64, Counts]:
    """Threshold below which each row gets the class, and its label above it."""
    others = shares / (1 - shares[column])  # of the part that the threshold leaves
    quotients = y_proba / others
    quotients[:, column] = -1
    rivals = quotients.argmax(axis=1)
    probable = y_proba[:, column]
    rival = quotients[np.arange(len(rivals)), rivals]
    total = probable + rival
    return np.divide(probable, total, out=np.zeros_like(total), where=total > 0), rivals


def _points(margins: Float64) -> Float64:
    """Thresholds between neighboring margins, and at 0 and 1."""
    values = np.unique(np.concatenate([[0.0], margins, [1.0]]))
    middles: Float64 = np.concatenate([[0.0], (values[:-1] + values[1:]) / 2, [1.0]])
    if len(middles) <= MOST_POINTS:
        return middles
    # Half of them divide the rows evenly, and half the thresholds.
    shares = np.linspace(0, 1, MOST_POINTS // 2)
    by_rows = (shares * (len(middles) - 1)).round().astype(np.int64)
    by_value = np.searchsorted(middles, shares)
    return np.asarray(middles[np.union1d(by_rows, by_value)])


def _scores(
    out_of_fold: OutOfFold,
    scoring: str,
    margins: Float64,
    rivals: Counts,
    points: Float64,
    column: int,
) -> Float64:
    """Score of the labels at each threshold."""
    outputs: Any = out_of_fold.outputs
    mean = FittedCombiner(COMBINERS["mean"], {}, outputs)
    score = ScorerScore(out_of_fold, mean, scoring)
    one_hot = np.eye(len(outputs.classes[0]))
    labels = [np.where(margins > point, column, rivals) for point in points]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that are never true or predicted
        return np.array([score.evaluate([one_hot[codes]]) for codes in labels])
