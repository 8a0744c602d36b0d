"""``ensemble avg`` merges adapters, also those of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli
from tests.checkpoints.adapters.lora_files import factors, peft_updates, save_peft

Avg = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of a run with an adapter every 100 steps."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (100, 200, 300, 400):
        save_peft(folder / f"checkpoint-{step}", factors(step))
    return folder


def updates_of(run: Path, steps: list[int]) -> list[np.ndarray]:
    module = "model.layers.0.q_proj"
    return [peft_updates(run / f"checkpoint-{step}")[module] for step in steps]


def test_the_last_adapters_of_a_run_are_averaged(avg: Avg, run: Path) -> None:
    result = avg(run, "--last", 2, "-o", "out")
    assert result.exit_code == 0, result.output
    assert "rank 2 before, 4 after" in result.output
    assert "(step 400, rank 2)" in result.output
    actual = peft_updates(run.parent / "out")["model.layers.0.q_proj"]
    expected = np.mean(updates_of(run, [300, 400]), axis=0)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_schedules_weight_the_adapters_of_a_run(avg: Avg, run: Path) -> None:
    result = avg(run, "--last", 3, "--schedule", "wsm:linear", "--json", "-o", "out")
    facts = json.loads(result.stdout)
    weights = [member["coefficient"] for member in facts["members"]]
    actual = peft_updates(run.parent / "out")["model.layers.0.q_proj"]
    expected = np.tensordot(weights, updates_of(run, [200, 300, 400]), 1)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert [rank["rank"] for rank in facts["ranks"]] == [6, 6]


def test_a_rank_reports_the_energy_that_each_module_keeps(avg: Avg, run: Path) -> None:
    members = [run / "checkpoint-100", run / "checkpoint-200"]
    result = avg(*members, "--rank", 3, "-o", "out")
    assert "modules that lose most" in result.output
    assert "2 + 2" in result.output
    assert "energy kept 0.9" in result.output
    result = avg(*members, "--energy", 0.5, "--json", "-o", "other")
    assert json.loads(result.stdout)["energy_kept"] >= 0.5


def test_a_plan_writes_nothing(avg: Avg, run: Path) -> None:
    result = avg(run, "--last", 3, "--plan", "-o", "out")
    assert "6, the exact sum" in result.output
    plan = json.loads(avg(run, "--last", 3, "--plan", "--json", "-o", "out").stdout)
    assert (plan["modules"], plan["naming"]) == (2, "peft")
    assert not (run.parent / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "tise"], "did you mean 'ties'"),
        (["--weights", "1"], "weights"),
        (["--include", "x"], "leave out --include"),
        (["--rank", "0"], "rank must be a whole number"),
        (["--rank", "2", "--energy", ".5"], "both choose the rank"),
        (["-o", "a.gguf"], "PyTorch files, found a.gguf"),
    ],
    ids=" ".join,
)
def test_wrong_options_are_one_error(
    avg: Avg, run: Path, arguments: list[str], message: str
) -> None:
    result = avg(run, "--last", 2, *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_ranks_are_for_adapters_alone(avg: Avg, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.zeros(3))
    assert "are for low-rank adapters" in avg("a.npz", "--rank", 2).output


def test_a_merged_adapter_is_verified_with_its_members(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    members = ["checkpoint-100", "checkpoint-200"]

    def ensemble(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments)

    assert ensemble("avg", *members, "--rank", "3", "-o", "out").exit_code == 0
    done = ensemble("verify", "out", *members)
    assert done.exit_code == 0, done.output
    assert "member 2: the tensors of checkpoint-200" in done.output
    done = ensemble("verify", "out", *reversed(members))
    assert "it is member 2: pass members in order" in done.output
    assert "merged from 2 adapters, found 1" in ensemble("verify", "out", "out").output
    weights = run / "out" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert ensemble("verify", "out").exit_code == 1
