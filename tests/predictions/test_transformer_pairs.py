"""Ensembles of embedders: widths, lengths, axes, and weights chosen on rated pairs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import spearmanr
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from ensembles.embeddings import SentenceEmbedder, SentenceEncoder, paired_cosines
from ensembles.predictions import EnsembleTransformer

WORDS = [f"w{i}" for i in range(30)]
NO_GAIN = pytest.mark.filterwarnings("ignore:selection .* did not beat")


def table(width: int, noise: float, seed: int = 0) -> dict[str, Any]:
    """Word vectors: the same two columns that count, and noise."""
    meaning = np.random.default_rng(0).normal(size=(len(WORDS), 2))
    rest = np.random.default_rng(seed + 1).normal(size=(len(WORDS), width - 2))
    return dict(zip(WORDS, np.hstack([meaning, noise * rest]), strict=True))


def embedder(width: int, noise: float, seed: int = 0, **params: Any) -> Any:
    return SentenceEmbedder(table(width, noise, seed), weights=None, **params)


def rated(n_pairs: int = 120) -> tuple[list[tuple[str, str]], Any]:
    """Pairs of texts, rated by the cosine of the columns that count."""
    rng = np.random.default_rng(1)
    first, second = (
        [" ".join(rng.choice(WORDS, 4)) for _ in range(n_pairs)] for _ in range(2)
    )
    exact = SentenceEmbedder(table(2, 0), weights=None).fit()
    ratings = paired_cosines(exact.transform(first), exact.transform(second))
    return list(zip(first, second, strict=True)), np.round(3 * ratings)


MEMBERS = [
    ("a", embedder(5, 0.6)),
    ("b", embedder(4, 0.6, 1)),
    ("c", embedder(3, 3.0, 2)),
]


class Model:
    """What `SentenceEncoder` asks of a model of sentence-transformers."""

    def encode(self, texts: list[str], **_: Any) -> Any:
        return np.array([[len(t), t.count("1"), t.count("2")] for t in texts], "f4")

    def get_embedding_dimension(self) -> int:
        return 3


def unit(vectors: Any) -> Any:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def cosines(model: Any, pairs: Any) -> Any:
    first, second = zip(*pairs, strict=True)
    return paired_cosines(model.transform(list(first)), model.transform(list(second)))


def test_lengths_do_not_count_after_normalization() -> None:
    texts = ["w1 w2", "", "w3"]
    long = SentenceEmbedder({w: 9 * v for w, v in table(4, 1).items()}, weights=None)
    ensemble = EnsembleTransformer(
        [("long", long), ("encoder", SentenceEncoder(Model()))],
        rule="concatenate",
        normalize=True,
    ).fit(texts)
    found = ensemble.transform(texts)
    assert found[:, :4] == pytest.approx(unit(embedder(4, 1).fit_transform(texts)))
    assert np.linalg.norm(found[:, 4:], axis=1) == pytest.approx([1, 0, 1])
    assert found.dtype == np.float32
    assert not found[1].any()


@NO_GAIN
def test_outputs_of_different_widths_are_averaged_after_a_rotation() -> None:
    texts = [text for pair in rated()[0] for text in pair]
    ensemble = EnsembleTransformer(MEMBERS[::-1], align="procrustes", weights=[1, 2, 3])
    found = ensemble.fit_transform(texts)
    outputs = [clone(member).fit_transform(texts) for _, member in MEMBERS[::-1]]
    parts = []
    for output in outputs:
        padded = np.pad(output, ((0, 0), (0, 5 - output.shape[1])))
        parts.append(padded @ orthogonal_procrustes(padded, outputs[2])[0])
    expected = (parts[0] + 2 * parts[1] + 3 * parts[2]) / 6
    assert found == pytest.approx(expected, abs=1e-5)
    assert ensemble.get_feature_names_out().shape == (5,)
    assert ensemble.transform(texts[:3]) == pytest.approx(found[:3], abs=1e-6)
    with pytest.raises(ValueError, match="or align='procrustes' for different widths"):
        EnsembleTransformer(MEMBERS).fit(texts).transform(texts)


def test_components_are_the_axes_of_the_combined_vectors() -> None:
    texts = [text for pair in rated()[0] for text in pair]
    whole = EnsembleTransformer(MEMBERS, rule="concatenate", weights=[1, 2, 0.5])
    vectors = whole.fit_transform(texts)
    small = clone(whole).set_params(n_components=3).fit(texts)
    found = small.transform([*texts, ""])
    exact = TruncatedSVD(3, algorithm="arpack", random_state=0).fit_transform(vectors)
    assert np.abs(found[:-1]) == pytest.approx(np.abs(exact), abs=1e-4)
    assert not found[-1].any()
    assert found.dtype == np.float32
    assert small.get_feature_names_out().tolist() == [
        f"ensembletransformer{i}" for i in range(3)
    ]
    full = clone(whole).set_params(n_components=12).fit(texts)
    pairs = rated()[0]
    assert cosines(full, pairs) == pytest.approx(cosines(whole, pairs), abs=1e-5)


def test_components_of_a_mean() -> None:
    X = np.random.default_rng(0).normal(size=(40, 4))
    members = [("same", FunctionTransformer()), ("twice", FunctionTransformer(np.add))]
    members[1] = ("square", FunctionTransformer(np.square))
    ensemble = EnsembleTransformer(members, n_components=2).fit(X)
    mean = (X + X**2) / 2
    assert ensemble.transform(X) == pytest.approx(mean @ ensemble.components_.T)
    assert ensemble.components_.shape == (2, 4)


@NO_GAIN
@pytest.mark.parametrize("selection", ["greedy", "convex", "best", "top_k"])
@pytest.mark.parametrize(
    "params",
    [{"rule": "concatenate"}, {"align": "procrustes"}],
    ids=["concatenate", "mean"],
)
def test_scores_are_those_of_the_transformed_pairs(
    selection: str, params: dict[str, Any]
) -> None:
    pairs, ratings = rated()
    ensemble = EnsembleTransformer(
        MEMBERS, weights=selection, normalize=True, **params
    ).fit(pairs, ratings)
    expected = spearmanr(cosines(ensemble, pairs), ratings)[0]
    given = clone(ensemble).set_params(weights=ensemble.weights_)
    texts = list(dict.fromkeys([p[0] for p in pairs] + [p[1] for p in pairs]))
    given.fit(texts)
    assert given.transform(texts) == pytest.approx(ensemble.transform(texts))
    assert ensemble.weights_.sum() == pytest.approx(1)
    assert (ensemble.weights_ >= 0).all()
    alone = [
        spearmanr(cosines(clone(member).fit(texts), pairs), ratings)[0]
        for _, member in MEMBERS
    ]
    assert ensemble.scores_ == pytest.approx(alone, abs=1e-3)
    assert ensemble.best_index_ == int(np.argmax(alone))
    if selection == "greedy":
        best = max(ensemble.history_, key=lambda trial: trial.score)
        assert best.score == pytest.approx(expected, abs=1e-3)
        assert best.score > max(alone)
    assert given.scores_ is given.oof_score_ is given.history_ is None


def folds_by_hand(
    pairs: Any, ratings: Any, choose: Any
) -> tuple[float, float, float, list[Any]]:
    """Mean scores of five folds, with vectors that are concatenated."""
    outputs = {}
    texts = list(dict.fromkeys([p[0] for p in pairs] + [p[1] for p in pairs]))
    for name, member in MEMBERS:
        vectors = clone(member).fit(texts)
        sides = [vectors.transform([pair[side] for pair in pairs]) for side in (0, 1)]
        outputs[name] = [unit(side.astype(float)) for side in sides]

    def score(weights: Any, rows: Any) -> float:
        sides = [
            np.hstack([w * outputs[n][side] for w, n in zip(weights, "abc")])  # noqa: B905
            for side in (0, 1)
        ]
        found = (unit(sides[0]) * unit(sides[1])).sum(axis=1)
        return float(spearmanr(found[rows], ratings[rows])[0])

    order = np.arange(len(pairs))
    np.random.RandomState(0).shuffle(order)
    rows, singles, chosen = [], np.eye(3), []
    for test in np.array_split(order, 5):
        train = np.setdiff1d(order, test)
        alone = [score(weights, train) for weights in singles]
        weights = choose(lambda w, train=train: score(w, train))
        chosen.append(weights)
        best = singles[int(np.argmax(alone))]
        rows.append([score(w, test) for w in (weights, best, np.ones(3))])
    return (*np.mean(rows, axis=0), chosen)


def test_the_choice_is_judged_on_pairs_that_did_not_make_it() -> None:
    pairs, ratings = rated()

    def choose(score: Any) -> Any:
        """The greedy soup: members from best to worst, kept if they do not harm."""
        alone = [score(w) for w in np.eye(3)]
        kept: list[int] = []
        best = -np.inf
        for member in np.argsort(-np.array(alone), kind="stable"):
            trial = [*kept, int(member)]
            value = score(np.isin(np.arange(3), trial) / len(trial))
            if value >= best:
                kept, best = trial, value
        return np.isin(np.arange(3), kept) / len(kept)

    expected = folds_by_hand(pairs, ratings, choose)
    ensemble = EnsembleTransformer(
        MEMBERS, rule="concatenate", weights="greedy_soup", normalize=True
    ).fit(pairs, ratings)
    assert ensemble.oof_score_ == pytest.approx(expected[0], abs=1e-6)
    assert ensemble.oof_best_score_ == pytest.approx(expected[1], abs=1e-6)
    assert ensemble.oof_equal_score_ == pytest.approx(expected[2], abs=1e-6)
    assert ensemble.oof_score_ != ensemble.oof_equal_score_


def test_ratings_of_chance_give_no_gain() -> None:
    pairs, _ = rated()
    chance = np.random.default_rng(3).normal(size=len(pairs))
    ensemble = EnsembleTransformer(MEMBERS, rule="concatenate", weights="greedy")
    with pytest.warns(UserWarning, match="'greedy' did not beat the best member"):
        ensemble.fit(pairs, chance)
    assert max(trial.score for trial in ensemble.history_) > 0.05
    assert abs(ensemble.oof_score_) < 0.3


def test_members_that_are_not_chosen_do_not_transform() -> None:
    class Counting(BaseEstimator, TransformerMixin):
        calls = 0

        def fit(self, X: Any, y: Any = None) -> Any:
            return self

        def transform(self, X: Any) -> Any:
            Counting.calls += 1
            return np.random.default_rng(0).normal(size=(len(X), 3))

        def __sklearn_is_fitted__(self) -> bool:
            return True

    pairs, ratings = rated()
    members = [("noise", Counting()), MEMBERS[1]]
    ensemble = EnsembleTransformer(members, rule="concatenate", weights="best")
    ensemble.fit(pairs, ratings)
    n_calls = Counting.calls
    assert ensemble.transform(["w1", "w2"]).shape == (2, 4)
    assert Counting.calls == n_calls
    assert ensemble.get_feature_names_out().shape == (4,)
    outputs = [np.full((2, 3), np.nan), ensemble.estimators_[1].transform(["w1", "w2"])]
    assert (
        ensemble.combine(outputs).tolist() == ensemble.transform(["w1", "w2"]).tolist()
    )


@NO_GAIN
@pytest.mark.parametrize("kind", ["list", "array", "pandas", "polars", "generator"])
def test_pairs_may_be_of_any_kind(kind: str) -> None:
    pairs, ratings = rated()
    first, second = zip(*pairs, strict=True)
    if kind in ("pandas", "polars"):
        package = pytest.importorskip(kind)
        X = package.DataFrame({"first": list(first), "second": list(second)})
    else:
        X = {
            "list": [list(pair) for pair in pairs],
            "array": np.array(pairs, object),
            "generator": (pair for pair in pairs),
        }[kind]
    ensemble = EnsembleTransformer(
        [*MEMBERS, ("tfidf", TfidfVectorizer())], rule="concatenate", weights="greedy"
    )
    expected = clone(ensemble).fit(pairs, ratings)
    found = ensemble.fit(X, ratings.tolist())
    assert found.weights_.tolist() == expected.weights_.tolist()
    assert found.oof_score_ == expected.oof_score_
    assert not hasattr(found, "n_features_in_")


@NO_GAIN
def test_samples_may_be_arrays() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2, 4))
    y = (X[:, 0, :2] * X[:, 1, :2]).sum(axis=1)
    members = [
        ("left", FunctionTransformer(lambda X: X[:, :2])),
        ("right", FunctionTransformer(lambda X: X[:, 2:])),
    ]
    ensemble = EnsembleTransformer(members, weights="convex").fit(X, y)
    assert ensemble.n_features_in_ == 4
    assert ensemble.weights_[0] > 0.8
    assert ensemble.transform(X[:, 0]).shape == (50, 2)
    tokens = [[["a"], ["a", "b"]]] * 10  # cannot be hashed
    counts = ("counts", CountVectorizer(analyzer=list))
    one = EnsembleTransformer([counts], weights="best").fit(tokens, range(10))
    assert one.transform([["b"]]).tolist() == [[0, 1]]


@NO_GAIN
def test_members_are_fitted_on_the_distinct_texts_without_ratings() -> None:
    seen: list[Any] = []

    class Seeing(BaseEstimator, TransformerMixin):
        def fit(self, X: Any, y: Any = None) -> Any:
            seen.extend([list(X), y])
            return self

        def transform(self, X: Any) -> Any:
            return np.array([[len(x), 1.0] for x in X])

    pairs = [("a", "bb"), ("bb", "ccc")] * 5
    EnsembleTransformer([("seeing", Seeing())], weights="best").fit(pairs, range(10))
    assert seen == [["a", "bb", "ccc"], None]


PAIRS, RATINGS = rated(20)


@NO_GAIN
@pytest.mark.parametrize(
    ("params", "X", "y", "message"),
    [
        ({}, PAIRS, None, "must get rated pairs for weights='greedy'.*found no y"),
        ({}, ["no", *PAIRS[1:]], RATINGS, r"X\[0\] is 'no'; pass list\(zip\(first"),
        ({}, [(1, 2, 3), *PAIRS[1:]], RATINGS, r"X\[0\] is 3 entries"),
        ({}, [3.5, *PAIRS[1:]], RATINGS, r"X\[0\] is 3.5"),
        ({}, np.ones((20, 3)), RATINGS, r"\(n_pairs, 2\), for .* shape \(20, 3\)"),
        ({}, np.ones(20), RATINGS, r"found shape \(20,\)"),
        ({}, PAIRS, RATINGS[:-1], "one rating for each of 20 pairs.*shape .19,"),
        ({}, PAIRS, np.ones(20), "20 pairs with 1 different ratings"),
        ({}, PAIRS[:9], RATINGS[:9], "at least 10 pairs.*found 9"),
        ({}, PAIRS, [np.nan, *RATINGS[1:]], "y contains NaN"),
        ({"weights": "gredy"}, PAIRS, RATINGS, "did you mean 'greedy'"),
        ({"weights": "wise_ft"}, PAIRS, RATINGS, "needs a base"),
        ({"rule": "median"}, PAIRS, RATINGS, "must be used with rule 'mean' or 'con"),
        ({"weights_params": {"p": 1}}, PAIRS, RATINGS, "has no parameter 'p'"),
        (
            {"weights": None, "weights_params": {"n_rounds": 3}},
            PAIRS,
            RATINGS,
            "unless weights is the name of a selection: found n_rounds",
        ),
        ({"n_components": 99}, PAIRS, RATINGS, "n_components must be at most"),
    ],
)
def test_wrong_pairs_are_reported(
    params: dict[str, Any], X: Any, y: Any, message: str
) -> None:
    ensemble = EnsembleTransformer(MEMBERS, rule="concatenate", weights="greedy")
    with pytest.raises(ValueError, match=message):
        ensemble.set_params(**params).fit(X, y)


def test_what_takes_no_pairs_is_refused() -> None:
    ensemble = EnsembleTransformer(MEMBERS, rule="concatenate", weights="greedy")
    with pytest.raises(ValueError, match="fit_transform must not be called with weig"):
        ensemble.fit_transform(PAIRS, RATINGS)
    with pytest.raises(TypeError, match="must not get sample_weight with weights="):
        ensemble.fit(PAIRS, RATINGS, sample_weight=np.ones(20))
    with pytest.raises(TypeError, match="normalize must be True or False, found 'l2'"):
        EnsembleTransformer(MEMBERS, normalize="l2").fit(["w1"])
    words = [("words", CountVectorizer()), ("same", CountVectorizer())]
    sparse = EnsembleTransformer(words, rule="concatenate", n_components=2)
    with pytest.raises(ValueError, match="use TruncatedSVD after the ensemble"):
        sparse.fit(["good film", "bad film", "film"])


def test_vectors_that_are_not_finite_choose_nothing() -> None:
    def broken(X: Any) -> Any:
        return np.full((len(X), 2), np.inf)

    members = [MEMBERS[0], ("broken", FunctionTransformer(broken))]
    ensemble = EnsembleTransformer(members, rule="concatenate", weights="greedy")
    with pytest.raises(ValueError, match="output of member 'broken' contains infinity"):
        ensemble.fit(PAIRS, RATINGS)


@NO_GAIN
def test_a_saved_ensemble_returns_the_same_vectors(tmp_path: Path) -> None:
    members = [*MEMBERS, ("encoder", SentenceEncoder(Model()))]
    ensemble = EnsembleTransformer(
        members, rule="concatenate", weights="greedy", normalize=True, n_components=3
    ).fit(*rated())
    joblib.dump(ensemble, tmp_path / "ensemble.joblib")
    texts = ["w1 w2", "", "w5"]
    expected = ensemble.transform(texts).tolist()
    assert (
        joblib.load(tmp_path / "ensemble.joblib").transform(texts).tolist() == expected
    )
    assert pickle.loads(pickle.dumps(ensemble)).transform(texts).tolist() == expected


@NO_GAIN
def test_fitted_members_are_used_as_they_are_and_weights_serve_in_a_pipeline() -> None:
    pairs, ratings = rated()
    frozen = [(name, FrozenEstimator(clone(m).fit())) for name, m in MEMBERS]
    ensemble = EnsembleTransformer(frozen, rule="concatenate", weights="greedy")
    ensemble.fit(pairs, ratings)
    texts, labels = [first for first, _ in pairs], ratings > 0
    given = clone(ensemble).set_params(weights=ensemble.weights_)
    model = make_pipeline(given, LogisticRegression())
    grid = {"ensembletransformer__normalize": [True, False]}
    search = GridSearchCV(model, grid, cv=2).fit(texts, labels)
    assert search.predict(texts).shape == labels.shape


def test_dropped_members_are_left_out_of_the_choice() -> None:
    members = [("out", "drop"), *MEMBERS]
    ensemble = EnsembleTransformer(members, rule="concatenate", weights="greedy")
    ensemble.fit(*rated())
    assert ensemble.weights_.shape == ensemble.scores_.shape == (3,)
