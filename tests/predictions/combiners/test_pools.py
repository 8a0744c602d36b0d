"""Log-linear pools: weights that are given, learned weights, intercepts, priors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import COMBINERS, EnsembleClassifier
from ensembles.predictions.fitting.log_pool_weights import PoolLoss
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.members.sample_weight import (
    effective_size,
    scale_to_effective_size,
)

Data = tuple[Any, Any]
NB = ("nb", GaussianNB())
TREE = ("tree", DecisionTreeClassifier(max_depth=3, random_state=0))
NEAR = ("near", KNeighborsClassifier(9))

pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


@pytest.mark.parametrize("ones", [[1, 1, 1], [7, 7, 7], [0.2, 0.2, 0.2]])
def test_equal_weights_that_are_given_are_none(ones: list[float], iris: Data) -> None:
    X, y = iris
    members = [NB, TREE, NEAR]
    none = EnsembleClassifier(members, weights=None).fit(X, y).predict_proba(X)
    given = EnsembleClassifier(members, weights=ones).fit(X, y).predict_proba(X)
    assert given == pytest.approx(none, abs=1e-15)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_given_weights_do_not_sharpen(scale: float, iris: Data) -> None:
    X, y = iris
    weights = scale * np.array([2.0, 1.0, 1.0])
    ensemble = EnsembleClassifier([NB, TREE, NEAR], weights=weights).fit(X, y)
    assert ensemble.weights_ == pytest.approx([0.5, 0.25, 0.25])
    said = [member.predict_proba(X) for member in ensemble.estimators_]
    expected = COMBINERS["geometric_mean"](said, [2, 1, 1])
    assert ensemble.predict_proba(X) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule_params", "floor"), [(None, 0.002 / 3), ({"floor": 1e-6}, 1e-6)]
)
def test_a_learned_pool_raises_probabilities_to_a_floor(
    rule_params: Any, floor: float, iris: Data
) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE, NEAR], rule_params=rule_params).fit(X, y)
    stacks = [member.predict_proba(X) for member in ensemble.estimators_]
    assert min(stack.min() for stack in stacks) < 1e-6
    assert ensemble.rule_params_ == {"floor": floor}
    expected = COMBINERS["log_pool"](
        stacks, ensemble.weights_, floor=floor, intercept=ensemble.intercept_
    )
    assert ensemble.predict_proba(X) == pytest.approx(expected, abs=1e-12)


def test_a_temperature_sharpens_by_name(iris: Data) -> None:
    X, y = iris
    ensemble = EnsembleClassifier(
        [NB, TREE], weights=[3, 1], rule_params={"temperature": 0.5}
    )
    found = ensemble.fit(X, y).predict_proba(X)
    said = [member.predict_proba(X) for member in ensemble.estimators_]
    assert found == pytest.approx(COMBINERS["log_pool"](said, [1.5, 0.5]))
    for wrong in (0, -1, np.nan):
        ensemble.set_params(rule_params={"temperature": wrong})
        with pytest.raises(ValueError, match="temperature must be positive, found"):
            ensemble.fit(X, y)


def test_weights_of_a_product_count_as_they_are(iris: Data) -> None:
    X, y = iris
    members = [NB, TREE]
    product = EnsembleClassifier(members, rule="product", weights=[2, 2]).fit(X, y)
    said = [member.predict_proba(X) for member in product.estimators_]
    expected = COMBINERS["product"](said, [2, 2])
    assert product.predict_proba(X) == pytest.approx(expected)


def test_shares_of_a_negative_sum_are_refused(iris: Data) -> None:
    ensemble = EnsembleClassifier([NB, TREE], weights=[-2, 1])
    with pytest.raises(ValueError, match="'log_pool' must have a positive sum"):
        ensemble.fit(*iris)


def balanced(seed: int, n_rows: int = 3500) -> Data:
    X, y = make_classification(
        n_rows,
        20,
        n_informative=6,
        weights=[0.95],
        flip_y=0.02,
        class_sep=0.8,
        random_state=seed,
    )
    return X, y


def test_members_of_balanced_classes_are_brought_back_to_the_prior() -> None:
    X, y = balanced(0)
    some, rest = slice(0, 1500), slice(1500, None)
    members = [
        ("lr", LogisticRegression(class_weight="balanced", max_iter=500)),
        ("tree", DecisionTreeClassifier(class_weight="balanced", max_depth=4)),
    ]
    ensemble = EnsembleClassifier(members).fit(X[some], y[some])
    learned = log_loss(y[rest], ensemble.predict_proba(X[rest]))
    chance = log_loss(y[rest], np.full(len(y[rest]), y[some].mean()))
    plain = EnsembleClassifier(members, weights=None).fit(X[some], y[some])
    assert learned < chance < log_loss(y[rest], plain.predict_proba(X[rest]))
    assert ensemble.intercept_[0] > ensemble.intercept_[1] + 0.5
    mean = ensemble.predict_proba(X[rest])[:, 1].mean()
    assert mean == pytest.approx(y[rest].mean(), abs=0.02)


def test_members_fitted_to_evenly_sampled_classes_are_brought_back_too() -> None:
    class Undersampled(LogisticRegression):
        def fit(self, X: Any, y: Any) -> Any:
            rare = np.flatnonzero(y == 1)
            kept = np.append(rare, np.flatnonzero(y == 0)[: len(rare)])
            return super().fit(X[kept], y[kept])

    X, y = balanced(1)
    some, rest = slice(0, 1500), slice(1500, None)
    members = [("under", Undersampled(max_iter=500)), ("more", Undersampled(C=0.01))]
    ensemble = EnsembleClassifier(members).fit(X[some], y[some])
    mean = ensemble.predict_proba(X[rest])[:, 1].mean()
    assert mean == pytest.approx(y[rest].mean(), abs=0.02)
    assert ensemble.estimators_[0].predict_proba(X[rest])[:, 1].mean() > 0.2


def test_intercepts_are_each_outputs_own() -> None:
    X, Y = make_multilabel_classification(200, 8, n_classes=3, random_state=0)
    ensemble = EnsembleClassifier([NEAR, TREE]).fit(X, Y)
    assert [one.shape for one in ensemble.intercept_] == [(2,)] * 3
    product = EnsembleClassifier([NEAR, TREE], rule="product").fit(X, Y)
    assert product.predict(X) == pytest.approx(ensemble.predict(X))
    given = EnsembleClassifier([NEAR, TREE], weights=None).fit(X, Y)
    assert given.intercept_ is None


def held_of(said: list[Any], y: Any, weight: Any = None) -> OutOfFold:
    labels = ClassOutputs([np.unique(y)], False, False, False, "error")
    return OutOfFold([np.array(said)], y, labels, weight)


def test_weights_and_intercepts_have_the_least_penalized_loss(
    rng: np.random.Generator,
) -> None:
    y = rng.integers(3, size=200)
    said = [rng.dirichlet(1 + 2 * np.eye(3)[c]) for c in np.tile(y, 2)]
    loss = PoolLoss(held_of(list(np.reshape(said, (2, 200, 3))), y), 1e-5, signed=True)
    found = loss.minimize()
    point = np.concatenate([found.weights, *found.intercepts])
    value, slope = loss.loss(point)
    assert abs(slope).max() < 1e-5
    for place in range(len(point)):
        near = point + 1e-4 * np.eye(len(point))[place]
        assert loss.loss(near)[0] > value
        step = (loss.loss(near)[0] - loss.loss(2 * point - near)[0]) / 2e-4
        assert loss.loss(point)[1][place] == pytest.approx(step, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0])
def test_the_scale_of_sample_weights_does_not_undo_learning(
    scale: float, rng: np.random.Generator
) -> None:
    X, y = make_classification(200, 6, n_informative=4, random_state=1)
    weight = rng.uniform(size=200)
    ensemble = EnsembleClassifier([NB, TREE])
    ensemble.fit(X, y, sample_weight=weight * scale)
    assert ensemble.oof_score_ > ensemble.scores_.max() - 0.05
    plain = EnsembleClassifier([NB, TREE]).fit(
        X, y, sample_weight=weight / weight.sum()
    )
    assert ensemble.weights_ == pytest.approx(plain.weights_, abs=0.02)
    assert ensemble.history_[0].score > max(
        trial.score for trial in ensemble.history_[1:]
    )


@pytest.mark.parametrize("method", ["sigmoid", "temperature"])
def test_the_scale_of_sample_weights_does_not_undo_calibration(
    method: str, iris: Data
) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE], weights=None, calibrate=method)
    weight = 1 + np.arange(150.0) % 2 / 2
    plain = ensemble.fit(X, y, sample_weight=weight).predict_proba(X)
    tiny = ensemble.fit(X, y, sample_weight=weight / weight.sum()).predict_proba(X)
    assert tiny == pytest.approx(plain, abs=0.02)


def test_whole_weights_stand_for_as_many_samples() -> None:
    whole = np.array([0.0, 2.0, 3.0, 1.0])
    assert effective_size(whole) == 6
    assert scale_to_effective_size(whole) is whole
    assert effective_size(np.full(50, 1e-200)) == pytest.approx(50)
    assert effective_size(np.full(50, 0.02)) == pytest.approx(50)
    assert effective_size(np.array([1e-3] + [1e-9] * 9)) == pytest.approx(1, abs=1e-4)


def test_a_pool_is_never_worse_than_one_member_or_all_where_it_was_learned() -> None:
    # A class with four samples: the ridge alone would be worse than the second member.
    X, y = make_classification(120, 8, n_informative=5, random_state=0)
    X, y = np.vstack([X, X[:4] + 3]), np.append(y, [2] * 4)
    members = [NB, ("lr", LogisticRegression(max_iter=500)), ("d", DummyClassifier())]
    for weights in ("convex", "free"):
        ensemble = EnsembleClassifier(members, weights=weights, cv=3).fit(X, y)
        kept = [t for t in ensemble.history_ if (t.weights == ensemble.weights_).all()]
        assert kept[0].score >= ensemble.scores_.max()
        assert kept[0].score >= ensemble.history_[1].score


@pytest.mark.parametrize("rule", ["log_pool", "product", "geometric_mean"])
def test_infinite_probabilities_are_refused(rule: str) -> None:
    stack = np.full((2, 3, 2), 0.5)
    stack[1, 2, 0] = np.inf
    with pytest.raises(ValueError, match=r"must be finite .*: members\[1\] has inf"):
        COMBINERS[rule](stack)


def test_a_member_that_predicts_infinity_is_named(iris: Data) -> None:
    class Infinite(GaussianNB):
        def predict_proba(self, X: Any) -> Any:
            return super().predict_proba(X) / 0.0

    X, y = iris
    for rule in ("mean", "borda", "median"):
        ensemble = EnsembleClassifier([("i", Infinite())], rule=rule, weights=None)
        with (
            np.errstate(all="ignore"),
            pytest.raises(ValueError, match="member 'i' mu"),
        ):
            ensemble.fit(X, y).predict(X)
