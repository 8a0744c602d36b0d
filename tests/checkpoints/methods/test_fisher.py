"""Fisher-weighted averaging, against its formula and the code of other projects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints import average
from ensembles.checkpoints.methods.builtin import RULES, fisher
from ensembles.dtypes import FLOATS, round_to_dtype


def exact(stack: Float64, weights: Float64, information: Float64) -> list[float]:
    """The formula, for each entry alone; the mean where nothing counts."""
    result = []
    for x, f in zip(stack.T, information.T, strict=True):
        counted = f if (weights * f).any() else np.ones(len(f))
        result.append(float((weights * counted * x).sum() / (weights * counted).sum()))
    return result


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Float64, Float64]:
    return rng.normal(size=shape), rng.exponential(size=shape) ** 3


@pytest.mark.parametrize("dtype", list(FLOATS), ids=str)
def test_it_is_the_formula_rounded_once(dtype: Any, rng: np.random.Generator) -> None:
    stack, information = drawn(rng, (4, 300))
    information[:, :20] = 0
    weights = np.array([0.2, 1.0, 0.0, 3.0])
    stored = round_to_dtype(stack, dtype)
    found = fisher(stored, weights, moments=information.astype(np.float32))
    wide = information.astype(np.float32).astype(np.float64)
    expected = exact(stored.astype(np.float64), weights, wide)
    if dtype == np.float64:
        np.testing.assert_allclose(found, expected, rtol=1e-13)
    else:
        assert found.tobytes() == round_to_dtype(np.array(expected), dtype).tobytes()


def test_members_with_weight_zero_do_not_count(rng: np.random.Generator) -> None:
    stack, information = drawn(rng, (3, 9))
    stack[1], information[1, 0] = np.inf, np.nan
    alone = fisher(stack[[0, 2]], [2, 1], moments=information[[0, 2]])
    assert np.array_equal(fisher(stack, [2, 0, 1], moments=information), alone)


def test_nan_passes_through() -> None:
    found = fisher([[1.0, np.nan], [3.0, 4.0]], moments=[[np.nan, 1], [1, 1]])
    assert np.isnan(found).all()


def test_equal_information_gives_the_mean(rng: np.random.Generator) -> None:
    stack, _ = drawn(rng, (3, 50))
    found = fisher(stack, [1, 2, 3], moments=np.full(stack.shape, 1e-30))
    np.testing.assert_allclose(found, np.average(stack, axis=0, weights=[1, 2, 3]))


def test_a_floor_for_the_first_member_keeps_it_where_nothing_counts() -> None:
    stack = np.array([[1.0, 2.0], [5.0, 6.0]])
    moments = np.array([[0.0, 1.0], [0.0, 1.0]])
    assert fisher(stack, moments=moments).tolist() == [3, 4]
    kept = fisher(stack, moments=moments, floor=1e-6, favor_first=True)
    assert kept.tolist() == [1, 4]


def test_the_code_of_the_authors_is_reproduced() -> None:
    """Numbers of model_merging/merging.py of mmatena/model_merging, in float64.

    Its operations for two variables of two models, coefficients .4 and .6, with the
    defaults ``fisher_floor=1e-6``, ``favor_target_model`` and ``normalize_fishers``.
    """
    members = [{"a": np.array([1.0, 2.0]), "b": np.array([3.0])}]
    members += [{"a": np.array([-1.0, 5.0]), "b": np.array([7.0])}]
    moments = [{"a": np.array([0.0, 2.0]), "b": np.array([1.0])}]
    moments += [{"a": np.array([0.0, 0.5]), "b": np.array([4.0])}]
    norms = [np.sqrt(5.0), np.sqrt(16.25)]
    scales = [0.4 / norms[0], 0.6 / norms[1]]
    second = (scales[0] * 2 * 2 + scales[1] * 0.5 * 5) / (scales[0] * 2 + scales[1] / 2)
    third = (scales[0] * 3 + scales[1] * 4 * 7) / (scales[0] + scales[1] * 4)
    found = average(
        members,
        rule="fisher",
        weights=[0.4, 0.6],
        moments=[described(m, s) for m, s in zip(moments, members, strict=True)],
        rule_params={"floor": 1e-6, "favor_first": True, "normalize": True},
    )
    np.testing.assert_allclose(found["a"], [1.0, second], rtol=1e-14)
    np.testing.assert_allclose(found["b"], [third], rtol=1e-14)


def test_the_code_of_fusion_bench_is_reproduced() -> None:
    """Its operations: F + 1e-6, divided by the norm of F + 1e-6."""
    members = [{"a": np.array([1.0, 2.0])}, {"a": np.array([-1.0, 5.0])}]
    moments = [{"a": np.array([1e-7, 2e-6])}, {"a": np.array([3e-6, 0.0])}]
    norms = np.array([np.hypot(1e-7, 2e-6), 3e-6]) + 1e-6
    information = (np.array([m["a"] for m in moments]) + 1e-6) / norms[:, None]
    stack = np.array([m["a"] for m in members])
    expected = (information * stack).sum(0) / information.sum(0)
    found = average(
        members,
        rule="fisher",
        moments=[described(m, s) for m, s in zip(moments, members, strict=True)],
        rule_params={"epsilon": 1e-6, "normalize": True},
    )
    np.testing.assert_allclose(found["a"], expected, rtol=1e-14)


def described(tensors: dict[str, Any], member: dict[str, Any]) -> Any:
    """Fisher information with the samples of a member."""
    import torch

    from ensembles.checkpoints import Moments
    from ensembles.checkpoints.moments.collection import samples_of

    state = {name: torch.from_numpy(array) for name, array in member.items()}
    return Moments("fisher", tensors, samples_of(state), {})


def test_norms_over_each_tensor_or_over_the_model() -> None:
    members = [{"a": np.array([0.0]), "b": np.array([0.0])}]
    members += [{"a": np.array([1.0]), "b": np.array([1.0])}]
    moments = [{"a": np.array([3.0]), "b": np.array([4.0])}]
    moments += [{"a": np.array([1.0]), "b": np.array([0.0])}]
    given = [described(m, s) for m, s in zip(moments, members, strict=True)]
    how: Any = {"rule": "fisher", "moments": given}
    model = average(members, rule_params={"normalize": True}, **how)
    assert model["a"].tolist() == [1 / (1 + 0.6)]
    assert model["b"].tolist() == [0]
    params = {"normalize": True, "scope": "tensor"}
    assert average(members, rule_params=params, **how)["a"].tolist() == [0.5]


def test_invalid_information_and_parameters_are_refused() -> None:
    stack = np.ones((2, 2))
    with pytest.raises(ValueError, match=r"must not be negative, found -1.0; collect"):
        fisher(stack, moments=[[1, 1], [1, -1.0]])
    invalid: list[dict[str, Any]] = [
        {"floor": -1},
        {"epsilon": -1},
        {"epsilon": np.nan},
        {"favor_first": "false"},  # text counts as true
        {"normalize": "false"},
    ]
    for params in invalid:
        (name,) = params
        with pytest.raises(ValueError, match=f"{name} of 'fisher' must be"):
            fisher(stack, moments=stack, **params)
    with pytest.raises(
        ValueError, match="scope of 'fisher' must be one of 'model', 't"
    ):
        fisher(stack, moments=stack, normalize=True, scope=1)
    with pytest.raises(ValueError, match="of each of 2 members, found 0; collect them"):
        fisher(stack)
    with pytest.raises(ValueError, match="must not sum to zero"):
        fisher(stack, [0, 0], moments=stack)
    with pytest.raises(ValueError, match="rule 'mean' does not use moments; leave"):
        RULES["mean"](stack, moments=stack)
