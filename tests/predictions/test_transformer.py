from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.cross_decomposition import CCA, PLSCanonical, PLSRegression
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeRegressor

from ensembles.predictions import EnsembleTransformer

# Of scikit-learn 1.9; 1.8 knows no other way to have the same folds twice.
pytestmark = pytest.mark.filterwarnings("ignore:`TargetEncoder.shuffle`")

STANDARD = ("standard", StandardScaler())
MINMAX = ("minmax", MinMaxScaler())
FIRST = FunctionTransformer(itemgetter((slice(None), 0)))  # told alike by workers


@pytest.fixture
def X(rng: np.random.Generator) -> Any:
    return rng.normal(size=(30, 4))


def test_outputs_are_averaged(X: Any) -> None:
    ensemble = EnsembleTransformer([STANDARD, MINMAX], weights=[3, 1])
    outputs = [member.fit_transform(X) for _, member in (STANDARD, MINMAX)]
    expected = (3 * outputs[0] + outputs[1]) / 4
    assert ensemble.fit_transform(X) == pytest.approx(expected)
    names = ensemble.get_feature_names_out().tolist()
    assert names == [f"ensembletransformer{i}" for i in range(4)]


def test_outputs_stand_side_by_side_times_their_weights(X: Any) -> None:
    members = [STANDARD, ("out", "drop"), ("pca", PCA(2))]
    ensemble = EnsembleTransformer(members, rule="concatenate", weights=[2, 7, -1])
    said = ensemble.fit(X).transform(X)
    assert said[:, :4] == pytest.approx(2 * StandardScaler().fit_transform(X))
    assert said[:, 4:] == pytest.approx(-PCA(2).fit(X).transform(X))
    names = ensemble.get_feature_names_out().tolist()
    assert names == [*(f"standard__x{i}" for i in range(4)), "pca__pca0", "pca__pca1"]


def test_aligned_outputs_are_turned_onto_the_first(X: Any) -> None:
    turn = ortho_group.rvs(4, random_state=0)
    members = [
        ("as it is", FunctionTransformer()),
        ("turned", FunctionTransformer(np.matmul, kw_args={"x2": turn})),
    ]
    members[1] = ("turned", FunctionTransformer(lambda X: X @ turn))
    ensemble = EnsembleTransformer(members, align="procrustes").fit(X)
    assert ensemble.rotations_[1] == pytest.approx(turn.T)
    fresh = X[::-1] * 2
    assert ensemble.transform(fresh) == pytest.approx(fresh)
    plain = EnsembleTransformer(members).fit(X)
    assert plain.transform(fresh) != pytest.approx(fresh)


