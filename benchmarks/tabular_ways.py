"""Ways to combine recorded members: each returns predictions for the test rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from columns import column_members, columns
from recording import Recording
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import TunedThresholdClassifierCV
from tabular_sets import TabularSet

from ensembles.predictions import EnsembleClassifier

BEST, DEFAULT = "best single", "ours, default"
LOG_LOSS, BALANCED, AUC = "log_loss", "balanced_accuracy", "roc_auc"
THRESHOLDS = "ours, scoring=balanced_accuracy"
# The way that is compared with all others by each metric.
OURS = {LOG_LOSS: DEFAULT, BALANCED: THRESHOLDS, AUC: DEFAULT}


class Outcome(NamedTuple):
    """Predictions of one way for the test rows.

    Parameters
    ----------
    y_pred : ndarray
        Probabilities of shape (n_test, n_classes), or class codes of shape (n_test,).
    cpu : float
        CPU seconds of `fit`, without the members.
    """

    y_pred: Any
    cpu: float


Way = Callable[[Recording], Outcome]


def error(metric: str, y: Any, y_pred: Any, n_classes: int) -> float:
    """Log-loss, 1 minus the balanced accuracy, or 1 minus the area under the ROC curve.

    `y_pred` has probabilities, or for the balanced accuracy also class codes.
    """
    if metric == LOG_LOSS:
        return float(log_loss(y, y_pred, labels=np.arange(n_classes)))
    if metric == BALANCED:
        labels = y_pred if y_pred.ndim == 1 else y_pred.argmax(axis=1)
        return 1 - float(balanced_accuracy_score(y, labels))
    return 1 - float(roc_auc_score(y, y_pred[:, 1]))


def applies(metric: str, one: TabularSet, n_classes: int) -> bool:
    """Whether ways are compared by a metric on a set.

    The balanced accuracy is for sets with a rare class, the area under the ROC curve
    for sets with two classes.
    """
    if metric == BALANCED:
        return one.kind == "imbalanced"
    return metric == LOG_LOSS or n_classes == 2


def best_single(metric: str, split: Recording) -> Outcome:
    """The member with the least out-of-fold error."""
    started, n_classes = time.process_time(), split.held.shape[2]
    errors = [error(metric, split.y_train, proba, n_classes) for proba in split.held]
    cpu = time.process_time() - started
    return Outcome(split.full[int(np.argmin(errors)), split.n_train :], cpu)


def combined(make: Callable[..., Any], split: Recording, *, labels: bool) -> Outcome:
    """An ensemble of the replayed members."""
    estimator = make(split.members(classes=True))
    started = time.process_time()
    estimator.fit(split.train, split.y_train)
    cpu = time.process_time() - started
    predict = estimator.predict if labels else estimator.predict_proba
    return Outcome(predict(split.test), cpu)


def tuned(make: Callable[..., Any], split: Recording) -> Outcome:
    """A combination with the threshold of `TunedThresholdClassifierCV`.

    The features are predictions, out of fold for the training rows, so that weights and
    threshold are learned on different rows in each of five folds. Without the threshold
    if `TunedThresholdClassifierCV` refuses to learn one, for constant predictions.
    """
    X, test = columns(split.held), columns(split.full[:, split.n_train :])
    frozen = column_members(split.names, split.held.shape[2])
    estimator = TunedThresholdClassifierCV(make(frozen), scoring=BALANCED)
    started = time.process_time()
    try:
        estimator.fit(X, split.y_train)
    except ValueError as error:
        if "constant predictions" not in str(error):
            raise
        estimator = make(frozen).fit(X, split.y_train)
    cpu = time.process_time() - started
    return Outcome(estimator.predict(test), cpu)


def _ours(*, labels: bool = False, **params: Any) -> Way:
    return partial(combined, partial(EnsembleClassifier, **params), labels=labels)


def _tuned(**params: Any) -> Way:
    return partial(tuned, partial(EnsembleClassifier, cv="prefit", **params))


VOTING = partial(combined, partial(VotingClassifier, voting="soft"), labels=False)
STACKING = partial(combined, StackingClassifier, labels=False)
GREEDY = {"rule": "mean", "weights": "greedy"}
WAYS: dict[str, dict[str, Way]] = {
    LOG_LOSS: {
        BEST: partial(best_single, LOG_LOSS),
        "VotingClassifier": VOTING,
        "StackingClassifier": STACKING,
        "ours, greedy mean": _ours(**GREEDY),
        "ours, free weights": _ours(weights="free"),
        "ours, floor=1e-5": _ours(rule_params={"floor": 1e-5}),
        DEFAULT: _ours(),
    },
    BALANCED: {
        BEST: partial(best_single, BALANCED),
        "VotingClassifier": VOTING,
        "StackingClassifier": STACKING,
        "greedy + TunedThreshold": _tuned(**GREEDY),
        DEFAULT: _ours(labels=True),
        THRESHOLDS: _ours(labels=True, scoring=BALANCED),
    },
    AUC: {
        BEST: partial(best_single, AUC),
        "VotingClassifier": VOTING,
        "StackingClassifier": STACKING,
        "ours, greedy mean": _ours(**GREEDY, scoring=AUC),
        DEFAULT: _ours(),
    },
}
