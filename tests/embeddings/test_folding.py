"""Ensembles of tables beside the one table that they are folded into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import FunctionTransformer
from tokenizers import Tokenizer, models, pre_tokenizers

from ensembles.embeddings import SentenceEmbedder, WordVectors, fold_ensemble
from ensembles.predictions import EnsembleTransformer

WORDS = [f"w{i}" for i in range(12)]
TEXTS = ["w1 W2", "", "w3 w3 unknown", "unknown", "w7 w8 w9 w10"] * 4


def table(width: int, seed: int) -> dict[str, Any]:
    vectors = np.random.default_rng(seed).normal(size=(len(WORDS), width))
    return dict(zip(WORDS, vectors, strict=True))


def members(*widths: int, **params: Any) -> list[tuple[str, Any]]:
    return [
        (f"m{i}", SentenceEmbedder(table(width, i), **{"weights": None, **params}))
        for i, width in enumerate(widths)
    ]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"weights": [3, 1]},
        {"rule": "concatenate", "weights": [2, -1]},
        {"rule": "concatenate", "n_components": 3},
        {"align": "procrustes"},
        {"align": "procrustes", "n_components": 2, "weights": [1, 4]},
    ],
    ids=str,
)
@pytest.mark.parametrize("weights", [None, "zipf"])
@pytest.mark.filterwarnings("ignore:.*order of the vectors")
def test_the_table_has_the_vectors_of_the_ensemble(
    params: dict[str, Any], weights: Any, tmp_path: Path
) -> None:
    ensemble = EnsembleTransformer(members(4, 4, weights=weights), **params).fit(TEXTS)
    folded = fold_ensemble(ensemble)
    expected = ensemble.transform(TEXTS)
    bound = 1e-6 * float(np.abs(expected).max())
    assert bound > 0
    assert folded.transform(TEXTS) == pytest.approx(expected, abs=bound)
    assert not folded.transform(["unknown"]).any()
    folded.save(tmp_path / "folded")
    loaded = SentenceEmbedder.load(tmp_path / "folded")
    assert loaded.transform(TEXTS) == pytest.approx(expected, abs=bound)


def test_widths_may_differ() -> None:
    for params in ({"rule": "concatenate"}, {"align": "procrustes"}):
        ensemble = EnsembleTransformer(members(3, 5), **params).fit(TEXTS)
        found = fold_ensemble(ensemble).transform(TEXTS)
        assert found == pytest.approx(ensemble.transform(TEXTS), abs=1e-6)


def test_members_that_do_not_count_may_be_anything() -> None:
    rest = ("rest", FunctionTransformer(lambda X: np.ones((len(X), 2))))
    frozen = [(n, FrozenEstimator(m.fit())) for n, m in members(4, 4)]
    ensemble = EnsembleTransformer(
        [rest, *frozen], rule="concatenate", weights=[0, 1, 2]
    ).fit(TEXTS)
    found = fold_ensemble(ensemble).transform(TEXTS)
    assert found == pytest.approx(ensemble.transform(TEXTS), abs=1e-6)


def subword(vocabulary: dict[str, int], seed: int) -> Any:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    matrix = np.random.default_rng(seed).normal(size=(len(vocabulary), 3))
    vectors = WordVectors(
        list(vocabulary), matrix.astype(np.float32), tokenizer=tokenizer
    )
    return SentenceEmbedder(vectors, weights=None)


def test_tokenizers_are_compared_by_what_they_do() -> None:
    texts = ["w1 w2", "w2 w2 w2 w9", ""]
    ids = {"[UNK]": 0, "w1": 1, "w2": 2}
    same = [("one", subword(ids, 0)), ("two", subword(ids, 1))]
    ensemble = EnsembleTransformer(same, rule="concatenate").fit(texts)
    found = fold_ensemble(ensemble).transform(texts)
    assert found == pytest.approx(ensemble.transform(texts), abs=1e-6)
    other = [same[0], ("two", subword({"[UNK]": 0, "w2": 1, "w1": 2}, 1))]
    ensemble = EnsembleTransformer(other, rule="concatenate").fit(texts)
    with pytest.raises(ValueError, match=r"same tokens.*'one' and 'two' differ"):
        fold_ensemble(ensemble)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"normalize": True}, "'m1' must return plain means .* it has normalize=True"),
        ({"dtype": "binary"}, "'m1' .* it has dtype='binary'"),
        ({"rule": "maximum"}, "'m1' .* it has a rule, weights or components that"),
        ({"weights": "idf"}, "'m1' .* it has a rule, weights or components that"),
        ({"lowercase": False}, "'m0' and 'm1' differ"),
        ({"unknown": "error"}, "'m0' and 'm1' differ"),
        ({"tokenizer": "whitespace"}, "'m0' and 'm1' differ"),
        ({"vectors": table(4, 0) | {"more": np.ones(4)}}, "'m0' and 'm1' differ"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*order of the vectors")
def test_members_that_cannot_be_folded_are_named(
    params: dict[str, Any], message: str
) -> None:
    pairs = members(4, 4)
    pairs[1][1].set_params(**params)
    texts = ["w1 w2", "w3"]
    ensemble = EnsembleTransformer(pairs, rule="concatenate").fit(texts)
    with pytest.raises(ValueError, match=message):
        fold_ensemble(ensemble)


def test_ensembles_that_cannot_be_folded_are_refused() -> None:
    for params in ({"rule": "median"}, {"normalize": True}):
        ensemble = EnsembleTransformer(members(4, 4), **params).fit(TEXTS)
        with pytest.raises(ValueError, match="must have the rule 'mean' or 'concat"):
            fold_ensemble(ensemble)
    other = ("other", FunctionTransformer(lambda X: np.ones((len(X), 4))))
    ensemble = EnsembleTransformer([*members(4), other]).fit(TEXTS)
    with pytest.raises(TypeError, match="'other' must be a SentenceEmbedder to be fol"):
        fold_ensemble(ensemble)


def test_what_is_folded_is_a_fitted_ensemble() -> None:
    with pytest.raises(TypeError, match="EnsembleTransformer, found SentenceEmbedder"):
        fold_ensemble(members(2)[0][1])
    with pytest.raises(NotFittedError, match="not fitted"):
        fold_ensemble(EnsembleTransformer(members(2, 2)))
