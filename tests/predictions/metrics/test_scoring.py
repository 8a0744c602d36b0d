"""Fast scores choose what scikit-learn's own would, ties included."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.metrics.scorer import BoundedScore, RunningSums, ScorerScore
from ensembles.predictions.metrics.table import make_score
from ensembles.selection import greedy, greedy_soup
from ensembles.selection.score import ROUNDING, CachedScore, Trial
from tests.predictions.held_out import (
    MEAN,
    both,
    classes_held,
    mean_of,
    shapes,
    values_held,
)

OF_CLASSES = [None, "neg_log_loss", "accuracy", "neg_brier_score"]
OF_VALUES = [None, "neg_mean_squared_error", "neg_root_mean_squared_error", "r2"]
of_classes = pytest.mark.parametrize("scoring", OF_CLASSES)
of_values = pytest.mark.parametrize("scoring", OF_VALUES)
params = st.fixed_dictionaries(
    {"n_init": st.integers(1, 3), "n_bags": st.sampled_from([0, 0, 2])}
)


def follow(select: Any, n_members: int, score: Any, **params: Any) -> Any:
    """Weights of all steps and of the result."""
    history: list[Trial] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scorers, about so few rows
            found = select(n_members, score, record=history.append, **params)
    except ValueError as error:
        return str(error)
    return found.tolist(), [trial.weights.tolist() for trial in history]


def same(held: Any, scoring: Any, params: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = ScorerScore(held, mean_of(held), scoring)
        try:
            fast, _ = both(held, scoring)
        except ValueError as error:  # a class that y lacks
            with pytest.raises(ValueError, match=re.escape(str(error))):
                plain(np.eye(held.n_members)[0])
            return
    size = held.n_members
    found = follow(greedy, size, fast, n_rounds=7, **params)
    assert found == follow(greedy, size, plain, n_rounds=7, **params)
    assert follow(greedy_soup, size, fast) == follow(greedy_soup, size, plain)


@of_classes
@given(shape=shapes(), params=params)
@settings(max_examples=60, deadline=None)
def test_greedy_selects_the_same_with_fast_classification_scores(
    scoring: Any, shape: Any, params: Any
) -> None:
    same(classes_held(*shape), scoring, params)


@given(shape=shapes(2, 2), params=params)
@settings(max_examples=60, deadline=None)
def test_greedy_selects_the_same_with_the_fast_roc_auc(shape: Any, params: Any) -> None:
    same(classes_held(*shape), "roc_auc", params)


@of_values
@given(shape=shapes(1, 3), params=params)
@settings(max_examples=60, deadline=None)
def test_greedy_selects_the_same_with_fast_regression_scores(
    scoring: Any, shape: Any, params: Any
) -> None:
    same(values_held(*shape), scoring, params)


def check_estimates(fast: Any, plain: ScorerScore, rng: np.random.Generator) -> None:
    """Estimates are as near to the scorer as they say."""
    n_members = fast.out_of_fold.n_members
    everyone = np.arange(n_members)
    for size in (0, 1, 3, 40):
        counts = rng.multinomial(size, np.ones(n_members) / n_members)
        values, errors = fast.estimates(counts, everyone)
        more = counts + np.eye(n_members, dtype=np.int64)
        exact = np.array([plain(row / row.sum()) for row in more])
        assert (np.abs(values - exact) <= errors).all()
        assert (errors >= 0).all()


@pytest.mark.parametrize("kind", ["quarters", "odd", "plain", "float32"])
@pytest.mark.parametrize("weighting", ["none", "any"])
@pytest.mark.parametrize("scoring", [*OF_CLASSES, "roc_auc"])
def test_estimates_are_within_their_error_bounds(
    scoring: Any, kind: str, weighting: str, rng: np.random.Generator
) -> None:
    n_classes = 2 if scoring == "roc_auc" else 3
    for seed in range(3):
        held = classes_held(seed, 6, 3000, n_classes, kind, weighting)
        fast, plain = both(held, scoring)
        if scoring == "roc_auc" and weighting == "any":
            assert type(fast) is ScorerScore
            continue
        assert isinstance(fast, BoundedScore)
        check_estimates(fast, plain, rng)


@pytest.mark.parametrize("kind", ["quarters", "odd", "plain", "float32"])
@pytest.mark.parametrize("weighting", ["none", "any"])
@of_values
def test_regression_estimates_are_within_their_error_bounds(
    scoring: Any, kind: str, weighting: str, rng: np.random.Generator
) -> None:
    for seed in range(3):
        held = values_held(seed, 6, 3000, 1, kind, weighting)
        fast, plain = both(held, scoring)
        assert isinstance(fast, BoundedScore)
        check_estimates(fast, plain, rng)


@pytest.mark.parametrize("scoring", ["f1_macro", "neg_mean_poisson_deviance"])
def test_other_scorers_are_called_for_every_score(scoring: str) -> None:
    held = classes_held(0, 3, 50, 3, "plain", "none")
    assert type(both(held, scoring)[0]) is ScorerScore


def test_a_callable_is_called_for_every_score() -> None:
    held = classes_held(0, 3, 50, 3, "plain", "none")
    fast, _ = both(held, lambda model, X, y, **rest: float(len(y)))
    assert type(fast) is ScorerScore
    assert fast(np.ones(3) / 3) == 50


@pytest.mark.parametrize("scoring", [*OF_CLASSES, "roc_auc"])
def test_invalid_probabilities_are_scored_by_the_scorer(scoring: Any) -> None:
    held = classes_held(0, 3, 50, 2, "plain", "none")
    wrong: dict[str, Any] = {
        "half": held.stacks[0].astype(np.float16),
        "negative": held.stacks[0] - 0.01,
        "empty": held.stacks[0] * (np.arange(50) > 0)[:, None],
    }
    for stack in wrong.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert type(both(held._replace(stacks=[stack]), scoring)[0]) is ScorerScore


@of_values
def test_constant_targets_are_scored_by_the_scorer(scoring: Any) -> None:
    held = values_held(0, 3, 50, 1, "plain", "none")._replace(y=np.ones(50))
    fast, plain = both(held, scoring)
    assert (type(fast) is ScorerScore) == (scoring == "r2")
    assert fast(np.ones(3) / 3) == plain(np.ones(3) / 3)


def test_other_rules_than_the_mean_are_scored_by_the_scorer() -> None:
    held = classes_held(0, 3, 50, 3, "plain", "none")
    rule = resolve_combiner("geometric_mean")
    combiner = replace(mean_of(held), combiner=rule)
    assert type(make_score(held, combiner, None)) is ScorerScore


def test_predictions_with_other_postprocessing_are_scored_by_the_scorer() -> None:
    held = classes_held(0, 3, 50, 3, "plain", "none")

    class Reversed(FittedCombiner):
        def __call__(self, stacks: Any, weights: Any) -> Any:
            return [answer[:, ::-1] for answer in super().__call__(stacks, weights)]

    combiner = Reversed(MEAN, {}, held.outputs)
    for scoring in ("neg_log_loss", "accuracy"):
        assert type(make_score(held, combiner, scoring)) is ScorerScore


def test_several_outputs_have_equal_weight() -> None:
    one, two = (classes_held(seed, 4, 60, 3, "tenths", "any") for seed in (0, 1))
    classes = [one.outputs.classes[0], two.outputs.classes[0]]  # type: ignore[union-attr]
    labels = ClassOutputs(classes, True, False, False, "error")
    y = np.column_stack([one.y, two.y])
    held = OutOfFold([*one.stacks, *two.stacks], y, labels, one.sample_weight)
    fast, plain = both(held, None)
    assert isinstance(fast, BoundedScore)
    check_estimates(fast, plain, np.random.default_rng(0))
    same(held, None, {"n_init": 2, "n_bags": 0})


@pytest.mark.parametrize("scoring", [None, "accuracy", "roc_auc", "neg_brier_score"])
def test_memory_mapped_predictions_are_not_copied(scoring: Any, tmp_path: Path) -> None:
    held = classes_held(0, 5, 200, 2, "plain", "none")
    np.save(tmp_path / "y_proba.npy", held.stacks[0])
    mapped = np.load(tmp_path / "y_proba.npy", mmap_mode="r")
    fast, plain = both(held._replace(stacks=[mapped]), scoring)
    assert isinstance(fast, BoundedScore)
    found = follow(greedy, 5, fast, n_rounds=5)
    assert found == follow(greedy, 5, plain, n_rounds=5)
    arrays = [value for value in vars(fast).values() if isinstance(value, np.ndarray)]
    assert all(
        array.size < mapped.size or np.shares_memory(array, mapped) for array in arrays
    )


def test_the_margin_cache_reuses_slots_and_restarts() -> None:
    # Each bag starts from zero counts, so that other rows are undecided.
    for seed in range(4):
        held = classes_held(seed, 7, 3000, 4, "float32", "none")
        same(held, "accuracy", {"n_init": 1, "n_bags": 3})
        fast, plain = both(held, "accuracy")
        check_estimates(fast, plain, np.random.default_rng(seed))


def test_a_certain_winner_of_uncertain_value_is_scored_again() -> None:
    # The best score of a round is compared with the best score of earlier rounds.
    held = classes_held(519, 6, 7, 3, "quarters", "any")
    same(held, "accuracy", {"n_init": 1, "n_bags": 0})


def test_running_sums_restart_when_a_count_decreases() -> None:
    predictions = np.arange(6.0).reshape(3, 2)
    running = RunningSums(predictions)
    for counts in ([1, 0, 2], [1, 1, 2], [0, 5, 0], [0, 0, 0]):
        sums = running.update(np.array(counts))
        np.testing.assert_array_equal(sums, counts @ predictions)


def test_probabilities_raised_to_the_floor_are_not_scaled() -> None:
    # Rows sum to 1 - 2**-23, and the true class has 0: the scorer divides first.
    row = np.array([0.0, 0.5, 0.5 - 2.0**-23], np.float32)
    held = classes_held(0, 3, 40, 3, "float32", "none")
    stack: Any = np.broadcast_to(row, (3, 40, 3)).copy()
    fast, plain = both(held._replace(stacks=[stack]), "neg_log_loss")
    assert isinstance(fast, BoundedScore)
    check_estimates(fast, plain, np.random.default_rng(0))


@of_values
def test_error_bounds_include_the_rounding_of_large_predictions(
    scoring: Any, rng: np.random.Generator
) -> None:
    held = values_held(0, 5, 400, 1, "plain", "none")
    y = 1e8 + rng.normal(size=400)
    stack = y[:, None] + 1e-5 * rng.normal(size=(5, 400, 1))
    fast, plain = both(held._replace(stacks=[stack], y=y), scoring)
    assert isinstance(fast, BoundedScore)
    check_estimates(fast, plain, rng)


def test_margins_within_rounding_are_decided_by_the_mean() -> None:
    # Thirds and tenths: leads that are none, but for the rounding of the mean.
    row = np.array([[0.1, 0.2, 0.7], [0.3, 0.2, 0.5], [0.8, 0.1, 0.1], [0.2, 0.6, 0.2]])
    stack = np.stack([row, row[:, [1, 2, 0]], row[:, [2, 0, 1]], row[::-1]])
    held = classes_held(0, 4, 4, 3, "plain", "none")._replace(stacks=[stack])
    for truth in range(3):
        names = np.array([f"class {truth}"] * 4)
        fast, plain = both(held._replace(y=names), "accuracy")
        assert isinstance(fast, BoundedScore)
        for seed in range(5):
            check_estimates(fast, plain, np.random.default_rng(seed))


def test_a_named_scorer_receives_the_columns_of_each_target(
    rng: np.random.Generator,
) -> None:
    Y = rng.integers(2, size=(80, 3))
    shares = [rng.dirichlet([1, 1], size=80) for _ in range(3)]
    labels = ClassOutputs([np.array([0, 1])] * 3, True, True, False, "error")
    held = OutOfFold([share[None] for share in shares], Y, labels, None)
    score = make_score(held, mean_of(held), "f1_macro")
    said = np.column_stack([share.argmax(axis=1) for share in shares])
    assert score(np.ones(1)) == pytest.approx(f1_score(Y, said, average="macro"))
    areas = make_score(held, mean_of(held), "roc_auc")(np.ones(1))
    columns = np.column_stack([share[:, 1] for share in shares])
    assert areas == pytest.approx(roc_auc_score(Y, columns))


@pytest.mark.parametrize("scoring", ["accuracy", "roc_auc"])
@given(shape=shapes(most_classes=2))
def test_scores_of_single_members_equal_the_scorer(scoring: str, shape: Any) -> None:
    """Ties are exact too where one member is clearly apart from the others."""
    held = classes_held(*shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fast, plain = both(held, scoring)
            own = CachedScore(fast).member_scores(held.n_members)
        except ValueError:  # a class that y lacks
            return
        expected = [plain(weights) for weights in np.eye(held.n_members)]
    assert own == pytest.approx(expected, abs=2 * ROUNDING)
