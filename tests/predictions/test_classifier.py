from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_multilabel_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import (
    KFold,
    RepeatedKFold,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import COMBINERS, EnsembleClassifier
from ensembles.predictions.calibration.calibrator import METHODS
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.members.precomputed import PrecomputedClassifier
from tests.predictions.doubles import Counting, Saying

Data = tuple[Any, Any]
NB = ("nb", GaussianNB())
TREE = ("tree", DecisionTreeClassifier(max_depth=3, random_state=0))
NEAR = ("near", KNeighborsClassifier(9))

# Members are few here, and need not help each other.
pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)


@pytest.fixture
def multilabel() -> Data:
    X, Y = make_multilabel_classification(150, 8, n_classes=3, random_state=0)
    return X, Y


def test_the_default_weighs_out_of_fold_and_beats_its_best_member(iris: Data) -> None:
    ensemble = EnsembleClassifier([NB, TREE, NEAR]).fit(*iris)
    assert ensemble.oof_.shape == (3, 150, 3)
    assert ensemble.best_index_ == np.argmax(ensemble.scores_)
    learned = ensemble.history_[0].score  # on the rows that it was learned from
    assert learned >= max(ensemble.scores_.max(), ensemble.oof_score_)
    assert (ensemble.weights_ >= 0).all()


def test_held_out_predictions_are_those_of_the_folds_and_reusable(iris: Data) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE], rule="mean", weights="convex").fit(X, y)
    for train, test in StratifiedKFold(5).split(X, y):
        expected = GaussianNB().fit(X[train], y[train]).predict_proba(X[test])
        assert ensemble.oof_[0, test] == pytest.approx(expected)
    combined = COMBINERS["mean"](ensemble.oof_, ensemble.weights_)
    assert ensemble.history_[-1].score == pytest.approx(-log_loss(y, combined))
    assert ensemble.scores_[1] == pytest.approx(-log_loss(y, ensemble.oof_[1]))


def test_weights_of_any_sign_do_no_worse_than_those_that_are_not_negative(
    iris: Data,
) -> None:
    ensemble = EnsembleClassifier([NB, TREE, NEAR], scoring="neg_log_loss")
    convex = ensemble.fit(*iris).history_[0].score
    free = ensemble.set_params(weights="free").fit(*iris).history_[0].score
    assert free >= convex - 1e-3  # the ridge counts, too
    message = "weights='free' must be used with rule 'log_pool', found rule 'mean'"
    with pytest.raises(ValueError, match=message):
        ensemble.set_params(rule="mean").fit(*iris)


def test_a_pools_history_has_its_weights_equal_ones_and_the_best_member(
    iris: Data,
) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE, NEAR]).fit(X, y)
    learned, equal, best = ensemble.history_
    assert learned.weights.tolist() == ensemble.weights_.tolist()
    known = {"intercept": ensemble.intercept_, **ensemble.rule_params_}
    pooled = COMBINERS["log_pool"](ensemble.oof_, ensemble.weights_, **known)
    assert learned.score == pytest.approx(-log_loss(y, pooled))
    assert equal.weights.tolist() == [1 / 3] * 3
    assert best.score == pytest.approx(ensemble.scores_.max())
    assert learned.score > max(equal.score, best.score)


def test_a_scoring_that_does_not_choose_a_pools_weights_is_warned_of(
    iris: Data,
) -> None:
    ensemble = EnsembleClassifier([NB, TREE, NEAR])
    plain = ensemble.fit(*iris).weights_.tolist()
    with pytest.warns(UserWarning, match="scoring='roc_auc_ovr' is only reported"):
        ensemble.set_params(scoring="roc_auc_ovr").fit(*iris)
    assert ensemble.weights_.tolist() == plain
    assert ensemble.oof_score_ > 0.9
    ensemble.set_params(weights="greedy").fit(*iris)  # which it chooses, in silence
    ensemble.set_params(weights=None).fit(*iris)


