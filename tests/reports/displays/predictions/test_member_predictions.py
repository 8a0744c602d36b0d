"""Displays of ensembles: one picture from an estimator and from its predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier, EnsembleRegressor
from ensembles.reports import (
    DiversityDisplay,
    EnsembleSizeDisplay,
    ReliabilityDisplay,
    SelectionPathDisplay,
    ThresholdDisplay,
    WeightsDisplay,
)
from ensembles.reports.displays.display import Display
from ensembles.reports.displays.predictions.member_predictions import (
    check_predictions,
    metric_of,
    predict_members,
)

LABELS = np.array(["red", "green", "blue"])
CLASSIFIERS = [
    ("logistic", LogisticRegression()),
    ("bayes", GaussianNB()),
    ("tree", DecisionTreeClassifier(max_depth=3, random_state=0)),
]
REGRESSORS = [("ridge", Ridge()), ("near", KNeighborsRegressor(20))]


class Fitted(NamedTuple):
    """A fitted ensemble, the rows it was fitted to, and other rows."""

    ensemble: Any
    y_train: Any
    X: Any
    y: Any

    @property
    def names(self) -> list[str]:
        return list(self.ensemble.named_estimators_)

    def stack(self) -> Any:
        """Predictions of the members for the other rows."""
        members = self.ensemble.estimators_
        if isinstance(self.ensemble, EnsembleRegressor):
            return np.stack([m.predict(self.X) for m in members])
        return np.stack([m.predict_proba(self.X) for m in members])


def fit_classifier(**params: Any) -> Fitted:
    X, codes = make_classification(
        400, 8, n_informative=5, n_classes=3, random_state=0, flip_y=0.2
    )
    y = LABELS[codes]
    ensemble = EnsembleClassifier(CLASSIFIERS, **params).fit(X[:250], y[:250])
    return Fitted(ensemble, y[:250], X[250:], y[250:])


def fit_regressor(**params: Any) -> Fitted:
    X, y = load_diabetes(return_X_y=True)
    ensemble = EnsembleRegressor(REGRESSORS, **params).fit(X[:300], y[:300])
    return Fitted(ensemble, y[:300], X[300:], y[300:])


GREEDY = {"weights": "greedy", "weights_params": {"n_rounds": 8}, "rule": "mean"}
ACCURATE = {**GREEDY, "scoring": "accuracy"}
FITS: dict[str, Callable[[], Fitted]] = {
    "pool": fit_classifier,
    "greedy": lambda: fit_classifier(**ACCURATE),
    "regressor": fit_regressor,
}


@pytest.fixture(scope="module", params=FITS)
def fitted(request: pytest.FixtureRequest) -> Fitted:
    return FITS[request.param]()


@pytest.fixture(scope="module")
def pool() -> Fitted:
    return fit_classifier()


def assert_same_picture(a: Display, b: Display) -> None:
    """The numbers are equal, and so are the drawn lines, bars and texts."""
    np.testing.assert_equal(a.to_dict(), b.to_dict())
    assert a.summary == b.summary
    images = []
    for display in (a, b):
        display.figure_.canvas.draw()
        images.append(np.asarray(display.figure_.canvas.buffer_rgba()))
    np.testing.assert_array_equal(images[0], images[1])


def test_learned_weights_give_one_picture(fitted: Fitted) -> None:
    ensemble = fitted.ensemble
    rule = {"rule": ensemble.rule, "weights": ensemble.weights}
    rule |= {"weights_params": ensemble.weights_params, "scoring": ensemble.scoring}
    arrays = (fitted.y_train, ensemble.oof_)
    for kind in (WeightsDisplay, SelectionPathDisplay):
        display: Any = kind
        by_predictions = display.from_predictions(*arrays, names=fitted.names, **rule)
        assert_same_picture(display.from_estimator(ensemble), by_predictions)


def test_scores_of_some_members_give_one_picture(fitted: Fitted) -> None:
    ensemble = fitted.ensemble
    is_classifier = hasattr(ensemble, "classes_")
    predict = ensemble.predict_proba if is_classifier else ensemble.predict
    by_estimator = EnsembleSizeDisplay.from_estimator(
        ensemble, fitted.X, fitted.y, n_orders=3
    )
    by_predictions = EnsembleSizeDisplay.from_predictions(
        fitted.y,
        fitted.stack(),
        combined=predict(fitted.X),
        classes=getattr(ensemble, "classes_", None),
        rule=ensemble.rule,
        scoring=ensemble.scoring,
        n_orders=3,
    )
    assert_same_picture(by_estimator, by_predictions)


def test_diversity_gives_one_picture(fitted: Fitted) -> None:
    by_estimator = DiversityDisplay.from_estimator(fitted.ensemble, fitted.X, fitted.y)
    by_predictions = DiversityDisplay.from_predictions(
        fitted.y, fitted.stack(), names=fitted.names
    )
    assert_same_picture(by_estimator, by_predictions)


@pytest.mark.parametrize("pos_label", [None, "green"])
def test_reliability_gives_one_picture(pool: Fitted, pos_label: str | None) -> None:
    by_estimator = ReliabilityDisplay.from_estimator(
        pool.ensemble, pool.X, pool.y, pos_label=pos_label
    )
    by_predictions = ReliabilityDisplay.from_predictions(
        pool.y,
        pool.ensemble.predict_proba(pool.X),
        members=pool.stack(),
        names=pool.names,
        pos_label=pos_label,
    )
    assert_same_picture(by_estimator, by_predictions)


def test_thresholds_give_one_picture(pool: Fitted) -> None:
    X, y = pool.X[:40], pool.y[:40]
    scoring = ["balanced_accuracy"]
    assert_same_picture(
        ThresholdDisplay.from_estimator(pool.ensemble, X, y, scoring=scoring),
        ThresholdDisplay.from_predictions(
            y, pool.ensemble.predict_proba(X), scoring=scoring
        ),
    )


def test_members_are_calibrated_as_in_the_ensemble() -> None:
    fitted = fit_classifier(calibrate="temperature", weights=None)
    members = predict_members(fitted.ensemble, fitted.X, fitted.y)
    calibrated = [
        calibrator([y_proba])[0]
        for calibrator, y_proba in zip(
            fitted.ensemble.calibrators_, fitted.stack(), strict=True
        )
    ]
    np.testing.assert_allclose(members.out_of_fold.stacks[0], calibrated, rtol=1e-12)


def test_names_of_metrics_have_the_sign_that_is_drawn() -> None:
    loss = metric_of(None, is_classifier=True)
    assert loss == ("log loss", True)
    assert loss.values(-0.5) == 0.5
    assert metric_of(None, is_classifier=False) == ("mean squared error", True)
    assert metric_of("balanced_accuracy", is_classifier=True) == (
        "balanced accuracy",
        False,
    )
    assert metric_of(log_loss, is_classifier=True) == ("log loss", False)
    for unnamed in (Ridge(), lambda estimator, X, y: 0.0):
        assert metric_of(unnamed, is_classifier=True) == ("score", False)


def test_rows_that_no_split_holds_out_are_left_out() -> None:
    stack = np.full((2, 4, 2), 0.5)
    stack[:, 1] = np.nan
    members = check_predictions([0, 1, 0, 1], stack)
    assert members.out_of_fold.y.tolist() == [0, 0, 1]
    assert members.names == ["a", "b"]


@pytest.mark.parametrize(
    ("y", "predictions", "params", "message"),
    [
        ([0, 1], np.ones(2), {}, r"n_classes\), or .* found \(2,\)"),
        ([0, 1], np.ones((0, 2, 2)), {}, r"found \(0, 2, 2\)"),
        ([0, 1], np.ones((1, 2, 3)), {}, r"classes \[0, 1\]: found 3 columns; pass cl"),
        ([0, 9], np.ones((1, 2, 2)), {"classes": [0, 1]}, "found 9"),
        ([0, 1], np.ones((1, 3, 2)), {}, "each of 2 targets, found 3"),
        ([0, 1], np.full((1, 2, 2), np.inf), {}, "finite: found 4 NaN"),
        ([0, 1], np.full((1, 2, 2), -2.5), {}, "between 0 and 1: found -2.5; convert"),
        ([0, 1], np.ones((1, 2, 2)), {"sample_weight": [1, -1]}, "weight must be non-"),
        ([0, 1], np.ones((1, 2, 2)), {"sample_weight": [1]}, r"the shape \(2,\)"),
        ([0.5, 1.5], np.full((1, 2), np.nan), {}, "finite: found 2 NaN"),
        ([[0, 1], [1, 0]], np.ones((1, 2, 2)), {}, "one target, found 2"),
        ([[0.5, 1], [1, 0]], np.ones((1, 2)), {}, r"one target, found shape \(2, 2\)"),
        ([0, 1], np.ones((2, 2, 2)), {"names": ["a"]}, "each of 2 members, found 1"),
    ],
)
def test_arrays_that_do_not_match_are_errors(
    y: Any, predictions: Any, params: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_predictions(y, predictions, **params)


@pytest.mark.parametrize(
    ("y_proba", "message"),
    [([0.5, 3.0], "between 0 and 1: found -2"), ([0.5, np.nan], "must be finite")],
)
@pytest.mark.parametrize("members", [None, np.full((1, 2, 2), 0.5)])
def test_an_ensemble_without_probabilities_has_no_reliability(
    y_proba: Any, message: str, members: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        ReliabilityDisplay.from_predictions([0, 1], y_proba, members=members)


def test_ensembles_that_cannot_be_drawn_are_errors(pool: Fitted) -> None:
    unfitted = EnsembleClassifier(CLASSIFIERS)
    for draw in (WeightsDisplay.from_estimator, SelectionPathDisplay.from_estimator):
        with pytest.raises(NotFittedError):
            draw(unfitted)
    y = np.column_stack([pool.y == "red", pool.y == "blue"]).astype(int)
    several = EnsembleClassifier(CLASSIFIERS[2:], weights=None, rule="mean")
    with pytest.raises(ValueError, match="one target, found several"):
        predict_members(several.fit(pool.X, y), pool.X, y)
    with pytest.raises(ValueError, match=r"must have the shape .* \(150, 3\): found"):
        EnsembleSizeDisplay.from_predictions(pool.y, pool.stack(), combined=np.ones(3))
