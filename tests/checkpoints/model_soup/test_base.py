"""Soups by rules with a base: the bytes of an average, single members as they are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV

from ensembles._typing import Array, Float64
from ensembles.checkpoints import ModelSoup, average, get_state
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.model_soup import parameter_arrays
from ensembles.checkpoints.model_soup.parameter_arrays import ParameterWriter
from ensembles.registry import register
from ensembles.rules.passes import Pass, Position
from ensembles.rules.rule import Rule
from ensembles.rules.statistics import blockwise

COEF = np.array([[1.0, 2.0, -1.0], [3.0, 2.0, 1.0], [0.5, -6.0, 1.0]])
BASE = np.array([1.0, 1.0, 1.0])
X = np.random.default_rng(0).normal(size=(30, 3))
y = X @ np.array([2.0, 2.0, 1.0])


def scaled_sum(
    stack: Float64, weights: Float64, *, base: Float64, scale: float = 1.0
) -> Float64:
    """Base plus the scaled and weighted sum of the differences from it."""
    if scale < 0:
        raise ValueError(f"scale must not be negative, found {scale}")
    total = np.zeros(base.shape)
    for row, weight in zip(stack, weights, strict=True):
        total += weight * (row - base)
    return np.asarray(base + scale * total)


@blockwise
def magnitude(block: Float64, *, base: Float64, scope: str = "tensor") -> Float64:
    return np.asarray(np.abs(block - base).sum(axis=1))


def n_larger(
    stack: Float64,
    *,
    base: Float64,
    state: Float64,
    total: Array | None = None,
) -> Array:
    larger: Array = (np.abs(stack - base) > 0.1 * state[:, None]).sum(axis=1)
    return larger if total is None else total + larger


def in_two_passes(
    stack: Float64,
    weights: Float64,
    *,
    base: Float64,
    state: Float64,
    position: Position,
    scope: str = "tensor",
) -> Float64:
    """Depends on two passes, the name of the tensor and the place in it."""
    places = position.start + np.arange(stack.shape[1])
    sign = 1 if len(position.name) % 2 else -1
    total = ((stack - base) * (weights * state)[:, None]).sum(axis=0)
    return np.asarray(base + sign * total / (1 + places))


def centered_rows(
    stack: Float64, weights: Float64, *, base: Float64, position: Position
) -> Float64:
    """Differences without the mean of their row."""
    rows = (stack - base).reshape(len(stack), -1, position.row_size)
    rows = rows - rows.mean(axis=2, keepdims=True)
    return np.asarray(base + np.tensordot(weights, rows.reshape(len(stack), -1), 1))


SUM = Rule(scaled_sum, needs_base=True, signed=True)
PASSES = Rule(
    in_two_passes,
    passes=(Pass(magnitude), Pass(n_larger)),
    needs_base=True,
    signed=True,
)
ROWS = Rule(centered_rows, needs_base=True, unit="row")


@pytest.fixture
def task_sum() -> Iterator[str]:
    register(RULES, needs_base=True, signed=True)(scaled_sum)
    yield "scaled_sum"
    del RULES["scaled_sum"]


def linear(coef: Any) -> LinearRegression:
    model = LinearRegression(fit_intercept=False).fit(np.eye(3), np.zeros(3))
    model.coef_ = np.asarray(coef)
    return model


def members() -> list[Any]:
    return [linear(row) for row in COEF]


def soup(rule: Any = SUM, **params: Any) -> ModelSoup:
    given = {"checkpoints": members(), "base": linear(BASE)} | params
    return ModelSoup(LinearRegression(), rule=rule, **given)


def merged(rule: Any = SUM, coef: Any = COEF, **params: Any) -> Any:
    states = [get_state(linear(row)) for row in coef]
    return average(states, base=get_state(linear(BASE)), rule=rule, **params)["coef_"]


@pytest.mark.parametrize("weights", [None, [1, 0, 0], [0.5, -1, 0], [1, -1, 0]])
def test_given_weights_are_those_of_average(weights: Any) -> None:
    fitted = soup(weights=weights).fit()
    expected = merged(weights=weights)
    assert fitted.estimator_.coef_.tobytes() == expected.tobytes()
    assert fitted.weights_.tolist() == (weights or [1, 1, 1])


@pytest.mark.parametrize("rule", [SUM, PASSES, ROWS], ids=lambda rule: rule.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("place", ["memory", "large"])
def test_a_rule_has_the_bytes_of_average(
    rule: Rule, dtype: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "large":
        monkeypatch.setattr(parameter_arrays, "SMALL", 0)
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"ab": (70, 3), "c": (5,), "empty": (0, 2)}
    states = [
        {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
        | {"count": np.arange(4)}
        for _ in range(4)
    ]
    states[3] |= {"count": np.arange(1, 5), "c": states[3]["c"].astype(np.float32)}
    opened = [state_dict.read(state, "m") for state in states]
    for params in ({}, {"scope": "model"} if "scope" in rule.params else {}):
        arrays = {name: np.empty_like(array) for name, array in states[0].items()}
        write = ParameterWriter(
            opened[:3],
            arrays,
            rule=rule,
            params=params,
            integers="error",
            base=opened[3],
        )
        for weights in ([1.0, 1.0, 1.0], [0.0, 2.0, 0.0]):
            write(np.array(weights))
            expected = average(
                states[:3],
                base=states[3],
                rule=rule,
                weights=weights,
                rule_params=params,
            )
            for name, array in arrays.items():
                assert array.tobytes() == expected[name].tobytes(), name


def test_paths_have_the_bytes_of_fitted_estimators(tmp_path: Path) -> None:
    paths = []
    for name, row in zip("abcd", [*COEF, BASE], strict=True):
        paths.append(tmp_path / f"{name}.safetensors")
        save_file(get_state(linear(row)), paths[-1])
    start = FrozenEstimator(linear(BASE))
    fitted = ModelSoup(start, paths[:3], base=paths[3], rule=SUM).fit()
    assert fitted.estimator_.coef_.tobytes() == merged().tobytes()
    with pytest.raises(ValueError, match=r"d\.safetensors is the base, from which it"):
        ModelSoup(start, paths, base=str(paths[3]), rule=SUM).fit()


def test_members_and_base_are_scored_as_they_are() -> None:
    # A single member by this rule would be the base plus half of its difference.
    fitted = soup(rule_params={"scale": 0.5}, weights=[1, 1, 0], scoring="r2").fit(X, y)
    alone = [model.score(X, y) for model in members()]
    assert fitted.scores_.tolist() == alone
    assert fitted.base_score_ == linear(BASE).score(X, y)
    combined = merged(weights=[1, 1, 0], rule_params={"scale": 0.5})
    assert fitted.estimator_.coef_.tobytes() == combined.tobytes()
    assert fitted.soup_score_ == linear(combined).score(X, y)
    assert fitted.best_index_ == int(np.argmax(alone))


def test_a_selection_starts_from_single_members_and_scales_its_weights() -> None:
    # The mean of the first two differences is that of (2, 2, 0); the third is worse.
    params = {"scale": 0.5}
    fitted = soup(rule_params=params, weights="greedy_soup").fit(X, y)
    assert fitted.weights_.tolist() == [1, 1, 0]
    combined = merged(weights=[1, 1, 0], rule_params=params)
    assert fitted.estimator_.coef_.tobytes() == combined.tobytes()
    assert fitted.soup_score_ == linear(combined).score(X, y)
    assert fitted.base_score_ == linear(BASE).score(X, y)
    assert sum(fitted.history_[-1].weights) == 1


def test_a_single_chosen_member_is_not_changed_by_the_rule() -> None:
    with pytest.warns(UserWarning, match="did not beat the best member"):
        fitted = soup(rule_params={"scale": 9.0}, weights="greedy_soup").fit(X, y)
    assert fitted.weights_.tolist() == [0, 1, 0]
    assert fitted.estimator_.coef_.tobytes() == COEF[1].tobytes()
    assert fitted.soup_score_ == fitted.scores_[1]


def test_a_base_that_is_better_than_the_soup_is_named() -> None:
    with pytest.warns(UserWarning, match="the base alone 1; use"):
        soup(base=linear([2.0, 2.0, 1.0]), weights="greedy_soup").fit(X, y)


def test_weights_of_several_repetitions_have_a_mean_of_one() -> None:
    fitted = soup(rule_params={"scale": 0.5}, weights="greedy").fit(X, y)
    used = fitted.weights_[fitted.weights_ > 0]
    assert used.sum() == pytest.approx(len(used))
    expected = merged(weights=fitted.weights_, rule_params={"scale": 0.5})
    assert fitted.estimator_.coef_.tobytes() == expected.tobytes()


def test_torch_modules_are_merged(task_sum: str) -> None:
    import torch

    base = torch.nn.Linear(3, 2)
    models = [copy.deepcopy(base) for _ in range(2)]
    for index, model in enumerate(models):
        with torch.no_grad():
            model.weight[index] += 0.25
    fitted = ModelSoup(base, models, base=base, rule=task_sum).fit()
    torch.testing.assert_close(fitted.estimator_.weight, base.weight + 0.25)


def test_parameters_are_searched(task_sum: str) -> None:
    start = FrozenEstimator(LinearRegression().fit(np.eye(3), np.zeros(3)))
    frozen = [FrozenEstimator(model) for model in members()[:2]]
    base = FrozenEstimator(linear(BASE))
    estimator = ModelSoup(start, frozen, rule=task_sum, base=base)
    scales = [0.25, 0.5, 1.0]
    for grid in (
        {"rule_params": [{"scale": scale} for scale in scales]},
        {"rule_params__scale": scales},
    ):
        search = GridSearchCV(estimator, grid, scoring="r2", cv=3).fit(X, y)
        assert search.best_index_ == 1
        expected = merged(task_sum, COEF[:2], rule_params={"scale": 0.5})
        np.testing.assert_array_equal(search.best_estimator_.estimator_.coef_, expected)


def test_entries_of_parameters_are_set_in_a_copy(task_sum: str) -> None:
    params = {"scale": 0.5}
    first = soup(task_sum, rule_params=params)
    second = clone(first).set_params(rule_params__scale=2.0, weights_params__k=1)
    assert params == {"scale": 0.5}
    assert second.get_params()["rule_params__scale"] == 2
    assert second.weights_params == {"k": 1}
    assert "rule_params__scale" not in second.get_params(deep=False)
    replaced = second.set_params(rule_params={"a": 1}, rule_params__scale=3.0)
    assert replaced.rule_params == {"a": 1, "scale": 3.0}
    with pytest.raises(ValueError, match="Invalid parameter 'other'"):
        second.set_params(other=1)
    assert "scale" in repr(first)
    assert "scale" in first._repr_html_()


def test_a_fitted_soup_is_pickled(task_sum: str) -> None:
    fitted = soup(task_sum, rule_params={"scale": 0.5}).fit()
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base": None}, "rule 'scaled_sum' needs the checkpoint .*; pass it as base="),
        ({"checkpoints": None}, "needs checkpoints and their base, found checkpoints="),
        (
            {"rule": "nearswap", "weights": "greedy"},
            "rule 'nearswap' takes none; leave",
        ),
        (
            {"weights": "optuna", "weights_params": {"equal_weights": True}},
            "equal_weights=True leaves nothing to choose in a ModelSoup",
        ),
        ({"rule": "fisher"}, "rule 'fisher' needs moments of the members' data, which"),
        ({"weights": "wise_ft"}, "the base a weight, but rule 'scaled_sum' takes"),
        ({"rule_params": {"scale": -1}}, "scale must not be negative, found -1"),
        ({"rule_params": {"densty": 1}}, "has no parameter 'densty'"),
        ({"rule": "mean"}, "or a rule that needs a base only, found the base Linear"),
        ({"weights": [0, 0, 0]}, "weights of 'scaled_sum' must not sum to zero"),
        (
            {"base": linear([1.0, 2.0])},
            r"estimator has shape \(3,\), base has \(2,",
        ),
    ],
    ids=str,
)
def test_wrong_parameters_are_reported(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soup(**wrong).fit(X, y)


def test_a_base_among_the_members_is_refused() -> None:
    base = linear(BASE)
    with pytest.raises(ValueError, match=r"^checkpoints\[3\] is the base; leave it"):
        soup(checkpoints=[*members(), base], base=base).fit()
