"""Cosines between task vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles._typing import Array
from ensembles.reports import TaskVectorDisplay
from ensembles.reports.displays.task_vectors import cosines_of
from tests.checkpoints.building import save


def states(rng: np.random.Generator, n: int) -> list[dict[str, Array]]:
    return [
        {"v": rng.standard_normal((5, 4)), "w": rng.standard_normal(3)}
        for _ in range(n)
    ]


def image(display: TaskVectorDisplay) -> Any:
    return display.ax_.images[0].get_array()


def test_cosines_are_those_of_the_differences_from_the_base(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    base, *members = states(rng, 4)
    vectors = np.array(
        [
            np.concatenate([np.ravel(m[name] - base[name]) for name in base])
            for m in members
        ]
    )
    lengths = np.linalg.norm(vectors, axis=1)
    expected = vectors @ vectors.T / np.outer(lengths, lengths)
    paths = [save(tmp_path / f"{n}.safetensors", m) for n, m in enumerate(members)]
    display = TaskVectorDisplay.from_checkpoints(paths, base)
    np.testing.assert_allclose(display.cosines, expected, rtol=1e-12)
    assert display.names == ["0.safetensors", "1.safetensors", "2.safetensors"]
    # The diagonal is 1 for all, and would hide the other differences.
    shown = np.ma.filled(image(display), np.nan)
    assert np.isnan(np.diagonal(shown)).all()
    np.testing.assert_allclose(shown[0, 1], expected[0, 1])
    assert len(display.ax_.texts) == 6
    part = TaskVectorDisplay.from_checkpoints(members, base, include=["w"])
    assert part.names == ["a", "b", "c"]
    assert not np.allclose(part.cosines, expected)


def test_a_member_without_a_task_vector_is_named(rng: np.random.Generator) -> None:
    base, a, b = states(rng, 3)
    broken = {**a, "w": np.full(3, np.nan)}
    display = TaskVectorDisplay.from_checkpoints(
        [a, base, b, broken], base, names=["a", "the same", "b", "nan"]
    )
    assert np.isnan(display.cosines[[1, 3]]).all()
    assert display.summary.endswith("; zero or not finite: the same, nan")
    assert len(display.pairs) == 1
    texts = [text.get_text() for text in display.ax_.texts]
    assert texts.count("none") == 10


def test_cosines_stay_between_their_bounds() -> None:
    gram = np.array([[1.0, 1.0 + 1e-12], [1.0 + 1e-12, 1.0]])
    assert cosines_of(gram).max() == 1
    huge = np.full((2, 2), 1e300)
    np.testing.assert_array_equal(cosines_of(huge), np.ones((2, 2)))


@pytest.mark.parametrize(("n", "n_texts"), [(2, 2), (12, 132), (40, 0)])
def test_many_members_have_numbered_columns_and_no_numbers_in_cells(
    n: int, n_texts: int
) -> None:
    names = [f"fine-tuned-with-seed-{i}" for i in range(n)]
    display = TaskVectorDisplay(np.eye(n), names=names).plot()
    assert len(display.ax_.texts) == n_texts
    assert [t.get_text() for t in display.ax_.get_xticklabels()][-1] == f"({n})"
    rows = [t.get_text() for t in display.ax_.get_yticklabels()]
    assert rows[-1] == f"fine-tuned-with-seed-{n - 1} ({n})"
    assert max(display.figsize) < 18


def test_too_few_members_and_wrong_shapes_are_errors() -> None:
    state = {"w": np.ones(3)}
    with pytest.raises(ValueError, match="at least two members, found 1"):
        TaskVectorDisplay.from_checkpoints([state], state)
    with pytest.raises(ValueError, match=r"each of 2 names, found shape \(3, 3\)"):
        TaskVectorDisplay(np.eye(3), names=["a", "b"])
    with pytest.raises(ValueError, match="'w'"):
        TaskVectorDisplay.from_checkpoints([state, {"w": np.ones(4)}], state)
