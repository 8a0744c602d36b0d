"""What the parameters of estimators are, and which have none to average."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    SGDClassifier,
    SGDOneClassSVM,
    SGDRegressor,
)
from sklearn.naive_bayes import (
    BernoulliNB,
    CategoricalNB,
    ComplementNB,
    GaussianNB,
    MultinomialNB,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import BernoulliRBM, MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from ensembles.checkpoints import average, get_state, register_state, set_state

X, y = load_iris(return_X_y=True)
KINDS = [
    LinearRegression(),
    LinearRegression(fit_intercept=False),
    Ridge(),
    LogisticRegression(),
    LinearSVC(),
    SGDClassifier(),
    SGDRegressor(),
    SGDOneClassSVM(),
    PoissonRegressor(),
    MLPClassifier(max_iter=20),
    MLPRegressor(max_iter=20),
    make_pipeline(MinMaxScaler(), BernoulliRBM(n_components=3)),
    GaussianNB(),
    MultinomialNB(),
    BernoulliNB(binarize=2.0),
    ComplementNB(),
    CategoricalNB(min_categories=10),
    StandardScaler(),
    MinMaxScaler(),
    MaxAbsScaler(),
    RobustScaler(),
    make_pipeline(StandardScaler(), FunctionTransformer(), LogisticRegression()),
]
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def said(estimator: Any) -> Any:
    for method in ("predict_proba", "decision_function", "predict", "transform"):
        if hasattr(estimator, method):
            return getattr(estimator, method)(X)
    raise AssertionError


def fitted(estimator: Any, rows: slice) -> Any:
    found = clone(estimator)
    if "random_state" in found.get_params():
        found.set_params(random_state=0)
    return found.fit(X[rows], y[rows])


@quiet
@pytest.mark.parametrize("estimator", KINDS, ids=repr)
def test_an_estimator_with_the_parameters_of_another_says_what_that_says(
    estimator: Any,
) -> None:
    one, other = (fitted(estimator, slice(start, None, 2)) for start in (0, 1))
    assert not np.array_equal(said(one), said(other))
    set_state(one, get_state(other))
    np.testing.assert_allclose(said(one), said(other), rtol=1e-12, atol=1e-12)


@quiet
@pytest.mark.parametrize("estimator", KINDS, ids=repr)
def test_states_can_be_averaged_and_members_stay_as_they_are(estimator: Any) -> None:
    one, other = (fitted(estimator, slice(start, None, 2)) for start in (0, 1))
    before = said(one)
    mean = average([get_state(one), get_state(other)])
    home = fitted(estimator, slice(0, None, 2))
    set_state(home, mean)
    assert np.isfinite(said(home)).all()
    np.testing.assert_array_equal(said(one), before)


def test_a_mean_of_probabilities_is_a_distribution() -> None:
    one, other = (fitted(MultinomialNB(), slice(start, None, 2)) for start in (0, 1))
    mean = average([get_state(one), get_state(other)])
    set_state(one, mean)
    np.testing.assert_allclose(np.exp(one.feature_log_prob_).sum(1), 1, rtol=1e-14)
    np.testing.assert_allclose(np.exp(one.class_log_prior_).sum(), 1, rtol=1e-14)


def test_a_number_stays_a_number() -> None:
    line = LinearRegression().fit(X, y)
    set_state(line, get_state(line))
    assert np.ndim(line.intercept_) == 0
    assert isinstance(line.intercept_, float)


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (DecisionTreeClassifier(), "no nodes in common"),
        (RandomForestClassifier(), "no nodes in common"),
        (BaggingClassifier(), "combine the predictions of the members"),
        (KNeighborsClassifier(), "keeps samples"),
        (SVC(), "keeps samples"),
        (PCA(), "signs of its components are arbitrary"),
        (LinearDiscriminantAnalysis(), "signs of its components are arbitrary"),
        (make_pipeline(PCA(), LogisticRegression()), "PCA cannot be averaged"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_averaged_is_refused_with_the_reason(
    estimator: Any, reason: str
) -> None:
    with pytest.raises(TypeError, match=reason):
        get_state(estimator.fit(X, y))


def test_an_unknown_kind_is_told_how_to_be_known() -> None:
    with pytest.raises(
        TypeError, match=r"parameters of dict are unknown; .*register_state"
    ):
        get_state({})


def test_sparse_coefficients_are_told_the_way_out() -> None:
    found = SGDClassifier().fit(X, y).sparsify()
    with pytest.raises(TypeError, match=r"coef_ is sparse; call densify\(\)"):
        get_state(found)


class Own:
    """A kind of the user's."""

    value = np.ones(3)


class Derived(Own):
    """Known by what it is derived from."""


def test_a_kind_of_ones_own_is_registered_in_one_line() -> None:
    register_state(Own, vars, lambda one, state: vars(one).update(state))
    one = Derived()
    set_state(one, {"value": np.zeros(3)})
    assert get_state(one)["value"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="must be registered only once"):
        register_state(Own, vars, set_state)


@pytest.mark.parametrize(
    "module",
    [
        "checkpoints.parameters.table",
        "checkpoints.parameters.pipeline_steps",
        "checkpoints.parameters.template",
        "checkpoints.parameters.access",
        "checkpoints",
    ],
)
def test_built_in_kinds_are_known_whatever_is_imported_first(module: str) -> None:
    code = f"""
import ensembles.{module}
from sklearn.linear_model import LinearRegression
from ensembles.checkpoints.parameters.table import parameter_access
line = LinearRegression().fit([[1], [2]], [1, 2])
print([*parameter_access(line).get(line)])
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "['coef_', 'intercept_']\n"


def test_a_kind_of_ones_own_may_be_registered_before_the_built_in_ones() -> None:
    code = """
from ensembles.checkpoints.parameters.table import register_state, parameter_access
register_state("sklearn.naive_bayes.GaussianNB", vars, None)
from sklearn.naive_bayes import GaussianNB
print(parameter_access(GaussianNB()).get is vars)
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "True\n"
