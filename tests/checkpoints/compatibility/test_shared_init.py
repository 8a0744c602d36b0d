"""Networks of other initializations, told by what their matrices look like."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ensembles.checkpoints.compatibility.shared_init import (
    find_unrelated_member,
    relations,
)
from ensembles.checkpoints.formats import state_dict

rng = np.random.default_rng(0)


def drawn(*shapes: tuple[int, ...]) -> list[Any]:
    return [rng.normal(size=shape) for shape in shapes]


BODY = 100 * rng.normal(size=(30, 20))


def told(*matrices: list[Any]) -> Any:
    """Of networks with a large body in common, and other matrices behind it."""
    states = [
        {"body": BODY, **{f"m{place}": own for place, own in enumerate(found)}}
        for found in matrices
    ]
    return find_unrelated_member([state_dict.read(state, "x") for state in states])


@pytest.mark.parametrize("shapes", [[(16, 20), (5, 16)], [(20, 16), (16, 5)]], ids=str)
def test_units_between_two_matrices_must_have_one_start(shapes: Any) -> None:
    first = drawn(*shapes)
    near = [matrix + 0.5 * rng.normal(size=matrix.shape) for matrix in first]
    assert told(first, near) is None
    place, cosine, what = told(first, near, drawn(*shapes))
    assert (place, what) == (2, "m0 and m1")
    assert cosine < 0.3
    # One matrix that is alike holds the units in their places.
    assert told(first, [near[0], *drawn(shapes[1])]) is None


def test_matrices_without_units_between_them_may_differ() -> None:
    heads = [(3, 7), (5, 7)]  # beside each other
    assert told(drawn(*heads), drawn(*heads)) is None
    gates = [np.ones((1, 1)), np.ones((1, 1))]
    assert told(gates, [-gate for gate in gates]) is None
    updates = [(16, 2), (16, 2)]  # of LoRA, which start from zero
    assert told(drawn(*updates), drawn(*updates)) is None


def test_a_member_without_directions_is_a_stranger_to_none() -> None:
    zero = [np.zeros((16, 20)), np.zeros((5, 16))]
    assert told(zero, drawn((16, 20), (5, 16))) is None


class Recurrent(nn.Module):
    """A recurrent layer behind word vectors, and a linear head."""

    def __init__(self, kind: str, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(400, 24)
        self.layer = getattr(nn, kind)(24, 20, bidirectional=bidirectional)
        self.head = nn.Linear(40 if bidirectional else 20, 3)


class Causal(nn.Module):
    """Attention under a mask of minus infinity, which is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))
        self.attention = nn.MultiheadAttention(16, 2)
        self.head = nn.Linear(16, 3)


class PackedGPT(nn.Module):
    """A block of GPT-2: queries, keys and values in one matrix, stored transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(50, 24)
        self.norm = nn.LayerNorm(24)
        for name, shape in {
            "attention": (24, 72),
            "projection": (24, 24),
            "up": (24, 96),
            "down": (96, 24),
        }.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))
        self.lm_head = nn.Linear(24, 50, bias=False)
        self.lm_head.weight = self.wte.weight


class Experts(nn.Module):
    """Experts in stacks, and a router."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 4)
        self.up = nn.Parameter(torch.randn(4, 16, 32))
        self.down = nn.Parameter(torch.randn(4, 32, 16))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: Recurrent("LSTM"),
    "GRU": lambda: Recurrent("GRU"),
    "RNN": lambda: Recurrent("RNN"),
    "bidirectional LSTM": lambda: Recurrent("LSTM", bidirectional=True),
    "causal attention": Causal,
    "packed and tied GPT": PackedGPT,
    "mixture of experts": Experts,
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3), nn.Linear(48, 3)
    ),
    "depthwise convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 1)
    ),
    "transposed convolutions": lambda: nn.Sequential(
        nn.ConvTranspose2d(9, 8, 3), nn.LayerNorm((8, 5, 5)), nn.Conv2d(8, 3, 3)
    ),
    "text CNN": lambda: nn.ModuleList(
        [*(nn.Conv1d(24, 10, size) for size in (3, 4, 5)), nn.Linear(30, 2)]
    ),
    "bag of words": lambda: nn.Sequential(nn.EmbeddingBag(200, 16), nn.Linear(16, 4)),
}


