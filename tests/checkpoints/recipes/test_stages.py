"""Files with several merges."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import plan_recipes, read_recipes, write_recipes
from ensembles.checkpoints.planning.plan import Plan
from ensembles.checkpoints.recipes import stages
from ensembles.checkpoints.recipes.document import Recipe
from ensembles.checkpoints.recipes.merge import plan_recipe

SIZE = 8


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    states = {name: rng.standard_normal(SIZE).astype(np.float32) for name in "abc"}
    for name, state in states.items():
        Path(name).mkdir()
        save_file({"w": state}, f"{name}/model.safetensors")
        Path(name, "config.json").write_text("{}")
    return states


def linear(name: str | None, *models: str) -> str:
    entries = "".join(f"  - model: {model}\n" for model in models)
    start = "" if name is None else f"name: {name}\n"
    return (
        f"{start}models:\n{entries}merge_method: linear\nparameters: {{weight: 1}}\n"
        "dtype: float64\n"
    )


def staged(*documents: str) -> Path:
    Path("recipe.yml").write_text("---\n".join(documents))
    plans = plan_recipes(read_recipes("recipe.yml"), "out")
    assert not [name for name in os.listdir() if "out" in name]
    write_recipes(plans)
    return Path("out")


def test_merges_use_each_other_in_any_order_of_the_file(
    models: dict[str, np.ndarray],
) -> None:
    out = staged(
        linear(None, "second", "c"),
        linear("second", "first", "a", "c"),
        linear("first", "a", "b"),
    )
    a, b, c = (models[name].astype(np.float64) for name in "abc")
    second = ((a + b) / 2 + a + c) / 3
    np.testing.assert_array_equal(
        load_file(out / "model.safetensors")["w"], (second + c) / 2
    )
    assert sorted(os.listdir()) == ["a", "b", "c", "out", "recipe.yml"]


def test_results_that_others_use_are_kept_if_wanted(
    models: dict[str, np.ndarray],
) -> None:
    Path("recipe.yml").write_text(
        linear("first", "a", "b") + "---\n" + linear("last", "first", "c")
    )
    plans = plan_recipes(read_recipes("recipe.yml"), "out")
    assert plans.read_bytes == sum(plan.read_bytes for plan in plans.plans)
    report = write_recipes(plans, keep="kept")
    assert os.listdir("kept") == ["first"]
    names = [member.name for member in report.plan.members]
    assert names == ["first", "c"]


def test_merges_that_use_no_result_are_planned_once(
    models: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str | None] = []

    def counting(recipe: Recipe, *args: Any, **options: Any) -> Plan:
        planned.append(recipe.name)
        return plan_recipe(recipe, *args, **options)

    monkeypatch.setattr(stages, "plan_recipe", counting)
    # The format of a result follows the name of its merge.
    first = linear("first", "a", "b") + "---\n" + linear("file.safetensors", "a", "c")
    out = staged(first, linear("last", "first", "file.safetensors"))
    assert planned == ["first", "file.safetensors", "last", "file.safetensors", "last"]
    a, b, c = (models[name].astype(np.float64) for name in "abc")
    expected = ((a + b) / 2 + (a + c) / 2) / 2
    np.testing.assert_array_equal(load_file(out / "model.safetensors")["w"], expected)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            (linear("x", "y", "a"), linear("y", "x", "b")),
            r"yml:1: a merge must not use its own result, found 'x' uses 'y' uses 'x'",
        ),
        ((linear("x", "x", "a"),), r"found 'x' uses 'x'"),
        (
            (linear("x", "a", "b"), linear("y", "b", "c"), linear(None, "x", "c")),
            r"(?s)one merge of a file must be used by no other.*yml:\d+: the merge 'y'",
        ),
        (
            (linear("x", "a", "b"), linear(None, "x", "absent")),
            r"yml:11: no model at absent",
        ),
        (
            (
                *(linear(name, "a", "b") for name in ("a/b", "a_b", "..")),
                linear(None, "a/b", "a_b", ".."),
            ),
            r"yml:9: the merge 'a_b' needs another name: .* be that of 'a/b'\n"
            r".*yml:17: the merge '\.\.' needs another name",
        ),
    ],
)
def test_nothing_is_written_if_a_merge_cannot_be_planned(
    models: dict[str, np.ndarray], documents: tuple[str, ...], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        staged(*documents)
    assert sorted(os.listdir()) == ["a", "b", "c", "recipe.yml"]


def test_a_kept_result_that_exists_is_found_before_the_first_merge(
    models: dict[str, np.ndarray],
) -> None:
    Path("recipe.yml").write_text(
        f"{linear('x', 'a')}---\n{linear('y', 'x')}---\n{linear(None, 'y')}"
    )
    Path("kept/y").mkdir(parents=True)
    plans = plan_recipes(read_recipes("recipe.yml"), "out")
    with pytest.raises(FileExistsError, match="kept/y exists"):
        write_recipes(plans, keep="kept")
    assert os.listdir("kept") == ["y"]


def test_a_failure_half_way_leaves_nothing(
    models: dict[str, np.ndarray],
) -> None:
    Path("recipe.yml").write_text(
        linear("first", "a", "b") + "---\n" + linear(None, "first", "c")
    )
    plans = plan_recipes(read_recipes("recipe.yml"), "out")
    path = Path("c/model.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"c/model\.safetensors"):
        write_recipes(plans)
    assert sorted(os.listdir()) == ["a", "b", "c", "recipe.yml"]
