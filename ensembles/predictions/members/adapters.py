"""Wrappers of fitted classifiers: label codes, probabilities of decision values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.utils import get_tags
from sklearn.utils.validation import column_or_1d

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.sample_weight import scale_to_effective_size

# Errors of XGBoost, PyTorch and NumPy in fit for unsupported labels.
LABEL_ERRORS = (ValueError, TypeError, IndexError, KeyError)


class FittedWrapper:
    """Base of wrappers that change how a fitted member predicts.

    Other attributes come from the member. scikit-learn treats the wrapper as a fitted
    classifier; `sklearn.base.clone` returns a clone of the member.
    """

    estimator: Any

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)

    def __sklearn_clone__(self) -> Any:
        return clone(self.estimator)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of the labels that ``predict`` returns."""
        classifier: Any = self  # predict may come from the member, by __getattr__
        y_pred = classifier.predict(X)
        return float(accuracy_score(y, y_pred, sample_weight=sample_weight))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "estimator":
            raise AttributeError(name)
        return getattr(self.estimator, name)


@dataclass(eq=False)
class FittedOnCodes(FittedWrapper):
    """A classifier that was fitted on the codes 0, …, n_classes - 1 of the labels.

    Parameters
    ----------
    estimator : fitted classifier
        Predicts codes.
    labels : ndarray of shape (n_classes,), or a list of n_outputs such arrays
        Sorted labels; code k stands for ``labels[k]``. A list for several targets.
    """

    estimator: Any
    labels: Any

    @property
    def classes_(self) -> Any:
        """Labels of the probability columns; a list for several targets."""
        codes = getattr(self.estimator, "classes_", None)
        if codes is None:
            return self.labels
        if not isinstance(self.labels, list):
            return self.labels[_as_codes(codes)]
        pairs = zip(self.labels, codes, strict=True)
        return [labels[_as_codes(column)] for labels, column in pairs]

    def predict(self, X: Any) -> Any:
        """Predicted labels, decoded from the codes that the classifier predicts."""
        codes = self.estimator.predict(X)
        if not isinstance(self.labels, list):
            return self.labels[_as_codes(codes)]
        pairs = zip(self.labels, np.asarray(codes).T, strict=True)
        return np.column_stack([labels[_as_codes(column)] for labels, column in pairs])


def _as_codes(values: Any) -> Counts:
    return np.asarray(values).ravel().astype(np.int64)


def fit_on_codes_if_rejected(fit: Callable[[Any], Any], y: Any) -> Any:
    """Fit a classifier on labels or, if that fails, on integer codes of the labels.

    The labels are tried first, so that parameters such as ``class_weight`` can name
    them. XGBoost accepts only 0, …, n_classes - 1, counted over the rows it is fitted
    on: the codes of a fold that lacks a class differ from those of the full data.

    Parameters
    ----------
    fit : callable
        ``(y) -> fitted classifier``; called once or twice.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels of the rows that ``fit`` uses.

    Returns
    -------
    fitted classifier or FittedOnCodes

    Raises
    ------
    Exception
        The error of ``fit`` for the labels, if it fails for the codes as well or if
        the labels are 0, …, n_classes - 1 already.
    """
    try:
        return fit(y)
    except LABEL_ERRORS as error:
        multioutput = np.ndim(y) > 1
        columns = list(np.asarray(y).T) if multioutput else [column_or_1d(y)]
        pairs = [np.unique(column, return_inverse=True) for column in columns]
        labels = [column_labels for column_labels, _ in pairs]
        if all(_are_codes(column_labels) for column_labels in labels):
            raise
        codes: Any = [column_codes for _, column_codes in pairs]
        try:
            fitted = fit(np.column_stack(codes) if multioutput else codes[0])
        except LABEL_ERRORS:
            raise error from None
        return FittedOnCodes(fitted, labels if multioutput else labels[0])


def _are_codes(labels: Any) -> bool:
    return labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels)))


@dataclass(eq=False)
class DecisionProbabilities(FittedWrapper):
    """A classifier with probabilities computed from its decision values.

    Parameters
    ----------
    estimator : fitted classifier
        Has ``decision_function``.
    link : Link
        Fitted on held-out decision values of this classifier.
    """

    estimator: Any
    link: Link

    @property
    def classes_(self) -> Any:
        """Labels of the probability columns."""
        return self.link.classes

    def predict_proba(self, X: Any) -> Any:
        """Class probabilities, shape (n_samples, n_classes)."""
        return self.link(decision_values(self.estimator, X, self.link.classes))


def decision_values(member: Any, X: Any, classes: Any) -> Float64:
    """Decision values of a member: one column, or one per class or pair of classes.

    Parameters
    ----------
    member : fitted classifier
        Has ``decision_function``. Fitted on a fold, it may lack some of the classes.
    X : array-like of shape (n_samples, ...)
        Samples, passed to the member unchanged.
    classes : ndarray of shape (n_classes,)
        Sorted labels of the ensemble.

    Returns
    -------
    ndarray of shape (n_samples, n_columns)
        If the member lacks a class, one column per class, with the minimum of the row
        for a class that it lacks.
    """
    values = np.asarray(member.decision_function(X), np.float64)
    labels = np.asarray(getattr(member, "classes_", classes))
    if len(labels) == len(classes):
        return values.reshape(len(values), -1)
    if _is_one_vs_one(member):
        return _all_pairs(values, np.searchsorted(classes, labels), len(classes))
    if values.ndim == 1:
        values = np.column_stack([-values, values])
    aligned = np.repeat(values.min(axis=1)[:, None], len(classes), axis=1)
    aligned[:, np.searchsorted(classes, labels)] = values[:, : len(labels)]
    return aligned


