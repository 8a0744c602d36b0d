"""Members adapted to an ensemble: labels as codes, decision values as probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.utils import get_tags
from sklearn.utils.validation import column_or_1d

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.repetitions import as_repetitions

# What fits raise for labels that they cannot take: XGBoost, torch, NumPy.
REFUSALS = (ValueError, TypeError, IndexError, KeyError)


class Adapted:
    """A fitted member behind another way to predict; it has all its attributes.

    scikit-learn takes it for a fitted classifier; a clone is one of the member.
    """

    estimator: Any

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)

    def __sklearn_clone__(self) -> Any:
        return clone(self.estimator)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of the labels that ``predict`` gives."""
        made: Any = self  # whose predict may be the member's
        return float(accuracy_score(y, made.predict(X), sample_weight=sample_weight))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "estimator":
            raise AttributeError(name)
        return getattr(self.estimator, name)


@dataclass(eq=False)
class FittedOnCodes(Adapted):
    """A classifier that was fitted on 0, …, n_classes - 1 in place of labels.

    Parameters
    ----------
    estimator : fitted classifier
    labels : ndarray of shape (n_classes,), or a list of such for several targets
        Sorted; code k stands for the k-th.
    """

    estimator: Any
    labels: Any

    @property
    def classes_(self) -> Any:
        """Labels of the columns of its probabilities."""
        codes = getattr(self.estimator, "classes_", None)
        if codes is None:
            return self.labels
        if not isinstance(self.labels, list):
            return self.labels[_as_codes(codes)]
        pairs = zip(self.labels, codes, strict=True)
        return [labels[_as_codes(own)] for labels, own in pairs]

    def predict(self, X: Any) -> Any:
        """Labels."""
        said = self.estimator.predict(X)
        if not isinstance(self.labels, list):
            return self.labels[_as_codes(said)]
        pairs = zip(self.labels, np.asarray(said).T, strict=True)
        return np.column_stack([labels[_as_codes(own)] for labels, own in pairs])


def _as_codes(values: Any) -> Counts:
    return np.asarray(values).ravel().astype(np.int64)


def fitted_by_codes_if_refused(fit: Callable[[Any], Any], y: Any) -> Any:
    """Fit a classifier to labels, or, where it refuses them, to their codes.

    Labels come first, so that a parameter such as ``class_weight`` can name them.
    XGBoost takes 0, …, n_classes - 1 only, and those of the rows at hand: a fold that
    lacks a class has other codes.

    Parameters
    ----------
    fit : callable
        ``(y) -> fitted classifier``
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)

    Returns
    -------
    fitted classifier or FittedOnCodes

    Raises
    ------
    Exception
        What ``fit`` raises for the labels, if it raises for codes too.
    """
    try:
        return fit(y)
    except REFUSALS as error:
        columns = list(np.asarray(y).T) if np.ndim(y) > 1 else [column_or_1d(y)]
        pairs = [np.unique(column, return_inverse=True) for column in columns]
        if all(_are_codes(labels) for labels, _ in pairs):
            raise
        several = np.ndim(y) > 1
        codes = np.column_stack([own for _, own in pairs]) if several else pairs[0][1]
        try:
            fitted = fit(codes)
        except REFUSALS:
            raise error from None
        labels = [own for own, _ in pairs]
        return FittedOnCodes(fitted, labels if several else labels[0])


def _are_codes(labels: Any) -> bool:
    return labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels)))


