"""Development sets: the library's defaults were chosen on these, and on no others.

A shape is a function of a number of rows and a seed. Samples to fit on are small or of
some size; 4000 rows more are the test, so that one split tells enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from prediction_sets import Data, DataSet
from sklearn import datasets

N_TEST = 4000
SEEDS = {100: 4, 150: 4, 300: 3, 1000: 2, 4000: 1}  # of each number of rows to fit on


def development() -> Iterator[DataSet]:
    """Every shape at every size, with more seeds where a sample is small."""
    for n_train, n_seeds in SEEDS.items():
        for seed in range(100, 100 + n_seeds):
            for name, make in CLASSES.items():
                made = partial(make, n_train + N_TEST, seed)
                yield DataSet(f"{name}, {n_train} rows", True, made, n_train)
            for name, make in VALUES.items():
                made = partial(make, n_train + N_TEST, seed)
                yield DataSet(f"{name}, {n_train} rows", False, made, n_train)


def _drawn(n_features: int, **params: Any) -> Callable[[int, int], Data]:
    def make(n_rows: int, seed: int) -> Data:
        X, y = datasets.make_classification(
            n_rows, n_features, random_state=seed, **params
        )
        return X, y

    return make


def _blobs(n_rows: int, seed: int) -> Data:
    X, y = datasets.make_blobs(n_rows, 4, centers=3, cluster_std=2.5, random_state=seed)
    return X, y


def _hastie(n_rows: int, seed: int) -> Data:
    X, y = datasets.make_hastie_10_2(n_rows, random_state=seed)
    return X, y


def _moons(n_rows: int, seed: int) -> Data:
    X, y = datasets.make_moons(n_rows, noise=0.3, random_state=seed)
    noise = np.random.default_rng(seed).normal(size=(n_rows, 5))
    return np.hstack([X, noise]), y


def _linear(n_rows: int, seed: int) -> Data:
    """The logistic regression is the truth: a combination can only lose."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 10))
    chance = 1 / (1 + np.exp(-2 * X @ rng.normal(size=10)))
    return X, rng.random(n_rows) < chance


def _normal(n_rows: int, seed: int) -> Data:
    """Naive Bayes is the truth."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n_rows)
    means, spreads = rng.normal(size=(3, 6)), rng.uniform(0.3, 2, (3, 6))
    return means[y] + spreads[y] * rng.normal(size=(n_rows, 6)), y


@cache
def _embedded(name: str) -> Data:
    """Sentences of `ENSEMBLES_DATA` as 40 directions of their words' frequencies."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    folder = Path(os.environ["ENSEMBLES_DATA"])
    text = (folder / "classification" / name).read_text("latin-1")
    pairs = [line.split(" ", 1) for line in text.splitlines() if " " in line]
    words = TfidfVectorizer(min_df=3).fit_transform([words for _, words in pairs])
    found = TruncatedSVD(40, random_state=0).fit_transform(words)
    labels = np.array([label for label, _ in pairs])
    names, counts = np.unique(labels, return_counts=True)
    kept = np.isin(labels, names[counts > 100])
    return found[kept], labels[kept]


def _texts(name: str) -> Callable[[int, int], Data]:
    def make(n_rows: int, seed: int) -> Data:
        X, y = _embedded(name)
        chosen = np.random.default_rng(seed).permutation(len(y))[:n_rows]
        return X[chosen], y[chosen]

    return make


def _values(make: Callable[..., Any], **params: Any) -> Callable[[int, int], Data]:
    def made(n_rows: int, seed: int) -> Data:
        X, y = make(n_samples=n_rows, random_state=seed, **params)
        return X, y

    return made


def _steps(n_rows: int, seed: int) -> Data:
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n_rows, 8))
    return X, np.floor(3 * X[:, :3]).sum(axis=1) + rng.normal(size=n_rows)


CLASSES: dict[str, Callable[[int, int], Data]] = {
    "three apart": _drawn(13, n_informative=6, n_classes=3, class_sep=2.5, flip_y=0),
    "two apart": _drawn(30, n_informative=10, class_sep=1.5, flip_y=0.01),
    "ten apart": _drawn(
        64,
        n_informative=20,
        n_classes=10,
        n_clusters_per_class=1,
        class_sep=2,
        flip_y=0,
    ),
    "five": _drawn(20, n_informative=10, n_classes=5),
    "noisy": _drawn(20, flip_y=0.3),
    "rare": _drawn(20, n_informative=5, weights=[0.85]),
    "blobs": _blobs,
    "hastie": _hastie,
    "moons": _moons,
    "linear": _linear,
    "normal": _normal,
    "subjective": _texts("subj.all"),
    "questions": _texts("TREC.train.all"),
}
VALUES: dict[str, Callable[[int, int], Data]] = {
    "linear values": _values(
        datasets.make_regression, n_features=10, n_informative=5, noise=50.0
    ),
    "few of many": _values(datasets.make_sparse_uncorrelated, n_features=20),
    "steps": _steps,
}
