"""Experts in one tensor against experts in a tensor each."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ensembles._typing import Array
from ensembles.checkpoints import average, plan

LAYER = "model.layers.3.mlp"
FUSED = f"{LAYER}.experts.gate_up_proj"
EACH = f"{LAYER}.experts.0.gate_proj.weight"


def fused() -> dict[str, Array]:
    return {FUSED: np.ones((2, 3, 8)), f"{LAYER}.gate.weight": np.ones((2, 3))}


def each() -> dict[str, Array]:
    names = [
        f"{LAYER}.experts.{i}.{p}_proj.weight" for i in (0, 1) for p in ("gate", "up")
    ]
    return {
        **{n: np.ones((4, 3)) for n in names},
        f"{LAYER}.gate.weight": np.ones((2, 3)),
    }


@pytest.mark.parametrize("members", [[fused(), each()], [each(), fused()]])
def test_two_layouts_of_experts_are_one_error(members: list[dict[str, Array]]) -> None:
    with pytest.raises(ValueError, match="must store experts in one layout") as error:
        plan(members)
    message = str(error.value)
    assert FUSED in message
    assert EACH in message
    assert "\n" not in message
    assert re.search(r"one tensor for all experts.*one for each expert", message)


def test_equal_layouts_of_experts_are_averaged() -> None:
    for state in (fused(), each()):
        # A mixture may have shared experts, and a bias, beside its experts.
        state[f"{LAYER}.shared_experts.up_proj.weight"] = np.ones((4, 3))
        state[f"{LAYER}.experts.bias"] = np.ones(2)
        assert average([state, state]).keys() == state.keys()
