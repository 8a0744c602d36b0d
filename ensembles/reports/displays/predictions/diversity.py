"""Display of the diversity of pairs of members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import check_choice
from ensembles._typing import Float64
from ensembles.predictions.metrics.diversity import diversity
from ensembles.reports.displays.display import Display, as_json
from ensembles.reports.displays.figures import import_pyplot
from ensembles.reports.displays.pairs import draw_pairs, pairs_figsize
from ensembles.reports.displays.predictions.member_predictions import (
    MemberPredictions,
    check_predictions,
    predict_members,
)

# Labels of the measures of `diversity`.
MEASURES = {
    "disagreement": "share of rows where one of two is right",
    "label_disagreement": "share of rows with different labels",
    "double_fault": "share of rows where both are wrong",
    "q_statistic": "Q statistic of being right",
    "correlation": "correlation of being right",
    "kappa": "kappa of the labels",
}
ERRORS = "correlation of errors"  # of a regression


class DiversityDisplay(Display):
    """Diversity of each pair of members as a heat map.

    Members whose errors differ help each other. The diagonal has the accuracy of each
    member.

    Parameters
    ----------
    values : array-like of shape (n_members, n_members)
        Measure of each pair; NaN if it is undefined. The diagonal is not drawn.
    names : sequence of str
        Names of the members.
    measure : str, default="diversity"
        Name of the measure.
    accuracy : array-like of shape (n_members,) or None, default=None
        Accuracy of each member; None draws none.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If there are fewer than two members, or the shapes do not fit ``names``.

    Examples
    --------
    >>> DiversityDisplay([[0, 0.2], [0.2, 0]], names=["a", "b"]).summary
    'diversity of 2 members: from 0.2 (a, b) to 0.2 (a, b), mean 0.2'
    """

    def __init__(
        self,
        values: ArrayLike,
        *,
        names: Sequence[str],
        measure: str = "diversity",
        accuracy: ArrayLike | None = None,
    ) -> None:
        self.values = np.asarray(values, np.float64)
        self.names = list(names)
        self.measure = measure
        self.accuracy = None if accuracy is None else np.asarray(accuracy, np.float64)
        n_members = len(self.names)
        if n_members < 2:
            raise ValueError(f"diversity needs at least two members, found {n_members}")
        if self.values.shape != (n_members, n_members):
            raise ValueError(
                f"values must have a row and a column for each of {n_members} names, "
                f"found shape {self.values.shape}"
            )
        if self.accuracy is not None and self.accuracy.shape != (n_members,):
            raise ValueError(
                f"accuracy must have an entry for each of {n_members} names, found "
                f"shape {self.accuracy.shape}"
            )

    @classmethod
    def from_estimator(
        cls,
        ensemble: Any,
        X: Any,
        y: Any,
        *,
        measure: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Predict with the members of a fitted ensemble, and draw their diversity.

        Parameters
        ----------
        ensemble : EnsembleClassifier or EnsembleRegressor
            Fitted ensemble with a single target.
        X : array-like of shape (n_rows, ...)
            Rows that the ensemble was not fitted to.
        y : array-like of shape (n_rows,)
            True labels or values.
        measure : str or None, default=None
            Field of `Diversity`, such as ``"kappa"``; None means ``"disagreement"`` for
            classifiers, and the correlation of errors for regressors, for which there
            is no other measure.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        DiversityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the ensemble is not fitted.
        ValueError
            If the ensemble has several targets, or the measure is unknown.
        """
        import_pyplot()
        return cls._of_members(predict_members(ensemble, X, y), measure).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        predictions: Any,
        *,
        names: Sequence[str] | None = None,
        classes: Any = None,
        sample_weight: Any = None,
        measure: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the diversity of predictions.

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
        measure : str or None, default=None
            Measure, as in `from_estimator`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        DiversityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, or the measure is unknown.
        """
        import_pyplot()
        members = check_predictions(
            y_true,
            predictions,
            names=names,
            classes=classes,
            sample_weight=sample_weight,
        )
        return cls._of_members(members, measure).plot(ax)

    @classmethod
    def _of_members(cls, members: MemberPredictions, measure: str | None) -> Self:
        out_of_fold = members.out_of_fold
        stack, weight = out_of_fold.stacks[0], out_of_fold.sample_weight
        if not members.is_classifier:
            if measure is not None:
                raise ValueError(
                    "measure must be None for a regression, which has the correlation "
                    f"of errors: found {measure!r}"
                )
            errors = stack[:, :, 0] - out_of_fold.y
            return cls(
                _correlation(errors, weight), names=members.names, measure=ERRORS
            )
        measure = "disagreement" if measure is None else measure
        check_choice("measure", measure, tuple(MEASURES))
        outputs: Any = out_of_fold.outputs
        measures = diversity(
            stack, out_of_fold.y, classes=outputs.classes[0], sample_weight=weight
        )
        return cls(
            getattr(measures, measure),
            names=members.names,
            measure=MEASURES[measure],
            accuracy=measures.accuracy,
        )

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        width, height = pairs_figsize(self.names)
        more = max(3.8 - height, 0)  # room for the name of the measure
        return width + more, height + more

    @property
    def summary(self) -> str:
        """One line with the range of the measure."""
        first, second = np.triu_indices(len(self.names), 1)
        values = self.values[first, second]
        text = f"{self.measure} of {len(self.names)} members"
        if np.isnan(values).all():
            return f"{text}: undefined for all pairs"
        ends = []
        for index in (int(np.nanargmin(values)), int(np.nanargmax(values))):
            pair = f"{self.names[first[index]]}, {self.names[second[index]]}"
            ends.append(f"{values[index]:.3g} ({pair})")
        return f"{text}: from {' to '.join(ends)}, mean {np.nanmean(values):.3g}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "measure": self.measure,
            "names": self.names,
            "values": as_json(self.values),
            "accuracy": as_json(self.accuracy),
        }

    def _draw(self, ax: Any) -> None:
        pairs = self.values[np.triu_indices(len(self.names), 1)]
        finite = pairs[np.isfinite(pairs)]
        low = min(0.0, finite.min(initial=0.0))
        high = max(finite.max(initial=low), low + 0.05)
        diagonal: Sequence[str] = ()
        if self.accuracy is not None:
            diagonal = [f"{value:.2f}" for value in self.accuracy]
            ax.set_xlabel("diagonal: accuracy")
        draw_pairs(
            ax,
            self.values,
            self.names,
            limits=(low, high),
            label=self.measure,
            diagonal=diagonal,
        )


def _correlation(errors: Float64, weight: Float64 | None) -> Float64:
    """Correlation of the errors of each pair; NaN for errors that are all equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = np.atleast_2d(np.cov(errors, aweights=weight))
        spread = np.sqrt(np.diagonal(covariance))
        return np.asarray(covariance / spread / spread[:, None])