def test_given_weights_of_a_pool_are_shares_of_their_sum(iris: Data) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE], weights=[3, 2], calibrate="sigmoid")
    ensemble.fit(X, y)
    # Calibrated by the other folds: the members, then what they make together.
    cross_calibrate = [crossed("sigmoid", said, y) for said in ensemble.oof_]
    pooled = crossed("sigmoid", COMBINERS["log_pool"](cross_calibrate, [0.6, 0.4]), y)
    assert ensemble.oof_score_ == pytest.approx(-log_loss(y, pooled))
    expected = [-log_loss(y, said) for said in cross_calibrate]
    assert ensemble.scores_ == pytest.approx(expected, rel=1e-3)  # raised to the floor


def crossed(method: str, said: Any, y: Any) -> Any:
    """Probabilities calibrated by scikit-learn itself, fold by fold."""
    out = np.empty_like(said)
    for train, test in StratifiedKFold(5).split(said, y):
        labels = ClassOutputs([np.unique(y)], False, False, False, "error")
        cv = [(np.arange(len(train)),) * 2]
        model = CalibratedClassifierCV(
            PrecomputedClassifier(labels), method=method, cv=cv
        )
        out[test] = model.fit(said[train], y[train]).predict_proba(said[test])
    return out


@pytest.mark.parametrize("weighted", [False, True])
def test_calibration_does_not_praise_what_it_learned_by_heart(
    weighted: bool, rng: np.random.Generator
) -> None:
    class Noise(GaussianNB):
        def predict_proba(self, X: Any) -> Any:
            share = X[:, 0] % 1
            return np.column_stack([1 - share, share])

    X, y = rng.uniform(size=(200, 1)), rng.integers(2, size=200)
    members = [("noise", Noise()), ("prior", DummyClassifier())]
    ensemble = EnsembleClassifier(members, rule="mean", calibrate="isotonic")
    weight = np.where(np.arange(200) % 3, 1.0, 0.0) if weighted else None
    ensemble.fit(X, y, sample_weight=weight)
    assert ensemble.best_index_ == 1
    assert np.asarray(ensemble.oof_score_) < -0.68


def test_a_class_held_out_once_is_calibrated_by_itself(iris: Data) -> None:
    X, y = iris
    some = np.flatnonzero(y != 2).tolist() + np.flatnonzero(y == 2)[:3].tolist()
    X, y = X[some], y[some]
    splits = [(np.append(np.arange(75), [101, 102]), np.arange(75, 101))]
    ensemble = EnsembleClassifier([NB, TREE], cv=splits, calibrate="sigmoid")
    assert ensemble.fit(X, y).score(X, y) > 0.8


def test_one_odd_row_does_not_change_the_temperature_of_the_others(
    iris: Data,
) -> None:
    class Odd(GaussianNB):
        def predict_proba(self, X: Any) -> Any:
            shares = super().predict_proba(X)
            shares[X[:, 0] > 6.5] *= 0.9
            return shares

    X, y = iris
    ensemble = EnsembleClassifier([("odd", Odd()), NEAR], rule="mean", weights=None)
    whole = ensemble.set_params(calibrate="temperature").fit(X, y).predict_proba(X)
    alone = np.vstack([ensemble.predict_proba(row[None]) for row in X])
    assert whole == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("scoring", ["accuracy", "roc_auc_ovr", "neg_log_loss"])
def test_scorers_are_asked_of_the_combination(scoring: str, iris: Data) -> None:
    ensemble = EnsembleClassifier([NB, TREE], rule="mean", weights="greedy")
    ensemble.set_params(scoring=scoring, weights_params={"n_rounds": 5}).fit(*iris)
    assert len(ensemble.history_) == 5
    best = max(trial.score for trial in ensemble.history_)
    assert ensemble.oof_score_ == pytest.approx(best, abs=0.02)
    combined = COMBINERS["mean"](ensemble.oof_, ensemble.weights_)
    labels = ClassOutputs([ensemble.classes_], False, False, False, "error")
    own = get_scorer(scoring)(PrecomputedClassifier(labels), combined, iris[1])
    assert best == pytest.approx(own, abs=1e-12)


