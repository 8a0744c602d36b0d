"""``ensemble runs``, and the options of avg and soup that choose checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from ensembles.checkpoints import average
from ensembles_cli.main import cli

Ensemble = Callable[..., Result]


@pytest.fixture
def ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ensemble:
    """Run a command in a folder with a run of the Hugging Face Trainer."""
    monkeypatch.chdir(tmp_path)
    for step, loss in ((100, 0.5), (200, 0.25), (300, 0.75), (400, 0.375)):
        folder = tmp_path / f"run/checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"w": np.full(2, step, np.float32)}, folder / "model.safetensors")
        log = [{"step": step, "eval_loss": loss, "eval_score_x": step}]
        state = {"epoch": step / 100, "log_history": log, "num_input_tokens_seen": 0}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "run/checkpoint-500").mkdir()

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [*map(str, arguments)])

    return run


def rows(result: Result) -> list[dict[str, str]]:
    assert result.exit_code == 0, result.stderr
    header, *lines = (line.split("\t") for line in result.stdout.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_a_run_is_listed_with_what_would_be_averaged(ensemble: Ensemble) -> None:
    listed = rows(ensemble("runs", "run", "--best", 2, "--metric", "eval_loss"))
    assert [row["step"] for row in listed] == ["100", "200", "300", "400", "500"]
    assert [row["epoch"] for row in listed] == ["1", "2", "3", "4", ""]
    assert [row["eval_loss"] for row in listed] == ["0.5", "0.25", "0.75", "0.375", ""]
    assert [row["averaged"] for row in listed] == ["", "yes", "", "yes", ""]
    assert [row["role"] for row in listed] == [*["checkpoint"] * 4, "unfinished"]
    assert "tokens" not in listed[0]
    assert "averaged" not in rows(ensemble("runs", "run"))[0]


def test_the_layout_and_notes_are_on_stderr(ensemble: Ensemble) -> None:
    result = ensemble("runs", "run")
    first, note = result.stderr.splitlines()
    assert first == "run: run of Hugging Face Trainer; 4 checkpoints"
    assert note.startswith("note: skipped checkpoint-500: it has no readable weights (")


def test_several_runs_are_listed_as_json(ensemble: Ensemble, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    content = {"state_dict": {"w": torch.ones(2)}, "global_step": 7}
    torch.save(content, tmp_path / "other/epoch=1-val_loss=0.50.ckpt")
    result = ensemble("runs", "run", "other", "--last", 1, "--json")
    first, second = json.loads(result.stdout)
    assert first["layout"] == "huggingface_trainer"
    assert [c["averaged"] for c in first["checkpoints"]] == [*[False] * 3, True, False]
    assert first["checkpoints"][3]["bytes"] > 0
    assert second["state_dict"] == "state_dict"
    assert second["checkpoints"] == [
        {
            "path": "other/epoch=1-val_loss=0.50.ckpt",
            "name": "epoch=1-val_loss=0.50.ckpt",
            "step": 7,
            "epoch": 1,
            "tokens": None,
            "metrics": {"val_loss": 0.5},
            "bytes": (tmp_path / "other/epoch=1-val_loss=0.50.ckpt").stat().st_size,
            "role": "checkpoint",
            "averaged": True,
        }
    ]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--last", "2"], [300, 400]),
        (["--best", "2", "--metric", "eval_loss"], [200, 400]),
        (["--best", "1", "--metric", "eval_loss", "--higher-is-better"], [300]),
        (["--best", "1", "--metric", "eval_score_x", "--lower-is-better"], [100]),
        (["--steps", "100:300"], [100, 200, 300]),
        (["--steps", "100::200"], [100, 300]),
        (["--epochs", ":2"], [100, 200]),
        (["--steps", ":300", "--last", "2"], [200, 300]),
    ],
    ids=str,
)
def test_what_is_listed_is_averaged(
    ensemble: Ensemble, options: list[str], steps: list[int]
) -> None:
    listed = rows(ensemble("runs", "run", *options))
    assert [int(row["step"]) for row in listed if row["averaged"]] == steps
    result = ensemble("avg", "run", *options, "-o", "out", "--json")
    assert result.exit_code == 0, result.stderr
    assert [m["step"] for m in json.loads(result.stdout)["members"]] == steps
    assert average(["out"])["w"].tolist() == [np.mean(steps)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--best", "2"], "needs metric=NAME (--metric NAME), because the run has sev"),
        (["--best", "2", "--metric", "loss"], "did you mean 'eval_loss'?"),
        (["--best", "2", "--metric", "eval_score_x"], "or --higher-is-better)"),
        (["--tokens", "1B:"], "(layout 'huggingface_trainer') has step and epoch"),
        (["--steps", "5"], "found step 100 to 400"),
        (["--last", "2", "--best", "2"], "not both"),
        (["--last", "5"], "to the number of checkpoints, 4 in run: found 5"),
    ],
    ids=str,
)
def test_wrong_choices_are_one_line(
    ensemble: Ensemble, options: list[str], message: str
) -> None:
    for command in (["runs", "run"], ["avg", "run"]):
        result = ensemble(*command, *options)
        assert result.exit_code == 1
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""


def test_a_soup_has_the_best_checkpoints_as_members(ensemble: Ensemble) -> None:
    choice = ["--best", 2, "--metric", "eval_loss", "--steps", ":300"]
    score = ["--score", "stat -c %i {}", "--lower-is-better"]
    result = ensemble("soup", "run", *choice, *score, "-o", "soup", "--json")
    assert result.exit_code == 0, result.stderr
    members = json.loads(result.stdout)["members"]
    assert [member["step"] for member in members] == [100, 200]


def test_the_state_dict_of_the_layout_is_averaged(
    ensemble: Ensemble, tmp_path: Path
) -> None:
    for number in (1, 3):
        content = {
            "model": {"w": torch.full((2,), float(number))},
            "ema": {"w": torch.zeros(2)},
            "extra_state": {"val_loss": number},
            "optimizer_history": [{"num_updates": number}],
        }
        torch.save(content, tmp_path / f"checkpoint_1_{number}.pt")
    result = ensemble("avg", ".", "--last", 2, "-o", "out.safetensors", "--plan")
    assert "checkpoint_1_3.pt\t1.0\t3\tmodel\n" in result.stdout
    result = ensemble("avg", ".", "--last", 2, "-o", "ema.npz", "--key", "ema")
    assert result.exit_code == 0, result.stderr
    assert average(["ema.npz"])["w"].tolist() == [0, 0]


def test_a_run_that_cannot_be_read_is_one_line(
    ensemble: Ensemble, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        ("empty", "empty contains no readable checkpoints: it is empty"),
        ("absent", "no training run at absent"),
        ("run/checkpoint-100", "is a checkpoint itself"),
    ):
        result = ensemble("runs", path)
        assert result.exit_code == 1
        assert message in result.stderr


def test_values_that_are_not_finite_are_null_in_json(
    ensemble: Ensemble, tmp_path: Path
) -> None:
    state = '{"log_history": [{"step": 100, "eval_loss": NaN}]}'
    (tmp_path / "run/checkpoint-100/trainer_state.json").write_text(state)
    text = ensemble("runs", "run", "--json").stdout
    (run,) = json.loads(text, parse_constant=pytest.fail)
    assert run["checkpoints"][0]["metrics"] == {"eval_loss": None}
    assert rows(ensemble("runs", "run"))[0]["eval_loss"] == "not finite"


def test_a_last_checkpoint_that_cannot_be_averaged_is_a_note(
    ensemble: Ensemble, tmp_path: Path
) -> None:
    (tmp_path / "run/checkpoint-400/model.safetensors").write_bytes(b"\x80" * 40)
    result: Any = ensemble("runs", "run", "--json")
    (run,) = json.loads(result.stdout)
    assert result.exit_code == 0
    assert len(run["notes"]) == 2
