"""Real sentences in scikit-learn's pipelines."""

from __future__ import annotations

import os
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

from ensembles.embeddings import (
    SentenceEmbedder,
    evaluate_similarity,
    read_similarity_pairs,
    read_vectors,
)

DATA = Path(os.environ.get("ENSEMBLES_DATA", "nowhere"))
GLOVE = DATA / "vectors" / "glove_twitter_25d.txt"
pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="ENSEMBLES_DATA names no folder of data"
)


# Of SUBJ a half is of one class, of TREC a quarter.
@pytest.mark.parametrize(
    ("name", "least"), [("subj.all", 0.8), ("TREC.train.all", 0.5)]
)
def test_sentences_are_classified(name: str, least: float) -> None:
    lines = (DATA / "classification" / name).read_text("latin-1").split("\n")
    rows = [line.split(" ", 1) for line in lines[::5] if line]
    labels, texts = np.array([row[0] for row in rows]), [row[1] for row in rows]
    embedder = SentenceEmbedder(read_vectors(GLOVE), whiten=True)
    pipeline = make_pipeline(embedder, LogisticRegression(max_iter=1000))
    grid = {
        "sentenceembedder__rule": ["mean", ["mean", "maximum", "minimum"]],
        "sentenceembedder__weights": ["sif", None],
    }
    search = GridSearchCV(pipeline, grid, cv=3).fit(texts, labels)
    assert search.best_score_ > least
    scores = cross_validate(search.best_estimator_, texts, labels, cv=3)["test_score"]
    assert scores.mean() == pytest.approx(search.best_score_)
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    assert (again.predict(texts) == search.predict(texts)).all()


@pytest.mark.parametrize("weights", ["sif", "usif"])
def test_sif_and_usif_are_those_of_fse(weights: str) -> None:
    """Its formulas, written out: fse/models/sif.py, usif.py and utils.py of fse 1.0."""
    vectors = read_vectors(GLOVE)
    pairs = read_similarity_pairs(DATA / "sts" / "sts-train.csv", ("6", "7", "5"))
    words = [re.findall(r"\w+", text.lower()) for text in pairs.first]
    # It counts words that have a vector alone.
    words = [
        some for some in words if some and all(w in vectors.vocabulary for w in some)
    ]
    counts = Counter(word for some in words for word in some)
    p = np.array([counts[word] for word in counts]) / counts.total()
    if weights == "sif":
        n_components, found = 1, 1e-3 / (1e-3 + p)
    else:
        length = np.mean([len(some) for some in words])
        n_words, n_components = len(counts), 5
        alpha = (p > 1 - (1 - 1 / n_words) ** length).sum() / n_words
        a = (1 - alpha) / (alpha * 0.5 * n_words)
        found = a / (0.5 * a + p)
    weight = dict(zip(counts, found, strict=True))
    rows = [
        np.mean(
            [weight[w] * vectors.matrix[vectors.vocabulary[w]] for w in some], axis=0
        )
        for some in words
    ]
    sentences = np.array(rows, np.float64)
    _, values, components = np.linalg.svd(sentences, full_matrices=False)
    shares = np.ones(n_components)
    if weights == "usif":
        shares = values[:n_components] ** 2 / (values[:n_components] ** 2).sum()
    for share, component in zip(shares, components, strict=False):
        sentences -= share * np.outer(sentences @ component, component)
    texts = [" ".join(some) for some in words]
    embedder = SentenceEmbedder(
        vectors, weights=weights, remove_components=n_components
    )
    np.testing.assert_allclose(embedder.fit_transform(texts), sentences, atol=2e-6)


def test_the_reference_of_similarity_is_met() -> None:
    # Known of these vectors: the mean 42.0; SIF by this list, whitened, 63.4.
    vectors = read_vectors(GLOVE)
    columns = ("6", "7", "5")
    train, held = (
        read_similarity_pairs(DATA / "sts" / f"sts-{part}.csv", columns)
        for part in ("train", "dev")
    )
    texts = [*train.first, *train.second]
    mean = SentenceEmbedder(vectors, weights=None).fit(texts)
    counts = DATA / "frequencies" / "enwiki_vocab_min200.txt"
    whitened = SentenceEmbedder(vectors, whiten=True, frequencies=counts).fit(texts)
    (plain, better), (gain,) = evaluate_similarity(
        [mean, whitened], held, n_resamples=200
    )
    assert 100 * plain.value == pytest.approx(42.0, abs=0.1)
    assert 100 * better.value == pytest.approx(63.4, abs=0.1)
    assert gain.low > 0