def test_held_out_data_may_lack_a_class_that_members_know(iris: Data) -> None:
    X, y = iris
    known = np.flatnonzero(y != 2)[::2]
    splits = [(np.setdiff1d(np.arange(150), known), known)]
    ensemble = EnsembleClassifier([NB, TREE], rule="mean", weights="greedy", cv=splits)
    expected = ensemble.fit(X, y).oof_score_
    assert ensemble.set_params(scoring="neg_log_loss").fit(X, y).oof_score_ == expected
    combined = COMBINERS["mean"](ensemble.oof_[:, known], ensemble.weights_)
    loss = log_loss(y[known], combined, labels=[0, 1, 2])
    scores = [trial.score for trial in ensemble.history_]
    assert max(scores) == pytest.approx(-loss, rel=1e-9)
    message = r"held-out data lack classes \[2\]: hold out"
    with pytest.raises(ValueError, match=message):
        ensemble.set_params(scoring="roc_auc_ovr").fit(X, y)


def test_bags_of_a_selection_are_drawn_by_random_state(iris: Data) -> None:
    params = {"n_bags": 3, "n_rounds": 4}
    ensemble = EnsembleClassifier([NB, TREE, NEAR], rule="mean", weights="greedy")
    ensemble.set_params(weights_params=params)
    found = [
        ensemble.set_params(random_state=seed).fit(*iris).weights_.tolist()
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("rule", ["mean", "vote", "log_pool", "rank_mean", "median"])
@pytest.mark.parametrize("labels", [["a", "b", "c"], [5, 6, 7], [False, True, True]])
def test_labels_are_kept_by_value(rule: str, labels: list[Any], iris: Data) -> None:
    X, y = iris[0], np.array(labels)[iris[1]]
    ensemble = EnsembleClassifier([NB, TREE], rule=rule, weights=None).fit(X, y)
    assert ensemble.classes_.tolist() == sorted(set(labels))
    assert ensemble.score(X, y) > 0.9


class Backwards(GaussianNB):
    """Has its classes in another order."""

    def fit(self, X: Any, y: Any) -> Any:
        super().fit(X, y)
        self.classes_ = np.unique(y)[::-1]
        return self

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(X)[:, ::-1]


def test_the_order_of_a_members_classes_does_not_matter(iris: Data) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([("back", Backwards())], rule="mean", weights=None)
    found = ensemble.fit(X, y).predict_proba(X)
    assert found == pytest.approx(GaussianNB().fit(X, y).predict_proba(X))


def test_a_frozen_member_beside_others_brings_its_classes(iris: Data) -> None:
    X, y = iris
    frozen = ("frozen", FrozenEstimator(GaussianNB().fit(X, y)))
    ensemble = EnsembleClassifier([frozen, TREE], weights=None, missing_class="zero")
    ensemble.fit(X[y != 1], y[y != 1])
    assert ensemble.classes_.tolist() == [0, 1, 2]
    ensemble.set_params(missing_class="error")
    with pytest.raises(
        ValueError, match=r"member 'tree' must have every class: it lacks 1"
    ):
        ensemble.fit(X[y != 1], y[y != 1])


def test_a_member_with_labels_of_another_kind_is_named(iris: Data) -> None:
    X, y = iris
    member = GaussianNB().fit(X, y.astype(str))
    ensemble = EnsembleClassifier([("nb", member)], cv="prefit", weights=None)
    message = r"classes of member 'nb' must have the type of y's: found \['0', "
    with pytest.raises(ValueError, match=message):
        ensemble.fit(X, y)


def test_a_fold_may_lack_a_class(iris: Data) -> None:
    X, y = iris
    order = np.argsort(y, kind="stable")
    ensemble = EnsembleClassifier([NB, TREE], cv=KFold(3)).fit(X[order], y[order])
    assert (ensemble.oof_[:, :50, 0] == 0).all()
    assert ensemble.score(X, y) > 0.3


def test_samples_that_no_split_holds_out_are_not_learned_from(iris: Data) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE], cv=TimeSeriesSplit(4)).fit(X, y)
    unknown = np.isnan(ensemble.oof_).all(axis=(0, 2))
    assert unknown.nonzero()[0].tolist() == list(range(30))
    known = {"intercept": ensemble.intercept_, **ensemble.rule_params_}
    pooled = COMBINERS["log_pool"](ensemble.oof_[:, 30:], ensemble.weights_, **known)
    assert ensemble.history_[0].score == pytest.approx(-log_loss(y[30:], pooled))
    assert ensemble.oof_score_ == pytest.approx(ensemble.history_[0].score, abs=0.05)


