"""Gradients and filters have the values that mergekit's ``evaluate_setting`` gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.checkpoints.recipes.method import tensor_settings
from ensembles.checkpoints.recipes.methods import METHODS
from ensembles.checkpoints.recipes.parameters import (
    Input,
    Parameter,
    setting_for,
    value_of,
)

NUMBER, BOOLEAN = Parameter("x"), Parameter("x", "boolean")
FILTERS = [
    {"filter": "mlp", "value": [0, 1]},
    {"filter": "self_attn", "value": "5e-1"},
    {"filter": "attn", "value": 7},
]
QUERY, UP, HEAD = "layers.3.self_attn.q", "layers.3.mlp.up", "lm_head.weight"
# Setting, tensor, position and value: from mergekit 0.1.5.
VALUES: list[tuple[Parameter, Any, str, float, Any]] = [
    (NUMBER, 2, HEAD, 0, 2.0),
    (NUMBER, "1e-3", HEAD, 0, 0.001),
    (NUMBER, [0, 1, "4"], QUERY, 0.75, 2.5),
    (NUMBER, [0, 1, 4], QUERY, 1, 4.0),
    (NUMBER, [3], QUERY, 0.4, 3.0),
    (NUMBER, FILTERS, UP, 0.25, 0.25),
    (NUMBER, FILTERS, QUERY, 0.25, 0.5),
    (NUMBER, FILTERS, HEAD, 0, None),
    (NUMBER, [*FILTERS, {"value": 9}], HEAD, 0, 9.0),
    (NUMBER, [{"filter": "*", "value": 1}, *FILTERS], UP, 0, 1.0),
    (NUMBER, {"value": 4, "filter": "head"}, HEAD, 0, 4.0),
    (NUMBER, {"value": 4, "filter": "head"}, UP, 0, None),
    (NUMBER, [], UP, 0, None),
    (BOOLEAN, "yes", UP, 0, True),
    (BOOLEAN, 0, UP, 0, False),
    (BOOLEAN, [True, "off", 1], UP, 0.4, True),
    (BOOLEAN, [True, "off", 1], UP, 0.5, False),
]


@pytest.mark.parametrize(("parameter", "setting", "tensor", "t", "value"), VALUES)
def test_settings_have_the_values_of_mergekit(
    parameter: Parameter, setting: Any, tensor: str, t: float, value: Any
) -> None:
    found = setting_for(setting, tensor, t, parameter.convert)
    assert found == value
    assert type(found) is type(value)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_gradients_stay_between_neighbors(values: list[float], t: float) -> None:
    value = setting_for(values, "w", t, NUMBER.convert)
    before = int(t * (len(values) - 1))
    near = values[before : before + 2]
    assert min(near) - 1e-9 <= value <= max(near) + 1e-9


@pytest.mark.parametrize("value", ["x", None, True, [1]])
def test_values_of_another_type_are_errors(value: Any) -> None:
    with pytest.raises(ValueError, match="x must be a number, found"):
        NUMBER.convert(value)
    with pytest.raises(ValueError, match="x must be a boolean, found 'maybe'"):
        BOOLEAN.convert("maybe")


def test_the_first_scope_with_a_value_for_the_tensor_is_used() -> None:
    scopes: tuple[dict[str, Any], ...] = ({"x": FILTERS}, {"y": 1}, {"x": 3})
    assert value_of(NUMBER, scopes, UP, 0) == 0
    assert value_of(NUMBER, scopes, HEAD, 0) == 3
    assert value_of(Parameter("z", default=5), scopes, HEAD, 0) == 5
    assert value_of(NUMBER, (), HEAD, 0) is None


def test_filters_of_a_model_are_compared_with_its_own_tensor_names() -> None:
    """Layer 5 of the model becomes layer 0; what all models share sees layer 0."""
    weight = [{"filter": "layers.5", "value": 2}, {"value": 1}]
    shared = {"normalize": True, "lambda": [{"filter": "layers.5", "value": 3}]}
    settings = tensor_settings(
        METHODS["task_arithmetic"],
        "task_arithmetic",
        "layers.0.w",
        0.0,
        [Input("a", "layers.5.w", {"weight": weight}), Input("b", "layers.0.w", {})],
        ({}, {"weight": 7}, shared),
    )
    assert settings.weights == [2, 7]
    assert settings.rule_params["scale"] == 1
