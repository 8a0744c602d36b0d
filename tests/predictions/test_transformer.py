from __future__ import annotations

from operator import itemgetter
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import ortho_group
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from ensembles.predictions import EnsembleTransformer

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
        ({"align": "rotate"}, "align must be None or 'procrustes', found 'rotate'"),
        ({"rule": "vote"}, "rule 'vote' combines labels, not outputs of transformers"),
        ({"rule": "median", "weights": [1, -1]}, "weights of 'median' must not be neg"),
        ({"minmax": PCA(2)}, "member 'minmax' has 2 columns, 'standard' 4; rule='conc"),
        ({"rule": "concatenate", "align": "procrustes"}, "align must be None for rule"),
        (
            {"rule": "concatenate", "weights": [1]},
            "'concatenate' must be one number fo",
        ),
        ({"rule": "concatenate", "weights": [0, 0]}, "must not sum to zero"),
        (
            {"rule": "concatenate", "minmax": FIRST},
            r"'minmax' must give .* shape \(30,",
        ),
        ({"minmax": FIRST}, r"member 'minmax' must give .* of shape \(30,\)"),
        ({"minmax": LogisticRegression()}, "raised by member 'minmax'"),
    ],
    ids=str,
)
def test_wrong_parameters_are_told(
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