def test_sample_weights_go_with_the_samples_that_are_held_out(iris: Data) -> None:
    X, y = iris
    weight = 0.5 + np.arange(150.0) % 4
    ensemble = EnsembleClassifier([NB, TREE], cv=TimeSeriesSplit(4))
    ensemble.fit(X, y, sample_weight=weight)
    known = {"intercept": ensemble.intercept_, **ensemble.rule_params_}
    pooled = COMBINERS["log_pool"](ensemble.oof_[:, 30:], ensemble.weights_, **known)
    expected = -log_loss(y[30:], pooled, sample_weight=weight[30:])
    assert ensemble.history_[0].score == pytest.approx(expected)
    ensemble = EnsembleClassifier([NB, TREE], rule="mean", weights="greedy")
    ensemble.set_params(cv=TimeSeriesSplit(4)).fit(X, y, sample_weight=weight)
    combined = COMBINERS["mean"](ensemble.oof_[:, 30:], ensemble.weights_)
    expected = -log_loss(y[30:], combined, sample_weight=weight[30:])
    best = max(trial.score for trial in ensemble.history_)
    assert best == pytest.approx(expected)
    ensemble.set_params(calibrate="sigmoid").fit(X, y, sample_weight=weight)
    assert ensemble.score(X, y) > 0.9


def test_what_is_held_out_twice_counts_by_its_mean(iris: Data) -> None:
    X, y = iris
    half = np.arange(75)
    ensemble = EnsembleClassifier([NB, TREE], cv=iter([(half, half + 75)] * 2))
    once = EnsembleClassifier([NB, TREE], cv=[(half, half + 75)])
    assert np.array_equal(ensemble.fit(X, y).oof_, once.fit(X, y).oof_, equal_nan=True)
    repeated = RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)
    assert not np.isnan(ensemble.set_params(cv=repeated).fit(X, y).oof_).any()
    with pytest.raises(ValueError, match="cv must have at least one split, found none"):
        ensemble.set_params(cv=[]).fit(X, y)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(-100, 101, dtype=np.int8),  # their differences are no int8
        np.arange(2**63 - 3, 2**63, dtype=np.int64),
        np.array([-(2**63), 2**63 - 1]),
        np.arange(3, dtype=np.uint8),
    ],
)
def test_votes_are_counted_for_whole_numbers_of_any_width(labels: Any) -> None:
    labels = np.repeat(labels, 3)
    X = labels[:, None]
    member = ("a", Saying(labels.dtype.str))
    ensemble = EnsembleClassifier([member], rule="vote", weights=None).fit(X, labels)
    assert ensemble.predict(X).tolist() == labels.tolist()
    with pytest.raises(ValueError, match="labels of member 'a' must be among the cl"):
        ensemble.fit(X[:-3], labels[:-3]).predict(X)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", ["mean", "vote", "log_pool"])
