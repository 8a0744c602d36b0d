"""Orthogonal matching pursuit, against least squares one row at a time."""

import numpy as np
import pytest

from ensembles.checkpoints.vocabulary import pursuit as module
from ensembles.checkpoints.vocabulary.pursuit import matching_pursuit


def pursued(row: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
    """Coefficients of all points for one row, by least squares in each step."""
    chosen: list[int] = []
    residual, factors = row, np.zeros(0)
    for _ in range(k):
        scores = np.abs(points @ residual)
        scores[chosen] = -1
        chosen.append(int(scores.argmax()))
        factors = np.linalg.lstsq(points[chosen].T, row)[0]
        residual = row - factors @ points[chosen]
    dense = np.zeros(len(points))
    dense[chosen] = factors
    return dense


@pytest.mark.parametrize("k", [1, 3, 6])
def test_rows_are_the_least_squares_sums_of_the_chosen_points(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP", 5)
    monkeypatch.setattr(module, "BLOCK", 500)
    rng = np.random.default_rng(0)
    rows, points = rng.standard_normal((7, 6)), rng.standard_normal((17, 6))
    found = matching_pursuit(rows, points, k)
    dense = np.zeros((7, 17))
    np.put_along_axis(dense, found.points, found.coefficients, 1)
    expected = np.stack([pursued(row, points, k) for row in rows])
    np.testing.assert_allclose(dense, expected, atol=1e-9)


def test_a_point_itself_is_found_and_repeated_points_do_no_harm() -> None:
    points = np.array([[2.0, 0, 0], [2.0, 0, 0], [0, 1.0, 0]])
    found = matching_pursuit(np.array([[4.0, 3.0, 0.0]]), points, 3)
    assert sorted(found.points[0]) == [0, 1, 2]
    assert np.isfinite(found.coefficients).all()
    sums = found.coefficients[0] @ points[found.points[0]]
    np.testing.assert_allclose(sums, [4, 3, 0])


def test_no_more_points_are_used_than_exist() -> None:
    found = matching_pursuit(np.ones((2, 3)), np.eye(3)[:2], 64)
    assert found.points.shape == (2, 2)
    assert matching_pursuit(np.ones((0, 3)), np.eye(3), 2).points.shape == (0, 2)
