"""Decompositions of losses add up, and agree with cases worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier, decompose_loss
from ensembles.predictions.combiners.builtin import COMBINERS
from ensembles.predictions.metrics.loss_decomposition import LOSSES

LABELS = np.array(["b", "a", "c"])  # of the columns, in no order


def case(seed: int, loss: str, n_trials: int) -> tuple[Any, Any, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    shape = (n_trials, int(rng.integers(1, 5)), 6, 3)
    params = {
        "weights": rng.integers(1, 4, shape[1]),
        "sample_weight": rng.integers(1, 3, 6),
        "loss": loss,
    }
    if loss == "squared_error":
        return rng.normal(size=shape), rng.normal(size=(6, 3)), params
    stack = rng.dirichlet(np.full(3, 0.3), shape[:-1])
    stack[0, 0, 0] = [1.0, 0.0, 0.0]
    return stack, LABELS[rng.integers(0, 3, 6)], params | {"classes": LABELS}


@given(st.integers(0, 2**32 - 1), st.sampled_from([*LOSSES]), st.integers(1, 4))
def test_the_terms_add_up(seed: int, loss: str, n_trials: int) -> None:
    stack, y, params = case(seed, loss, n_trials)
    terms = decompose_loss(stack, y, **params)
    assert terms.ensemble_loss == pytest.approx(
        terms.member_loss - terms.diversity, rel=1e-12, abs=1e-12
    )
    if loss != "zero_one":
        assert terms.diversity >= -1e-12
    if n_trials == 1:
        assert terms.bias is terms.variance is None
    else:
        assert terms.bias is not None
        assert terms.variance is not None
        total = terms.bias + terms.variance
        assert terms.member_loss == pytest.approx(total, rel=1e-12, abs=1e-12)
        if loss != "zero_one":
            assert terms.variance >= -1e-12


@given(st.integers(0, 2**32 - 1), st.sampled_from([*LOSSES]))
def test_losses_are_those_of_scikit_learn_and_the_combiners(
    seed: int, loss: str
) -> None:
    stack, y, params = case(seed, loss, 1)
    terms = decompose_loss(stack[0], y, **params)
    weights, sample_weight = params["weights"], params["sample_weight"]
    rule = {"log_loss": "geometric_mean", "zero_one": "vote"}.get(loss, "mean")
    floor = {"floor": 1e-300} if loss == "log_loss" else {}
    clipped = stack[0].clip(np.finfo(float).eps) if loss == "log_loss" else stack[0]
    combined = COMBINERS[rule](clipped, weights, **floor)
    scores = [_score(loss, y, row, sample_weight) for row in [combined, *clipped]]
    assert terms.ensemble_loss == pytest.approx(scores[0], rel=1e-9)
    members = np.average(scores[1:], weights=weights)
    assert terms.member_loss == pytest.approx(members, rel=1e-9)


def _score(loss: str, y: Any, predictions: Any, weight: Any) -> float:
    if loss == "squared_error":
        return float(mean_squared_error(y, predictions, sample_weight=weight))
    one_hot = (y[:, None] == LABELS).astype(float)
    if loss == "brier":
        return float(np.average(((one_hot - predictions) ** 2).sum(1), weights=weight))
    if loss == "zero_one":
        labels = LABELS[predictions.argmax(axis=1)]
        return float(1 - accuracy_score(y, labels, sample_weight=weight))
    order = np.argsort(LABELS)
    params = {"labels": LABELS[order], "sample_weight": weight}
    return float(log_loss(y, predictions[:, order], **params))


def test_squared_error_of_two_members_and_two_trials() -> None:
    """Members predict 1 and 3, then 3 and 7, for a target of 2."""
    stack = np.array([[[[1.0]], [[3.0]]], [[[3.0]], [[7.0]]]])
    terms = decompose_loss(stack, [2.0], loss="squared_error")
    assert terms.ensemble_loss == (0 + 9) / 2  # means 2 and 5
    assert terms.member_loss == (1 + 1 + 1 + 25) / 4
    assert terms.diversity == (1 + 1 + 4 + 4) / 4
    assert terms.bias == (0 + 9) / 2  # members' means over trials: 2 and 5
    assert terms.variance == (1 + 1 + 4 + 4) / 4


def test_log_loss_of_two_members() -> None:
    """Members give 1/2 and 8/10 to the label; the geometric mean gives 2/3."""
    terms = decompose_loss(
        [[[0.5, 0.5]], [[0.8, 0.2]]], [0], classes=[0, 1], loss="log_loss"
    )
    assert terms.ensemble_loss == pytest.approx(-math.log(2 / 3))
    assert terms.member_loss == pytest.approx(-math.log(0.4) / 2)
    assert terms.diversity == pytest.approx(math.log(2 / 3) - math.log(0.4) / 2)


def test_votes_can_be_worse_than_their_members() -> None:
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    terms = decompose_loss(
        [[right], [wrong], [wrong]], [0], classes=[0, 1], loss="zero_one"
    )
    assert terms.ensemble_loss == 1
    assert terms.diversity == pytest.approx(-1 / 3)


@pytest.mark.filterwarnings("ignore:selection .* did not beat")
def test_out_of_fold_predictions_of_an_ensemble_are_decomposed(iris: Any) -> None:
    members = [("nb", GaussianNB()), ("tree", DecisionTreeClassifier(max_depth=2))]
    ensemble = EnsembleClassifier(members).fit(*iris)
    terms = decompose_loss(ensemble.oof_, iris[1], loss="log_loss")
    assert terms.member_loss == pytest.approx(
        -np.mean([log_loss_of(o, iris[1]) for o in ensemble.oof_])
    )
    assert terms.diversity > 0


def test_rows_that_no_split_held_out_are_left_out() -> None:
    stack = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 7.0]])
    terms = decompose_loss(
        stack, [2.0, 9.0, 4.0], loss="squared_error", sample_weight=[1, 5, 1]
    )
    assert terms[:3] == (0.625, 2.75, 2.125)
    for wrong in (stack * np.nan, np.where(stack == 7, np.nan, stack)):
        with pytest.raises(ValueError, match="must be finite: found nan at"):
            decompose_loss(wrong, [2.0, 9.0, 4.0], loss="squared_error")


def log_loss_of(proba: Any, y: Any) -> float:
    return float(np.mean(np.log(proba[np.arange(len(y)), y].clip(np.finfo(float).eps))))


@pytest.mark.parametrize(
    ("predictions", "y", "params", "message"),
    [
        ([[1.0]], [1.0], {"loss": "mse"}, "loss must be one of 'squared_error'"),
        ([1.0], [1.0], {"loss": "brier"}, r"must have the shape .* found \(1,\)"),
        ([[1.0]], [1.0, 2.0], {"loss": "squared_error"}, "one row for each of the 1"),
        ([[[1.0, 2.0]]], [1.0], {"loss": "squared_error"}, "columns .* 1 and 2"),
        (
            [[np.inf]],
            [1.0],
            {"loss": "squared_error"},
            r"found inf at .* \(0, 0, 0, 0\)",
        ),
        ([[[1.0, -1.0]]], [0], {"loss": "brier", "classes": [0, 1]}, "non-negative"),
        ([[[0.5, 0.5]]], [0], {"loss": "brier"}, "2 columns and the labels .0.; pass"),
        ([[[0.5, 0.5]]], [2], {"loss": "brier", "classes": [0, 1]}, "found 2"),
        ([[1.0, 2]], [1, np.nan], {"loss": "squared_error"}, "found nan in row 1"),
        (
            [[1.0]],
            [1.0],
            {"loss": "squared_error", "sample_weight": [-1]},
            "sample_weight must be non-negative",
        ),
        (
            [[1.0]],
            [1.0],
            {"loss": "squared_error", "sample_weight": [1, 1]},
            r"sample_weight must have the shape \(1,\)",
        ),
    ],
)
def test_wrong_input_is_refused(
    predictions: Any, y: Any, params: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decompose_loss(predictions, y, **params)