def test_calibration_gives_probabilities(method: str, rule: str, iris: Data) -> None:
    X, y = iris[0], np.array(["a", "b", "c"])[iris[1]]
    ensemble = EnsembleClassifier([NB, TREE], rule=rule, weights=None)
    shares = ensemble.set_params(calibrate=method).fit(X, y).predict_proba(X)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert ensemble.score(X, y) > 0.9
    # Votes of a member are no probabilities: what they make together is.
    assert (ensemble.calibrators_ == [None, None]) == (rule == "vote")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", [[1, 2, 3], [-7, 0, 10**9], [0.0, 2.0, 7.0], "abc"])
def test_calibration_does_not_depend_on_what_labels_are_called(
    method: str, labels: list[Any] | str, iris: Data
) -> None:
    X, y = iris
    ensemble = EnsembleClassifier([NB, TREE], rule="mean", calibrate=method)
    expected = ensemble.fit(X, y).predict_proba(X)
    found = ensemble.fit(X, np.array(list(labels))[y]).predict_proba(X)
    assert found.tobytes() == expected.tobytes()


def test_calibration_tempers_a_member_that_is_too_sure(
    rng: np.random.Generator,
) -> None:
    X = np.repeat(rng.normal(size=(300, 1)), 8, axis=1)  # eight times the same
    y = (X[:, 0] + rng.normal(size=300) > 0).astype(int)
    plain = EnsembleClassifier([NB], rule="mean", weights=None).fit(X[:200], y[:200])
    sure = log_loss(y[200:], plain.predict_proba(X[200:]))
    tempered = plain.set_params(calibrate="temperature").fit(X[:200], y[:200])
    assert log_loss(y[200:], tempered.predict_proba(X[200:])) < sure - 0.05


def test_a_class_that_was_never_held_out_is_not_calibrated(iris: Data) -> None:
    X, y = iris
    order = np.argsort(y, kind="stable")[::-1]  # the last species comes first
    splits = [(np.arange(100), np.arange(100, 150))]
    ensemble = EnsembleClassifier([NB], cv=splits, calibrate="temperature")
    shares = ensemble.fit(X[order], y[order]).predict_proba(X)
    assert shares.shape == (150, 3)


MULTILABEL = [
    NEAR,  # a list of arrays
    ("rest", OneVsRestClassifier(GaussianNB())),  # one array
    ("each", MultiOutputClassifier(LogisticRegression())),  # a list
]


@pytest.mark.parametrize(
    ("rule", "weights"),
    [("log_pool", "convex"), ("mean", "greedy"), ("vote", None), ("rank_mean", None)],
)
def test_multilabel_targets_are_combined_label_by_label(
    rule: str, weights: Any, multilabel: Data
) -> None:
    X, Y = multilabel
    ensemble = EnsembleClassifier(MULTILABEL, rule=rule, weights=weights).fit(X, Y)
    shares = ensemble.predict_proba(X)
    assert [share.shape for share in shares] == [(150, 2)] * 3
    assert ensemble.predict(X).shape == Y.shape
    assert (ensemble.predict(X) == Y).mean() > 0.8


def test_a_multilabel_mean_is_that_of_each_label(multilabel: Data) -> None:
    X, Y = multilabel
    ensemble = EnsembleClassifier(MULTILABEL, rule="mean", weights=None).fit(X, Y)
    near, rest, each = (member.fit(X, Y).predict_proba(X) for _, member in MULTILABEL)
    expected = (near[1][:, 1] + rest[:, 1] + each[1][:, 1]) / 3
    assert ensemble.predict_proba(X)[1][:, 1] == pytest.approx(expected)


def test_a_label_that_is_constant_is_no_missing_class(multilabel: Data) -> None:
    X, Y = multilabel
    Y = Y.copy()
    Y[:, 1] = 0
    ensemble = EnsembleClassifier([NEAR, TREE]).fit(X, Y)
    assert [known.tolist() for known in ensemble.classes_] == [[0, 1]] * 3
    assert not ensemble.predict(X)[:, 1].any()
    Y[:30, 1] = 1
    ensemble.set_params(cv=KFold(5)).fit(X[::-1], Y[::-1])
    assert (ensemble.oof_[1][1, 120:, 1] == 0).all()  # constant where it was fitted


