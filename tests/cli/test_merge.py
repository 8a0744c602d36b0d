"""``ensemble merge`` as users type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from ensembles_cli.main import cli
from tests.checkpoints.recipes.mixtures.dense import save_dense

Merge = Callable[..., Result]
LINEAR = """\
merge_method: linear
models:
  - {model: a, parameters: {weight: 3}}
  - {model: b, parameters: {weight: 1}}
"""
STAGES = f"""\
{LINEAR}name: first
---
merge_method: task_arithmetic
base_model: a
models:
  - {{model: first, parameters: {{weight: [0, 2], t: 1}}}}
"""
TASK_ARITHMETIC = """\
merge_method: task_arithmetic
base_model: {base}
models: [{{model: c, parameters: {{weight: {weight}}}}}]
"""


@pytest.fixture
def merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Merge:
    """Run the command in a folder with the models a, b and c, of two layers."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("a", 1.0), ("b", 5.0), ("c", 2.0)):
        Path(name).mkdir()
        tensors = {f"h.{i}.w": np.full((2, 2), value, np.float32) for i in range(2)}
        save_file(tensors, Path(name, "model.safetensors"), {"format": "pt"})
        Path(name, "config.json").write_text('{"model_type": "x", "n_layer": 2}')

    def run(recipe: str, *arguments: object) -> Result:
        Path("recipe.yml").write_text(recipe)
        return CliRunner().invoke(
            cli, ["merge", "recipe.yml", "-o", "out", *map(str, arguments)]
        )

    return run


def values(folder: str = "out") -> list[float]:
    tensors = load_file(Path(folder, "model.safetensors"))
    return [float(tensors[f"h.{i}.w"][0, 0]) for i in range(2)]


def test_layers_of_several_models_are_not_one_member_alone(merge: Merge) -> None:
    sources = [f"- sources: [{{model: {m}, layer_range: [0, 2]}}]\n" for m in "ab"]
    stacked = merge("merge_method: passthrough\nslices:\n" + "".join(sources), "--plan")
    assert stacked.exit_code == 0, stacked.stderr
    assert "only one member" not in stacked.output
    copied = merge("merge_method: passthrough\nmodels: [{model: a}]\n", "--plan")
    assert "there is only one member: nothing is averaged" in copied.output


def test_a_recipe_is_carried_out(merge: Merge) -> None:
    result = merge(LINEAR)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("wrote out/: mean of 2 members, 2 tensors")
    assert "member a (weight 3)" in result.stderr
    assert values() == [2, 2]


def test_merges_are_models_of_the_next_ones(merge: Merge, tmp_path: Path) -> None:
    result = merge(STAGES, "--keep", "stages")
    assert result.exit_code == 0, result.stderr
    assert "note: recipe.yml:10: t has no effect with task_arithmetic" in result.stderr
    assert values("stages/first") == [2, 2]
    assert values() == [1, 3]
    assert merge(STAGES, "--force").exit_code == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a", "b", "c", "out", "recipe.yml", "stages"}


def test_a_mixture_of_experts_is_made_of_dense_models(merge: Merge) -> None:
    for seed, name in enumerate(("base", "one", "two")):
        save_dense(Path(name), seed)
    result = merge(
        "base_model: base\ngate_mode: random\n"
        "experts: [{source_model: one}, {source_model: two}]\n"
    )
    assert result.exit_code == 0, result.stderr
    assert "mixture of one, two on base" in result.stdout
    assert "note: of the experts, only the MLPs are used" in result.stderr
    config = json.loads(Path("out", "config.json").read_text())
    assert config["architectures"] == ["MixtralForCausalLM"]


def test_a_plan_of_a_mixture_runs_no_prompts(merge: Merge) -> None:
    for seed, name in enumerate(("base", "one", "two")):
        save_dense(Path(name), seed)
    recipe = (
        "base_model: base\ngate_mode: hidden\nexperts:\n"
        "- {source_model: one, positive_prompts: [code]}\n"
        "- {source_model: two, positive_prompts: [prose]}\n"
    )
    planned = merge(recipe, "--plan")
    assert planned.exit_code == 0, planned.stderr
    assert "note: the router is not computed yet" in planned.stderr
    result = merge(recipe)  # the base has no tokenizer for the prompts
    assert result.exit_code == 1
    assert "recipe.yml:1: " in result.stderr
    assert not Path("out").exists()


