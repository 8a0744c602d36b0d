"""scikit-learn's checks of transformers, written out for texts.

Its own feed numbers to what takes texts; each test here is the like of one of them.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline, make_union
from sklearn.utils import get_tags

from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.encoder import SentenceEncoder
from ensembles.embeddings.vectors.read import read_vectors

RNG = np.random.default_rng(7)
WORDS = [f"w{index}" for index in range(20)]
VECTORS = read_vectors((WORDS, RNG.normal(size=(20, 5))))
LABELS = np.arange(40) % 2
TEXTS = [
    " ".join(RNG.choice(WORDS[10 * label : 10 * label + 10], 6)) for label in LABELS
]


class Model:
    """What `SentenceEncoder` asks of a model of sentence-transformers."""

    def encode(self, texts: list[str], **_: Any) -> Any:
        return np.array([[len(t), t.count("w"), 1] for t in texts], np.float32)

    def get_embedding_dimension(self) -> int:
        return 3


ESTIMATORS: list[Any] = [
    SentenceEmbedder(VECTORS),
    SentenceEmbedder(VECTORS, weights=None),
    SentenceEmbedder(VECTORS, weights="usif", remove_components=2, normalize=True),
    SentenceEmbedder(VECTORS, rule=["mean", "maximum"], weights="idf", n_components=4),
    SentenceEmbedder(VECTORS, whiten=True, dtype="int8"),
    SentenceEncoder(Model()),
]
each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


@each
def test_init_stores_parameters_as_they_are(estimator: Any) -> None:
    # check_no_attributes_set_in_init, check_parameters_default_constructible
    names = list(inspect.signature(type(estimator)).parameters)
    marks = {name: object() for name in names}
    made = type(estimator)(**marks)
    assert vars(made) == marks


@each
def test_parameters_are_got_and_set(estimator: Any) -> None:
    # check_get_params_invariance, check_set_params
    params = estimator.get_params()
    assert params.keys() == vars(clone(estimator)).keys()
    other = clone(estimator).set_params(normalize=True)
    assert other.get_params()["normalize"] is True
    with pytest.raises(ValueError, match="Invalid parameter 'wrong'"):
        clone(estimator).set_params(wrong=1)


@each
def test_fit_leaves_parameters_and_texts_alone(estimator: Any) -> None:
    # check_dict_unchanged, check_dont_overwrite_attributes, check_fit2d_predict1d
    fitted, texts = clone(estimator), list(TEXTS)
    before = copy.copy(vars(fitted))
    assert fitted.fit(texts) is fitted
    assert {name: vars(fitted)[name] for name in before} == before
    new = vars(fitted).keys() - before.keys()
    assert all(name.endswith("_") or name.startswith("_") for name in new)
    state = pickle.dumps(vars(fitted).get("weights_"))
    fitted.transform(texts)
    assert pickle.dumps(vars(fitted).get("weights_")) == state
    assert texts == TEXTS


@each
def test_fitting_again_forgets(estimator: Any) -> None:
    # check_fit_idempotent, check_estimators_overwrite_params
    fitted = clone(estimator).fit(TEXTS[:20])
    fitted.fit(TEXTS)
    expected = clone(estimator).fit(TEXTS)
    np.testing.assert_array_equal(fitted.transform(TEXTS), expected.transform(TEXTS))


@each
def test_what_is_not_fitted_says_so(estimator: Any) -> None:
    # check_estimators_unfitted
    with pytest.raises(NotFittedError):
        clone(estimator).transform(TEXTS)
    with pytest.raises(NotFittedError):
        clone(estimator).get_feature_names_out()


@each
def test_fit_transform_is_fit_then_transform(estimator: Any) -> None:
    # check_transformer_general, check_fit_check_is_fitted
    found = clone(estimator).fit_transform(TEXTS, LABELS)
    expected = clone(estimator).fit(TEXTS, LABELS).transform(TEXTS)
    np.testing.assert_array_equal(found, expected)
    assert len(found) == len(TEXTS)


@each
def test_rows_are_the_same_in_any_subset_and_order(estimator: Any) -> None:
    # check_methods_subset_invariance, check_methods_sample_order_invariance
    fitted = clone(estimator).fit(TEXTS)
    whole = fitted.transform(TEXTS)
    parts = [fitted.transform(TEXTS[start : start + 7]) for start in range(0, 40, 7)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(
        whole[order], fitted.transform([TEXTS[i] for i in order])
    )


@each
def test_pickles_and_copies_transform_alike(estimator: Any) -> None:
    # check_estimators_pickle
    fitted = clone(estimator).fit(TEXTS)
    again = copy.deepcopy(fitted)
    assert again is not fitted
    np.testing.assert_array_equal(again.transform(TEXTS), fitted.transform(TEXTS))
    if not isinstance(estimator, SentenceEncoder):
        again = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(again.transform(TEXTS), fitted.transform(TEXTS))


@each
def test_columns_have_names(estimator: Any) -> None:
    # check_transformer_get_feature_names_out, check_n_features_in_after_fitting
    fitted = clone(estimator).fit(TEXTS)
    names = fitted.get_feature_names_out()
    assert len(names) == fitted.transform(TEXTS).shape[1] == len(set(names))
    assert names[0] == f"{type(estimator).__name__.lower()}0"
    assert not hasattr(fitted, "n_features_in_")  # a text is no row of features


@each
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_come_out_if_asked(estimator: Any, library: Any) -> None:
    # check_set_output_transform, check_set_output_transform_pandas, ..._polars
    frames = pytest.importorskip(library)
    fitted = clone(estimator).set_output(transform=library).fit(TEXTS)
    found = fitted.transform(TEXTS)
    assert isinstance(found, frames.DataFrame)
    assert list(found.columns) == fitted.get_feature_names_out().tolist()
    plain = clone(estimator).fit(TEXTS).transform(TEXTS)
    np.testing.assert_array_equal(found.to_numpy(), plain)


def test_frames_keep_the_index_of_a_series() -> None:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(TEXTS, index=range(100, 140))
    embedder = clone(ESTIMATORS[0]).set_output(transform="pandas")
    found = embedder.fit_transform(series)
    assert found.index.tolist() == list(range(100, 140))


@each
def test_tags_and_representation(estimator: Any) -> None:
    # check_estimator_tags_renamed, check_estimator_repr
    tags = get_tags(estimator)
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.requires_fit
    assert type(estimator).__name__ in repr(estimator)
    assert isinstance(estimator, BaseEstimator)


@each
def test_one_text_and_none_are_fine(estimator: Any) -> None:
    # check_fit2d_1sample, check_estimators_empty_data_messages
    fitted = clone(estimator).fit(TEXTS)
    width = len(fitted.get_feature_names_out())
    assert fitted.transform(TEXTS[:1]).shape == (1, width)
    assert fitted.transform([]).shape == (0, width)


@each
def test_missing_texts_are_zeros(estimator: Any) -> None:
    # check_estimators_nan_inf: allow_nan
    found = clone(estimator).fit([*TEXTS, None]).transform([None, float("nan"), "w1"])
    np.testing.assert_array_equal(found[:2], 0)
    assert found[2].any()


def test_a_pipeline_is_searched_and_validated() -> None:
    # Of length 1: SIF on so few words makes vectors too short for the penalty.
    embedder = SentenceEmbedder(VECTORS, normalize=True)
    pipeline = make_pipeline(embedder, LogisticRegression())
    grid = {
        "sentenceembedder__rule": ["mean", ["mean", "maximum"]],
        "sentenceembedder__weights": ["sif", "usif", None],
    }
    search = GridSearchCV(pipeline, grid, cv=2).fit(TEXTS, LABELS)
    assert search.best_score_ == 1
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(TEXTS), LABELS)
    scores = cross_validate(pipeline, TEXTS, LABELS, cv=3, return_estimator=True)
    assert scores["test_score"].tolist() == [1, 1, 1]


def test_a_pipeline_is_searched_by_processes() -> None:
    embedder = SentenceEmbedder(VECTORS, normalize=True)
    pipeline = make_pipeline(embedder, LogisticRegression())
    grid = {"sentenceembedder__weights": ["sif", None]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(TEXTS, LABELS)
    assert search.best_score_ == 1


def test_columns_of_a_frame_and_unions_are_embedded() -> None:
    frame = pytest.importorskip("pandas").DataFrame({"text": TEXTS, "n": LABELS})
    both = make_union(SentenceEmbedder(VECTORS), SentenceEncoder(Model()))
    columns = ColumnTransformer([("text", both, "text")], remainder="passthrough")
    assert columns.fit_transform(frame).shape == (40, 9)
    assert len(columns.get_feature_names_out()) == 9