def test_sparse_outputs_stay_sparse_side_by_side() -> None:
    texts = ["a good film", "a bad film"]
    words = ("words", CountVectorizer())
    pairs = ("pairs", CountVectorizer(ngram_range=(2, 2)))
    ensemble = EnsembleTransformer([words, pairs], rule="concatenate")
    said = ensemble.fit(texts).transform(texts)
    assert said.format == "csr"
    assert said.toarray().tolist() == [[0, 1, 1, 0, 1], [1, 1, 0, 1, 0]]
    mean = EnsembleTransformer([words, ("again", CountVectorizer())]).fit(texts)
    assert mean.transform(texts).tolist() == [[0, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("rule", ["mean", "concatenate"])
def test_float32_stays_where_all_members_answer_in_it(rule: str, X: Any) -> None:
    ensemble = EnsembleTransformer([STANDARD, MINMAX], rule=rule).fit(X)
    assert ensemble.transform(X.astype(np.float32)).dtype == np.float32
    assert ensemble.transform(X).dtype == np.float64


@pytest.mark.parametrize("package", ["pandas", "polars"])
@pytest.mark.parametrize("rule", ["mean", "concatenate"])
def test_output_can_be_a_dataframe(package: str, rule: str, X: Any) -> None:
    pytest.importorskip(package)
    ensemble = EnsembleTransformer([STANDARD, MINMAX], rule=rule)
    framed = ensemble.set_output(transform=package).fit_transform(X)
    assert list(framed.columns) == ensemble.get_feature_names_out().tolist()
    expected = ensemble.set_output(transform="default").transform(X)
    assert framed.to_numpy() == pytest.approx(expected)


def test_columns_of_a_mean_are_numbered_whatever_the_members_say(X: Any) -> None:
    members = [("nameless", FunctionTransformer(np.array)), STANDARD]
    ensemble = EnsembleTransformer(members, rule="median").fit(X)
    names = [f"ensembletransformer{i}" for i in range(4)]
    assert ensemble.get_feature_names_out().tolist() == names
    ensemble.set_params(nameless="drop", standard=PCA(2)).fit(X)
    assert ensemble.get_feature_names_out().tolist() == names[:2]
    alone = EnsembleTransformer([("as it is", FunctionTransformer(accept_sparse=True))])
    assert alone.fit(sparse.coo_array(X)).get_feature_names_out().tolist() == names


def test_weights_side_by_side_may_cancel(X: Any) -> None:
    members = [STANDARD, MINMAX]
    ensemble = EnsembleTransformer(members, rule="concatenate", weights=[1, -1])
    said = ensemble.fit_transform(X)
    assert said[:, 4:] == pytest.approx(-MinMaxScaler().fit_transform(X))


def test_it_is_a_step_of_a_pipeline(X: Any) -> None:
    ensemble = EnsembleTransformer([STANDARD, MINMAX], n_jobs=2)
    pipeline = make_pipeline(ensemble, LogisticRegression())
    y = X[:, 0] > 0
    assert pipeline.fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"align": "rotate"},
            "align must be one of None, 'procrustes', found 'rotate'",
        ),
        ({"rule": "vote"}, "rule 'vote' combines labels, not outputs of transformers"),
        ({"rule": "median", "weights": [1, -1]}, "weights of 'median' must not be neg"),
        ({"minmax": PCA(2)}, "member 'standard' has 4 columns, 'minmax' has 2; use ru"),
        ({"rule": "concatenate", "align": "procrustes"}, "align must be None for rule"),
        (
            {"rule": "concatenate", "weights": [1]},
            "'concatenate' must be one number fo",
        ),
        ({"rule": "concatenate", "weights": [0, 0]}, "must not sum to zero"),
        (
            {"rule": "concatenate", "minmax": FIRST},
            r"'minmax' must have 2-D .* shape \(30,",
        ),
        ({"minmax": FIRST}, r"member 'minmax' must have 2-D .* of shape \(30,\)"),
        (
            {"minmax": LogisticRegression()},
            "member 'minmax' must have a transform method",
        ),
    ],
    ids=str,
)
def test_wrong_parameters_are_reported(
    params: dict[str, Any], message: str, X: Any
) -> None:
    ensemble = EnsembleTransformer([STANDARD, MINMAX]).set_params(**params)
    with pytest.raises(ValueError, match=message):
        ensemble.fit(X, X[:, 0] > 0).transform(X)


def test_what_cannot_be_turned_is_named(X: Any) -> None:
    holed = X.copy()
    holed[0, 0] = np.nan
    plain = EnsembleTransformer([STANDARD, MINMAX]).fit(X)
    assert np.isnan(plain.transform(holed)[0, 0])
    aligned = EnsembleTransformer([STANDARD, MINMAX], align="procrustes").fit(X)
    with pytest.raises(ValueError, match="output of member 'standard' contains NaN"):
        aligned.transform(holed)


def noise(rng: np.random.Generator) -> tuple[Any, Any]:
    """A category of many values, and a target that it says nothing of."""
    return rng.integers(0, 150, (300, 1)).astype(str), rng.integers(0, 2, 300)


ENCODER = ("encoder", TargetEncoder(random_state=0))


@pytest.mark.parametrize("rule", ["mean", "concatenate"])
def test_members_that_cross_fit_do_not_leak_the_target(
    rule: str, rng: np.random.Generator
) -> None:
    c, y = noise(rng)
    ensemble = EnsembleTransformer([ENCODER], rule=rule)
    found = ensemble.fit_transform(c, y)
    expected = FeatureUnion([ENCODER]).fit_transform(c, y)
    assert found == pytest.approx(expected)
    assert roc_auc_score(y, found) < 0.65 < roc_auc_score(y, ensemble.transform(c))
    pipeline = make_pipeline(ensemble, LogisticRegression()).fit(c, y)
    fresh, truth = noise(rng)
    assert log_loss(truth, pipeline.predict_proba(fresh)) < 0.75


