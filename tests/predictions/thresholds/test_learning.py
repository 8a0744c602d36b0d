"""Thresholds of an ensemble: learned with its weights, given, or none."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.thresholds.learning import (
    METRICS,
    cross_fit_thresholds,
    learn_thresholds,
)
from ensembles.predictions.thresholds.threshold_score import (
    MeanThresholdScore,
    ThresholdScore,
)
from tests.predictions.held_out import MEAN, classes_held

Data = tuple[Any, Any]
NB = ("nb", GaussianNB())
TREE = ("tree", DecisionTreeClassifier(max_depth=4, random_state=0))
LR = ("lr", LogisticRegression())
LEARNED: tuple[dict[str, Any], ...] = (
    {"rule": "mean", "weights": "greedy"},
    {},
    {"weights": None},
)

pytestmark = pytest.mark.filterwarnings("ignore:selection .* did not beat the best")


@pytest.fixture(scope="module")
def rare() -> Data:
    """Training rows, then test rows; one in ten is of the second class."""
    X, y = make_classification(
        1500, 6, n_informative=4, weights=[0.9], flip_y=0.02, random_state=0
    )
    return X, y


@pytest.mark.parametrize("params", LEARNED)
def test_thresholds_are_learned_for_scores_of_labels(
    params: dict[str, Any], rare: Data
) -> None:
    X, y = rare
    ensemble = EnsembleClassifier([NB, TREE, LR], scoring="balanced_accuracy", **params)
    ensemble.fit(X[:500], y[:500])
    plain = EnsembleClassifier(
        [NB, TREE, LR], scoring="balanced_accuracy", thresholds=None, **params
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a score that is only reported
        plain.fit(X[:500], y[:500])
    labels, y_proba = ensemble.predict(X[500:]), ensemble.predict_proba(X[500:])
    _, threshold = ensemble.thresholds_
    assert 0.02 < threshold < 0.3
    assert ensemble.thresholds_.sum() == pytest.approx(1)
    assert labels.tolist() == (y_proba[:, 1] > threshold).astype(int).tolist()
    reached = balanced_accuracy_score(y[500:], labels)
    assert reached > balanced_accuracy_score(y[500:], plain.predict(X[500:])) + 0.05
    assert ensemble.oof_score_ == pytest.approx(reached, abs=0.1)
    assert plain.thresholds_ is None
    if not isinstance(ensemble.weights, str):  # thresholds do not change probabilities
        assert plain.predict_proba(X).tolist() == ensemble.predict_proba(X).tolist()


@pytest.mark.parametrize("scoring", [None, "roc_auc", "neg_brier_score"])
def test_scores_of_probabilities_have_no_thresholds(scoring: Any, rare: Data) -> None:
    X, y = (part[:200] for part in rare)
    ensemble = EnsembleClassifier([NB, LR], weights=None, scoring=scoring)
    assert ensemble.fit(X, y).thresholds_ is None


@pytest.mark.parametrize("params", LEARNED[:2])
def test_thresholds_of_noise_score_as_noise(params: dict[str, Any]) -> None:
    scores = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(150, 4)), (rng.random(150) < 0.2).astype(int)
        ensemble = EnsembleClassifier([NB, TREE], cv=3, scoring="balanced_accuracy")
        scores.append(ensemble.set_params(**params).fit(X, y).oof_score_)
    assert np.mean(scores) == pytest.approx(0.5, abs=0.07)


def test_few_rows_lean_on_probabilities_and_many_on_labels() -> None:
    # Probabilities are right: thresholds that balance the classes are their priors.
    rng = np.random.default_rng(0)
    errors = {}
    for n_rows in (60, 3000):
        found = []
        for _ in range(10):
            share = rng.beta(1, 4, n_rows)
            y = (rng.random(n_rows) < share).astype(int)
            held = classes_held(0, 1, n_rows, 2, "plain", "none")._replace(y=y)
            y_proba = np.column_stack([1 - share, share])
            ((_, threshold),) = learn_thresholds([y_proba], held, "balanced_accuracy")
            found.append(threshold - 0.2)
        errors[n_rows] = np.sqrt(np.mean(np.square(found)))
    assert errors[3000] < 0.04
    assert errors[60] < 0.08  # twice as much without the probabilities


def test_thresholds_for_the_accuracy_of_few_rows_are_nearly_equal() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        share = rng.beta(1, 1, 80)
        held = classes_held(0, 1, 80, 2, "plain", "none")
        held = held._replace(y=(rng.random(80) < share).astype(int))
        y_proba = np.column_stack([1 - share, share])
        ((_, threshold),) = learn_thresholds([y_proba], held, "accuracy")
        assert threshold == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("scoring", METRICS)
def test_integer_weights_are_repeated_rows(scoring: str) -> None:
    held = classes_held(3, 1, 60, 2, "plain", "whole")
    repeats = np.asarray(held.sample_weight).astype(int)
    repeated = held.subset(np.repeat(np.arange(60), repeats))
    repeated = repeated._replace(sample_weight=None)
    thresholds = [
        learn_thresholds([part.stacks[0][0]], part, scoring)[0]
        for part in (held, repeated)
    ]
    assert thresholds[0] == pytest.approx(thresholds[1], rel=1e-4)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("scoring", ["balanced_accuracy", "f1_macro"])
def test_gains_are_scores_at_thresholds_of_the_weights(
    n_classes: int, scoring: str
) -> None:
    held = classes_held(1, 5, 80, n_classes, "plain", "whole")
    combiner = FittedCombiner(MEAN, {}, held.outputs)
    fast = MeanThresholdScore(held, combiner, scoring)
    plain = ThresholdScore(held, combiner, scoring)
    alone = fast.gains(np.zeros(5, np.int64), np.arange(5))
    assert alone.tolist() == [plain(weights) for weights in np.eye(5)]
    counts = np.array([1, 0, 2, 0, 0])
    gains = fast.gains(counts, np.arange(5))
    for member, gain in enumerate(gains):
        added = counts + np.eye(5, dtype=int)[member]
        sums = np.tensordot(added, held.stacks[0], 1)
        (score,), (factors,) = fast.label_scores, fast.factors
        assert gain == pytest.approx(score.at_factors(sums, factors), abs=1e-12)
        if n_classes == 2:  # a sweep finds the maximum
            assert gain <= plain(added / added.sum()) + 1e-12


def test_each_label_of_several_has_thresholds_for_the_macro_average() -> None:
    X, y = make_multilabel_classification(1000, n_classes=3, random_state=0)
    trees = [("a", TREE[1]), ("b", DecisionTreeClassifier(max_depth=6, random_state=1))]
    ensemble = EnsembleClassifier(trees, scoring="f1_macro").fit(X[:200], y[:200])
    assert [len(part) for part in ensemble.thresholds_] == [2, 2, 2]
    plain = EnsembleClassifier(trees).fit(X[:200], y[:200])
    scores = [
        f1_score(y[200:], fitted.predict(X[200:]), average="macro")
        for fitted in (ensemble, plain)
    ]
    assert scores[0] > scores[1] - 0.01


def test_mcc_is_short_for_the_name_in_scikit_learn(rare: Data) -> None:
    X, y = (part[:300] for part in rare)
    ensembles = [
        EnsembleClassifier([NB, LR], weights=None, scoring=scoring).fit(X, y)
        for scoring in ("mcc", "matthews_corrcoef")
    ]
    assert ensembles[0].oof_score_ == ensembles[1].oof_score_
    assert matthews_corrcoef(y, ensembles[0].predict(X)) > 0.3


@pytest.mark.parametrize("n_rare", [1, 2, 4])
def test_classes_of_few_rows_have_thresholds(n_rare: int) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3))
    y = np.repeat(["a", "b", "c"], [60, 30 - n_rare, n_rare])
    X[:, 0] += np.repeat([0.0, 1.0, 3.0], [60, 30 - n_rare, n_rare])
    ensemble = EnsembleClassifier(
        [NB, LR], weights=None, scoring="balanced_accuracy", missing_class="zero"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a class with fewer rows than folds
        ensemble.fit(X, y)
    assert (ensemble.thresholds_ > 0).all()
    assert np.isfinite(ensemble.oof_score_)


def test_given_thresholds_are_used_as_they_are(rare: Data) -> None:
    X, y = (part[:300] for part in rare)
    members = [NB, LR]
    ensemble = EnsembleClassifier(members, thresholds=[8, 2], **LEARNED[0]).fit(X, y)
    assert ensemble.thresholds_.tolist() == [0.8, 0.2]
    expected = ensemble.predict_proba(X)[:, 1] > 0.2
    assert ensemble.predict(X).tolist() == expected.astype(int).tolist()
    ensemble.set_params(scoring="accuracy").fit(X, y)
    labels = ensemble.weights_ @ ensemble.oof_[:, :, 1] > 0.2
    assert ensemble.history_[-1].score >= np.mean(labels == y) - 1e-9


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (
            0.3,
            r"must be one positive number .*\[0, 1\], found 0.3; pass \[1 - 0.3, 0.3",
        ),
        ([0.5, 0.3, 0.2], r"for each of the classes \[0, 1\], found \[0.5, 0.3, 0.2\]"),
        ([0.0, 1.0], "must be one positive number"),
        ([np.nan, 1.0], "must be one positive number"),
        ({0: 1.0, 1: 2.0}, r"\[0, 1\], found {0: 1.0, 1: 2.0}"),
        (["low", "high"], r"\[0, 1\], found \['low', 'high'\]"),
        ([[1.0], [1.0, 2.0]], r"\[0, 1\], found \[\[1.0\], \[1.0, 2.0\]\]"),
        ("tuned", "thresholds must be one of 'auto', found 'tuned'"),
    ],
)
def test_wrong_thresholds_cost_no_fit(
    thresholds: Any, message: str, rare: Data
) -> None:
    ensemble = EnsembleClassifier([("first", Unfitted())], thresholds=thresholds)
    with pytest.raises(ValueError, match=message):
        ensemble.fit(*rare)


@pytest.mark.parametrize("thresholds", [0.3, [[1, 2]]])
def test_several_targets_need_a_list_of_thresholds(thresholds: Any) -> None:
    X, y = make_multilabel_classification(20, n_classes=2, random_state=0)
    ensemble = EnsembleClassifier([("first", Unfitted())], thresholds=thresholds)
    with pytest.raises(ValueError, match="must be a list of 2 arrays"):
        ensemble.fit(X, y)


class Unfitted(GaussianNB):
    """Must not be fitted."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        raise AssertionError("this was fitted")


def test_rows_that_cannot_be_divided_are_named() -> None:
    held = classes_held(0, 1, 2, 2, "plain", "none")
    single = OutOfFold([held.stacks[0]], held.y, held.outputs, None)
    with pytest.warns(UserWarning, match="2 rows cannot be divided into folds"):
        cross_fit_thresholds([held.stacks[0][0]], single, "accuracy")


@pytest.mark.parametrize("scoring", ["balanced_accuracy", "mcc", "accuracy"])
def test_a_single_class_has_the_threshold_one(scoring: str) -> None:
    X = np.arange(40.0).reshape(20, 2)
    ensemble = EnsembleClassifier([NB, TREE], scoring=scoring, weights=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a single label
        ensemble.fit(X, np.ones(20, int))
    assert ensemble.thresholds_.tolist() == [1.0]
    assert ensemble.predict(X).tolist() == [1] * 20
