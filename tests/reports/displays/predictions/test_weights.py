"""Bars of the weights of members."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from ensembles.predictions import EnsembleClassifier
from ensembles.reports import WeightsDisplay
from ensembles.reports.displays.predictions.weights import MOST_BARS


def labels(display: WeightsDisplay) -> list[str]:
    return [label.get_text() for label in display.ax_.get_yticklabels()]


def widths(display: WeightsDisplay) -> list[float]:
    return [bar.get_width() for bar in display.ax_.patches]


def test_bars_are_sorted_by_size_and_unused_members_share_a_line() -> None:
    display = WeightsDisplay(
        [0, 0.25, -0.5, 0], names=["a", "b", "c", "d"], scores=[1, 2, 3, np.nan]
    ).plot()
    assert labels(display) == ["c", "b", "2 others"]
    assert widths(display) == [-0.5, 0.25, 0]
    assert display.summary == "2 of 4 members have weight: c -0.5, b 0.25"


def test_one_member_without_weight_has_a_line_of_its_own() -> None:
    assert labels(WeightsDisplay([0, 1], names=["a", "b"]).plot()) == ["b", "a"]
    nothing = WeightsDisplay([0, 0], names=["a", "b"]).plot()
    assert labels(nothing) == ["2 others"]
    assert nothing.summary == "0 of 2 members have weight"


def test_of_many_members_the_smallest_weights_share_a_bar() -> None:
    weights = np.arange(1.0, 101)
    display = WeightsDisplay(weights, names=[f"m{n}" for n in range(100)]).plot()
    assert len(labels(display)) == MOST_BARS + 1
    assert labels(display)[0] == "m99"
    assert labels(display)[-1] == "60 others"
    assert widths(display)[-1] == np.arange(1, 61).sum()


def test_scores_of_members_are_beside_their_bars() -> None:
    display = WeightsDisplay(
        [0.3, 0.7], names=["a", "b"], scores=[0.5, 0.25], score=0.2, metric="loss"
    ).plot()
    (right,) = display.ax_.child_axes
    assert [tick.get_text() for tick in right.get_yticklabels()] == ["0.25", "0.5"]
    assert display.ax_.get_title(loc="left") == "loss of the ensemble 0.2"


def test_given_weights_are_drawn_without_scores(
    rng: np.random.Generator,
) -> None:
    X, y = rng.normal(size=(40, 2)), np.arange(40) % 2
    members = [("lr", LogisticRegression()), ("nb", GaussianNB())]
    ensemble = EnsembleClassifier(members, weights=[1, 3], rule="mean").fit(X, y)
    display = WeightsDisplay.from_estimator(ensemble)
    assert labels(display) == ["nb", "lr"]
    assert display.to_dict()["scores"] is None
    assert not display.ax_.child_axes


def test_entries_that_do_not_match_are_errors() -> None:
    with pytest.raises(ValueError, match="each of 2 names"):
        WeightsDisplay([1], names=["a", "b"])
    with pytest.raises(ValueError, match="each of 1 names"):
        WeightsDisplay([1], names=["a"], scores=[1, 2])
    with pytest.raises(ValueError, match="finite, found"):
        WeightsDisplay([np.nan], names=["a"])
    with pytest.raises(ValueError, match=r"finite, found \[\]"):
        WeightsDisplay([], names=[])
