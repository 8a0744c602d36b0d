"""Scores of learned weights by rows that they were not learned from; splits."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, make_classification
from sklearn.dummy import DummyClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    KFold,
    LeaveOneOut,
    StratifiedGroupKFold,
    StratifiedKFold,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import COMBINERS, EnsembleClassifier, EnsembleRegressor
from ensembles.predictions.fitting.cross_fitting import MAX_ROWS, N_FOLDS, weight_folds
from ensembles.predictions.fitting.log_pool_weights import CROSS_FIT_TOLERANCE, PoolLoss
from ensembles.predictions.fitting.weight_fitting import warn_if_no_gain
from tests.predictions.held_out import classes_held

Data = tuple[Any, Any]
NB = ("nb", GaussianNB())
TREE = ("tree", DecisionTreeClassifier(max_depth=3, random_state=0))
NEAR = ("near", KNeighborsClassifier(9))

quiet = pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")


class Noise(GaussianNB):
    """Predicts at random, the same for the same row."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def predict_proba(self, X: Any) -> Any:
        share = (np.asarray(X)[:, 0] * (self.seed + 1) * 1000) % 1
        return np.column_stack([1 - share, share])


@quiet
@pytest.mark.parametrize("weights", ["convex", "free", "greedy", "top_k", "best"])
def test_weights_of_noise_are_scored_as_noise(
    weights: str, rng: np.random.Generator
) -> None:
    X, y = rng.uniform(size=(200, 1)), rng.integers(2, size=200)
    members = [(f"n{seed}", Noise(seed)) for seed in range(30)]
    rule = "log_pool" if weights in ("convex", "free") else "mean"
    ensemble = EnsembleClassifier(members, rule=rule, weights=weights).fit(X, y)
    fresh = rng.uniform(size=(4000, 1)), rng.integers(2, size=4000)
    test = -log_loss(fresh[1], ensemble.predict_proba(fresh[0]))
    learned = max(trial.score for trial in ensemble.history_)
    assert ensemble.oof_score_ < np.log(0.5) + 1e-3  # chance
    assert ensemble.oof_score_ < learned
    assert ensemble.oof_score_ == pytest.approx(test, abs=0.15 + abs(learned - test))


