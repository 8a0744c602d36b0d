"""Scores of weighted means, in memory and of files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from ensembles.checkpoints import Candidate, Journal
from ensembles.reports.displays.scored_points import (
    open_members,
    score_files,
    score_name,
    score_points,
)
from tests.checkpoints.building import load
from tests.checkpoints.soup_search.test_make_soup import made, nearness, value

WEIGHTS = np.array([[1, 0], [0.5, 0.5], [0, 1], [1.5, -0.5]])


def fitted(slope: float) -> LinearRegression:
    X = np.arange(4.0)[:, None]
    return LinearRegression().fit(X, slope * X[:, 0])


def test_estimators_receive_the_weighted_mean() -> None:
    members = [fitted(2.0), fitted(4.0)]

    def slope(model: Any) -> float:
        assert isinstance(model, LinearRegression)
        return float(model.coef_[0])

    scores = score_points(members, WEIGHTS, slope, estimator=LinearRegression())
    np.testing.assert_allclose(scores, [2, 3, 4, 1])
    assert members[0].coef_[0] == pytest.approx(2)  # members are not changed


def test_fitted_estimators_can_be_scored_as_state_dicts() -> None:
    members = [fitted(2.0), fitted(4.0)]
    scores = score_points(members, WEIGHTS, lambda s: s["coef_"][0])
    np.testing.assert_allclose(scores, [2, 3, 4, 1])
    opened = open_members(members)
    assert opened[0].layout.keys() == {"coef_", "intercept_"}


def test_files_are_scored_in_place_or_beside_the_output(tmp_path: Path) -> None:
    paths = [made(tmp_path, f"{n}.safetensors", n) for n in (2, 4)]
    scored: list[Path] = []
    recorded: list[Candidate] = []

    def read(path: Path) -> float:
        scored.append(path)
        return float(load(path)["w"][0])

    out = tmp_path / "out" / "x.png"
    out.parent.mkdir()
    journal = Journal(tmp_path / "journal.jsonl", "read")
    options: dict[str, Any] = {"journal": journal, "record": recorded.append}
    scores = score_files(paths, WEIGHTS, read, out, **options)
    np.testing.assert_array_equal(scores, [2, 3, 4, 1])
    assert [scored[0], scored[2]] == paths
    assert scored[1].parent.parent == scored[3].parent.parent == out.parent
    assert list(out.parent.iterdir()) == []
    assert [candidate.score for candidate in recorded] == [2, 3, 4, 1]
    again = score_files(paths, WEIGHTS, read, out, **options)
    np.testing.assert_array_equal(again, scores)
    assert len(scored) == 4


def test_scores_of_files_may_fail(tmp_path: Path) -> None:
    paths = [made(tmp_path, f"{n}.safetensors", n) for n in (2, 4)]

    def failing(path: Path) -> float:
        if value(path) == 3:
            raise ValueError("no memory")
        return nearness(path)

    with pytest.raises(ValueError, match="no memory"):
        score_files(paths, WEIGHTS, failing, tmp_path / "x.png")
    scores = score_files(paths, WEIGHTS, failing, tmp_path / "x.png", on_error="drop")
    np.testing.assert_array_equal(scores, [-2, np.nan, 0, -3])
    with pytest.raises(ValueError, match=r"all 4 failed, the last one with: .*finite"):
        score_files(
            paths, WEIGHTS, lambda p: np.nan, tmp_path / "x.png", on_error="drop"
        )
    with pytest.raises(ValueError, match="members must be different"):
        score_files([paths[0]] * 2, WEIGHTS, nearness, tmp_path / "x.png")
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors"}


def test_different_initializations_raise_no_warning(rng: np.random.Generator) -> None:
    members = [
        {f"h.{i}.weight": rng.standard_normal((32, 32)) for i in range(3)}
        for _ in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_points(members, WEIGHTS, len)


def test_a_score_is_named_like_its_function() -> None:
    assert score_name(nearness) == "nearness"
    assert score_name(lambda state: 1.0) == "score"
    assert score_name(object()) == "score"
