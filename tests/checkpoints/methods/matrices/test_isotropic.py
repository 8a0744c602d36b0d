"""Iso-C and Iso-CTS: against polar decompositions, FusionBench, and properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.linalg import polar, subspace_angles

from ensembles._typing import Array, Float64
from ensembles.checkpoints.methods import iso_c, iso_cts
from ensembles.checkpoints.methods.matrices.isotropic import subspace_sizes
from tests.checkpoints.methods.matrices.test_task_interference import TASKS


def merged(rule: Any, tasks: Float64, **params: Any) -> Array:
    found = rule(tasks, base=np.zeros(tasks.shape[1:]), **params)
    return np.asarray(found)


def with_task_subspaces(tasks: Float64, n_common: int, n_own: int) -> Array:
    """Iso-CTS of tasks of full rank, from eigenvectors and polar decompositions."""
    total = tasks.sum(0)
    common = np.linalg.eigh(total @ total.T)[1][:, ::-1][:, :n_common]
    lefts = [common]
    rights = [(common.T @ total) / np.linalg.norm(common.T @ total, axis=1)[:, None]]
    sizes = [np.linalg.norm(common.T @ total, axis=1)]
    for task in tasks:
        rest = (np.eye(len(common)) - common @ common.T) @ task
        own = np.linalg.eigh(rest @ rest.T)[1][:, ::-1][:, :n_own]
        lefts.append(own)
        sizes.append(np.linalg.norm(own.T @ rest, axis=1))
        rights.append((own.T @ rest) / sizes[-1][:, None])
    left, right = polar(np.hstack(lefts))[0], polar(np.vstack(rights))[0]
    return np.asarray(np.mean(np.concatenate(sizes)) * left @ right)


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 4, 9), (1, 4, 4)])
def test_iso_c_is_the_orthogonal_factor_of_the_sum(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tasks = rng.normal(size=shape)
    total = tasks.sum(0)
    factor = polar(total)[0]
    size = np.linalg.norm(total, "nuc") / min(total.shape)
    found = merged(iso_c, tasks)
    np.testing.assert_allclose(found, size * factor, atol=1e-12)
    np.testing.assert_allclose(np.linalg.svd(found)[1], size)


@pytest.mark.parametrize(
    ("shape", "fraction", "sizes"),
    [
        ((3, 10, 12), 0.4, (4, 2)),
        ((3, 12, 10), 0.4, (4, 2)),
        ((2, 8, 8), 0.0, (0, 4)),
        ((2, 6, 7), 1.0, (6, 0)),
    ],
)
def test_iso_cts_is_what_its_definition_gives(
    shape: tuple[int, ...],
    fraction: float,
    sizes: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    tasks = rng.normal(size=shape)
    assert subspace_sizes(min(shape[1:]), shape[0], fraction) == sizes
    found = merged(iso_cts, tasks, common_fraction=fraction)
    np.testing.assert_allclose(found, with_task_subspaces(tasks, *sizes), atol=1e-11)


def test_fusion_bench_computes_the_same() -> None:
    # fusion_bench 0.2.33, iso_c and iso_cts(common_space_fraction=0.5) of TASKS.
    expected = [
        [0.5658798139991714, 1.6350261580675292, 1.154832332714459, 1.489813882650855],
        [1.578660194870158, 0.2911292414777453, -1.9113873167698865, 0.56248369066050],
        [1.5883728557348213, 0.4417157580133538, 0.8622599327667062, -1.75646813000162],
        [1.1006349619580162, -1.895661900074205, 0.90342804917292, 0.9620810902252857],
    ]
    np.testing.assert_allclose(merged(iso_c, TASKS), expected, rtol=1e-12)
    expected = [
        [
            2.5638606137978748,
            1.2126993044380352,
            -0.2174020385887042,
            -1.36009071514906,
        ],
        [
            0.9902164319144876,
            0.783625746638694,
            -0.9718435292975267,
            2.7206715184894597,
        ],
        [0.2516133967231594, 0.8122889005504045, 2.9476938017872625, 0.7273994372576],
        [
            1.524438296343178,
            -2.6826496375875837,
            0.5103812387526633,
            0.4001512757802247,
        ],
    ]
    found = merged(iso_cts, TASKS, common_fraction=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("rule", [iso_c, iso_cts], ids=lambda rule: rule.name)
def test_no_direction_is_added_to_sums_without_full_rank(
    rule: Any, rng: np.random.Generator
) -> None:
    factors = rng.normal(size=(2, 9, 2)), rng.normal(size=(2, 2, 8))
    found = merged(rule, factors[0] @ factors[1])
    assert np.linalg.matrix_rank(found) == 4
    outside = subspace_angles(found.T, np.concatenate(factors[1]).T)
    assert outside.max() < 1e-7


def test_small_directions_can_be_left_out(rng: np.random.Generator) -> None:
    signal = rng.normal(size=(1, 9, 2)) @ rng.normal(size=(1, 2, 8))
    noise = 1e-3 * rng.normal(size=signal.shape)
    assert np.linalg.matrix_rank(merged(iso_c, signal + noise)) == 8
    assert np.linalg.matrix_rank(merged(iso_c, signal + noise, epsilon=0.05)) == 2


@pytest.mark.parametrize("rank", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("n_tasks", [1, 2, 5, 8])
@pytest.mark.parametrize("fraction", [0, 0.3, 0.5, 0.8, 1])
def test_subspaces_fill_the_matrix(rank: int, n_tasks: int, fraction: float) -> None:
    n_common, n_own = subspace_sizes(rank, n_tasks, fraction)
    assert n_common >= 0
    assert n_own >= 0
    assert n_common + n_tasks * n_own == rank


@pytest.mark.parametrize("rule", [iso_c, iso_cts], ids=lambda rule: rule.name)
def test_a_decomposition_that_fails_is_tried_again(
    rule: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = rng.normal(size=(2, 7, 5))
    expected, decompose = merged(rule, tasks), np.linalg.svd

    def fail_once(matrix: Float64, **how: Any) -> Any:
        monkeypatch.setattr(np.linalg, "svd", decompose)
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(np.linalg, "svd", fail_once)
    np.testing.assert_allclose(merged(rule, tasks), expected, atol=1e-12)