def test_a_result_is_compared_with_its_recipe(merge: Merge) -> None:
    def verify(recipe: str) -> Result:
        Path("recipe.yml").write_text(recipe)
        return CliRunner().invoke(cli, ["verify", "out", "--recipe", "recipe.yml"])

    recipe = TASK_ARITHMETIC.format(weight="[0, 2]", base="a")
    assert merge(recipe).exit_code == 0
    same = verify(recipe)
    assert same.exit_code == 0, same.stderr
    assert "verified: rule, weights and parameters: those of the recipe" in same.stdout
    others = {
        TASK_ARITHMETIC.format(weight="[0, 3]", base="a"): "by tensor of the recipe: ",
        TASK_ARITHMETIC.format(
            weight="[0, 2]", base="b"
        ): "b differs from the recorded b",
        recipe.replace("task_arithmetic", "ties"): 'rule of the recipe: "ties", recor',
    }
    for other, problem in others.items():
        differing = verify(other)
        assert differing.exit_code == 1
        assert problem in differing.stdout


def test_a_plan_is_printed_and_nothing_written(merge: Merge, tmp_path: Path) -> None:
    result = merge(LINEAR.replace("1}", "[1, 2]}"), "--plan", "--json")
    plan = json.loads(result.stdout)
    assert plan["rule"] == "mean"
    assert [member["member"] for member in plan["members"]] == ["a", "b"]
    assert "mean" in merge(LINEAR, "--plan").stdout
    assert not (tmp_path / "out").exists()


def test_all_problems_are_one_error_with_their_lines(merge: Merge) -> None:
    result = merge(
        LINEAR.replace("models:\n", "modelss:\n").replace("linear", "lineer")
    )
    assert result.exit_code == 1
    assert result.stdout == ""
    for problem in (
        "recipe.yml:1: merge_method 'lineer' is unknown; did you mean 'linear'?",
        "recipe.yml:2: a recipe has no entry 'modelss'; did you mean 'models'?",
    ):
        assert problem in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("recipe", [LINEAR.replace("b,", "org/none,"), "- a", "\x00"])
def test_what_cannot_be_merged_writes_nothing(
    recipe: str, merge: Merge, tmp_path: Path
) -> None:
    result = merge(recipe)
    assert result.exit_code == 1
    assert "recipe.yml:" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_named_with_its_line(merge: Merge) -> None:
    result = merge(LINEAR.replace("b,", "org/none,"))
    assert "recipe.yml:4: no model at org/none, and none in the cache" in result.stderr
    assert "hf download org/none" in result.stderr


def test_a_missing_recipe_is_an_error(merge: Merge) -> None:
    result = CliRunner().invoke(cli, ["merge", "none.yml", "-o", "out"])
    assert result.exit_code == 1
    assert "none.yml" in result.stderr


def test_a_result_is_replaced_only_by_force(merge: Merge) -> None:
    assert merge(LINEAR).exit_code == 0
    assert merge(LINEAR).exit_code == 1
    assert merge(LINEAR, "--force").exit_code == 0


def test_an_average_is_saved_as_a_recipe_that_merges_the_same(merge: Merge) -> None:
    arguments = ["avg", "a:3", "b:1", "-o", "average", "--save-recipe", "saved.yml"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert merge(Path("saved.yml").read_text()).exit_code == 0
    assert values("average") == values() == [2, 2]
    result = CliRunner().invoke(cli, [*arguments, "--missing", "skip", "--force"])
    assert result.exit_code == 1
    assert "cannot say --missing 'skip'" in result.stderr


def test_tensors_that_a_model_lacks_are_copied_if_asked(merge: Merge) -> None:
    ones = {f"h.{i}.w": np.ones((2, 2), np.float32) for i in range(2)}
    save_file(ones | {"extra": np.ones(2, np.float32)}, "a/model.safetensors")
    refused = merge(LINEAR)
    assert refused.exit_code == 1
    assert "--missing first" in refused.output
    result = merge(LINEAR, "--missing", "first")
    assert result.exit_code == 0, result.output
    assert "extra" in load_file("out/model.safetensors")


def test_integer_tensors_that_differ_are_copied_if_asked(merge: Merge) -> None:
    for name, number in (("a", 1), ("b", 2)):
        tensors = load_file(f"{name}/model.safetensors")
        tensors["table"] = np.array([number])
        save_file(tensors, f"{name}/model.safetensors")
    assert "--integers first" in merge(LINEAR).output
    result = merge(LINEAR, "--integers", "max")
    assert result.exit_code == 0, result.output
    assert load_file("out/model.safetensors")["table"] == [2]
