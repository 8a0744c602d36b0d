"""SCE: against arrays in float64, by hand, and as mergekit computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints import average
from ensembles.checkpoints.methods import sce
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels import jit
from ensembles.kernels.task_vectors.selected_deltas import variances

BASE = [1.0, -2.0, 0.5, 4.0, -1.0, 3.0, 0.0, 2.0]
CHANGES = [
    [0.3, -0.2, 0.0, 0.1, 0.05, -0.4, 0.2, 0.0],
    [0.1, -0.3, 0.2, -0.1, 0.0, -0.2, 0.1, 0.0],
    [-0.2, 0.1, 0.1, 0.0, 0.05, 0.3, 0.25, 0.0],
]
STACK = np.array(BASE) + CHANGES


def merged(
    stack: Float64,
    base: Float64,
    weights: Any,
    *,
    density: float = 1.0,
    normalize: bool = False,
    keep: bool = False,
) -> Float64:
    """The three steps of the paper, on whole arrays."""
    deltas, weights = (stack - base)[np.array(weights) > 0], np.array(weights)
    spread = deltas.var(axis=0)
    spread[np.ptp(deltas, axis=0) == 0] = 0
    is_selected = np.ones(spread.shape, bool)
    if density < 1:
        n_selected = int(density * np.count_nonzero(spread))
        is_selected = spread >= np.sort(spread)[::-1][max(n_selected - 1, 0)]
        is_selected &= n_selected > 0
    filtered = deltas * is_selected
    shares = weights[weights > 0] * (filtered**2).sum(axis=1)
    shares = shares / shares.sum()
    chosen = deltas if keep else filtered
    sign = np.where(chosen.sum(axis=0) >= 0, 1, -1)
    agrees = np.sign(chosen) == sign
    total = (shares[:, None] * chosen * agrees).sum(axis=0)
    if normalize:
        divisor = (shares[:, None] * agrees).sum(axis=0)
        total = total / np.where(divisor == 0, 1, divisor)
    return np.asarray(base + total)


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_it_is_its_formula_rounded_once(
    dtype: np.dtype[Any], density: float, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(rng.normal(size=(4, 2_000)), dtype)
    wide, weights = stack.astype(np.float64), [1.0, 0.5, 2.0]
    found = sce(stack[1:], weights, base=stack[0], density=density)
    expected = merged(wide[1:], wide[0], weights, density=density)
    if dtype == np.float64:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    else:
        same = found == round_to_dtype(expected, dtype)
        assert same.mean() > 0.995


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("unselected", ["drop", "keep"])
def test_variants_are_their_formulas(
    normalize: bool, unselected: Any, rng: np.random.Generator
) -> None:
    stack = rng.normal(size=(5, 500))
    found = sce(
        stack[1:],
        base=stack[0],
        density=0.2,
        normalize=normalize,
        unselected=unselected,
    )
    how: Any = {"normalize": normalize, "keep": unselected == "keep"}
    expected = merged(stack[1:], stack[0], np.ones(4), density=0.2, **how)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_mergekit_computes_the_same() -> None:
    # mergekit 0.1.5, merge_tensors([base, *members], "sce", base_index=0, parameters=
    # {"select_topk": density}) in float64.
    cases = {
        1.0: [
            *(1.226267281105991, -2.2368663594470046, 0.6481927710843374, 3.9),
            *(-0.95, 2.6737327188940094, 0.18778877887788778, 2.0),
        ],
        0.5: [
            *(1.2348837209302326, -2.2325581395348837, 0.5, 4.0),
            *(-1.0, 2.6651162790697676, 0.0, 2.0),
        ],
    }
    for density, expected in cases.items():
        found = sce(STACK, base=BASE, density=density, normalize=True)
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_a_sum_of_zero_counts_as_positive() -> None:
    assert sce([[3.0], [-1.0]], base=[1.0], normalize=True).tolist() == [3]


def test_small_differences_keep_their_coefficients() -> None:
    """mergekit takes equal ones where mean squares sum to less than 1e-6."""
    base = np.linspace(-1, 1, 8)
    changes = np.array(
        [[3, -1, 2, 0, 1, -2, 0, 1], [0.1, 0.2, -0.1, 0.3, 0, 0, 0.1, -0.2]]
    )
    by_mergekit = 1.55e-4  # of the first entry, (3e-4 + 1e-5) / 2
    for scale in (1e-4, 1e-30, 1e-90):
        found = sce(base * scale + changes * scale, base=base * scale, normalize=True)
        large = sce(base + changes, base=base, normalize=True)
        np.testing.assert_allclose(found, large * scale, rtol=1e-12)
    first = sce(base + 1e-4 * changes, base=base, normalize=True)[0] - base[0]
    assert first == pytest.approx(3e-4 * 20 / 20.2 + 1e-5 * 0.2 / 20.2)
    assert first > 1.9 * by_mergekit


def test_members_that_differ_nowhere() -> None:
    moved = [[2.0, 1.0], [2.0, 1.0]]
    assert sce(moved, base=[1.0, 1.0]).tolist() == [2, 1]
    # No entry is selected; kept, they are merged with equal coefficients.
    assert sce(moved, base=[1.0, 1.0], density=0.5).tolist() == [1, 1]
    kept = sce(moved, base=[1.0, 1.0], density=0.5, unselected="keep")
    assert kept.tolist() == [2, 1]
    assert sce([[3.0]], base=[1.0]).tolist() == [3]
    assert sce([[3.0], [2.0]], base=[1.0], density=0).tolist() == [1]


def test_members_without_weight_do_not_select(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(4, 300))
    stack[2, :5] = 1e6
    found = sce(stack[1:], [1, 0, 1], base=stack[0], density=0.1)
    expected = sce(stack[1::2], base=stack[0], density=0.1)
    assert found.tobytes() == expected.tobytes()


def test_equal_variances_are_selected_together() -> None:
    found = sce([[2.0, 2, 2, 1], [1.0, 1, 1, 1]], base=[0.0] * 4, density=0.4)
    assert (found != 0).tolist() == [True, True, True, False]


def test_coefficients_belong_to_each_tensor() -> None:
    base = {"a": np.zeros(2), "b": np.zeros(2)}
    members = [
        {"a": np.array([3.0, 0]), "b": np.array([1.0, 0])},
        {"a": np.array([1.0, 0]), "b": np.array([3.0, 0])},
    ]
    found = average(members, base=base, rule="sce")
    assert found["a"][0] == found["b"][0] == pytest.approx(0.9 * 3 + 0.1 * 1)


def test_variances_are_zero_only_where_members_are_equal(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = rng.normal(size=(7, 100)) + 1e6
    stack[:, 50:] = stack[0, 50:] / 3
    by_numpy = variances(stack)
    np.testing.assert_allclose(by_numpy[:50], stack.var(axis=0)[:50], rtol=1e-8)
    assert not by_numpy[50:].any()
    monkeypatch.setattr(jit, "WORTHWHILE", -1)
    assert variances(stack).tobytes() == by_numpy.tobytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [("density", -0.1), ("density", 1.1), ("unselected", 0), ("normalize", 2)],
)
def test_parameters_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} of 'sce' must be"):
        sce([[1.0]], base=[0.0], **{name: value})