def network(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS[kind]()


def found(*networks: nn.Module) -> Any:
    return find_unrelated_member(
        [state_dict.read(n.state_dict(), "x") for n in networks]
    )


def moved(start: nn.Module, seed: int, by: float) -> nn.Module:
    """Trained from there, so far that the cosine with it is 1 / sqrt(1 + by ** 2)."""
    member, draws = copy.deepcopy(start), torch.Generator().manual_seed(seed)
    for parameter in member.parameters():
        noise = torch.randn(parameter.shape, generator=draws)
        parameter.data += by * parameter.data.std(correction=0) * noise
    return member


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_other_seeds_are_unrelated(kind: str) -> None:
    for seed in (1, 2, 3):
        assert found(network(kind, 0), network(kind, seed)) is not None


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_one_start_are_related(kind: str) -> None:
    start = network(kind, 0)
    for seed in (1, 2, 3):
        assert found(start, moved(start, seed, by=1.0)) is None


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "bidirectional LSTM", "text CNN"])
@pytest.mark.parametrize("shared", ["equal", "tuned"])
def test_word_vectors_in_common_do_not_hide_other_seeds(kind: str, shared: str) -> None:
    # A table of word vectors, frozen or tuned a little, outweighs all else.
    table = 30 * rng.normal(size=(500, 24))
    states = []
    for seed in (1, 2):
        tuned = table + (shared == "tuned") * rng.normal(size=table.shape)
        state = {"words.weight": tuned}
        for name, value in network(kind, seed).state_dict().items():
            state.setdefault(name, value.numpy())
        states.append(state)
    assert (
        find_unrelated_member([state_dict.read(state, "x") for state in states])
        is not None
    )


def test_far_fine_tunes_of_one_start_are_related_and_their_distance_is_known() -> None:
    start = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    far = [moved(start, seed, by=2.7) for seed in (1, 2)]
    members = [state_dict.read(m.state_dict(), "x") for m in (start, *far)]
    assert find_unrelated_member(members) is None
    for relation in relations(members):
        assert relation.is_related
        assert 0.2 < relation.cosine < 0.45


def test_a_head_new_for_each_task_is_no_other_start() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16))
    tasks = [nn.Sequential(moved(body, seed, 0.1), nn.Linear(16, 4)) for seed in (1, 2)]
    assert found(*tasks) is None
    several = [
        nn.ModuleList([moved(body, seed, 0.1), nn.Linear(16, 4), nn.Linear(16, 7)])
        for seed in (1, 2)
    ]
    assert found(*several) is None


def test_entries_that_are_not_finite_decide_nothing() -> None:
    first, near = drawn((16, 20), (5, 16)), drawn((16, 20), (5, 16))
    near = [a + 0.1 * b for a, b in zip(first, near, strict=True)]
    for states in (first, near):
        states[0][3, 4] = np.nan
        states[1][2, :] = -np.inf
    assert told(first, near) is None
    strange = drawn((16, 20), (5, 16))
    strange[0][0, 0] = np.inf
    assert told(first, strange) is not None


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_lengths_beyond_a_double_s_squares_are_compared(scale: float) -> None:
    first, other = drawn((16, 20), (5, 16)), drawn((16, 20), (5, 16))
    scaled = [[scale * matrix for matrix in found] for found in (first, other)]
    assert told(*scaled) is not None
    assert told(scaled[0], [1.01 * matrix for matrix in scaled[0]]) is None


def test_members_of_other_names_and_shapes_are_compared_where_they_agree() -> None:
    first, other = drawn((16, 20), (5, 16)), drawn((16, 20), (7, 16))
    assert told(first, other) is None  # one layer alone differs
    second = drawn((16, 20), (5, 16))
    states = [
        dict(zip(("up", "down", own), [*found, np.eye(9)], strict=True))
        for own, found in (("x", first), ("y", second))
    ]
    assert (
        find_unrelated_member([state_dict.read(state, "x") for state in states])
        is not None
    )