@dataclass(eq=False)
class ByDecision(Adapted):
    """A classifier whose decision values are turned into probabilities.

    Parameters
    ----------
    estimator : fitted classifier
        With ``decision_function``.
    link : Link
    """

    estimator: Any
    link: Link

    @property
    def classes_(self) -> Any:
        """Labels of the columns of its probabilities."""
        return self.link.classes

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes."""
        return self.link(decision_values(self.estimator, X, self.link.classes))


def has_decision_only(member: Any) -> bool:
    """Whether a classifier has a decision function, and no probabilities.

    Parameters
    ----------
    member : estimator

    Returns
    -------
    bool
    """
    return hasattr(member, "decision_function") and not hasattr(member, "predict_proba")


def decision_values(member: Any, X: Any, classes: Any) -> Float64:
    """Decision values, one column, or one for each class or pair of classes.

    A class that the member does not know, as in a fold, has the least of the row.

    Parameters
    ----------
    member : fitted classifier
    X : array-like of shape (n_samples, ...)
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of shape (n_samples, n_columns)
    """
    values = np.asarray(member.decision_function(X), np.float64)
    known = np.asarray(getattr(member, "classes_", classes))
    if len(known) == len(classes):
        return values.reshape(len(values), -1)
    if values.ndim == 1:
        values = np.column_stack([-values, values])
    out = np.repeat(values.min(axis=1)[:, None], len(classes), axis=1)
    out[:, np.searchsorted(classes, known)] = values[:, : len(known)]
    return out


class Link:
    """Probabilities from decision values: a multinomial logistic regression.

    Of two classes it is Platt's sigmoid. Decision values must be those of rows that the
    member was not fitted on, as with any calibration.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)

    References
    ----------
    Platt (1999), "Probabilistic outputs for support vector machines and comparisons to
    regularized likelihood methods", Advances in Large Margin Classifiers.
    """

    def __init__(self, classes: Any) -> None:
        self.classes = classes

    def fit(self, values: Float64, codes: Counts, weight: Float64 | None) -> Link:
        """Learn from decision values of held-out rows, and codes of their classes."""
        self.centre = values.mean(axis=0)
        self.scale = values.std(axis=0)
        self.scale[self.scale == 0] = 1.0
        self.model = None
        heavy = np.ones(len(codes), bool) if weight is None else weight > 0
        if len(np.unique(codes[heavy])) > 1:
            self.model = LogisticRegression(max_iter=1000)
            weight = as_repetitions(weight)
            self.model.fit((values - self.centre) / self.scale, codes, weight)
        else:
            self.only = codes[heavy][:1]
        return self

    def __call__(self, values: Float64) -> Float64:
        """Probabilities, a column for each class."""
        out = np.zeros((len(values), len(self.classes)))
        if self.model is None:
            out[:, self.only] = 1.0
            return out
        scaled = (values - self.centre) / self.scale
        out[:, self.model.classes_] = self.model.predict_proba(scaled)
        return out


def linked(
    folds: list[Any], splits: Any, codes: Counts, classes: Any, weight: Float64 | None
) -> tuple[Link, list[Any]]:
    """Link of a member, and its held-out decision values as probabilities.

    Those of each split come from a link that was learned from the other rows.

    Parameters
    ----------
    folds : list of [ndarray of shape (n_test, n_columns)]
        Decision values of the rows that each split holds out.
    splits : list of (train, test)
    codes : ndarray of shape (n_samples,)
        Places of the true classes.
    classes : ndarray of shape (n_classes,)
    weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    link : Link
        Learned from all rows that were held out.
    folds : list of [ndarray of shape (n_test, n_classes)]
    """
    rows = np.concatenate([test for _, test in splits])
    values = np.concatenate([fold[0] for fold in folds])

    def learned(some: Any) -> Link:
        part = None if weight is None else weight[rows[some]]
        return Link(classes).fit(values[some], codes[rows[some]], part)

    probabilities = np.empty((len(rows), len(classes)))
    for own in _parts(rows, splits, codes):
        others = ~np.isin(rows, rows[own])
        link = learned(others if others.any() else slice(None))
        probabilities[own] = link(values[own])
    ends = np.cumsum([len(test) for _, test in splits])[:-1]
    return learned(slice(None)), [[part] for part in np.split(probabilities, ends)]


def _parts(rows: Counts, splits: Any, codes: Counts) -> list[Counts]:
    """Places among the rows that get their probabilities from the others."""
    ends = np.cumsum([len(test) for _, test in splits])[:-1]
    if len(splits) > 1:
        return np.split(np.arange(len(rows)), ends)
    order = np.argsort(codes[rows], kind="stable")  # classes spread over the parts
    return [np.sort(order[start::5]) for start in range(min(5, len(rows)))]
