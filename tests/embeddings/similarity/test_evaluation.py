"""Similarities, beside what people say of pairs, and which model a path holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from ensembles.embeddings import SentenceEmbedder, SentenceEncoder, auto_model
from ensembles.embeddings.auto_model import load_model
from ensembles.embeddings.similarity.cosine import paired_cosines
from ensembles.embeddings.similarity.evaluation import (
    Pairs,
    evaluate_similarity,
    read_similarity_pairs,
)

WORDS = {
    f"w{i}": row for i, row in enumerate(np.random.default_rng(0).normal(size=(9, 4)))
}


def pairs_of(rng: np.random.Generator, n_pairs: int = 60) -> Pairs:
    sides = rng.choice(list(WORDS), size=(2, n_pairs, 3))
    first, second = ([" ".join(words) for words in side] for side in sides)
    return Pairs(first, second, rng.integers(6, size=n_pairs) / 2)


def test_cosines_are_those_of_the_definition(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 10_000, 5)).astype(np.float32)
    a[3] = b[3] = b[4] = 0
    found = paired_cosines(a, b)
    assert found[3] == found[4] == 0
    for i in (0, 1, 9_999):
        x, y = a[i].astype(float), b[i].astype(float)
        assert found[i] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert (
        paired_cosines(a[:1], b).tolist()
        == paired_cosines(np.repeat(a[:1], 10_000, 0), b).tolist()
    )
    assert paired_cosines(a, b[:1]).shape == (10_000,)
    assert paired_cosines(a[:0], b[:0]).shape == (0,)
    for wrong in (b[0], b[:, :2], b[:7]):
        with pytest.raises(ValueError, match="shape"):
            paired_cosines(a, wrong)


def test_cosines_of_sign_bits_are_those_of_signs(rng: np.random.Generator) -> None:
    signs = rng.choice([-1.0, 1.0], size=(2, 20, 16))
    packed = np.packbits(signs > 0, axis=-1)
    assert paired_cosines(*packed) == pytest.approx(paired_cosines(*signs))


def test_sign_bits_of_any_width_have_right_ends() -> None:
    vectors = {"a": [1.0, -1.0, 2.0], "b": [-1.0, 1.0, -2.0], "c": [1.0, 1.0, -2.0]}
    embedder = SentenceEmbedder(vectors, weights=None, dtype="binary").fit()
    bits = embedder.transform(["a", "b", "c", ""])
    assert paired_cosines(bits[:1], bits)[[0, 1, 3]].tolist() == [1, -1, 0]
    assert -1 < paired_cosines(bits[:1], bits)[2] < 1


def test_nan_is_not_similar_to_nothing() -> None:
    assert np.isnan(paired_cosines([[np.nan, 1]], [[1, 1]])).all()


def test_correlations_are_spearmans(rng: np.random.Generator) -> None:
    pairs = pairs_of(rng)
    models = [
        SentenceEmbedder(WORDS, weights=None, rule=r).fit() for r in ("mean", "maximum")
    ]
    found, above = evaluate_similarity(models, pairs, n_resamples=500)
    for model, one in zip(models, found, strict=True):
        said = paired_cosines(
            model.transform(pairs.first), model.transform(pairs.second)
        )
        assert one.value == pytest.approx(spearmanr(said, pairs.scores)[0])
        assert one.low < one.value < one.high
    assert above[0].value == pytest.approx(found[1].value - found[0].value)
    assert evaluate_similarity(models, pairs, n_resamples=500) == (found, above)
    same, none = evaluate_similarity([models[0]] * 2, pairs, n_resamples=100)
    assert same[0] == same[1]
    assert none == [(0, 0, 0)]


def test_intervals_hold_what_they_promise() -> None:
    # Of normal pairs with correlation r, Spearman's is 6 / pi * asin(r / 2).
    true, inside = 6 / np.pi * np.arcsin(0.6 / 2), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=200)
        scores = 0.6 * x + 0.8 * rng.normal(size=200)
        # In two dimensions the cosine with (1, 0) grows with x.
        model = SentenceEmbedder(
            {**{f"t{i}": [v, 1.0] for i, v in enumerate(x)}, "axis": [1.0, 0.0]},
            weights=None,
        ).fit()
        pairs = Pairs([f"t{i}" for i in range(200)], ["axis"] * 200, scores)
        ((_, low, high),), _ = evaluate_similarity([model], pairs, n_resamples=200)
        inside += low <= true <= high
    assert 86 <= inside <= 100


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a b,c,1\nd,e f,2\n", None),
        ("sentence1,sentence2,score\na b,c,1\n\nd,e f,2\n", None),
        (
            "id\tsentence_A\tsentence_B\trelatedness_score\n9\ta b\tc\t1\n8\td\te f\t2",
            None,
        ),
        ("x,score,y\na b,1,c\nd,2,e f\n", ["x", "y", "score"]),
        ("1\tq\ta b\tc\n2\tq\td\te f\n", ["3", "4", "1"]),
        ('"a b",c,1\r\nd,"e f",2\r\n', None),
    ],
)
def test_tables_of_pairs(text: str, columns: Any, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.encode("utf-8-sig"))
    first, second, scores = read_similarity_pairs(path, columns)
    assert (first, second, scores.tolist()) == (["a b", "d"], ["c", "e f"], [1, 2])


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            b"a,b,1\nc,d,x\n",
            None,
            r"line 2 must have texts in the columns 1 and 2 and a",
        ),
        (b"a,b,1\nc,d\n", None, "line 2 must have"),
        (b"a,b,1\nc,d,nan\n", None, "line 2 must have"),
        (b"a,b,1\nc,d,1\n", None, "at least two different scores, found 2 pairs"),
        (b"", None, "at least two different scores, found 0 pairs"),
        (b"a,b,c,d\n", None, "are not recognized in its first line"),
        (b"a,b,c,d\n", ["a", "b"], "columns must have three"),
        (b"a,b,c,d\n", ["a", "b", "e"], "has no columns a,b,e"),
        (b"a,b,c,d\n", ["1", "2", "5"], "has no columns 1,2,5"),
        (b"caf\xe9,b,1\n", None, "must be UTF-8"),
        (b'a,b,1\n"c,d,2\ne,f,3\n', None, "line 3: unexpected end of data"),
        (b"a," + b"b" * 200_000 + b",1\n", None, "line 1: field larger than"),
    ],
)
def test_broken_tables_are_reported(
    text: bytes, columns: Any, message: str, tmp_path: Path
) -> None:
    csv.field_size_limit(1 << 17)  # as Python has it, whatever a command has set
    path = tmp_path / "pairs.csv"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_similarity_pairs(path, columns)


def test_a_path_is_opened_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("good 1 0\nfilm 0 1\nbad -1 0\n")
    with pytest.warns(UserWarning, match="order of its vectors replaces"):
        plain = load_model(tmp_path / "v.txt")
    assert plain.get_params()["weights"] == "sif"
    given = load_model(tmp_path / "v.txt", ["good film"], weights="idf", limit=2)
    assert given.transform(["good bad"]).tolist() == [[1, 0]]
    given.save(tmp_path / "saved")
    saved = load_model(tmp_path / "saved", n_jobs=2)
    assert saved.transform(["good bad"]).tolist() == [[1, 0]]
    assert saved.n_jobs == 2
    with pytest.raises(
        ValueError,
        match=r"weights \(--weights\) does not apply to .*saved, a saved Sent",
    ):
        load_model(tmp_path / "saved", weights=None)
    with pytest.raises(ValueError, match=r"texts \(--fit\) does not apply"):
        load_model(tmp_path / "saved", ["good"])
    (tmp_path / "saved" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        load_model(tmp_path / "saved")


def test_what_stands_behind_a_static_table_is_not_left_out(tmp_path: Path) -> None:
    kinds = ["StaticEmbedding", "Normalize", "Dense"]
    types = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    for modules, expected in ((types[:2], None), (types, SentenceEncoder)):
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        assert auto_model._model_class(tmp_path) is expected
    (tmp_path / "modules.json").write_text("[3]")
    assert auto_model._model_class(tmp_path) is None


def test_cosines_of_very_small_and_large_vectors() -> None:
    for size in (1e-320, 1e-170, 1e-100, 1.0, 1e100, 1e170, 1.7e308):
        assert paired_cosines([[size, 0]], [[1, 0]]).tolist() == [1]
        assert paired_cosines([[size, 0]], [[size, 0], [0, size]]).tolist() == [1, 0]
        np.testing.assert_allclose(paired_cosines([[size, size]], [[1, 0]]), [0.5**0.5])
    assert paired_cosines([[0, 0]], [[1e-300, 1]]).tolist() == [0]


def test_no_cosine_is_above_one(rng: np.random.Generator) -> None:
    # epfml/sent2vec#78
    vectors = rng.normal(size=(20_000, 50))
    assert paired_cosines(vectors, 3 * vectors).max() == 1
    assert paired_cosines(vectors, -7 * vectors).min() == -1


def test_pairs_between_semicolons_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("s1;s2;score\na, b;c;5\nd;e;1\n")
    found = read_similarity_pairs(path)
    assert (found.first, found.scores.tolist()) == (["a, b", "d"], [5, 1])


def test_texts_without_a_known_token_are_warned_of() -> None:
    model = SentenceEmbedder({"a": [1.0, 0.0], "b": [0.0, 1.0]}, weights=None).fit()
    with pytest.warns(UserWarning, match="2 of 4 texts have no known token"):
        evaluate_similarity(
            [model], Pairs(["a", "x"], ["b", "y"], np.array([1.0, 2.0]))
        )
