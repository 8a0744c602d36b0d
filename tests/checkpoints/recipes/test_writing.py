"""Averages become recipes, which give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import (
    Plan,
    plan,
    plan_recipe,
    read_recipes,
    recipe_text,
    save_recipe,
    write,
)
from ensembles.checkpoints.recipes.document import Recipe

MERGEKIT = {"zero_sum": "positive", "scope": "tensor"}


@pytest.fixture
def members(tmp_path: Path, rng: np.random.Generator) -> list[str]:
    """A base and three members."""
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", "a", "b", "c")]
    for path in paths:
        tensor = rng.standard_normal((6, 4)).astype(np.float32)
        save_file({"layers.0.w": tensor, "layers.1.w": tensor[:2] + 1}, path)
    return [str(path) for path in paths]


def planned(members: list[str], rule: str, out: Path, **how: Any) -> Plan:
    two = rule in ("slerp", "nuslerp", "nuslerp_task_vectors", "nearswap")
    has_base = how.pop("has_base", False)
    base = members[0] if has_base else None
    return plan(members[1 : 3 if two else 4], out, base=base, rule=rule, **how)


W3, W2 = [0.5, 0.3, 0.4], [0.5, 0.3]
SAID: list[tuple[str, str, dict[str, Any]]] = [
    ("mean", "linear", {"weights": W3}),
    ("mean", "linear", {"dtype": "bf16"}),
    ("linear_combination", "linear", {"weights": W3, "rule_params": {"scale": 0.7}}),
    ("slerp", "slerp", {"weights": W2}),
    ("nearswap", "nearswap", {"rule_params": {"t": 0.2}}),
    ("nuslerp", "nuslerp", {"weights": W2, "rule_params": {"vectors": "row"}}),
    ("nuslerp", "nuslerp", {"weights": W2, "rule_params": {"vectors": "column"}}),
    ("nuslerp_task_vectors", "nuslerp", {"weights": W2, "has_base": True}),
    ("multislerp", "multislerp", {"weights": W3}),
    ("karcher_mean", "karcher", {}),
    ("karcher_mean", "karcher", {"weights": [2, 2, 2]}),
    ("task_arithmetic", "task_arithmetic", {"weights": W3, "has_base": True}),
    (
        "ties",
        "ties",
        {
            "has_base": True,
            "weights": W3,
            "rule_params": MERGEKIT | {"density": [0.2, 0.5, 1], "scale": 0.7},
        },
    ),
    (
        "dare_ties",
        "dare_ties",
        {
            "has_base": True,
            "rule_params": {"zero_sum": "positive", "rescale": "l1", "seed": 7},
        },
    ),
    (
        "breadcrumbs_linear",
        "breadcrumbs",
        {"has_base": True, "rule_params": {"density": 0.5, "gamma": 0.1}},
    ),
    ("model_stock", "model_stock", {"has_base": True, "rule_params": {"clamp": False}}),
    ("sce", "sce", {"has_base": True, "rule_params": {"normalize": True}}),
    ("ram", "ram", {"has_base": True, "rule_params": {"epsilon": 0.5}}),
    (
        "ram",
        "ramplus_tl",
        {
            "has_base": True,
            "rule_params": {"r": 0.2, "alpha": 0.3, "scope": "tensor"},
        },
    ),
    ("median", "median", {"weights": [1, 2, 1]}),
    ("trimmed_mean", "trimmed_mean", {"rule_params": {"proportion": 0.3}}),
    ("tsv", "tsv", {"has_base": True, "rule_params": {"scale": 0.5}}),
]


@pytest.mark.parametrize(("rule", "method", "how"), SAID)
def test_the_recipe_of_an_average_gives_its_bytes(
    rule: str, method: str, how: dict[str, Any], members: list[str], tmp_path: Path
) -> None:
    average = planned(members, rule, tmp_path / "average.safetensors", **how)
    save_recipe(average, tmp_path / "recipe.yml")
    (recipe,) = read_recipes(tmp_path / "recipe.yml")
    assert isinstance(recipe, Recipe)
    assert recipe.method == method
    assert recipe.notes == ()
    merge = plan_recipe(recipe, tmp_path / "merge.safetensors")
    write(average)
    write(merge)
    expected = load_file(tmp_path / "average.safetensors")
    for name, tensor in load_file(tmp_path / "merge.safetensors").items():
        assert tensor.tobytes() == expected[name].tobytes()


def test_only_what_differs_from_defaults_is_written(
    members: list[str], tmp_path: Path
) -> None:
    params = MERGEKIT | {"density": 1}
    average = planned(
        members, "ties", tmp_path / "x", has_base=True, rule_params=params
    )
    models = [{"model": path, "parameters": {"weight": 1.0}} for path in members[1:]]
    assert yaml.safe_load(recipe_text(average)) == {
        "merge_method": "ties",
        "base_model": members[0],
        "models": models,
    }


UNSAID: list[tuple[str, dict[str, Any], str]] = [
    (
        "ties",
        {"has_base": True},
        r"zero_sum='zero' of 'ties' \(ties has zero_sum='posi",
    ),
    ("ties", {"has_base": True}, "--param scope=tensor"),
    ("dare_linear", {"has_base": True}, "rescale='expected' of"),
    ("karcher_mean", {"weights": W3}, "weights of 'karcher_mean', which karcher does"),
    ("mean", {"missing": "skip", "include": ["*"]}, "--missing 'skip', --include"),
    (
        "consensus",
        {"has_base": True, "rule_params": {"density": [0.1, 0.2, 0.3]}},
        "one value for each member",
    ),
]


@pytest.mark.parametrize(("rule", "how", "message"), UNSAID)
def test_an_average_that_the_format_cannot_say_is_an_error(
    rule: str, how: dict[str, Any], message: str, members: list[str], tmp_path: Path
) -> None:
    average = planned(members, rule, tmp_path / "x.safetensors", **how)
    with pytest.raises(ValueError, match=f"^a recipe in mergekit's .*{message}"):
        save_recipe(average, tmp_path / "recipe.yml")
    assert not (tmp_path / "recipe.yml").exists()


def test_a_member_that_occurs_twice_is_an_error(members: list[str]) -> None:
    path = Path(members[1])
    with pytest.raises(ValueError, match=f"say '{path}' as 2 members; leave"):
        recipe_text(plan([path, members[2], path]))


def test_members_in_memory_have_no_path() -> None:
    states = [{"w": np.ones(2)}, {"w": np.zeros(2)}]
    with pytest.raises(ValueError, match=r"the path 'members\[0\]'"):
        recipe_text(plan(states))


def test_a_recipe_is_replaced_only_by_force(members: list[str], tmp_path: Path) -> None:
    average = planned(members, "mean", tmp_path / "x.safetensors")
    (tmp_path / "recipe.yml").write_text("precious")
    with pytest.raises(FileExistsError, match=r"recipe\.yml"):
        save_recipe(average, tmp_path / "recipe.yml")
    save_recipe(average, tmp_path / "recipe.yml", force=True)
    assert "linear" in (tmp_path / "recipe.yml").read_text()