class OutOfFold(BaseEstimator, TransformerMixin):
    """Predictions of other folds for the data it is fitted to."""

    def fit(self, X: Any, y: Any) -> Any:
        self.tree_ = DecisionTreeRegressor(random_state=0).fit(X, y)
        return self

    def fit_transform(self, X: Any, y: Any) -> Any:
        self.fit(X, y)
        return cross_val_predict(DecisionTreeRegressor(random_state=0), X, y)[:, None]

    def transform(self, X: Any) -> Any:
        return self.tree_.predict(X)[:, None]


class Lone:
    """Has no fit_transform."""

    def fit(self, X: Any, y: Any = None) -> Any:
        self.mean_ = X.mean()
        return self

    def get_params(self, deep: bool = True) -> Any:
        return {}

    def transform(self, X: Any) -> Any:
        return X[:, :1] - self.mean_


def test_fit_transform_is_the_members_own(rng: np.random.Generator, X: Any) -> None:
    y = rng.normal(size=30)
    members = [("out", OutOfFold()), ("lone", Lone())]
    ensemble = EnsembleTransformer(members, rule="concatenate", weights=[2, 1])
    found = ensemble.fit_transform(X, y)
    expected = cross_val_predict(DecisionTreeRegressor(random_state=0), X, y)
    assert found[:, 0] == pytest.approx(2 * expected)
    assert found[:, 1] == pytest.approx(X[:, 0] - X.mean())
    assert ensemble.transform(X)[:, 0] == pytest.approx(2 * y)


def test_rotations_come_from_what_fit_transform_makes(
    rng: np.random.Generator,
) -> None:
    c = rng.integers(0, 20, (300, 2)).astype(str)
    y = rng.integers(0, 2, 300)
    members = [ENCODER, ("other", TargetEncoder(cv=3, random_state=1))]
    ensemble = EnsembleTransformer(members, align="procrustes")
    outputs = [clone(member).fit_transform(c, y) for _, member in members]
    rotation = orthogonal_procrustes(outputs[1], outputs[0])[0]
    expected = (outputs[0] + outputs[1] @ rotation) / 2
    assert ensemble.fit_transform(c, y) == pytest.approx(expected)
    assert ensemble.rotations_[1] == pytest.approx(rotation)
    assert ensemble.fit(c, y).rotations_[1] == pytest.approx(rotation)


def test_memory_keeps_what_fit_transform_made(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    c, y = noise(rng)
    ensemble = EnsembleTransformer([ENCODER], memory=str(tmp_path))
    first = ensemble.fit_transform(c, y)
    again = clone(ensemble)
    assert again.fit_transform(c, y).tolist() == first.tolist()
    assert again.transform(c).tolist() == ensemble.transform(c).tolist()


def test_output_of_fit_transform_can_be_a_dataframe(X: Any) -> None:
    pytest.importorskip("pandas")
    ensemble = EnsembleTransformer([STANDARD, MINMAX]).set_output(transform="pandas")
    framed = ensemble.fit_transform(X)
    assert list(framed.columns) == ensemble.get_feature_names_out().tolist()


@pytest.mark.parametrize("kind", [PLSRegression, CCA, PLSCanonical])
def test_scores_of_the_targets_beside_those_of_X_are_left_out(
    kind: Any, rng: np.random.Generator
) -> None:
    X, y = rng.normal(size=(40, 4)), rng.normal(size=(40, 2))
    ensemble = EnsembleTransformer([("first", kind(2)), ("second", kind(2))])
    assert ensemble.fit_transform(X, y) == pytest.approx(kind(2).fit(X, y).transform(X))


def test_parameters_of_the_rule_are_passed_to_it(iris: Any) -> None:
    X, _ = iris
    members = [("same", FunctionTransformer()), ("max", MaxAbsScaler())]
    ensemble = EnsembleTransformer(members, rule="power_mean", rule_params={"p": 3})
    one, two = (member.fit_transform(X) for _, member in members)
    expected = ((one**3 + two**3) / 2) ** (1 / 3)
    np.testing.assert_allclose(ensemble.fit_transform(X), expected, atol=1e-12)
    assert ensemble.get_params()["rule_params"] == {"p": 3}
    with pytest.raises(ValueError, match="rule 'power_mean' has no parameter 'q'"):
        ensemble.set_params(rule_params={"q": 1}).fit(X)
    with pytest.raises(
        ValueError, match="must be None or empty for rule 'concatenate'"
    ):
        ensemble.set_params(rule="concatenate").fit(X)
