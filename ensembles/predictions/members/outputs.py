"""Member predictions in one format: a 2-D array per output, with checked columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _num_samples, check_array, column_or_1d

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.adapters import (
    decision_values,
    fit_on_codes_if_rejected,
)

Predictions = list[Float64]  # one per output, of shape (n_samples, n_columns)


class ClassOutputs(NamedTuple):
    """Prediction format of classifiers: one probability column per class.

    Parameters
    ----------
    classes : list of n_outputs ndarrays
        Sorted labels of each output.
    multioutput : bool
        Whether the targets have the shape (n_samples, n_outputs).
    multilabel : bool
        Whether the targets are an indicator matrix, with the classes 0 and 1 for each
        output.
    voting : bool
        Whether the labels of ``predict`` are used instead of ``predict_proba``.
    missing_class : {"error", "zero"}
        If a member lacks a class: raise an error, or set its probability to 0.
    thresholds : list of n_outputs ndarrays of shape (n_classes,) or None, default=None
        The label with the largest quotient of probability and threshold is predicted;
        None predicts the label with the largest probability.
    """

    classes: list[Any]
    multioutput: bool
    multilabel: bool
    voting: bool
    missing_class: str
    thresholds: list[Float64] | None = None

    @property
    def n_outputs(self) -> int:
        """Number of targets, and of arrays in `Predictions`."""
        return len(self.classes)

    def fit(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Fit a member by ``fit`` on labels or, if that fails, on integer codes."""
        return fit_on_codes_if_rejected(fit, y)

    def needs_link(self, member: Any) -> bool:
        """Whether probabilities must be fitted on the member's decision values."""
        if self.voting or self.multioutput or hasattr(member, "predict_proba"):
            return False
        return hasattr(member, "decision_function")

    def check_methods(self, name: str, member: Any) -> None:
        """Raise if a member, fitted or not, lacks a method to predict with."""
        if self.voting:
            if not hasattr(member, "predict"):
                raise ValueError(
                    f"member {name!r} must have a predict method to vote: "
                    f"{type(member).__name__} has none"
                )
        elif not hasattr(member, "predict_proba") and not self.needs_link(member):
            methods = "predict_proba"
            if not self.multioutput:
                methods += " or decision_function"
            raise ValueError(
                f"member {name!r} must have {methods} for this rule: "
                f"{type(member).__name__} does not; use rule='vote', which combines "
                "labels, or wrap the member in CalibratedClassifierCV"
            )

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member lacks the required methods or classes."""
        self.check_methods(name, member)
        if self.missing_class == "zero" or self.multilabel:
            return
        columns = self.columns(name, member)
        for member_labels, classes in zip(columns, self.classes, strict=True):
            missing = np.setdiff1d(classes, member_labels)
            if len(missing):
                raise ValueError(
                    f"member {name!r} must have every class: it lacks "
                    f"{missing.tolist()[0]!r}, its classes are "
                    f"{member_labels.tolist()}; pass missing_class='zero' to give "
                    "missing classes the probability 0"
                )

    def predict(self, name: str, member: Any, X: Any) -> Predictions:
        """Class probabilities of each output; one-hot rows for votes.

        A class that the member lacks gets probability 0, because a member fitted on a
        fold may lack classes of the full data. Returns decision values for a member
        that `needs_link`.
        """
        if self.voting:
            labels = member.predict(X)
            labels = labels.toarray() if hasattr(labels, "toarray") else labels
            labels = np.asarray(labels)
            check_n_rows(name, labels, X)
            codes = self.encode(labels, f"member {name!r}")
            pairs = zip(codes, self.classes, strict=True)
            return [_one_hot(column, len(classes)) for column, classes in pairs]
        if self.needs_link(member):  # not yet wrapped in DecisionProbabilities
            values = decision_values(member, X, self.classes[0])
            check_n_rows(name, values, X)
            check_finite(name, values)
            return [values]
        y_proba: Any = member.predict_proba(X)
        if self.multilabel and not isinstance(y_proba, list):
            # Multilabel in one array: the column of a label is P(label = 1).
            y_proba = [np.column_stack([1 - p, p]) for p in np.asarray(y_proba).T]
        elif not self.multioutput:
            y_proba = [y_proba]
        if len(y_proba) != self.n_outputs:
            raise wrong_count_error(name, self.n_outputs, len(y_proba))
        predictions = []
        columns = self.columns(name, member)
        for share, labels, classes in zip(y_proba, columns, self.classes, strict=True):
            aligned = _align_columns(name, np.asarray(share), labels, classes)
            check_n_rows(name, aligned, X)
            predictions.append(aligned)
        return predictions

    def finalize(self, combined: Float64) -> Float64:
        """Clip at 0 and scale rows to sum 1, in place; all-zero rows become uniform."""
        np.maximum(combined, 0, out=combined)  # weights may be negative
        sums = combined.sum(axis=1, keepdims=True)
        empty = sums[:, 0] == 0
        combined[empty], sums[empty] = 1.0, combined.shape[1]
        combined /= sums
        return combined

    def to_targets(self, predictions: Predictions) -> Any:
        """Labels with the largest probability, divided by the class's threshold.

        Ties go to the first class.
        """
        if self.thresholds is not None:
            predictions = over_thresholds(predictions, self.thresholds)
        pairs = zip(self.classes, predictions, strict=True)
        labels = [classes[y_proba.argmax(axis=1)] for classes, y_proba in pairs]
        return np.column_stack(labels) if self.multioutput else labels[0]

    def encode(self, y: Any, owner: str = "y") -> list[Counts]:
        """Indices of labels in the sorted classes, for each output."""
        columns = np.asarray(y).reshape(len(y), -1).T
        if len(columns) != self.n_outputs:
            raise wrong_count_error(owner, self.n_outputs, len(columns))
        codes = []
        for column, classes in zip(columns, self.classes, strict=True):
            codes.append(_encode(column, classes, owner))
        return codes

    def columns(self, name: str, member: Any) -> list[Any]:
        """Labels of the probability columns of a fitted member, for each output.

        They are the member's ``classes_``, or those of the ensemble if it has none. A
        member that predicts multilabel targets in one array has column indices there.
        """
        labels: Any = getattr(member, "classes_", None)
        if labels is None or (self.multilabel and not isinstance(labels, list)):
            return self.classes
        columns = list(map(np.asarray, labels if self.multioutput else [labels]))
        if len(columns) != len(self.classes):
            raise wrong_count_error(f"member {name!r}", self.n_outputs, len(columns))
        return columns


def over_thresholds(
    predictions: Predictions, thresholds: Sequence[Float64]
) -> Predictions:
    """Probabilities divided by the thresholds of their classes.

    Parameters
    ----------
    predictions : list of n_outputs ndarrays of shape (n_samples, n_classes)
        Class probabilities.
    thresholds : sequence of n_outputs ndarrays of shape (n_classes,), positive
        Threshold of each class.

    Returns
    -------
    list of n_outputs ndarrays of shape (n_samples, n_classes), float64
    """
    pairs = zip(predictions, thresholds, strict=True)
    return [np.asarray(y_proba / shares) for y_proba, shares in pairs]


class RegressionOutputs(NamedTuple):
    """Prediction format of regressors: one column per target or quantile.

    Parameters
    ----------
    multioutput : bool
        Whether the result of ``predict`` is two-dimensional.
    width : int or None
        Required number of columns; None allows any number, e.g. for quantiles.
    """

    multioutput: bool
    width: int | None

    @property
    def n_outputs(self) -> int:
        """Always 1: all targets are columns of one array."""
        return 1

    def fit(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Fit a member by ``fit`` on the targets."""
        return fit(y)

    def needs_link(self, member: Any) -> bool:
        """Always False: regressors need no conversion to probabilities."""
        return False

    def check_methods(self, name: str, member: Any) -> None:
        """Raise if a member has no ``predict``."""
        if not hasattr(member, "predict"):
            raise ValueError(
                f"member {name!r} must have a predict method: "
                f"{type(member).__name__} has none"
            )

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member has no ``predict``."""
        self.check_methods(name, member)

    def predict(self, name: str, member: Any, X: Any) -> Predictions:
        """Predictions of a fitted member for ``X``, one column per target."""
        values = np.asarray(member.predict(X))
        check_n_rows(name, values, X)
        check_finite(name, values)
        values = values.reshape(len(values), -1)
        if self.width not in (None, values.shape[1]):
            owner = f"member {name!r}"
            raise wrong_count_error(owner, self.width or 1, values.shape[1])
        return [values]

    def finalize(self, combined: Float64) -> Float64:
        """Return the combined values unchanged."""
        return combined

    def to_targets(self, predictions: Predictions) -> Any:
        """Combined values in the shape of the targets."""
        return predictions[0] if self.multioutput else predictions[0][:, 0]


OutputSpec = ClassOutputs | RegressionOutputs


def check_class_targets(
    y: Any, members: Sequence[tuple[str, Any]], *, voting: bool, missing_class: str
) -> tuple[ClassOutputs, Any]:
    """Validate classification targets and collect their classes.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_samples,) or (n_samples, n_outputs)
        Labels, or a multilabel indicator matrix.
    members : sequence of (name, fitted classifier)
        Members fitted before; their classes are added to the classes of ``y``.
    voting : bool
        Whether the members vote by ``predict``; stored in the result.
    missing_class : {"error", "zero"}
        How to handle a member that lacks a class; stored in the result.

    Returns
    -------
    outputs : ClassOutputs
        Sorted classes and the kind of the targets.
    y : ndarray
        Dense labels, of shape (n_samples,) or (n_samples, n_outputs).

    Raises
    ------
    ValueError
        If the targets are not classes, are not finite, or if strings and numbers are
        mixed between the classes of ``y`` and of a member.
    """
    if np.asarray(y).dtype.kind == "f":
        assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    multioutput = kind in ("multilabel-indicator", "multiclass-multioutput")
    if multioutput:
        y = check_array(y, dtype=None, accept_sparse=True)
        y = y.toarray() if hasattr(y, "toarray") else y
    else:
        y = column_or_1d(y, warn=True)
    # Columns of other labels, e.g. -1 and 1, are multi-output with two classes each.
    multilabel = kind == "multilabel-indicator" and bool(np.isin(y, (0, 1)).all())
    if multilabel:  # 0 and 1 even if a column lacks one of them
        classes = [np.array([0, 1], y.dtype)] * y.shape[1]
    else:
        classes = [np.unique(column) for column in y.reshape(len(y), -1).T]
    outputs = ClassOutputs(classes, multioutput, multilabel, voting, missing_class)
    for name, member in members:
        for index, labels in enumerate(outputs.columns(name, member)):
            if (labels.dtype.kind in "OUS") != (classes[index].dtype.kind in "OUS"):
                raise ValueError(
                    f"classes of member {name!r} must have the type of y's: found "
                    f"{labels.tolist()[:3]} and {classes[index].tolist()[:3]}"
                )
            classes[index] = np.union1d(classes[index], labels)
    return outputs, y


def check_regression_targets(
    y: Any, *, quantiles: bool
) -> tuple[RegressionOutputs, Any]:
    """Validate regression targets.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Finite numbers.
    quantiles : bool
        Whether members predict one column per quantile of a single target.

    Returns
    -------
    outputs : RegressionOutputs
        Number and shape of the predicted columns.
    y : ndarray
        Validated targets; a single column is flattened to shape (n_samples,).

    Raises
    ------
    ValueError
        If the targets are not finite numbers, or if there are several targets and
        ``quantiles`` is true.
    """
    y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
    multioutput = y.ndim == 2 and y.shape[1] > 1
    if not multioutput:
        y = column_or_1d(y, warn=True)
    if not quantiles:
        return RegressionOutputs(multioutput, y.shape[1] if multioutput else 1), y
    if multioutput:
        raise ValueError(
            f"quantiles must be of one target, found {y.shape[1]} targets; fit one "
            "ensemble per target"
        )
    return RegressionOutputs(multioutput=True, width=None), y


def check_n_rows(name: str, predictions: Any, X: Any) -> None:
    """Raise ValueError unless there is one prediction for each row of X."""
    if len(predictions) != _num_samples(X):
        raise ValueError(
            f"member {name!r} must predict one row per sample: found "
            f"{len(predictions)} rows for {_num_samples(X)} samples"
        )


def check_finite(name: str, values: Any) -> None:
    """Raise ValueError unless all predictions are finite numbers."""
    is_number = values.dtype.kind in "biuf"
    invalid = values[~np.isfinite(values)] if is_number else values.ravel()
    if len(invalid):
        raise ValueError(
            f"member {name!r} must predict finite numbers: found "
            f"{invalid.tolist()[0]!r}"
        )


def wrong_count_error(owner: str, n_outputs: int, n_found: int) -> ValueError:
    """ValueError for a wrong number of targets."""
    return ValueError(
        f"{owner} must have one prediction per target: found {n_found} for "
        f"{n_outputs} targets"
    )


def _encode(labels: Any, classes: Any, owner: str) -> Counts:
    """Indices of labels in the sorted classes; a ValueError names the owner."""
    is_range = (
        classes.dtype.kind == labels.dtype.kind == "i"
        and int(classes[-1]) - int(classes[0]) == len(classes) - 1
    )
    if is_range:
        # A subtraction: searchsorted takes longer than all other steps of a vote.
        codes: Counts = np.subtract(labels, classes[0], dtype=np.int64)
    else:
        codes = np.searchsorted(classes, labels)
    unknown = classes.take(codes, mode="clip") != labels
    if unknown.any():
        raise ValueError(
            f"labels of {owner} must be among the classes {classes.tolist()}: found "
            f"{labels[unknown].tolist()[0]!r}"
        )
    return codes


def _one_hot(codes: Counts, n_classes: int) -> Any:
    """One-hot rows of the codes, bool of shape (n_samples, n_classes)."""
    rows = np.zeros((len(codes), n_classes), bool)
    row_starts = np.arange(0, rows.size, n_classes)
    rows.reshape(-1)[row_starts + codes] = True
    return rows


def _align_columns(name: str, y_proba: Float64, labels: Any, classes: Any) -> Float64:
    """Probabilities with one column per class; a class not in ``labels`` gets 0."""
    if y_proba.ndim != 2 or y_proba.shape[1] != len(labels):
        raise ValueError(
            f"member {name!r} must predict one probability for each of its "
            f"{len(labels)} classes: found an array of shape {y_proba.shape}"
        )
    smallest, largest = y_proba.min(initial=0), y_proba.max(initial=0)
    if not (smallest >= 0 and largest < np.inf):
        raise ValueError(
            f"member {name!r} must predict finite, non-negative probabilities: found "
            f"{largest if smallest >= 0 else smallest}"
        )
    if np.array_equal(labels, classes):
        return y_proba
    aligned = np.zeros((len(y_proba), len(classes)), y_proba.dtype)
    aligned[:, np.searchsorted(classes, labels)] = y_proba
    return aligned
