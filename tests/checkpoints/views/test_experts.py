"""Experts in one tensor against experts in a tensor each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator

from ensembles._typing import Array
from ensembles.checkpoints import average, plan

LAYER = "model.layers.3.mlp"
FUSED = f"{LAYER}.experts.gate_up_proj"
EACH = f"{LAYER}.experts.0.gate_proj.weight"
N_EXPERTS, INNER, WIDTH = 3, 4, 5
State = dict[str, Array]


def each(
    rng: Generator, *, block: str = LAYER, parts: tuple[str, ...] = (), square: int = 0
) -> State:
    """Experts with a tensor for each matrix, and a router."""
    gate, up, down = parts or ("gate_proj", "up_proj", "down_proj")
    inner, width = (square, square) if square else (INNER, WIDTH)
    shapes = {gate: (inner, width), up: (inner, width), down: (width, inner)}
    state = {
        f"{block}.experts.{e}.{part}.weight": rng.standard_normal(shape)
        for e in range(N_EXPERTS)
        for part, shape in shapes.items()
    }
    return {**state, f"{block}.gate.weight": rng.standard_normal((N_EXPERTS, width))}


def fused(state: State, *, block: str = LAYER, parts: tuple[str, ...] = ()) -> State:
    """The same experts as transformers holds them in memory."""
    gate, up, down = parts or ("gate_proj", "up_proj", "down_proj")
    old = next(iter(state)).partition(".experts.")[0]

    def stacked(part: str) -> Array:
        names = [f"{old}.experts.{e}.{part}.weight" for e in range(N_EXPERTS)]
        return np.stack([state[name] for name in names])

    return {
        f"{block}.experts.gate_up_proj": np.concatenate(
            [stacked(gate), stacked(up)], axis=1
        ),
        f"{block}.experts.down_proj": stacked(down),
        f"{block}.gate.weight": state[f"{old}.gate.weight"],
    }


@pytest.mark.parametrize("block", [LAYER, "model.layers.3.block_sparse_moe"])
@pytest.mark.parametrize("parts", [(), ("w1", "w3", "w2")])
def test_experts_of_a_member_are_read_in_the_layout_of_the_first(
    rng: Generator, tmp_path: Path, block: str, parts: tuple[str, ...]
) -> None:
    a, b = (each(rng, block=block, parts=parts) for _ in range(2))
    folders = {}
    for name, state in {"a": a, "fused": fused(b, parts=parts)}.items():
        folders[name] = tmp_path / f"{name}.pt"  # with checksums
        torch.save({n: torch.from_numpy(t) for n, t in state.items()}, folders[name])
    want = average([a, b])
    got = {n: t.numpy() for n, t in average([*folders.values()]).items()}
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    turned = average([*folders.values()][::-1])
    for name, tensor in fused(want, parts=parts).items():
        np.testing.assert_array_equal(turned[name], tensor)


def test_a_base_in_another_layout_is_read_too(rng: Generator) -> None:
    a, b, base = (each(rng) for _ in range(3))
    how: dict[str, Any] = {"rule": "task_arithmetic", "rule_params": {"scale": 0.5}}
    want = average([a, b], base=base, **how)
    got = average([a, fused(b)], base=fused(base), **how)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def test_notes_name_the_view_and_what_averaged_routers_assume(rng: Generator) -> None:
    notes = "\n".join(plan([each(rng), fused(each(rng))]).notes)
    assert "experts of members[1] are read in the layout of members[0]" in notes
    assert "members trained from one mixture" in notes
    assert "one mixture" not in "\n".join(plan([each(rng)]).notes)


def transposed(state: State) -> State:
    """Experts as (inputs, outputs), such as those of Llama 4."""
    experts = {n: np.swapaxes(t, 1, 2).copy() for n, t in state.items() if t.ndim == 3}
    return {**state, **experts}


def lacking_one(state: State) -> State:
    return {n: t[:-1] if t.ndim == 3 else t for n, t in state.items()}


@pytest.mark.parametrize("change", [transposed, lacking_one])
@pytest.mark.parametrize("turned", [False, True])
def test_other_layouts_of_experts_are_one_error(
    rng: Generator, change: type, turned: bool
) -> None:
    state = each(rng)
    members = [state, change(fused(state))]
    with pytest.raises(ValueError, match="must store experts in one layout") as error:
        plan(members[::-1] if turned else members)
    message = str(error.value)
    assert FUSED in message
    assert EACH in message
    assert "\n" not in message
    assert re.search(r"one tensor for all experts.*one for each expert", message)


def test_square_matrices_alone_do_not_show_their_layout() -> None:
    single = {f"{LAYER}.experts.{e}.proj.weight": np.eye(3) for e in range(2)}
    both = {f"{LAYER}.experts.proj": np.ones((2, 3, 3))}
    with pytest.raises(ValueError, match="must store experts in one layout"):
        plan([single, both])


def test_square_matrices_are_read_if_others_show_the_layout(rng: Generator) -> None:
    state = each(rng, square=4)
    got = average([state, fused(state)])
    for name in state:
        np.testing.assert_array_equal(got[name], state[name])


def test_equal_layouts_of_experts_are_averaged(rng: Generator) -> None:
    for state in (fused(each(rng)), each(rng)):
        # A mixture may have shared experts, and a bias, beside its experts.
        state[f"{LAYER}.shared_experts.up_proj.weight"] = np.ones((4, 3))
        state[f"{LAYER}.experts.bias"] = np.ones(2)
        assert average([state, state]).keys() == state.keys()
