"""WUDI: against autograd and least squares, FusionBench, and its properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods import iso_c, wudi
from ensembles.checkpoints.methods.matrices.task_interference import ROWS

TASKS = np.array(
    [
        [[2, 1, 0, 1], [0, 1, -1, 0], [1, 0, 1, -2], [0, -2, 1, 1]],
        [[0, 1, 1, 0], [1, -1, 0, 2], [0, 2, 1, 0], [1, 0, -1, 1]],
    ],
    np.float64,
)


def interference(merged: Any, tasks: Any) -> Any:
    """Loss of the paper, equation 12, for arrays and tensors."""
    products = (merged - tasks) @ tasks.swapaxes(1, 2)
    return ((products**2).sum((1, 2)) / (tasks**2).sum((1, 2))).sum()


def adam(tasks: Float64, steps: int, learning_rate: float) -> Array:
    """Steps of torch's optimizer on the loss, by autograd."""
    differences = torch.tensor(tasks)
    merged = torch.nn.Parameter(differences.sum(0))
    optimizer = torch.optim.Adam([merged], lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        interference(merged, differences).backward()
        optimizer.step()
    return np.asarray(merged.detach().numpy())


def least_squares(tasks: Float64) -> Array:
    """Minimizer of least norm, by solving for all rows at once."""
    norms = np.linalg.norm(tasks, axis=(1, 2))[:, None, None]
    inputs = np.concatenate(tasks / norms)
    outputs = np.concatenate(tasks @ tasks.swapaxes(1, 2) / norms, axis=1)
    return np.asarray(np.linalg.lstsq(inputs, outputs.T, rcond=None)[0].T)


def merged(tasks: Float64, **params: Any) -> Array:
    return wudi(tasks, base=np.zeros(tasks.shape[1:]), **params)


@pytest.mark.parametrize(
    "shape",
    [(2, 5, 4), (3, 4, 30), (3, 30, 4), (2, ROWS + 4, 3), (2, 1, 9), (2, 9, 1)],
)
def test_steps_are_those_of_autograd(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tasks = 0.01 * rng.normal(size=shape) * np.linspace(1, 3, shape[0])[:, None, None]
    for steps, learning_rate in ((0, 1e-3), (1, 1e-3), (40, 1e-4)):
        found = merged(tasks, steps=steps, learning_rate=learning_rate)
        expected = adam(tasks, steps, learning_rate)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 5, 4), (3, 4, 30), (3, 30, 4), (2, 1, 9)])
def test_the_exact_solver_finds_the_minimum(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tasks = rng.normal(size=shape) * np.linspace(1, 3, shape[0])[:, None, None]
    found = merged(tasks, solver="exact")
    np.testing.assert_allclose(found, least_squares(tasks), atol=1e-10)
    many = merged(tasks, steps=3000, learning_rate=1e-2)
    least = interference(found, tasks)
    np.testing.assert_allclose(interference(many, tasks), least, atol=1e-5)


def test_fusion_bench_computes_the_same() -> None:
    # fusion_bench 0.2.33, wudi_merging of TASKS / 100 in float64, iter_num=300 and 400.
    expected = [
        [
            1.7232757055095103,
            1.7426935849149303,
            0.9274486599175612,
            0.7273018586262727,
        ],
        [0.7865855726059471, 0.1284494266347318, -1.2594043929267027, 1.72684484233006],
        [
            1.073740430031526,
            1.7212980868949082,
            1.8307301812911803,
            -1.7305363571846775,
        ],
        [0.7247564200694553, -1.7375845964584524, 0.27410249766030, 1.7265203877373922],
    ]
    np.testing.assert_allclose(100 * merged(TASKS / 100), expected, rtol=1e-11)
    first_row = [1.642878051491885, 1.67903889090472, 0.906106973935151, 0.650996182418]
    found = 100 * merged(TASKS / 100, steps=400)[0]
    np.testing.assert_allclose(found, first_row, rtol=1e-11)


def test_steps_may_be_an_integer_of_numpy() -> None:
    found = merged(TASKS, steps=np.int64(3), learning_rate=1e-3)
    assert np.array_equal(found, merged(TASKS, steps=3, learning_rate=1e-3))


def test_tasks_with_orthogonal_rows_are_added() -> None:
    first, second = np.zeros((2, 3, 6))
    first[:, :3], second[:, 3:] = TASKS[0, :3, :3], 5 * TASKS[1, :3, :3]
    for params in ({"solver": "exact"}, {}):
        found = merged(np.stack([first, second]), **params)
        np.testing.assert_allclose(found, first + second, atol=1e-12)


def test_identical_members_are_a_fixed_point_of_the_exact_solver() -> None:
    found = merged(TASKS[[0, 0, 0]], solver="exact")
    np.testing.assert_allclose(found, TASKS[0], atol=1e-12)


def test_a_negative_weight_makes_the_result_act_against_the_task() -> None:
    first, second = np.zeros((2, 2, 4))
    first[:, :2], second[:, 2:] = [[1, 2], [3, 4]], [[5, 6], [7, 9]]
    stack = np.stack([first, second])
    found = wudi(stack, [1, -1], base=np.zeros((2, 4)), solver="exact")
    np.testing.assert_allclose(found, first - second, atol=1e-12)


def test_interference_is_less_than_that_of_the_sum_and_the_mean(
    rng: np.random.Generator,
) -> None:
    tasks = 0.01 * rng.normal(size=(4, 20, 30))
    losses = [
        interference(m, tasks)
        for m in (
            merged(tasks, solver="exact"),
            merged(tasks),
            iso_c(tasks, base=np.zeros((20, 30))),
            tasks.sum(0),
        )
    ]
    assert losses[0] < losses[1] < losses[3]
    assert losses[0] < min(losses[2], interference(tasks.mean(0), tasks))


def test_a_member_that_does_not_differ_in_a_layer_does_not_count(
    rng: np.random.Generator,
) -> None:
    tasks = rng.normal(size=(2, 4, 6))
    more = np.concatenate([tasks, np.zeros((1, 4, 6))])
    for params in ({"solver": "exact"}, {"steps": 5}):
        np.testing.assert_allclose(merged(more, **params), merged(tasks, **params))


@pytest.mark.parametrize(
    "params", [{"solver": "exact"}, {"steps": 20, "learning_rate": 0.01}]
)
def test_inputs_may_be_rows(params: dict[str, Any], rng: np.random.Generator) -> None:
    tasks = rng.normal(size=(3, 5, 20))
    turned, base = tasks.swapaxes(1, 2), np.zeros((20, 5))
    expected = merged(tasks, **params)
    for name, more in (
        ("coefs_.0", {}),
        ("params.Dense_0.kernel", {}),
        ("h.0.mlp.c_fc.weight", {"transposed": "c_fc"}),
    ):
        found = wudi(turned, base=base, name=name, **more, **params)
        np.testing.assert_allclose(found.T, expected, atol=1e-12)
    other = wudi(turned, base=base, name="coefs_.0", transposed="", **params)
    assert not np.allclose(other.T, expected)
