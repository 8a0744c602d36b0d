"""What scikit-learn's checks ask, of ensembles that those cannot make.

Members that are fitted already, texts, multilabel targets: `parametrize_with_checks`
fits what it is given to numbers and one target. docs/guide/predictions.md names these.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import get_tags

from ensembles.predictions import EnsembleClassifier, EnsembleTransformer

pytestmark = [
    pytest.mark.filterwarnings("ignore:selection .* did not beat the best member"),
    pytest.mark.filterwarnings("ignore:.* must not have seen these data"),
]


class Case(NamedTuple):
    """An ensemble, what it is fitted to, and how many columns that has."""

    ensemble: Any
    X: Any
    y: Any
    columns: int | None


def prefit(**params: Any) -> Case:
    X, y = load_iris(return_X_y=True)
    members = [GaussianNB(), DecisionTreeClassifier(max_depth=2)]
    frozen = [(f"m{i}", FrozenEstimator(m.fit(X, y))) for i, m in enumerate(members)]
    return Case(EnsembleClassifier(frozen, cv="prefit", **params), X, y, 4)


def texts() -> Case:
    X = ["good film", "bad film", "good plot", "bad plot", "fine", "dull"] * 4
    members = [
        ("words", make_pipeline(CountVectorizer(), MultinomialNB())),
        ("chars", make_pipeline(CountVectorizer(analyzer="char"), MultinomialNB())),
    ]
    return Case(EnsembleClassifier(members), X, ["yes", "no"] * 12, None)


def vectors() -> Case:
    words = ("words", CountVectorizer(vocabulary=["good", "bad"]))
    chars = ("chars", CountVectorizer(vocabulary=["g", "b"], analyzer="char"))
    case = texts()
    return case._replace(ensemble=EnsembleTransformer([words, chars]))


def multilabel(**params: Any) -> Case:
    X, Y = make_multilabel_classification(60, 5, n_classes=3, random_state=0)
    members = [
        ("near", KNeighborsClassifier()),
        ("tree", DecisionTreeClassifier(max_depth=3, random_state=0)),
    ]
    return Case(EnsembleClassifier(members, **params), X, Y, 5)


CASES: dict[str, Callable[[], Case]] = {
    "prefit": prefit,
    "prefit vote": lambda: prefit(rule="vote", weights=None),
    "prefit ranks": lambda: prefit(rule="rank_mean", weights="greedy"),
    "texts": texts,
    "vectors": vectors,
    "multilabel": multilabel,
    "multilabel ranks": lambda: multilabel(rule="rank_mean", weights=None),
    "multilabel calibrated": lambda: multilabel(calibrate="sigmoid"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def said(ensemble: Any, X: Any) -> Any:
    """All that it outputs, a row for each sample."""
    if hasattr(ensemble, "transform"):
        return ensemble.transform(X)
    shares = ensemble.predict_proba(X)
    return np.hstack(shares) if isinstance(shares, list) else shares


def rows(X: Any, places: Any) -> Any:
    return X[places] if isinstance(X, np.ndarray) else [X[place] for place in places]


def test_parameters_are_stored_as_they_are(case: Case) -> None:
    params = case.ensemble.get_params(deep=False)
    again = type(case.ensemble)(**params)
    assert all(again.get_params(deep=False)[k] is v for k, v in params.items())


def test_fit_returns_itself_and_leaves_parameters_alone(case: Case) -> None:
    before = {k: id(v) for k, v in case.ensemble.get_params(deep=False).items()}
    assert case.ensemble.fit(case.X, case.y) is case.ensemble
    after = {k: id(v) for k, v in case.ensemble.get_params(deep=False).items()}
    assert before == after


def test_what_fit_learns_ends_in_an_underscore_or_begins_with_one(case: Case) -> None:
    given = set(vars(case.ensemble))
    learned = set(vars(case.ensemble.fit(case.X, case.y))) - given
    assert all(name.endswith("_") or name.startswith("_") for name in learned)


def test_a_clone_fitted_to_the_same_is_the_same(case: Case) -> None:
    expected = said(case.ensemble.fit(case.X, case.y), case.X)
    again = clone(case.ensemble)
    assert not hasattr(again, "estimators_")
    assert said(again.fit(case.X, case.y), case.X).tolist() == expected.tolist()


def test_fitting_twice_is_fitting_once(case: Case) -> None:
    expected = said(case.ensemble.fit(case.X, case.y), case.X).tolist()
    assert said(case.ensemble.fit(case.X, case.y), case.X).tolist() == expected


def test_a_pickle_answers_the_same(case: Case) -> None:
    expected = said(case.ensemble.fit(case.X, case.y), case.X).tolist()
    restored = pickle.loads(pickle.dumps(case.ensemble))
    assert said(restored, case.X).tolist() == expected


def test_an_answer_does_not_depend_on_its_batch(case: Case) -> None:
    whole = said(case.ensemble.fit(case.X, case.y), case.X)
    for places in ([0], [7, 3, 3], list(range(len(whole)))[::-1]):
        part = said(case.ensemble, rows(case.X, places))
        assert part == pytest.approx(whole[places], abs=1e-12)


def test_answers_before_a_fit_are_refused(case: Case) -> None:
    with pytest.raises(NotFittedError):
        said(case.ensemble, case.X)
    if hasattr(case.ensemble, "predict"):
        with pytest.raises(NotFittedError):
            case.ensemble.predict(case.X)


def test_labels_are_the_most_probable(case: Case) -> None:
    if not hasattr(case.ensemble, "predict"):
        pytest.skip("a transformer has no labels")
    found = case.ensemble.fit(case.X, case.y).predict(case.X)
    shares = case.ensemble.predict_proba(case.X)
    assert found.shape == np.shape(case.y)
    if isinstance(shares, list):
        expected = np.column_stack([share.argmax(axis=1) for share in shares])
    else:
        assert shares.sum(axis=1) == pytest.approx(1)
        expected = case.ensemble.classes_[shares.argmax(axis=1)]
    assert found.tolist() == expected.tolist()


def test_columns_are_counted_and_named_where_there_are_some(case: Case) -> None:
    case.ensemble.fit(case.X, case.y)
    found = getattr(case.ensemble, "n_features_in_", None)
    assert found == case.columns
    if case.columns is None:
        return
    with pytest.raises(ValueError, match=rf"is expecting {case.columns} features"):
        case.ensemble.predict(case.X[:, 1:])
    pandas = pytest.importorskip("pandas")
    names = [f"column {place}" for place in range(case.columns)]
    frame = pandas.DataFrame(case.X, columns=names)
    assert not hasattr(case.ensemble, "feature_names_in_")
    if case.ensemble.cv != "prefit":  # its members know no names, and would warn
        case.ensemble.fit(frame, case.y)
        assert case.ensemble.feature_names_in_.tolist() == names


def test_tags_say_what_all_members_take(case: Case) -> None:
    tags = get_tags(case.ensemble)
    members = [get_tags(member).input_tags for _, member in case.ensemble.estimators]
    for fact in ("two_d_array", "string", "sparse", "allow_nan"):
        taken = all(getattr(member, fact) for member in members)
        assert getattr(tags.input_tags, fact) == taken
    if np.ndim(case.y) == 2:
        assert tags.target_tags.multi_output
        assert tags.classifier_tags.multi_label