@pytest.mark.parametrize("labels", [(-1, 1), (1, 2), (0, 5), (False, True)])
@pytest.mark.parametrize("rule", ["log_pool", "vote"])
def test_labels_of_other_names_than_0_and_1_are_kept(
    rule: str, labels: tuple[int, int], multilabel: Data
) -> None:
    X, Y = multilabel
    weights = None if rule == "vote" else "convex"
    ensemble = EnsembleClassifier([NEAR, TREE], rule=rule, weights=weights)
    expected = ensemble.fit(X, Y).predict(X)
    found = ensemble.fit(X, np.array(labels)[Y]).predict(X)
    assert [known.tolist() for known in ensemble.classes_] == [list(labels)] * 3
    assert found.tolist() == np.array(labels)[expected].tolist()


def test_sparse_multilabel_targets_are_taken(multilabel: Data) -> None:
    X, Y = multilabel
    ensemble = EnsembleClassifier([NEAR, TREE], weights=None)
    expected = ensemble.fit(X, Y).predict(X).tolist()
    assert ensemble.fit(X, sparse.csr_array(Y)).predict(X).tolist() == expected


@pytest.mark.parametrize("dtype", [int, str])
@pytest.mark.parametrize("rule", ["log_pool", "vote"])
def test_several_targets_have_classes_of_their_own(
    dtype: Any, rule: str, iris: Data
) -> None:
    X, y = iris
    Y = np.column_stack([y, 7 - y]).astype(dtype)
    weights = None if rule == "vote" else "convex"
    ensemble = EnsembleClassifier([NEAR, TREE], rule=rule, weights=weights).fit(X, Y)
    assert ensemble.classes_[1].tolist() == np.unique(Y[:, 1]).tolist()
    assert (ensemble.predict(X) == Y).mean() > 0.9


def test_a_member_of_one_target_is_named_among_several(iris: Data) -> None:
    X, y = iris
    member = ("nb", FrozenEstimator(GaussianNB().fit(X, y)))
    ensemble = EnsembleClassifier([member], weights=None)
    with pytest.raises(ValueError, match=r"'nb' must have one prediction per target: "):
        ensemble.fit(X, np.column_stack([y, y]))


def test_a_member_without_probabilities_is_told_before_any_is_fitted(
    iris: Data,
) -> None:
    Counting.fits.clear()
    hard = VotingClassifier([NB, TREE])  # neither probabilities nor decision values
    ensemble = EnsembleClassifier([("first", Counting()), ("hard", hard)])
    message = "'hard' must have predict_proba or decision_function for this rule: Voti"
    with pytest.raises(ValueError, match=message):
        ensemble.fit(*iris)
    assert Counting.fits.total() == 0
    ensemble.set_params(rule="vote", weights=None)
    assert ensemble.fit(*iris).score(*iris) > 0.9


def test_float32_stays_where_all_members_answer_in_it(iris: Data) -> None:
    narrow = [("a", Saying("float32")), ("b", Saying("float32"))]
    ensemble = EnsembleClassifier(narrow, rule="mean", weights=None).fit(*iris)
    assert ensemble.predict_proba(iris[0]).dtype == np.float32
    ensemble.set_params(b=Saying("float64")).fit(*iris)
    assert ensemble.predict_proba(iris[0]).dtype == np.float64


def test_negative_weights_give_no_negative_probability(iris: Data) -> None:
    ensemble = EnsembleClassifier([NB, TREE], rule="mean", weights=[2, -1]).fit(*iris)
    shares = ensemble.predict_proba(iris[0])
    assert shares.min() == 0
    assert shares.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("rule", ["mean", "log_pool", "median", "minimum", "rank_mean"])
