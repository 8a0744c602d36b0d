"""TSV-Merge: against polar decompositions, FusionBench, and its properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.linalg import polar

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods import tsv
from tests.checkpoints.methods.matrices.test_task_interference import TASKS


def merged(tasks: Float64, **params: Any) -> Array:
    return tsv(tasks, base=np.zeros(tasks.shape[1:]), **params)


def leading(task: Float64, n_values: int) -> tuple[Array, Array, Array]:
    """Largest singular values and their vectors, from eigenvectors."""
    left = np.linalg.eigh(task @ task.T)[1][:, ::-1][:, :n_values]
    values = np.linalg.norm(left.T @ task, axis=1)
    return left, values, left.T @ task / values[:, None]


@pytest.mark.parametrize(
    ("shape", "density", "n_values"),
    [
        ((3, 10, 12), None, 3),
        ((2, 12, 9), None, 4),
        ((2, 8, 8), 0.25, 2),
        ((2, 4, 9), 1.0, 4),
        ((1, 5, 4), None, 4),
    ],
)
def test_it_is_what_its_definition_gives(
    shape: tuple[int, ...],
    density: float | None,
    n_values: int,
    rng: np.random.Generator,
) -> None:
    tasks = rng.normal(size=shape)
    lefts, values, rights = zip(*[leading(t, n_values) for t in tasks], strict=True)
    left, right = polar(np.hstack(lefts))[0], polar(np.vstack(rights))[0]
    expected = left * np.concatenate(values) @ right
    np.testing.assert_allclose(merged(tasks, density=density), expected, atol=1e-10)


def test_fusion_bench_computes_the_same() -> None:
    # fusion_bench 0.2.33, compute_and_sum_svd_mem_reduction of TASKS.
    expected = [
        [-0.8158950337314705, 2.362331882336761, 0.1411292502853577, 0.946625269026214],
        [2.464832519862648, -0.1547735324940277, -1.1765793854512332, 1.01717571401458],
        [0.9163375252595043, 0.7662422607426185, 1.8727899683744, -1.1579092252612904],
        [-0.368603092946034, -1.4882973317719834, 1.4580213848017856, 1.74397845334232],
    ]
    np.testing.assert_allclose(merged(TASKS), expected, rtol=1e-8)


def test_orthogonal_tasks_are_added(rng: np.random.Generator) -> None:
    first, second = np.zeros((2, 6, 8))
    first[:3, :4] = rng.normal(size=(3, 4))
    second[3:, 4:] = rng.normal(size=(3, 4))
    found = merged(np.stack([first, second]))
    np.testing.assert_allclose(found, first + second, atol=1e-12)


def test_a_task_that_all_members_share_counts_once(rng: np.random.Generator) -> None:
    task = rng.normal(size=(6, 5))
    found = merged(np.stack([task] * 3), density=1)
    np.testing.assert_allclose(found, task, atol=1e-12)


def test_a_negative_weight_subtracts_a_task(rng: np.random.Generator) -> None:
    first, second = np.zeros((2, 4, 4))
    first[:2, :2], second[2:, 2:] = rng.normal(size=(2, 2, 2))
    found = tsv([first, second], [1, -1], base=np.zeros((4, 4)))
    np.testing.assert_allclose(found, first - second, atol=1e-12)


def test_each_of_many_members_keeps_a_direction(rng: np.random.Generator) -> None:
    tasks = rng.normal(size=(5, 2, 7))
    found = merged(tasks)
    assert np.linalg.matrix_rank(found) == 2
    assert np.array_equal(found, merged(tasks, density=0.5))


def test_directions_of_rounding_error_do_not_displace_others(
    rng: np.random.Generator,
) -> None:
    small = rng.normal(size=(8, 1)) @ rng.normal(size=(1, 8))
    full = rng.normal(size=(8, 8))
    found = merged(np.stack([small, full]), density=0.5)
    again = merged(np.stack([small, full + 0.0]), density=0.5)
    assert np.array_equal(found, again)
    assert np.linalg.matrix_rank(found) == 5
