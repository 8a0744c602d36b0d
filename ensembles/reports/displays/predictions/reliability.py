"""Display of predicted probabilities against observed frequencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ensembles._typing import Float64
from ensembles.predictions.calibration.calibration_error import probability_bins
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.reports.displays.display import Display
from ensembles.reports.displays.figures import import_pyplot, shorten
from ensembles.reports.displays.predictions.calibration_curve import (
    CalibrationCurve,
    curves_as_json,
    draw_curves,
    list_errors,
)
from ensembles.reports.displays.predictions.member_predictions import (
    MemberPredictions,
    check_predictions,
    predict_members,
)


def reliability_curve(
    happened: Any, y_proba: Any, *, n_bins: int = 10
) -> CalibrationCurve:
    """Mean predictions and frequencies in bins with about the same number of rows.

    Parameters
    ----------
    happened : array-like of shape (n_rows,), bool
        Whether the event happened.
    y_proba : array-like of shape (n_rows,)
        Predicted probability of the event. Equal ones are in the same bin.
    n_bins : int, default=10
        Number of bins; there are fewer if many probabilities are equal.

    Returns
    -------
    CalibrationCurve

    Raises
    ------
    ValueError
        If ``n_bins`` is not positive.

    Examples
    --------
    >>> curve = reliability_curve([0, 1, 1, 1], [0.1, 0.3, 0.8, 0.8], n_bins=2)
    >>> curve.predicted, curve.observed, curve.counts
    (array([0.2, 0.8]), array([0.5, 1. ]), array([2, 2]))
    """
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, found {n_bins}")
    predicted = np.asarray(y_proba, np.float64)
    bins = probability_bins(predicted, n_bins, "quantile")
    bins = np.unique(bins, return_inverse=True)[1]  # without empty ones
    counts = np.bincount(bins)
    events = np.bincount(bins, np.asarray(happened, np.float64))
    return CalibrationCurve(
        np.bincount(bins, predicted) / counts, events / counts, counts
    )


class ReliabilityDisplay(Display):
    """Observed frequencies against predicted probabilities, for an ensemble.

    A calibrated model is on the diagonal; below it the model is overconfident. Each
    bin has about the same number of rows, and a 95 % interval of its frequency.

    Parameters
    ----------
    curve : CalibrationCurve
        Bins of the ensemble, or of any classifier.
    members : mapping of str to CalibrationCurve or None, default=None
        Bins of the members by their names; None draws none.
    event : str or None, default=None
        Class whose probability is drawn; None means that the probability is that of the
        predicted class, and the event is that the prediction is correct.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    References
    ----------
    Murphy and Winkler (1977), "Reliability of subjective probability forecasts of
    precipitation and temperature", Applied Statistics 26; Brown, Cai and DasGupta
    (2001), "Interval estimation for a binomial proportion", Statistical Science 16, for
    Jeffreys intervals.

    Examples
    --------
    >>> curve = reliability_curve([0, 1, 1, 1], [0.1, 0.3, 0.8, 0.8], n_bins=2)
    >>> ReliabilityDisplay(curve).summary
    'calibration error 0.25 in 2 bins of 4 rows'
    """

    def __init__(
        self,
        curve: CalibrationCurve,
        *,
        members: Mapping[str, CalibrationCurve] | None = None,
        event: str | None = None,
    ) -> None:
        self.curve = curve
        self.members = dict(members or {})
        self.event = event

    @classmethod
    def from_estimator(
        cls,
        ensemble: Any,
        X: Any,
        y: Any,
        *,
        pos_label: Any = None,
        n_bins: int = 10,
        ax: Any = None,
    ) -> Self:
        """Predict with a fitted ensemble and its members, and draw the curves.

        Parameters
        ----------
        ensemble : EnsembleClassifier
            Fitted ensemble with a single target.
        X : array-like of shape (n_rows, ...)
            Rows that the ensemble was not fitted to.
        y : array-like of shape (n_rows,)
            True labels.
        pos_label : label or None, default=None
            Class whose probability is drawn. None draws the probability of the
            predicted class; with two classes, that of the second one.
        n_bins : int, default=10
            Number of bins; there are fewer if many probabilities are equal.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the ensemble is not fitted.
        ValueError
            If the ensemble has several targets or is not a classifier.
        """
        import_pyplot()
        members = predict_members(ensemble, X, y)
        y_proba = ensemble._combined_predictions(X)[0]
        return cls._of_members(members, y_proba, pos_label, n_bins).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_proba: Any,
        *,
        members: Any = None,
        names: Sequence[str] | None = None,
        classes: Any = None,
        pos_label: Any = None,
        n_bins: int = 10,
        ax: Any = None,
    ) -> Self:
        """Draw the curves of predicted probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_rows,)
            True labels.
        y_proba : array-like of shape (n_rows,) or (n_rows, n_classes)
            Probabilities of the ensemble; with one dimension, that of the second of
            two classes.
        members : array-like of shape (n_members, n_rows, n_classes) or None
            Probabilities of the members; by default None, which draws none.
        names : sequence of str or None, default=None
            Names of the members; None uses letters.
        classes : array-like of shape (n_classes,) or None, default=None
            Sorted labels of the columns; None uses the labels in ``y_true``.
        pos_label : label or None, default=None
            Class whose probability is drawn. None draws the probability of the
            predicted class; with two classes, that of the second one.
        n_bins : int, default=10
            Number of bins; there are fewer if many probabilities are equal.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, a probability is not finite, or ``pos_label`` is not
            a class.
        """
        import_pyplot()
        combined = np.asarray(y_proba, np.float64)
        if combined.ndim == 1:
            combined = np.column_stack([1 - combined, combined])
        if members is None:
            checked = check_predictions(y_true, combined[None], classes=classes)
            checked = checked._replace(names=[])
        else:
            checked = check_predictions(y_true, members, names=names, classes=classes)
        return cls._of_members(checked, combined, pos_label, n_bins).plot(ax)

    @classmethod
    def _of_members(
        cls, members: MemberPredictions, combined: Any, pos_label: Any, n_bins: int
    ) -> Self:
        out_of_fold = members.out_of_fold
        outputs = out_of_fold.outputs
        if not isinstance(outputs, ClassOutputs):
            raise ValueError("reliability needs class probabilities, found values")
        labels = outputs.classes[0].tolist()
        if pos_label is None and len(labels) == 2:
            pos_label = labels[1]
        if pos_label is not None and pos_label not in labels:
            raise ValueError(f"pos_label must be one of {labels}, found {pos_label!r}")
        codes = outputs.encode(out_of_fold.y)[0]
        column = None if pos_label is None else labels.index(pos_label)

        def curve(y_proba: Float64) -> CalibrationCurve:
            if column is None:
                correct = y_proba.argmax(axis=1) == codes
                return reliability_curve(correct, y_proba.max(axis=1), n_bins=n_bins)
            return reliability_curve(codes == column, y_proba[:, column], n_bins=n_bins)

        stack = out_of_fold.stacks[0][: len(members.names)]
        return cls(
            curve(members.one_output(combined)),
            members=dict(zip(members.names, map(curve, stack), strict=True)),
            event=None if pos_label is None else str(pos_label),
        )

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        return 6.8, 4.4

    @property
    def summary(self) -> str:
        """One line with the calibration errors."""
        counts = self.curve.counts
        text = f"calibration error {self.curve.error:.3g} in {len(counts)} bins of "
        return f"{text}{counts.sum()} rows{list_errors(self.members)}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {"event": self.event, "curves": curves_as_json(self.curve, self.members)}

    def _draw(self, ax: Any) -> None:
        draw_curves(ax, self.curve, self.members)
        if self.event is None:
            ax.set(xlabel="probability of the predicted class", ylabel="accuracy")
        else:
            event = shorten(self.event, 24)
            ax.set(xlabel=f"probability of {event}", ylabel=f"share of {event}")
