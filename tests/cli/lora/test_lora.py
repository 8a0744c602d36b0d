"""``ensemble lora`` as users type it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli
from tests.checkpoints.building import load
from tests.checkpoints.views.adapters import factors, product, save_adapter, save_base


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    base = {"m.q.weight": rng.normal(size=(6, 4)), "m.norm.weight": rng.normal(size=4)}
    lora = factors(rng, "m.q", (6, 4))
    save_base(tmp_path / "base", base)
    save_adapter(tmp_path / "lora", lora)
    tuned = {name: tensor + 1 for name, tensor in base.items()}
    tuned["m.q.weight"] = base["m.q.weight"] + product(lora, "m.q")
    save_base(tmp_path / "tuned", tuned)
    return tmp_path


def lora(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["lora", *map(str, arguments)])


def test_an_adapter_is_applied() -> None:
    result = lora("apply", "base", "lora", "-o", "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("wrote out/: base + lora, 2 tensors")
    assert "nothing is averaged" not in result.stderr
    tuned = load(Path("tuned/model.safetensors"))["m.q.weight"]
    merged = load(Path("out/model.safetensors"))["m.q.weight"]
    np.testing.assert_allclose(merged, tuned)


def test_options_of_apply_reach_the_library() -> None:
    options = ["--scale", "-2", "--dtype", "float32", "--json"]
    result = lora("apply", "base", "lora", "-o", "out", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["dtypes"] == ["float32"]
    base, tuned, merged = (
        load(Path(f"{name}/model.safetensors"))["m.q.weight"].astype(float)
        for name in ("base", "tuned", "out")
    )
    np.testing.assert_allclose(merged, base - 2 * (tuned - base), rtol=1e-6)


def test_merges_of_adapters_with_their_base_are_verified() -> None:
    options = ["--base", "base", "--rule", "task_arithmetic"]
    merge = ["avg", "lora", "tuned", *options, "-o", "merged"]
    result = CliRunner().invoke(cli, merge)
    assert result.exit_code == 0, result.output
    check = ["verify", "merged", "lora", "tuned", "--base", "base"]
    result = CliRunner().invoke(cli, check)
    assert result.exit_code == 0, result.output
    assert "matches everything" in result.output


def test_the_plan_writes_nothing() -> None:
    result = lora("apply", "base", "lora", "-o", "out", "--plan")
    assert result.exit_code == 0, result.output
    assert "base + lora" in result.stdout
    assert not Path("out").exists()


def test_an_adapter_is_extracted_with_its_errors() -> None:
    result = lora("extract", "tuned", "base", "-o", "out", "--rank", 1)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split("\t") == ["module", "rank", "energy", "relative error"]
    assert lines[1].startswith("m.q\t1\t0.")
    assert lines[2].startswith("all modules\t1\t0.")
    assert lines[3].startswith("wrote out/: updates of 1 module, 1 tensor whole")
    assert "m.norm, are stored whole" in result.stderr
    assert lora("apply", "base", "out", "-o", "model").exit_code == 0


def test_json_of_an_extraction_has_all_modules() -> None:
    options = ["--energy", ".99999", "--exclude", "*norm*", "--json"]
    result = lora("extract", "tuned", "base", "-o", "out", *options)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    (module,) = facts["modules"]
    assert (module["name"], module["shape"], module["rank"]) == ("m.q", [6, 4], 2)
    assert facts["relative_error"] < 1e-6
    assert (facts["saved"], facts["left_out"]) == ([], ["m.norm.weight"])


def test_adapters_are_members_of_an_average_with_a_base() -> None:
    arguments = ["avg", "lora", "tuned", "--base", "base", "--rule", "ties", "-o", "o"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert Path("o/config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "tuned", "base", "-o", "x"], "--rank 16"),
        (["apply", "lora", "base", "-o", "x"], "pass the base first"),
        (["apply", "base", "lora", "-o", "x", "--scale", "nan"], "must be a finite"),
        (["apply", "base", "tuned", "-o", "x"], "must have adapter_config.json"),
        (["apply", "base", "none", "-o", "x"], "no adapter at none"),
    ],
)
def test_wrong_inputs_are_one_line(arguments: list[str], message: str) -> None:
    result = lora(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not Path("x").exists()
