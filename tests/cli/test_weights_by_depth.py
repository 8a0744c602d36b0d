"""``ensemble avg`` with weights that change with the depth of the layer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import average, weights_by_depth
from ensembles_cli.main import cli

Avg = Callable[..., Result]
NAMES = ["model.embed.weight", "model.norm.weight", "lm_head.weight"]
NAMES += [f"model.layers.{i}.up.weight" for i in range(3)]


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    states = {}
    for name in "ab":
        states[name] = {n: rng.standard_normal((4, 4)).astype("f4") for n in NAMES}
        save_file(states[name], f"{name}.safetensors")
    return states


def avg(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["avg", *arguments])


def test_each_layer_has_weights_between_those_of_the_first_and_the_last(
    states: dict[str, Any],
) -> None:
    result = avg("a.safetensors:0..1", "b.safetensors:2", "-o", "out.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "member a.safetensors (weight 0 to 1)" in result.stderr
    merged = load_file("out.safetensors")
    of_a = {"model.embed": 0.0, "layers.0": 0.0, "layers.1": 0.5}  # the others 1
    for name, tensor in merged.items():
        weight = next((w for part, w in of_a.items() if part in name), 1.0)
        members = [{name: states[member][name]} for member in "ab"]
        alone = average(members, weights=[weight, 2])[name]
        np.testing.assert_array_equal(tensor, alone)
    verified = CliRunner().invoke(
        cli, ["verify", "out.safetensors", "a.safetensors", "b.safetensors"]
    )
    assert verified.exit_code == 0


def test_a_changed_member_is_found_by_the_recorded_weights(
    states: dict[str, Any],
) -> None:
    avg("a.safetensors:0..1", "b.safetensors:1..0", "-o", "out.safetensors")
    states["b"]["model.layers.1.up.weight"][0, 0] += 1
    save_file(states["b"], "b.safetensors")
    arguments = ["verify", "out.safetensors", "a.safetensors", "b.safetensors"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "give other values of model.layers.1.up.weight\n" in result.stdout


def test_plans_and_cards_show_the_range_of_the_weights(
    states: dict[str, Any],
) -> None:
    members = ["a.safetensors", "b.safetensors", "--weights", "0..1,1..0.5..1"]
    result = avg(*members, "--plan", "-o", "out.pt")
    assert ["b.safetensors", "0.5 to 1"] in [
        line.split("\t") for line in result.stdout.splitlines()
    ]
    facts = json.loads(avg(*members, "--plan", "--json", "-o", "out.pt").stdout)
    assert [member["weight"] for member in facts["members"]] == [[0, 1], [0.5, 1]]


def test_weights_by_depth_need_numbered_layers() -> None:
    with pytest.raises(ValueError, match=r"members\[0\] has none; pass one weight"):
        weights_by_depth({"w": np.ones(2)}, [[0, 1], 1])


def test_parameters_of_the_rule_are_those_of_each_tensor(
    states: dict[str, Any],
) -> None:
    arguments = ["--rule", "linear_combination", "--param", "scale=2"]
    result = avg("a.safetensors:1..3", *arguments, "-o", "out.safetensors")
    assert result.exit_code == 0, result.stderr
    name = "model.layers.1.up.weight"
    merged = load_file("out.safetensors")
    np.testing.assert_array_equal(merged[name], 4 * states["a"][name])
