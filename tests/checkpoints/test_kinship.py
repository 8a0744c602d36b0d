"""Networks that share no start, told by what their matrices look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints.formats import state_dicts
from ensembles.checkpoints.kinship import unrelated

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
    return unrelated([state_dicts.read(state, "x") for state in states])


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
    updates = [(8, 2), (8, 2)]  # of LoRA, which start from zero
    assert told(drawn(*updates), drawn(*updates)) is None


def test_a_member_without_directions_is_a_stranger_to_none() -> None:
    zero = [np.zeros((16, 20)), np.zeros((5, 16))]
    assert told(zero, drawn((16, 20), (5, 16))) is None