def test_members_without_weight_do_not_count(rule: str, iris: Data) -> None:
    silent = ("flat", DummyClassifier(strategy="uniform", random_state=0))
    ensemble = EnsembleClassifier([NB, silent, TREE], rule=rule, weights=[1, 0, 3])
    both = EnsembleClassifier([NB, TREE], rule=rule, weights=[1, 3]).fit(*iris)
    X = iris[0]
    found = ensemble.fit(*iris).predict_proba(X)
    assert found == pytest.approx(both.predict_proba(X), abs=1e-15)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": "maen"}, "unknown rule 'maen'; did you mean 'mean'"),
        ({"rule": "slerp"}, "rule 'slerp'"),
        ({"rule": "quantile_mean"}, "combines quantiles, which classifiers do not"),
        ({"weights": "gredy"}, "unknown selection 'gredy'; did you mean 'greedy'"),
        ({"weights": "wise_ft"}, "weights='wise_ft' needs a base, which an ensemble"),
        ({"weights": [1]}, "weights of 'log_pool' must be one number for each member"),
        ({"weights": [0, 0]}, "weights of 'log_pool' must not sum to zero"),
        (
            {"rule_params": {"flor": 1}},
            r"rule 'log_pool' \(known: floor, temperature\): found 'flor'",
        ),
        (
            {"rule_params": {"temperature": 2}},
            "rule_params must not set temperature if weights are learned",
        ),
        ({"rule_params": {"floor": 3}}, "floor must lie between 0 and 1, found 3"),
        ({"calibrate": "platt"}, "calibrate must be one of None, 'temperature', "),
        ({"missing_class": "drop"}, "missing_class must be one of 'error', 'zero'"),
        ({"on_error": "ignore"}, "on_error must be one of 'raise', 'drop'"),
        ({"cv": "prefitted"}, "Expected .?cv.? as an integer"),
    ],
    ids=str,
)
def test_wrong_parameters_are_reported(
    params: dict[str, Any], message: str, iris: Data
) -> None:
    ensemble = EnsembleClassifier([NB, TREE], **params)
    with pytest.raises(ValueError, match=message):
        ensemble.fit(*iris)


@pytest.mark.parametrize("wrong", [np.nan, -0.25])
def test_what_is_no_probability_is_reported(wrong: float, iris: Data) -> None:
    class Wrong(GaussianNB):
        def predict_proba(self, X: Any) -> Any:
            shares = super().predict_proba(X)
            shares[3, 1] = wrong
            return shares

    members = [NB, ("odd", Wrong())]
    for rule in ("mean", "log_pool", "median"):
        ensemble = EnsembleClassifier(members, rule=rule, weights=None).fit(*iris)
        with pytest.raises(ValueError, match=f"'odd' must predict .*: found {wrong}"):
            ensemble.predict(iris[0])
    ensemble.set_params(on_error="drop")
    with pytest.warns(UserWarning, match="odd"):
        assert ensemble.predict(iris[0]).shape == (150,)


@pytest.mark.parametrize("rule", ["mean", "vote"])
def test_a_member_that_is_a_row_short_is_named(rule: str, iris: Data) -> None:
    class Short(GaussianNB):
        def predict_proba(self, X: Any) -> Any:
            return super().predict_proba(X)[:-1]

        def predict(self, X: Any) -> Any:
            return super().predict(X)[:-1]

    ensemble = EnsembleClassifier([NB, ("short", Short())], rule=rule, weights=None)
    message = "member 'short' must predict one row per sample: found 149 rows"
    with pytest.raises(ValueError, match=message):
        ensemble.fit(*iris).predict(iris[0])
    ensemble.set_params(on_error="drop")
    with pytest.warns(UserWarning, match=message.replace("must", ".* must")):
        assert ensemble.predict(iris[0]).shape == (150,)
