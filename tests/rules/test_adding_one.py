"""A rule of one's own with statistics: registered, then streamed as any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average
from ensembles.predictions import EnsembleRegressor
from ensembles.registry import register
from ensembles.rules import RULES
from ensembles.rules.rule import Rule
from ensembles.rules.statistics import OrderedTotal, add_statistics, blockwise


@blockwise
def squares(block: Array, *, power: float) -> Float64:
    return np.asarray((np.abs(block) ** power).sum(axis=1))


def scales(total: Float64, weights: Float64, *, least: float = 0.0) -> Float64:
    if least < 0:
        raise ValueError(f"least must not be negative, found {least}")
    return np.maximum(np.sqrt(total), least)


@pytest.fixture
def normed() -> Iterator[str]:
    @register(RULES, statistics=squares, finish=scales)
    def normed(
        stack: Float64, weights: Float64, *, state: Float64, factor: float = 1.0
    ) -> Float64:
        """Weighted sum of the members, each divided by its norm."""
        return np.asarray(factor * (weights / state) @ stack)

    yield "normed"
    del RULES["normed"]


@pytest.fixture
def members(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path in paths:
        tensors = {"w": rng.normal(size=200_003), "v": rng.normal(size=(3, 2))}
        save_file({n: t.astype(np.float32) for n, t in tensors.items()}, path)
    return paths


def test_it_is_streamed_whatever_the_memory_and_the_threads(
    normed: str, members: list[Path], tmp_path: Path
) -> None:
    found = []
    for memory, threads in ((1 << 26, 2), (3 << 20, 1)):
        out = tmp_path / f"{memory}.safetensors"
        params: Any = {"factor": 2.0, "power": 2.0}
        how: Any = {"rule_params": params, "memory": memory, "threads": threads}
        average(members, out, rule=normed, weights=[1, 3], **how)
        found.append(load_file(out))
    a, b = (load_file(path) for path in members)
    for name in a:
        assert found[0][name].tobytes() == found[1][name].tobytes()
        wide = [t[name].astype(np.float64).ravel() for t in (a, b)]
        expected = sum(
            2 * w * x / np.linalg.norm(x) for w, x in zip([1, 3], wide, strict=True)
        )
        assert found[0][name].ravel() == pytest.approx(expected, rel=1e-6)


def test_in_memory_it_gives_the_same(normed: str, members: list[Path]) -> None:
    states = [load_file(path) for path in members]
    stack = np.array([state["w"] for state in states])
    alone = RULES[normed](stack, [1, 3], power=2.0)
    both = average(states, rule=normed, weights=[1, 3], rule_params={"power": 2.0})
    assert alone.tobytes() == both["w"].tobytes()


def test_parameters_of_all_its_functions_are_known_and_checked(
    normed: str, members: list[Path]
) -> None:
    assert sorted(RULES[normed].params) == ["factor", "least", "power"]
    with pytest.raises(ValueError, match="least must not be negative, found -1"):
        average(members, rule=normed, rule_params={"power": 2.0, "least": -1})
    message = r"no parameter 'p' \(known: factor, power, least\)"
    with pytest.raises(ValueError, match=message):
        average(members, rule=normed, rule_params={"p": 2.0})


def test_predictions_are_no_tensors_to_it(normed: str) -> None:
    from sklearn.linear_model import Ridge

    pair = [("a", Ridge()), ("b", Ridge(10))]
    with pytest.raises(ValueError, match="unknown rule 'normed'"):
        EnsembleRegressor(pair, rule=normed).fit(np.eye(4), np.arange(4))


def test_an_empty_tensor_has_statistics_of_their_usual_shape(normed: str) -> None:
    empty = {"w": np.empty((0, 3)), "v": np.ones(2)}
    params: dict[str, Any] = {"power": 2.0, "least": 1.0}
    found = average([empty, empty], rule=normed, rule_params=params)
    assert found["w"].shape == (0, 3)
    assert RULES[normed](np.empty((2, 0)), **params).shape == (0,)


def test_infinities_of_both_signs_give_nan_without_a_warning() -> None:
    def span(stack: Float64, weights: Float64) -> Float64:
        return np.asarray(stack.max(axis=0) + stack.min(axis=0))

    assert np.isnan(Rule(span)([[np.inf], [-np.inf]])).all()


def combined(stack: Float64, weights: Float64) -> Float64:
    return np.asarray(weights @ stack)


def test_a_finish_without_statistics_is_refused_when_it_is_registered() -> None:
    with pytest.raises(TypeError, match="'combined' must have statistics, because it "):
        register(RULES, finish=scales)(combined)
    assert "combined" not in RULES


def test_a_state_needs_statistics_and_statistics_a_state() -> None:
    def stated(stack: Float64, weights: Float64, *, state: Float64) -> Float64:
        return state

    for function, statistics in ((stated, None), (combined, squares)):
        with pytest.raises(TypeError, match="argument 'state' if and only if it has "):
            Rule(function, statistics=statistics)


def test_a_base_is_in_a_signature_if_and_only_if_the_rule_needs_one() -> None:
    def based(stack: Float64, weights: Float64, *, base: Float64) -> Float64:
        return base

    for function, needs_base in ((based, False), (combined, True)):
        with pytest.raises(TypeError, match=f"found needs_base={needs_base}"):
            Rule(function, needs_base=needs_base)


@pytest.mark.parametrize("name", ["members", "dtype", "weights", "stack"])
def test_names_of_the_library_are_no_parameters(name: str) -> None:
    def finish(total: Any, shares: Any, **params: Any) -> Any: ...

    scope: dict[str, Any] = {}
    exec(f"def named(x, y, *, {name}=1): ...", scope)
    with pytest.raises(TypeError, match=f"'named' must not be named '{name}'"):
        Rule(scope["named"])
    with pytest.raises(TypeError, match=r"must name each parameter, found \*\*params"):
        Rule(finish)


def test_a_parameter_has_one_default() -> None:
    def other(total: Float64, weights: Float64, *, factor: float = 2.0) -> Float64:
        return total

    def stated(
        stack: Float64, weights: Float64, *, state: Float64, factor: float = 1.0
    ) -> Float64:
        return state

    message = "'factor' of rule 'stated' must have the same default in all .*1.0 and 2"
    with pytest.raises(TypeError, match=message):
        Rule(stated, statistics=squares, finish=other)


@pytest.mark.parametrize("shape", [(), (1, 1), (2, 2)])
def test_statistics_have_the_same_total_for_any_division_into_parts(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    blocks = rng.normal(size=(40, *shape)) * 10.0 ** rng.integers(-8, 8, (40, *shape))
    whole = add_statistics(None, blocks)
    total = add_statistics(None, blocks[:7])
    for start, stop in ((7, 8), (8, 8), (8, 31), (31, 40)):
        total = add_statistics(total, blocks[start:stop])
    assert total.tobytes() == whole.tobytes()
    expected = np.zeros(shape)
    for block in blocks:
        expected = expected + block
    assert whole.tolist() == expected.tolist()


def test_statistics_of_another_shape_are_refused() -> None:
    total = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"same shape for each block, found \(2, 2\) "):
        add_statistics(total, np.zeros((3, 1)))


def test_parts_that_come_in_any_order_are_added_in_theirs(
    rng: np.random.Generator,
) -> None:
    blocks = rng.normal(size=(30, 1))
    expected = add_statistics(None, blocks[:, 0])
    ordered = OrderedTotal(150)
    totals = [
        ordered.add(index * 5, index * 5 + 5, blocks[index])
        for index in rng.permutation(30).tolist()
    ]
    assert all(total is None for total in totals[:-1])
    assert totals[-1] is not None
    assert totals[-1].tobytes() == expected.tobytes()
