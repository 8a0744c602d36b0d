"""What all estimators share: documented attributes, checks, failures, repeated fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensembles.checkpoints import ModelSoup
from ensembles.embeddings import SentenceEmbedder, SentenceEncoder
from ensembles.predictions import (
    CascadeClassifier,
    EnsembleClassifier,
    EnsembleRegressor,
    EnsembleTransformer,
)
from ensembles.predictions.forecasts import Pool, QuantileEnsemble
from tests.test_docs import described

pytestmark = pytest.mark.filterwarnings("ignore:selection .* did not beat")

X, y = load_iris(return_X_y=True)
VECTORS = {"good": [1.0, 0.0], "bad": [-1.0, 0.5], "film": [0.0, 1.0]}
TEXTS = ["good film", "bad film", "film", "bad", "good", "good bad"] * 5


class Model:
    """What `SentenceEncoder` asks of a model of sentence-transformers."""

    def encode(self, texts: list[str], **_: Any) -> Any:
        return np.array([[len(text), 1, 2] for text in texts], np.float32)

    def get_embedding_dimension(self) -> int:
        return 3


class Failing(ClassifierMixin, RegressorMixin, BaseEstimator):
    """A member that cannot be fitted, so that an earlier error is the first."""

    _estimator_type = None

    def fit(self, X: Any, y: Any = None) -> Any:
        raise AssertionError("fitted")

    def predict_proba(self, X: Any) -> Any:
        """Classifiers must have one."""

    def predict(self, X: Any) -> Any:
        """Regressors must have one."""

    def transform(self, X: Any) -> Any:
        """Transformers must have one."""


def two(*members: Any) -> list[tuple[str, Any]]:
    return [("one", members[0]), ("two", members[1])]


MADE: dict[str, tuple[Any, Any]] = {
    "classifier": (
        EnsembleClassifier(two(GaussianNB(), DecisionTreeClassifier())),
        (X, y),
    ),
    "cascade": (
        CascadeClassifier(two(GaussianNB(), DecisionTreeClassifier())),
        (X, y),
    ),
    "regressor": (EnsembleRegressor(two(Ridge(), Ridge(9.0))), (X, y)),
    "forecasts": (QuantileEnsemble(0.5), (X, y)),
    "transformer": (EnsembleTransformer(two(MinMaxScaler(), StandardScaler())), (X,)),
    "soup": (ModelSoup(SGDClassifier(), n_members=2, random_state=0), (X, y)),
    "embedder": (SentenceEmbedder(VECTORS), (TEXTS,)),
    "encoder": (SentenceEncoder(Model()), (TEXTS,)),
}
each = pytest.mark.parametrize("name", MADE)


def fitted(name: str, **params: Any) -> Any:
    estimator, data = MADE[name]
    return clone(estimator).set_params(**params).fit(*data)


@each
def test_fitted_attributes_are_those_of_the_docstring(name: str) -> None:
    estimator = fitted(name)
    names = {n for n in vars(estimator) if n.endswith("_") and n[0] != "_"}
    public = {
        key
        for parent in type(estimator).__mro__
        if parent.__module__.startswith("ensembles.")
        for key, value in vars(parent).items()
        if isinstance(value, property) and key[0] != "_"
    }
    documented = described(type(estimator), "Attributes")
    assert names | public == documented - {"feature_names_in_"} | public
    assert public <= documented


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("classifier", {"n_jobs": "x"}, "n_jobs must be an integer or None, found 'x'"),
    ("classifier", {"n_jobs": 0}, "n_jobs must not be 0"),
    ("classifier", {"keep_oof": "no"}, "keep_oof must be True or False, found 'no'"),
    ("classifier", {"random_state": "x"}, "random_state must be an integer"),
    ("cascade", {"margin": 2}, "margin must be between 0 and 1, found 2"),
    ("regressor", {"n_jobs": 1.5}, "n_jobs must be an integer or None, found 1.5"),
    ("transformer", {"n_jobs": True}, "n_jobs must be an integer or None, found True"),
    ("soup", {"n_jobs": "x"}, "n_jobs must be an integer or None, found 'x'"),
    ("soup", {"scoring": 5}, "scoring must be a single name, a callable or None"),
    ("soup", {"weights": [1, 1, 1]}, "must be one number for each member: found 3"),
    ("soup", {"weights": "greedy", "weights_params": {"n_rounds": 0}}, "n_rounds"),
    ("soup", {"rule": "power_mean", "rule_params": {"p": 0}}, "p of .power_mean. must"),
    ("soup", {"integers": ["first"]}, "integers must be one of 'error', 'first', 'max"),
    (
        "soup",
        {"estimator": SGDClassifier(), "device": "cpu"},
        "device must be None for",
    ),
    ("soup", {"estimator": SGDClassifier}, r"pass SGDClassifier\(\)"),
    ("embedder", {"whiten": "no"}, "whiten must be True, False or None, found 'no'"),
    ("embedder", {"normalize": "no"}, "normalize must be True or False, found 'no'"),
    ("embedder", {"lowercase": "no"}, "lowercase must be True, False or None, found"),
    ("embedder", {"n_jobs": "x"}, "n_jobs must be an integer or None, found 'x'"),
    ("embedder", {"remove_components": "1"}, "integer of at least 0; found '1'"),
    ("embedder", {"n_components": 1.5}, "integer of at least 1; found 1.5"),
    ("embedder", {"unknown": True}, "unknown must be one of 'skip', 'subword', 'err"),
    ("embedder", {"dtype": None}, "dtype must be one of .*, found None"),
    ("encoder", {"normalize": "no"}, "normalize must be True or False, found 'no'"),
    ("encoder", {"n_components": 1.5}, "integer of at least 1; found 1.5"),
    ("encoder", {"n_components": True}, "integer of at least 1; found True"),
    ("encoder", {"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ("encoder", {"prompt": 3}, "prompt must be a str or None, found 3"),
    ("encoder", {"device": 3}, "device must be a str or None, found 3"),
]
# Each fails as soon as anything is fitted, or read.
FAILING: dict[str, dict[str, Any]] = {
    "classifier": {"estimators": two(Failing(), Failing())},
    "cascade": {"estimators": two(Failing(), Failing())},
    "regressor": {"estimators": two(Failing(), Failing())},
    "transformer": {"estimators": two(Failing(), Failing())},
    "soup": {"estimator": Failing()},
    "embedder": {"vectors": "no such file"},
    "encoder": {"model": "no such directory/"},
}


@pytest.mark.parametrize(("name", "params", "message"), WRONG)
def test_wrong_values_are_refused_before_anything_is_fitted(
    name: str, params: dict[str, Any], message: str
) -> None:
    estimator, data = MADE[name]
    estimator = clone(estimator).set_params(**{**FAILING[name], **params})
    with pytest.raises((TypeError, ValueError), match=message):
        estimator.fit(*data)


@each
def test_numpy_booleans_and_integers_are_accepted(name: str) -> None:
    params = {
        "keep_oof": np.False_,
        "n_jobs": np.int64(1),
        "normalize": np.True_,
        "whiten": np.False_,
        "batch_size": np.int64(2),
        "n_components": np.int32(1),
    }
    known = MADE[name][0].get_params()
    fitted(name, **{key: value for key, value in params.items() if key in known})


def late_failure(name: str) -> dict[str, Any]:
    """Parameters by which `fit` fails only after the first member is fitted."""

    def fail(*_: Any) -> float:
        raise ArithmeticError("late")

    class Scorer:
        """A scorer that fails on the predictions of members alone."""

        calls = 0

        def __call__(self, *_: Any) -> float:
            Scorer.calls += 1
            return fail() if Scorer.calls > 1 else 1.0

    return {
        "classifier": {"weights": "greedy", "scoring": Scorer()},
        "cascade": {"weights": "greedy", "scoring": Scorer()},
        "regressor": {"weights": "greedy", "scoring": Scorer()},
        "transformer": {
            "two": FunctionTransformer(fail),
            "rule": "maximum",
            "align": "procrustes",
        },
        "forecasts": {"weights": "greedy", "rule": Pool(fail)},
        "soup": {"weights": "greedy", "scoring": Scorer()},
        "embedder": {"remove_components": 2, "dtype": "int8", "weights": None},
        "encoder": {"n_components": 4},
    }[name]


def outputs(estimator: Any, name: str) -> Any:
    method = "transform" if hasattr(estimator, "transform") else "predict"
    return getattr(estimator, method)(MADE[name][1][0]).tolist()


def fail_late(estimator: Any, name: str) -> None:
    data: Any = (["good"],) if name == "embedder" else MADE[name][1]
    with pytest.raises((ArithmeticError, ValueError), match=r"late|components"):
        estimator.set_params(**late_failure(name)).fit(*data)


@each
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(name: str) -> None:
    estimator = fitted(name)
    expected, params = outputs(estimator, name), estimator.get_params(deep=False)
    fail_late(estimator, name)
    estimator.set_params(**params)
    assert outputs(estimator, name) == expected


@each
def test_an_estimator_whose_fit_failed_is_not_fitted(name: str) -> None:
    estimator = clone(MADE[name][0])
    fail_late(estimator, name)
    with pytest.raises(NotFittedError):
        outputs(estimator, name)


@pytest.mark.parametrize("name", ["classifier", "regressor", "transformer"])
def test_no_samples_are_refused(name: str) -> None:
    estimator, data = MADE[name]
    with pytest.raises(ValueError, match="X must have at least one sample, found none"):
        clone(estimator).fit(*(part[:0] for part in data))


def test_a_fit_to_texts_has_no_number_of_columns_of_an_earlier_fit() -> None:
    def words(**params: Any) -> Any:
        return make_pipeline(CountVectorizer(**params), MultinomialNB())

    ensemble = EnsembleClassifier(two(GaussianNB(), DecisionTreeClassifier())).fit(X, y)
    ensemble.set_params(estimators=two(words(), words(analyzer="char")))
    labels = ["yes", "no"] * 15
    ensemble.fit(TEXTS, labels)
    assert not hasattr(ensemble, "n_features_in_")
    assert set(ensemble.predict(TEXTS)) <= {"yes", "no"}


@pytest.mark.parametrize("name", ["classifier", "regressor", "transformer"])
def test_the_html_representation_shows_the_members(name: str) -> None:
    for estimator in (clone(MADE[name][0]), fitted(name)):
        assert estimator._repr_html_().count('class="sk-parallel-item"') == 2
    assert type(estimator).__name__ in type(estimator)([])._repr_html_()