def _is_one_vs_one(member: Any) -> bool:
    """Whether there is one decision value per pair of classes, as in some SVCs."""
    inner: Any = member
    while inner is not None:  # a pipeline, search or wrapper may hold another one
        member = inner
        names = ("best_estimator_", "estimator_", "_final_estimator")
        inner = next((getattr(member, n) for n in names if hasattr(member, n)), None)
    return getattr(member, "decision_function_shape", None) == "ovo"


def _all_pairs(values: Float64, codes: Counts, n_classes: int) -> Float64:
    """Decision values of all pairs of classes, from the pairs of a member's classes.

    In a pair with a class that the member lacks, the other one wins by the largest
    magnitude of the row; a pair of two such classes is undecided.
    """
    values = values.reshape(len(values), -1)
    if len(codes) == 2:  # positive for the second class, and for the first of a pair
        values = -values
    largest = np.abs(values).max(axis=1)
    by_pair = dict(zip(combinations(codes.tolist(), 2), values.T, strict=True))
    columns = []
    for pair in combinations(range(n_classes), 2):
        sign = float(pair[0] in codes) - float(pair[1] in codes)
        columns.append(by_pair.get(pair, sign * largest))
    return np.column_stack(columns)


class Link:
    """Multinomial logistic regression from decision values to class probabilities.

    For two classes it is Platt's sigmoid. As for any calibration, the decision values
    must come from rows that the member was not fitted on.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Sorted labels of the probability columns.

    References
    ----------
    Platt (1999), "Probabilistic outputs for support vector machines and comparisons to
    regularized likelihood methods", Advances in Large Margin Classifiers.
    """

    def __init__(self, classes: Any) -> None:
        self.classes = classes

    def fit(self, values: Float64, codes: Counts, weight: Float64 | None) -> Link:
        """Fit on held-out decision values and the codes of the true classes."""
        self.center = values.mean(axis=0)
        self.scale = values.std(axis=0)
        self.scale[self.scale == 0] = 1.0
        self.model = None
        weighted = np.ones(len(codes), bool) if weight is None else weight > 0
        if len(np.unique(codes[weighted])) > 1:
            self.model = LogisticRegression(max_iter=1000)
            weight = scale_to_effective_size(weight)
            self.model.fit((values - self.center) / self.scale, codes, weight)
        else:
            self.single_class = codes[weighted][:1]
        return self

    def __call__(self, values: Float64) -> Float64:
        """Class probabilities, shape (n_samples, n_classes)."""
        y_proba = np.zeros((len(values), len(self.classes)))
        if self.model is None:
            y_proba[:, self.single_class] = 1.0
            return y_proba
        scaled = (values - self.center) / self.scale
        y_proba[:, self.model.classes_] = self.model.predict_proba(scaled)
        return y_proba


def fit_link(
    folds: list[Any], splits: Any, codes: Counts, classes: Any, weight: Float64 | None
) -> tuple[Link, list[Any]]:
    """Fit the link of a member and convert its held-out decision values.

    The probabilities of a split come from a link fitted on the other held-out rows
    (cross-fitting). A single split is cut into five parts for this.

    Parameters
    ----------
    folds : list of [ndarray of shape (n_test, n_columns)]
        Decision values of the test rows of each split.
    splits : list of (train, test)
        Row indices of each split; only ``test`` is used.
    codes : ndarray of shape (n_samples,)
        Index of the true class of each sample.
    classes : ndarray of shape (n_classes,)
        Sorted labels.
    weight : ndarray of shape (n_samples,) or None
        Sample weights; None weights all samples equally.

    Returns
    -------
    link : Link
        Fitted on all held-out rows.
    folds : list of [ndarray of shape (n_test, n_classes)]
        Probabilities of the test rows of each split.
    """
    rows = np.concatenate([test for _, test in splits])
    values = np.concatenate([fold[0] for fold in folds])

    def fit_on(index: Any) -> Link:
        sample_weight = None if weight is None else weight[rows[index]]
        return Link(classes).fit(values[index], codes[rows[index]], sample_weight)

    y_proba = np.empty((len(rows), len(classes)))
    for indices in _parts(rows, splits, codes):
        is_other = ~np.isin(rows, rows[indices])
        link = fit_on(is_other if is_other.any() else slice(None))
        y_proba[indices] = link(values[indices])
    ends = np.cumsum([len(test) for _, test in splits])[:-1]
    return fit_on(slice(None)), [[fold] for fold in np.split(y_proba, ends)]


def _parts(rows: Counts, splits: Any, codes: Counts) -> list[Counts]:
    """Parts of the held-out rows, each converted by a link fitted on the others."""
    ends = np.cumsum([len(test) for _, test in splits])[:-1]
    if len(splits) > 1:
        return np.split(np.arange(len(rows)), ends)
    order = np.argsort(codes[rows], kind="stable")  # spreads classes evenly
    return [np.sort(order[start::5]) for start in range(min(5, len(rows)))]
