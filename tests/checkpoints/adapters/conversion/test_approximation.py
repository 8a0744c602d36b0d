"""Low-rank approximations of matrices."""

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints.adapters.conversion import approximation
from ensembles.checkpoints.adapters.conversion.approximation import approximate

SHAPES = [(60, 40), (40, 60)]


def decaying(shape: tuple[int, int]) -> Float64:
    """Matrix with singular values 1, 1/2, 1/3, ..."""
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return np.asarray(left / np.arange(1, 41) @ right)


@pytest.fixture(params=["full", "large"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "large":
        monkeypatch.setattr(approximation, "LARGEST", 8)
        monkeypatch.setattr(approximation, "OVERSAMPLING", 2)


@pytest.mark.usefixtures("method")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 20, 100])
def test_a_rank_gives_the_smallest_error(shape: tuple[int, int], rank: int) -> None:
    matrix = decaying(shape)
    a, b = approximate(matrix, rank=rank)
    assert (len(a), b.shape[1]) == (min(rank, 40), min(rank, 40))
    best = np.sqrt(np.sum(1 / np.arange(rank + 1, 41) ** 2))
    assert np.linalg.norm(matrix - b @ a) == pytest.approx(best, rel=0.01, abs=1e-7)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=0))


@pytest.mark.usefixtures("method")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_an_energy_takes_the_smallest_rank(
    shape: tuple[int, int], energy: float
) -> None:
    a, _ = approximate(decaying(shape), energy=energy)
    kept = np.cumsum(1 / np.arange(1, 41) ** 2)
    kept /= kept[-1]
    assert kept[len(a) - 1] >= energy > (kept[len(a) - 2] if len(a) > 1 else 0)
    assert len(approximate(decaying(shape), energy=energy, rank=2).a) <= 2


@pytest.mark.usefixtures("method")
def test_directions_of_rounding_are_left_out() -> None:
    rng = np.random.default_rng(0)
    product = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40))
    for a, b in (approximate(product, rank=8), approximate(product, energy=1.0)):
        assert len(a) == 3
        np.testing.assert_allclose(b @ a, product, atol=1e-12)


def test_the_randomized_method_gives_the_same_factors_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(approximation, "LARGEST", 8)
    monkeypatch.setattr(approximation, "OVERSAMPLING", 2)
    one, two = (approximate(decaying((60, 40)), rank=2) for _ in range(2))
    assert one.a.tobytes() == two.a.tobytes()


def test_a_matrix_of_zeros_has_rank_1() -> None:
    a, b = approximate(np.zeros((3, 2)), rank=2)
    assert (a.shape, b.shape) == ((1, 2), (3, 1))
