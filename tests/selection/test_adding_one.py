"""A selection of one's own: registered, then known by its properties everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB

from ensembles.checkpoints import ModelSoup, make_soup
from ensembles.predictions import EnsembleClassifier
from ensembles.registry import register
from ensembles.selection import SELECTIONS


@pytest.fixture
def halfway() -> Iterator[str]:
    @register(SELECTIONS, needs_base=True, n_scores=lambda n: n + 1)
    def halfway(n_members: int, score: Any, *, share: float = 0.5, record: Any) -> Any:
        """Between the base and the mean of the members, at one place."""
        weights = np.full(n_members, share / n_members)
        score(weights)
        return weights

    yield "halfway"
    del SELECTIONS["halfway"]


@pytest.fixture
def worst() -> Iterator[str]:
    @register(SELECTIONS, single_member=True)
    def worst(n_members: int, score: Any, *, record: Any) -> Any:
        """All weight on the member that scores least."""
        scores = [score(row) for row in np.eye(n_members)]
        return np.eye(n_members)[int(np.argmin(scores))]

    yield "worst"
    del SELECTIONS["worst"]


def saved(folder: Path, **values: float) -> list[Path]:
    paths = []
    for name, value in values.items():
        paths.append(folder / f"{name}.safetensors")
        save_file({"w": np.full(3, value, np.float32)}, paths[-1])
    return paths


def test_one_that_needs_a_base_is_given_it_by_soups(
    halfway: str, tmp_path: Path
) -> None:
    base, *members = saved(tmp_path, base=0.0, a=2.0, b=4.0)
    out = tmp_path / "soup.safetensors"
    score = lambda path: float(load_file(path)["w"][0])  # noqa: E731
    report = make_soup(members, score, out, select=halfway, base=base)
    assert load_file(report.out)["w"].tolist() == [1.5] * 3


def test_without_a_base_it_is_refused(halfway: str, tmp_path: Path) -> None:
    members = saved(tmp_path, a=2.0, b=4.0)
    with pytest.raises(ValueError, match="selection 'halfway' needs the checkpoint"):
        make_soup(members, lambda path: 0.0, tmp_path / "o.pt", select=halfway)
    soup = ModelSoup(SGDClassifier(), weights=halfway, n_members=2)
    with pytest.raises(ValueError, match="base"):
        soup.fit(*load_iris(return_X_y=True))
    pair = [("lr", LogisticRegression(max_iter=500)), ("nb", GaussianNB())]
    with pytest.raises(ValueError, match="weights='halfway' needs a base"):
        EnsembleClassifier(pair, rule="mean", weights=halfway).fit(
            *load_iris(return_X_y=True)
        )


@pytest.mark.filterwarnings("error")
def test_one_of_a_single_member_is_not_expected_to_beat_it(worst: str) -> None:
    X, y = load_iris(return_X_y=True)
    pair = [("lr", LogisticRegression(max_iter=500)), ("nb", GaussianNB())]
    ensemble = EnsembleClassifier(pair, rule="mean", weights=worst).fit(X, y)
    assert sorted(ensemble.weights_) == [0, 1]
    assert np.argmax(ensemble.weights_) == np.argmin(ensemble.scores_)
