"""A second layer, compared with the weights on held-out rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification, make_regression
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, LeaveOneOut, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from ensembles.predictions import EnsembleClassifier, EnsembleRegressor

MEMBERS = [
    ("bayes", GaussianNB()),
    ("tree", DecisionTreeClassifier(max_depth=3, random_state=0)),
]
VALUES = [
    ("line", Ridge()),
    ("tree", DecisionTreeRegressor(max_depth=3, random_state=0)),
]


def labelled(n_classes: int, seed: int = 0) -> tuple[Any, Any]:
    X, y = make_classification(
        400, n_informative=6, n_classes=n_classes, random_state=seed
    )
    return X, np.array(["a", "b", "c"])[y]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_final_classifier_predicts_as_the_stacking_of_scikit_learn(
    n_classes: int,
) -> None:
    X, y = labelled(n_classes)
    cv, final = StratifiedKFold(4), LogisticRegression(C=10)
    weights = [1, 0]  # a poor choice, so that the final estimator is used
    ours = EnsembleClassifier(
        MEMBERS, rule="mean", weights=weights, cv=cv, final_estimator=final
    )
    stacked = StackingClassifier(MEMBERS, final, cv=cv).fit(X, y)
    ours.fit(X, y)
    assert isinstance(ours.final_estimator_, LogisticRegression)
    np.testing.assert_allclose(
        ours.predict_proba(X), stacked.predict_proba(X), rtol=1e-6
    )
    assert (ours.predict(X) == stacked.predict(X)).all()


def test_a_final_regressor_predicts_as_the_stacking_of_scikit_learn() -> None:
    X, y = make_regression(200, 5, noise=20, random_state=0)
    cv, final = KFold(4), LinearRegression()
    ours = EnsembleRegressor(VALUES, weights=[0, 1], cv=cv, final_estimator=final)
    stacked = StackingRegressor(VALUES, final, cv=cv).fit(X, y)
    ours.fit(X, y)
    np.testing.assert_allclose(ours.predict(X), stacked.predict(X), rtol=1e-9)


def test_several_targets_have_a_final_estimator_each() -> None:
    X, y = labelled(2)
    targets = np.column_stack([y == "a", X[:, 0] > 0]).astype(int)
    trees = [("one", DecisionTreeClassifier(max_depth=1)), MEMBERS[1]]
    ensemble = EnsembleClassifier(
        trees, rule="mean", weights=[1, 0], final_estimator=LogisticRegression()
    ).fit(X, targets)
    assert len(ensemble.final_estimator_) == 2
    shares = [share.sum(axis=1) for share in ensemble.predict_proba(X)]
    np.testing.assert_allclose(shares, 1)


def test_weights_that_score_higher_are_used_and_the_user_is_warned() -> None:
    X, y = labelled(2)
    guess = LogisticRegression(C=1e-9)  # predicts the shares of the classes
    with pytest.warns(UserWarning, match="final_estimator .* is not used"):
        ensemble = EnsembleClassifier(MEMBERS, final_estimator=guess).fit(X, y)
    assert ensemble.final_estimator_ is None
    plain = EnsembleClassifier(MEMBERS).fit(X, y)
    np.testing.assert_array_equal(ensemble.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize("depth", [2, None])
def test_labels_of_noise_stay_at_chance(depth: int | None) -> None:
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(300, 4)), rng.integers(0, 2, 300)
    final = DecisionTreeClassifier(max_depth=depth, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that neither beats the best member
        ensemble = EnsembleClassifier(MEMBERS, final_estimator=final).fit(X, y)
    chance = -np.log(2)
    assert ensemble.oof_score_ < chance + 0.02
    new, labels = rng.normal(size=(2000, 4)), rng.integers(0, 2, 2000)
    assert -log_loss(labels, ensemble.predict_proba(new)) > chance - 0.05


def test_weights_of_rows_are_passed_to_the_final_estimator() -> None:
    X, y = labelled(2)
    weight = np.where(np.arange(len(y)) % 2, 1.0, 3.0)
    fits = []
    for data, kwargs in (((X, y), {"sample_weight": weight}), ((X, y), {})):
        ensemble = EnsembleClassifier(
            MEMBERS,
            rule="mean",
            weights=[1, 0],
            final_estimator=LogisticRegression(),
        )
        fits.append(ensemble.fit(*data, **kwargs).final_estimator_.coef_)
    assert not np.allclose(fits[0], fits[1])


@pytest.mark.parametrize(
    ("final", "error"),
    [
        (Ridge(), "must be a classifier"),
        (LogisticRegression, "must be a classifier"),
        ("logistic", "must be a classifier, found 'logistic'"),
        (LinearSVC(), "must have predict_proba"),
    ],
)
def test_other_objects_are_refused(final: Any, error: str) -> None:
    X, y = labelled(2)
    with pytest.raises(TypeError, match=error):
        EnsembleClassifier(MEMBERS, final_estimator=final).fit(X, y)


@pytest.mark.parametrize("cv", [LeaveOneOut(), 10])
def test_folds_whose_predictions_reveal_the_targets_are_refused(cv: Any) -> None:
    # The mean of the other targets predicts the target of a row perfectly.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    members = [("line", Ridge()), ("mean", DummyRegressor())]
    ensemble = EnsembleRegressor(members, cv=cv, final_estimator=LinearRegression())
    with pytest.raises(ValueError, match=r"at least 10 rows on average: .* have"):
        ensemble.fit(X, y)


class FailsOnFew(GaussianNB):
    """Fails in predict_proba for fewer than ten rows."""

    def predict_proba(self, X: Any) -> Any:
        if len(X) < 10:
            raise RuntimeError("too few rows")
        return super().predict_proba(X)


def test_a_final_estimator_needs_the_predictions_of_all_members() -> None:
    X, y = labelled(2)
    members = [("few", FailsOnFew()), *MEMBERS]
    ensemble = EnsembleClassifier(
        members,
        rule="mean",
        weights=[0, 1, 0],
        final_estimator=LogisticRegression(),
        on_error="drop",
    ).fit(X, y)
    with (
        pytest.warns(UserWarning, match="few"),
        pytest.raises(ValueError, match=r"members with indices \[0\] failed"),
    ):
        ensemble.predict(X[:5])
