"""The plane through three checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles._typing import Array, Float64
from ensembles.reports import PlaneDisplay
from ensembles.reports.displays.figures import VERMILLION
from ensembles.reports.displays.plane import gram_of_plane, plane_through


def states(rng: np.random.Generator) -> list[dict[str, Array]]:
    """Three checkpoints of two tensors."""
    return [
        {"v": rng.standard_normal((5, 4)), "w": rng.standard_normal(3)}
        for _ in range(3)
    ]


def flat(state: dict[str, Array]) -> Float64:
    return np.concatenate([np.ravel(value) for value in state.values()])


def test_weights_of_the_grid_are_the_points_of_the_orthonormal_basis(
    rng: np.random.Generator,
) -> None:
    members = states(rng)
    a, b, c = map(flat, members)
    first = (b - a) / np.linalg.norm(b - a)  # Gram-Schmidt, written out
    second = (c - a) - first * ((c - a) @ first)
    second /= np.linalg.norm(second)
    plane = plane_through(gram_of_plane(members), 4, margin=0.3)
    points = plane.weights @ np.stack([a, b, c])
    expected = [a + x * first + y * second for y in plane.y for x in plane.x]
    np.testing.assert_allclose(points[:16], expected, atol=1e-12)
    np.testing.assert_allclose(points[16:], [a, b, c, (a + b + c) / 3])
    corners = [[(p - a) @ first, (p - a) @ second] for p in (a, b, c)]
    np.testing.assert_allclose(plane.corners, corners, atol=1e-12)
    np.testing.assert_allclose(plane.weights.sum(axis=1), 1)
    assert plane.x[0] < 0 < plane.corners[1, 0] < plane.x[-1]


def test_a_quadratic_loss_over_a_plane(rng: np.random.Generator) -> None:
    members = states(rng)

    def loss(state: dict[str, Any]) -> float:
        return float(((flat(state) - flat(members[1])) ** 2).sum())

    a, b, c = members
    display = PlaneDisplay.from_checkpoints(a, b, c, loss, n=5, lower_is_better=True)
    x, y = np.meshgrid(display.x, display.y)
    expected = (x - display.corners[1, 0]) ** 2 + (y - display.corners[1, 1]) ** 2
    np.testing.assert_allclose(display.scores, expected, atol=1e-9)
    assert display.corner_scores is not None
    assert display.corner_scores[1] == 0
    assert display.names == ["a", "b", "c"]
    assert display.summary.startswith("loss: a ")
    marks = [line.get_xydata()[0] for line in display.ax_.lines]
    corners = [*display.corners, display.corners.mean(axis=0)]
    np.testing.assert_allclose(marks, corners)


@pytest.mark.parametrize("lower", [True, False])
def test_the_better_end_is_bright_and_failed_points_are_marked(lower: bool) -> None:
    sign = 1 if lower else -1
    scores = sign * np.add.outer(np.arange(4.0), np.arange(4.0))
    scores[2, 1] = np.nan
    corners = [[0, 0], [3, 0], [1, 2]]
    display = PlaneDisplay(
        np.arange(4), np.arange(4), scores, corners, lower_is_better=lower
    ).plot()
    filled = display.ax_.collections[0]
    best = filled.cmap(filled.norm(0.0))
    worst = filled.cmap(filled.norm(sign * 4.0))
    assert sum(best[:3]) > sum(worst[:3])
    (cross,) = [p for p in display.ax_.lines if p.get_color() == VERMILLION]
    np.testing.assert_array_equal(cross.get_xydata(), [[1, 2]])
    assert display.summary.endswith("1 of 16 points without a score")


def test_equal_scores_are_drawn() -> None:
    corners = [[0, 0], [1, 0], [0, 1]]
    for value in (0.0, 1e-3, -5.0):
        PlaneDisplay(
            [0, 1], [0, 1], np.full((2, 2), value), corners, lower_is_better=True
        ).plot()


def test_a_plane_needs_three_points_that_are_not_on_a_line(
    rng: np.random.Generator,
) -> None:
    a, b, c = states(rng)
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    for members in ([a, b, middle], [a, a, b], [a, b, b]):
        with pytest.raises(ValueError, match="must differ, and not be on one line"):
            plane_through(gram_of_plane(members), 3, 0.1)
    with pytest.raises(ValueError, match="must not have NaN"):
        plane_through(gram_of_plane([a, b, {**c, "w": np.full(3, np.nan)}]), 3, 0.1)
    with pytest.raises(ValueError, match=r"--points.*found 1 and 0\.1"):
        plane_through(np.eye(2), 1, 0.1)
    with pytest.raises(ValueError, match=r"shape \(2, 2\).*found \(3, 2\)"):
        PlaneDisplay(
            [0, 1], [0, 1], np.ones((3, 2)), np.ones((3, 2)), lower_is_better=True
        )
    with pytest.raises(ValueError, match="no loss is finite"):
        PlaneDisplay(
            [0], [0], [[np.nan]], [[0, 0], [1, 0], [0, 1]], lower_is_better=True
        )
