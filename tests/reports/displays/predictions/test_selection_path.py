"""Steps of a selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.reports import SelectionPathDisplay
from ensembles.reports.displays.predictions.selection_path import step_labels
from ensembles.selection.score import Trial


def trial(*counts: int) -> Trial:
    return Trial(np.array(counts) / sum(counts), 0.0, np.array(counts))


def test_steps_are_named_after_the_member_that_was_added() -> None:
    history = [trial(1, 0, 0), trial(1, 0, 1), trial(1, 0, 2), trial(1, 1, 2)]
    assert step_labels(history, ["a", "b", "c"]) == ["a", "+ c", "+ c", "+ b"]


def test_steps_that_add_no_single_member_show_the_weights() -> None:
    history = [
        trial(1, 1, 0),  # sorted initialization
        trial(0, 1, 0),  # the next bag
        trial(1, 1, 1),
        Trial(np.array([0.5, 1.5, 0.0]), 0.0),
        Trial(np.zeros(3), 0.0),
    ]
    assert step_labels(history, ["a", "b", "c"]) == [
        "a 0.50, 1 more",
        "b",
        "equal weights",
        "b 1.50, 1 more",
        "no member",
    ]


def test_the_best_step_is_the_first_of_equals() -> None:
    scores = [0.5, 0.2, np.nan, 0.2]
    losses = SelectionPathDisplay(list("abcd"), scores, lower_is_better=True)
    assert losses.best == 1
    assert SelectionPathDisplay(list("abcd"), scores).best == 0


def test_a_selection_is_scored_on_the_rows_that_it_learned_from(
    rng: np.random.Generator,
) -> None:
    """Weights of noise look good there, and the cross-fitted score does not."""
    y = np.arange(60) % 2
    share = rng.uniform(0.2, 0.8, (30, 60))
    stack = np.stack([1 - share, share], axis=2)
    display = SelectionPathDisplay.from_predictions(
        y, stack, weights_params={"n_rounds": 10}
    )
    assert display.scores[display.best] < np.log(2) < display.to_dict()["cross_fitted"]
    lines = {line.get_label() for line in display.ax_.lines}
    assert {"best member", "ensemble, cross-fitted"} <= lines


@pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
def test_steps_are_scored_at_their_best_thresholds_unless_there_are_none(
    rng: np.random.Generator,
) -> None:
    y = (np.arange(60) % 6 == 0).astype(int)
    share = np.clip(0.1 + 0.2 * y + rng.normal(0, 0.05, (3, 60)), 0.01, 0.45)
    stack = np.stack([1 - share, share], axis=2)
    scores = {}
    for thresholds in ("auto", None):
        display = SelectionPathDisplay.from_predictions(
            y,
            stack,
            weights="top_k",
            scoring="balanced_accuracy",
            thresholds=thresholds,
        )
        scores[thresholds] = display.scores.max()
    assert scores[None] == 0.5  # no probability is above one half
    assert scores["auto"] > 0.9


def test_many_steps_do_not_all_have_a_label() -> None:
    display = SelectionPathDisplay(["m"] * 200, np.linspace(0, 1, 200)).plot()
    assert len(display.ax_.get_yticks()) == 50
    assert display.figsize[1] <= 12


@pytest.mark.parametrize(
    ("steps", "scores", "message"),
    [(["a"], [1, 2], "each of 1 steps"), (["a"], [np.nan], "no score is finite")],
)
def test_paths_that_cannot_be_drawn_are_errors(
    steps: Any, scores: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionPathDisplay(steps, scores)


def test_given_weights_have_no_path() -> None:
    y, stack = [0.5, 1.5, 2.5], np.ones((2, 3))
    with pytest.raises(ValueError, match="must learn its weights"):
        SelectionPathDisplay.from_predictions(y, stack, weights=[1, 2])
