from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.ensemble import VotingRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer, mean_pinball_loss, mean_squared_error
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeRegressor

from ensembles.predictions import EnsembleRegressor
from tests.predictions.doubles import Saying

Data = tuple[Any, Any]
RIDGE = ("ridge", Ridge(0.1))
NEAR = ("near", KNeighborsRegressor(20))
TREE = ("tree", DecisionTreeRegressor(max_depth=3, random_state=0))


@pytest.fixture
def diabetes() -> Data:
    X, y = load_diabetes(return_X_y=True)
    return X[:200], y[:200]


def test_the_default_weighs_out_of_fold_and_beats_its_best_member(
    diabetes: Data,
) -> None:
    X, y = diabetes
    ensemble = EnsembleRegressor([RIDGE, NEAR, TREE]).fit(X, y)
    assert ensemble.oof_.shape == (3, 200, 1)
    assert ensemble.oof_score_ > ensemble.scores_.max()
    assert ensemble.weights_.sum() == pytest.approx(1)
    said = ensemble.weights_ @ ensemble.oof_[:, :, 0]
    [trial] = ensemble.history_
    assert trial.score == pytest.approx(-mean_squared_error(y, said))
    assert ensemble.oof_score_ < trial.score  # by weights of the other folds


def test_equal_weights_are_those_of_voting(diabetes: Data) -> None:
    X, y = diabetes
    voting = VotingRegressor([RIDGE, NEAR], weights=[2, 1]).fit(X, y)
    ensemble = EnsembleRegressor([RIDGE, NEAR], weights=[2, 1]).fit(X, y)
    assert ensemble.predict(X) == pytest.approx(voting.predict(X))


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean", "minimum"])
def test_several_targets_are_combined_each_by_itself(rule: str, diabetes: Data) -> None:
    X, y = diabetes
    Y = np.column_stack([y, -y])
    members = [RIDGE, NEAR, TREE]
    ensemble = EnsembleRegressor(members, rule=rule, weights=None)
    said = ensemble.fit(X, Y).predict(X)
    assert said.shape == Y.shape
    alone = EnsembleRegressor([RIDGE, NEAR], rule=rule, weights=None).fit(X, y)
    assert alone.predict(X).shape == y.shape
    both = EnsembleRegressor([RIDGE, NEAR], rule=rule, weights=None).fit(X, Y)
    assert both.predict(X)[:, 0] == pytest.approx(alone.predict(X))


def test_geometric_means_are_those_of_numbers_not_of_shares(diabetes: Data) -> None:
    X, y = diabetes
    members = [NEAR, ("more", KNeighborsRegressor(5))]
    ensemble = EnsembleRegressor(members, rule="geometric_mean", weights=None)
    expected = np.sqrt(np.prod([m.fit(X, y).predict(X) for _, m in members], axis=0))
    assert ensemble.fit(X, y).predict(X) == pytest.approx(expected)


def test_quantiles_are_averaged_column_by_column(rng: np.random.Generator) -> None:
    X = rng.normal(size=(50, 3))
    members = [("a", Saying(width=3)), ("b", Saying(width=3))]
    ensemble = EnsembleRegressor(members, rule="quantile_mean", weights=None)
    said = ensemble.fit(X, X[:, 0]).predict(X)
    assert said == pytest.approx(np.sort(X, axis=1))
    message = "scoring must be given to learn weights='convex' of quantiles"
    with pytest.raises(ValueError, match=message):
        ensemble.set_params(weights="convex").fit(X, X[:, 0])
    with pytest.raises(ValueError, match="quantiles must be of one target, found 2"):
        ensemble.set_params(weights=None).fit(X, X[:, :2])


def test_quantiles_are_weighed_by_a_score_that_knows_them(
    rng: np.random.Generator,
) -> None:
    X = np.sort(rng.normal(size=(80, 3)), axis=1)
    y = X[:, 1]

    def median_loss(y: Any, said: Any) -> float:
        return float(mean_pinball_loss(y, said[:, 1]))

    members = [("a", Saying(width=3)), ("b", Saying("int64", width=3))]
    scoring = make_scorer(median_loss, greater_is_better=False)
    ensemble = EnsembleRegressor(members, rule="quantile_mean", scoring=scoring)
    ensemble.set_params(weights="greedy")
    with pytest.warns(UserWarning, match="did not beat the best member"):
        ensemble.fit(X, y)
    assert ensemble.weights_.tolist() == [1, 0]


def test_a_member_with_more_columns_than_targets_is_named(
    rng: np.random.Generator,
) -> None:
    X = rng.normal(size=(50, 3))
    ensemble = EnsembleRegressor([("a", Saying(width=3))], weights=None)
    with pytest.raises(ValueError, match=r"'a' must have one prediction per target: f"):
        ensemble.fit(X, X[:, 0]).predict(X)


def test_rules_of_classes_are_refused(diabetes: Data) -> None:
    ensemble = EnsembleRegressor([RIDGE], weights=None)
    for rule in ("vote", "log_pool", "rank_mean"):
        with pytest.raises(ValueError, match=f"rule '{rule}' combines .* of classes"):
            ensemble.set_params(rule=rule).fit(*diabetes)


def test_float32_stays_where_all_members_answer_in_it(diabetes: Data) -> None:
    X, y = diabetes
    members = [("a", Saying("float32")), ("b", Saying("float32"))]
    ensemble = EnsembleRegressor(members, weights=None).fit(X, y)
    assert ensemble.predict(X).dtype == np.float32
    assert ensemble.set_params(b=Saying()).fit(X, y).predict(X).dtype == np.float64


class Wrong(Ridge):
    """Says something that is no number of its row, in its sixth answer."""

    def __init__(self, said: Any = None) -> None:
        super().__init__()
        self.said = said

    def predict(self, X: Any) -> Any:
        found = super().predict(X)
        if self.said is None:
            return found[:-1]
        return np.where(np.arange(len(found)) == 5, self.said, found)


@pytest.mark.parametrize("weights", [None, "convex"])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        (np.nan, "must predict finite numbers: found nan"),
        (-np.inf, "must predict finite numbers: found -inf"),
        ("much", "must predict finite numbers: found '"),
        (None, r"must predict one row per sample: found \d+ rows"),
    ],
)
def test_what_is_no_number_of_a_row_is_reported(
    said: Any, message: str, weights: Any, diabetes: Data
) -> None:
    X, y = diabetes
    ensemble = EnsembleRegressor([RIDGE, ("n", Wrong(said))], weights=weights)
    with pytest.raises(ValueError, match=f"member 'n' {message}"):
        ensemble.fit(X, y).predict(X)
    ensemble.set_params(on_error="drop")
    with pytest.warns(UserWarning, match="member 'n' failed and is left out"):
        found = ensemble.fit(X, y).predict(X)
    assert found == pytest.approx(Ridge(0.1).fit(X, y).predict(X))


def test_no_member_is_a_base(diabetes: Data) -> None:
    with pytest.raises(ValueError, match="weights='wise_ft' needs a base, which an "):
        EnsembleRegressor([RIDGE, NEAR], weights="wise_ft").fit(*diabetes)
