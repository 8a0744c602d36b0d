"""Merge methods give the results of mergekit 0.1.5, without its rounding errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from ensembles._typing import Array
from ensembles.checkpoints import Plan, average, plan_recipe, read_recipes, write
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.recipes.document import Recipe
from ensembles.checkpoints.recipes.methods import METHODS, method_of

# Recipes over the tensors of `members`, and the results of mergekit's functions for
# them, on a CPU in float32.
CASES = json.loads((Path(__file__).parent / "mergekit.json").read_text())


def members() -> dict[str, Array]:
    """A base and three members near it."""
    stack = np.random.default_rng(5).standard_normal((4, 3, 4)).astype(np.float32)
    stack[1:] = stack[0] + np.float32(0.5) * stack[1:]
    return dict(zip(("base", "a", "b", "c"), stack, strict=True))


def planned(recipe: dict[str, Any], tmp_path: Path) -> tuple[Recipe, Plan]:
    """Recipe over files, and its plan."""
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in members()}
    for name, tensor in members().items():
        save_file({"w": tensor}, paths[name])
    models = [m | {"model": paths[m["model"]]} for m in recipe["models"]]
    document = recipe | {"models": models}
    if "base_model" in recipe:
        document["base_model"] = paths[recipe["base_model"]]
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(document))
    (merge,) = read_recipes(tmp_path / "recipe.yml")
    assert isinstance(merge, Recipe)
    return merge, plan_recipe(merge, tmp_path / "out.safetensors")


def merged(recipe: dict[str, Any], tmp_path: Path) -> Array:
    write(planned(recipe, tmp_path)[1])
    return np.asarray(average([tmp_path / "out.safetensors"])["w"])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["recipe"]["merge_method"])
def test_results_are_those_of_mergekit(case: dict[str, Any], tmp_path: Path) -> None:
    result = merged(case["recipe"], tmp_path)
    expected = np.array(case["result"]).reshape(3, 4)
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-6)


def test_a_base_without_other_models_is_copied(tmp_path: Path) -> None:
    recipe = {"merge_method": "ties", "base_model": "base"}
    _, plan = planned(recipe | {"models": [{"model": "base"}]}, tmp_path)
    assert "only the base is merged: the result is a copy" in plan.notes[0]
    write(plan)
    result = average([tmp_path / "out.safetensors"])["w"]
    np.testing.assert_array_equal(result, members()["base"])


def test_every_method_has_a_case() -> None:
    assert {case["recipe"]["merge_method"] for case in CASES} == METHODS.keys()
    assert {name for m in METHODS.values() for name in (m.rule, m.rule_with_base)} <= {
        "",
        *RULES,
    }


MODELS = [{"model": name, "parameters": {"weight": 1}} for name in "abc"]


@pytest.mark.parametrize(
    ("method", "rescaled"),
    [("dare_linear", True), ("dare_ties", True), ("della", True), ("ties", False)],
)
def test_random_masks_have_the_density_and_the_l1_norm_of_mergekit(
    method: str, rescaled: bool, tmp_path: Path
) -> None:
    params = {"weight": 1, "density": 0.5}
    recipe: dict[str, Any] = {"merge_method": method, "base_model": "base"}
    recipe["models"] = [{"model": "a", "parameters": params}]
    update = merged(recipe, tmp_path) - members()["base"]
    whole = members()["a"] - members()["base"]
    assert 2 <= np.count_nonzero(np.abs(update) > 1e-6) <= 10
    norms = np.abs(update).sum(), np.abs(whole).sum()
    assert bool(abs(norms[0] - norms[1]) < 1e-5) is rescaled


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {
                "merge_method": "linear",
                "models": MODELS,
                "parameters": {"weight": 0, "normalize": {"value": True}},
            }
            | {"models": [{"model": "a"}]},
            r"recipe\.yml:1: tensor 'w': weights of linear must not sum to 0, found",
        ),
        (
            {
                "merge_method": "linear",
                "models": [
                    {
                        "model": "a",
                        "parameters": {"weight": [{"filter": "q", "value": 1}]},
                    }
                ],
            },
            r"recipe\.yml:1: weight must have a value for tensor 'w' of model .*, wh",
        ),
        (
            {
                "merge_method": "linear",
                "models": [
                    {"model": name, "parameters": {"weight": weight}}
                    for name, weight in (("a", [1, 2]), ("b", [-1, 2]))
                ],
            },
            r"recipe\.yml:1: tensor 'w': weights of linear must not sum to 0, found",
        ),
        (
            {
                "merge_method": "della",
                "base_model": "base",
                "models": [{"model": "a"}],
                "parameters": {"weight": 1, "density": 0.1, "epsilon": 0.5},
            },
            r"recipe\.yml:1: density - epsilon must be above 0",
        ),
        (
            {
                "merge_method": "dare_linear",
                "base_model": "base",
                "models": [{"model": "a"}],
                "parameters": {"weight": 1, "density": 0.5, "seed": 0.5},
            },
            r"recipe\.yml:1: .*seed.*0\.5",
        ),
    ],
)
def test_values_that_have_no_result_are_errors_of_the_plan(
    recipe: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        planned(recipe, tmp_path)


def test_rules_that_mergekit_does_not_have_are_methods() -> None:
    for name, rule in RULES.items():
        method = method_of(name)
        assert (method is None) == (
            rule.needs_moments is not None and name not in METHODS
        )
    assert method_of("no_such_rule") is None


def test_a_plan_says_how_results_differ_from_mergekit(tmp_path: Path) -> None:
    recipe = {"merge_method": "dare_ties", "base_model": "base", "models": MODELS}
    _, plan = planned(recipe, tmp_path)
    assert METHODS["dare_ties"].note in plan.notes
