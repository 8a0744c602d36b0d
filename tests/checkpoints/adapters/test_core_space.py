"""Merges of low-rank updates in the space that their factors span."""

from typing import Any

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints.adapters.core_space import core_space
from ensembles.checkpoints.formats.lora.adapter import Factors
from ensembles.rules import RULES

WEIGHTS = np.array([0.5, 2.0, 1.0])


def updates(n_experts: int = 1, ranks: tuple[int, ...] = (2, 3, 0)) -> list[Factors]:
    rng = np.random.default_rng(0)
    return [
        Factors(
            rng.normal(size=(n_experts, rank, 9)), rng.normal(size=(n_experts, 7, rank))
        )
        for rank in ranks
    ]


def dense(update: Factors) -> Float64:
    return update.b @ update.a


@pytest.mark.parametrize("n_experts", [1, 2])
@pytest.mark.parametrize(
    ("rule", "params"),
    [
        ("task_arithmetic", {"scale": -0.3}),
        ("task_arithmetic", {"normalize": True}),
        ("mean", {}),
        ("dare_linear", {"density": 1.0}),
        ("karcher_mean", {}),
    ],
)
def test_rules_of_sums_and_inner_products_are_exact(
    rule: str, params: dict[str, Any], n_experts: int
) -> None:
    ranks = (2, 3, 1) if rule == "karcher_mean" else (2, 3, 0)
    members = updates(n_experts, ranks)
    merged = core_space(members, WEIGHTS, rule=rule, rule_params=params)
    assert merged.rank == sum(ranks)
    for expert in range(n_experts):
        stack = np.stack([dense(update)[expert] for update in members])
        base = np.zeros((7, 9)) if RULES[rule].needs_base else None
        exact = RULES[rule](stack, WEIGHTS, base=base, **params)
        np.testing.assert_allclose(dense(merged)[expert], exact, atol=1e-13)


def cores(members: list[Factors]) -> tuple[Float64, Float64, Float64]:
    """Bases and cores of the paper, from whole updates: U' W V'."""
    left = np.linalg.svd(np.hstack([u.b[0] for u in members]), full_matrices=False)[0]
    right = np.linalg.svd(np.vstack([u.a[0] for u in members]), full_matrices=False)[2]
    stack = np.stack([left.T @ dense(update)[0] @ right.T for update in members])
    return left, stack, right


def ties(stack: Float64) -> Float64:
    """TIES of one tensor, density 0.4, by the steps of the paper."""
    kept = int(0.4 * stack[0].size)
    flat = stack.reshape(len(stack), -1).copy()
    for row in flat:
        row[np.argsort(-np.abs(row))[kept:]] = 0
    elected = np.sign(flat.sum(axis=0))
    agrees = (np.sign(flat) == elected) & (flat != 0)
    total = (flat * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)
    return np.asarray(total.reshape(stack.shape[1:]))


def iso_c(stack: Float64) -> Float64:
    u, values, vt = np.linalg.svd(stack.sum(axis=0), full_matrices=False)
    return np.asarray(values.mean() * u @ vt)


def tsv(stack: Float64) -> Float64:
    """The authors' get_tsv_delta_w: a share of the vectors of each, orthogonalized."""
    n_each = stack.shape[1] // len(stack)
    parts = [np.linalg.svd(core, full_matrices=False) for core in stack]
    left = np.hstack([u[:, :n_each] for u, _, _ in parts])
    right = np.vstack([vt[:n_each] for _, _, vt in parts])
    values = np.concatenate([s[:n_each] for _, s, _ in parts])
    (u, _, v), (x, _, y) = (
        np.linalg.svd(m, full_matrices=False) for m in (left, right)
    )
    return np.asarray(u @ v @ np.diag(values) @ x @ y)


@pytest.mark.parametrize(
    ("rule", "params", "oracle"),
    [
        ("ties", {"density": 0.4, "normalize": True}, ties),
        ("iso_c", {}, iso_c),
        ("tsv", {}, tsv),
    ],
)
def test_rules_are_applied_to_the_cores_of_the_paper(
    rule: str, params: dict[str, Any], oracle: Any
) -> None:
    members = updates(ranks=(2, 2))
    left, stack, right = cores(members)
    merged = core_space(members, rule=rule, rule_params=params, name="q.weight")
    np.testing.assert_allclose(
        dense(merged)[0], left @ oracle(stack) @ right, atol=1e-12
    )


def test_equal_updates_are_a_fixed_point_and_need_their_rank_alone() -> None:
    (update,) = updates(ranks=(2,))
    merged = core_space(
        [update] * 3, rule="ties", rule_params={"density": 1.0, "normalize": True}
    )
    assert merged.rank == 2
    np.testing.assert_allclose(dense(merged), dense(update), atol=1e-13)


def test_random_numbers_depend_on_the_name() -> None:
    one, other, again = (
        core_space(updates(), rule="dare_linear", rule_params={"density": 0.5}, name=n)
        for n in ("a", "b", "a")
    )
    assert one.a.tobytes() == again.a.tobytes()
    assert not np.allclose(one.a, other.a)


@pytest.mark.parametrize(
    ("rule", "params", "message"),
    [
        ("fisher", {}, "needs moments"),
        ("ties", {"scope": "model"}, "scope='tensor'"),
        ("ties", {"q": 1}, "'q'"),
    ],
)
def test_rules_that_cannot_be_used_are_refused(
    rule: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        core_space(updates(), rule=rule, rule_params=params)


def test_updates_with_nan_are_refused() -> None:
    members = updates()
    members[0].a[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"'q.weight' must be finite"):
        core_space(members, rule="ties", name="q.weight")