@quiet
def test_the_score_is_that_of_weights_learned_on_the_other_folds(iris: Data) -> None:
    X, y = iris
    splitter = StratifiedKFold(3)
    members = [NB, TREE, NEAR]
    ensemble = EnsembleClassifier(members, rule="mean", weights="convex", cv=splitter)
    ensemble.fit(X, y)
    combined = np.empty((150, 3))
    for train, test in splitter.split(X, y):
        known = COMBINERS["mean"]
        part = ensemble.oof_[:, train]
        again = EnsembleClassifier(
            [(f"m{i}", FrozenEstimator(Record(part[i], y[train]))) for i in range(3)],
            rule="mean",
            weights="convex",
            cv="prefit",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again.fit(np.arange(len(train))[:, None], y[train])
        combined[test] = known(ensemble.oof_[:, test], again.weights_)
    assert ensemble.oof_score_ == pytest.approx(-log_loss(y, combined), rel=1e-6)


class Record(DummyClassifier):
    """Answers row numbers from an array."""

    def __init__(self, shares: Any = None, y: Any = None) -> None:
        super().__init__()
        self.shares = shares
        self.y = y
        self.classes_ = np.unique(y) if y is not None else None
        self.n_features_in_ = 1

    def predict_proba(self, X: Any) -> Any:
        return self.shares[np.asarray(X)[:, 0].astype(int)]


@quiet
def test_many_members_on_few_rows_do_not_look_better_than_they_are() -> None:
    X, y = make_classification(
        3000, 10, n_informative=3, flip_y=0.3, class_sep=0.7, random_state=3
    )
    members = [
        *((f"near {k}", KNeighborsClassifier(k)) for k in (3, 5, 9, 15, 25)),
        *((f"tree {d}", DecisionTreeClassifier(max_depth=d)) for d in (1, 2, 3, 4, 6)),
        *((f"lr {c}", LogisticRegression(C=c)) for c in (0.01, 1.0, 100.0)),
    ]
    for _, member in members[5:10]:
        member.set_params(random_state=0)
    excess, learned = [], []
    for draw in range(6):
        rows, rest = slice(200 * draw, 200 * draw + 200), slice(1200, None)
        ensemble = EnsembleClassifier(members).fit(X[rows], y[rows])
        test = -log_loss(y[rest], ensemble.predict_proba(X[rest]))
        excess.append(ensemble.oof_score_ - test)
        learned.append(ensemble.history_[0].score - test)
    noise = float(np.std(excess, ddof=1)) / np.sqrt(6)
    assert np.mean(excess) < 2 * noise
    assert np.mean(excess) < np.mean(learned) - 0.01


@quiet
def test_a_regressors_score_is_honest_too() -> None:
    X, y = load_diabetes(return_X_y=True)
    members = [(f"near {k}", KNeighborsRegressor(k)) for k in (2, 4, 8, 16, 32)]
    ensemble = EnsembleRegressor(members).fit(X[:150], y[:150])
    assert ensemble.oof_score_ < ensemble.history_[-1].score


def test_a_difference_within_noise_is_no_warning(iris: Data) -> None:
    # The pool scores a hair less than its best member: nothing to be told of.
    X, y = make_classification(400, 6, n_informative=4, random_state=0)
    members = [("lr", LogisticRegression()), ("same", LogisticRegression(C=0.99))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EnsembleClassifier(members).fit(X, y)


def test_a_selection_that_is_worse_than_the_best_member_is_warned_of(
    rng: np.random.Generator,
) -> None:
    X, y = rng.uniform(size=(100, 1)), rng.integers(2, size=100)
    members = [("prior", DummyClassifier()), *((f"n{i}", Noise(i)) for i in range(20))]
    ensemble = EnsembleClassifier(members, weights="free")
    with pytest.warns(
        UserWarning, match="selection 'free' did not beat the best member: learned on"
    ):
        ensemble.fit(X, y)


@pytest.mark.parametrize("kind", ["all", "one row", "mask", "slice"])
def test_splits_whose_halves_share_rows_are_refused(kind: str, iris: Data) -> None:
    every = np.arange(150)
    splits = {
        "all": [(every, every)],
        "one row": [(every[:75], every[75:]), (every[74:], every[:75])],
        "mask": [(every < 80, every >= 79)],
        "slice": [(slice(0, 100), slice(50, 150))],
    }[kind]
    ensemble = EnsembleClassifier([NB, TREE], cv=splits)
    message = "cv must have disjoint training and test rows: in split .,"
    with pytest.raises(ValueError, match=message):
        ensemble.fit(*iris)


@quiet
def test_splits_may_be_masks_or_slices_or_leave_rows_out(iris: Data) -> None:
    every = np.arange(150)
    plain = EnsembleClassifier([NB, TREE], cv=[(every[:90], every[90:])]).fit(*iris)
    for split in [(every < 90, every >= 90), (slice(0, 90), slice(90, 150))]:
        ensemble = EnsembleClassifier([NB, TREE], cv=[split]).fit(*iris)
        assert ensemble.weights_.tolist() == plain.weights_.tolist()
    bootstrap = np.repeat(every[:50], 2)  # a row twice in one half is no overlap
    EnsembleClassifier([NB, TREE], cv=[(bootstrap, every[50:])]).fit(*iris)
    with pytest.raises(ValueError, match="cv must contain indices of the 150 rows"):
        EnsembleClassifier([NB], cv=[(every, [150])]).fit(*iris)


@quiet
@pytest.mark.filterwarnings("ignore:weights and calibration are learned from")
def test_frozen_members_alone_may_be_asked_about_all_rows(iris: Data) -> None:
    X, y = iris
    frozen = [(n, FrozenEstimator(m.fit(X[:75], y[:75]))) for n, m in (NB, TREE)]
    rest = np.arange(75)
    EnsembleClassifier(frozen, cv=[(rest, rest)]).fit(X[75:], y[75:])


def test_a_used_up_generator_is_reported(iris: Data) -> None:
    splits = KFold(3).split(*iris)
    list(splits)
    with pytest.raises(ValueError, match=r"found none; a generator is exhausted after"):
        EnsembleClassifier([NB, TREE], cv=splits).fit(*iris)


def test_groups_that_are_lacking_are_reported(iris: Data) -> None:
    ensemble = EnsembleClassifier([NB, TREE], cv=StratifiedGroupKFold(3))
    message = r"cv=StratifiedGroupKFold\(.*must get groups: .*pass cv=list\(sp"
    with pytest.raises(ValueError, match=message):
        ensemble.fit(*iris)


@quiet
def test_leaving_one_out_learns_weights_six_times_at_most(iris: Data) -> None:
    X, y = (part[:60] for part in iris)
    ensemble = EnsembleClassifier([NB], cv=LeaveOneOut(), rule="mean", weights="convex")
    assert ensemble.fit(X, y).oof_score_ <= 0
    held = classes_held(0, 2, 60, 2, "plain", "none")._replace(folds=np.arange(60))
    folds = weight_folds(held)
    assert folds is not None
    assert len(folds) == N_FOLDS
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(60))


def test_weight_folds_by_hold_each_class_or_are_none() -> None:
    held = classes_held(0, 2, 30, 3, "plain", "none")
    order = np.argsort(held.y, kind="stable")
    held = held.subset(order)._replace(folds=np.repeat([0, 1, 2], 10))
    folds = weight_folds(held)  # the given ones would lack a class each
    assert folds is not None
    assert all(len(np.unique(held.y[train])) == 3 for train, _ in folds)
    single = held.subset(np.array([0, 1, 2, 3, 29]))
    assert weight_folds(single) is None


@quiet
def test_out_of_fold_predictions_need_not_be_kept(iris: Data) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE]).fit(X, y)
    full, expected = len(pickle.dumps(ensemble)), ensemble.predict_proba(X).tolist()
    ensemble.set_params(keep_oof=False).fit(X, y)
    assert ensemble.oof_ is None
    assert len(pickle.dumps(ensemble)) < full - 2 * 150 * 3 * 8 + 500
    assert ensemble.predict_proba(X).tolist() == expected
    regressor = EnsembleRegressor([("r", Ridge())], keep_oof=False)
    assert regressor.fit(X, y).oof_ is None


@quiet
def test_a_scorer_of_all_rows_alone_scores_what_was_learned_from(iris: Data) -> None:
    X, y = iris
    weight = np.linspace(1, 2, len(y))

    def of_all(member: Any, X: Any, y: Any) -> float:
        return float(np.average(member.predict(X) == y, weights=weight))

    ensemble = EnsembleClassifier([NB, TREE], rule="mean", weights="greedy")
    with pytest.warns(
        UserWarning, match="oof_score_ is computed on the rows .* failed on"
    ):
        ensemble.set_params(scoring=of_all).fit(X, y)
    assert ensemble.oof_score_ == max(trial.score for trial in ensemble.history_)


def test_of_many_rows_some_are_learned_from_for_the_score() -> None:
    held = classes_held(0, 2, 3 * MAX_ROWS, 2, "plain", "none")
    every = np.arange(len(held.y))
    held = held._replace(folds=every % 3)
    folds = weight_folds(held)
    assert folds is not None
    for train, test in folds:
        assert len(np.unique(train)) == len(train) == MAX_ROWS
        assert not np.isin(train, test).any()
    assert np.array_equal(np.sort(np.concatenate([t for _, t in folds])), every)


def test_a_pool_of_part_of_the_rows_is_near_its_minimum() -> None:
    held = classes_held(0, 4, 300, 3, "plain", "any")
    loss = PoolLoss(held, 1e-5, signed=False)
    near = loss.without_intercepts(np.array([0.9, 0.1, 0.1, 0.0]))
    found = loss.minimize(), loss.minimize(near, CROSS_FIT_TOLERANCE)
    values = [loss.unpenalized(pool) for pool in found]
    assert values[1] == pytest.approx(values[0], abs=1e-4)
    alone = [loss.unpenalized(loss.without_intercepts(one)) for one in np.eye(4)]
    np.testing.assert_allclose(loss.member_losses(), alone)


@pytest.mark.parametrize("step", [-1, 0, 1])
def test_a_tie_but_for_rounding_is_as_good_as_the_best_member(step: int) -> None:
    value = float(np.nextafter(-0.3, -0.3 + step))
    with pytest.warns(UserWarning, match="did not beat the best member"):
        warn_if_no_gain("greedy", value, -0.3, "a")
