"""Runs of FunASR, OLMo, torchtitan, LeRobot, OpenNMT-py, nanochat and nanoGPT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ensembles.checkpoints import average, choose_checkpoints, read_run
from tests.checkpoints.runs.layouts.golden import check_average, check_run, tensors_at

dcp = pytest.importorskip("torch.distributed.checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore")


def model(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"w": torch.randn(3, 4), "b": torch.randn(4).bfloat16().float()}


def test_unsharded_checkpoints_of_olmo_have_tokens(tmp_path: Path) -> None:
    for step in (1000, 2000, 10000):
        folder = tmp_path / f"step{step}-unsharded"
        folder.mkdir()
        torch.save(model(step), folder / "model.pt")
        torch.save({"state": {}}, folder / "optim.pt")
        state = {"epoch": 0, "global_train_tokens_seen": 4_000_000 * step}
        torch.save(state, folder / "train.pt")
    (tmp_path / "latest-unsharded").symlink_to("step10000-unsharded")
    run = read_run(tmp_path)
    assert (run.layout, run.notes) == ("olmo", ())
    assert [c.step for c in run.checkpoints[:3]] == [1000, 2000, 10000]
    assert run.checkpoints[3].role == "copy"
    expected = [tmp_path / f"step{s}-unsharded/model.pt" for s in (2000, 10000)]
    check_run(tmp_path, expected, [], tokens="8B:40B")
    check_run(tmp_path, expected, [], last=2)


def test_revisions_of_olmo_have_tokens_in_their_names(tmp_path: Path) -> None:
    for step, tokens in ((1000, 4), (2000, 8), (3000, 12)):
        folder = tmp_path / f"step{step}-tokens{tokens}B"
        folder.mkdir()
        save_file(model(step), folder / "model.safetensors")
    chosen = choose_checkpoints(tmp_path, tokens="5B:")
    assert [c.tokens for c in chosen.checkpoints] == [8_000_000_000, 12_000_000_000]


def test_folders_of_torchtitan_are_averaged(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        folder = tmp_path / f"checkpoint/step-{step}"
        dcp.save({"model": model(step)}, checkpoint_id=folder, no_dist=True)
    (tmp_path / "checkpoint/step-20/.metadata").unlink()
    chosen = choose_checkpoints(tmp_path, last=2)
    assert [Path(path).name for path in chosen.paths] == ["step-10", "step-15"]
    assert "skipped step-20: it has no readable weights" in chosen.notes[0]
    check_average(average(chosen.paths), [model(10), model(15)])


def test_both_state_dicts_of_opennmt_are_averaged(tmp_path: Path) -> None:
    for step in (500, 1000, 1500):
        content: dict[str, Any] = {
            "model": model(step),
            "generator": {"g": torch.full((3,), step / 7)},
            "vocab": {"src": ["a"]},
            "optim": {"state": {0: torch.zeros(3)}},
        }
        torch.save(content, tmp_path / f"en-de_step_{step}.pt")
    assert read_run(tmp_path).layout == "opennmt"
    chosen = choose_checkpoints(tmp_path, last=2)
    members = [
        {
            f"{key}.{name}": value
            for key in ("model", "generator")
            for name, value in tensors_at(Path(path), key).items()
        }
        for path in chosen.paths
    ]
    assert chosen.steps == [1000, 1500]
    check_average(average(chosen.paths), members)


def test_other_files_with_such_names_are_not_opennmt(tmp_path: Path) -> None:
    for step in (5, 10):
        torch.save(model(step), tmp_path / f"x_step_{step}.pt")
        torch.save(model(step), tmp_path / f"ckpt_{step}.pt")
    assert read_run(tmp_path).layout == "numbers"


def test_runs_of_nanochat_have_their_metric(tmp_path: Path) -> None:
    for step, loss in ((500, 0.9), (1000, 0.8), (1500, 0.85)):
        torch.save(model(step), tmp_path / f"model_{step:06d}.pt")
        torch.save({}, tmp_path / f"optim_{step:06d}_rank0.pt")
        meta = {"step": step, "val_bpb": loss, "model_config": {"n_layer": 2}}
        (tmp_path / f"meta_{step:06d}.json").write_text(json.dumps(meta))
    assert read_run(tmp_path).layout == "nanochat"
    expected = [tmp_path / "model_001000.pt", tmp_path / "model_001500.pt"]
    check_run(tmp_path, expected, [], best=2)
    (tmp_path / "meta_001500.json").write_text('{"val_bpb": ')
    chosen = choose_checkpoints(tmp_path, best=2)
    assert chosen.steps == [500, 1000]
    assert "meta_001500.json is not JSON" in chosen.notes[0]
    assert chosen.notes[1] == "skipped model_001500.pt: they have no finite val_bpb"


def test_the_last_file_of_nanogpt_counts_unless_it_is_a_copy(tmp_path: Path) -> None:
    for step in (250, 1000):
        content = {"model": model(step), "model_args": {"n_layer": 2}, "iter_num": step}
        torch.save(content, tmp_path / f"ckpt_{step}.pt")
        torch.save(content, tmp_path / "ckpt.pt")
    run = read_run(tmp_path)
    assert [c.step for c in run.checkpoints] == [250, 1000, 1000]
    assert run.checkpoints[2].path.name == "ckpt.pt"
    assert run.checkpoints[2].role == "copy"
    expected = [tmp_path / "ckpt_250.pt", tmp_path / "ckpt_1000.pt"]
    check_run(tmp_path, expected, ["model"], last=2)
    torch.save(content | {"iter_num": 1250}, tmp_path / "ckpt.pt")
    assert choose_checkpoints(tmp_path, last=2).steps == [1000, 1250]


def test_folders_of_lerobot_are_ordered_by_number(tmp_path: Path) -> None:
    """The width of the number is that of the longest run, see robots#3165."""
    for step in ("100000", "0900000"):
        folder = tmp_path / f"checkpoints/{step}/pretrained_model"
        folder.mkdir(parents=True)
        save_file(model(int(step)), folder / "model.safetensors")
        (folder.parent / "training_state").mkdir()
    (tmp_path / "checkpoints/last").symlink_to("0900000")
    chosen = choose_checkpoints(tmp_path, last=1)
    assert chosen.steps == [900_000]
    chosen = choose_checkpoints(tmp_path, last=2)
    check_average(average(chosen.paths), [model(100_000), model(900_000)])


def test_the_best_of_funasr_are_by_the_results_in_the_last_file(
    tmp_path: Path,
) -> None:
    results = {"model.pt.ep1": 0.5, "model.pt.ep2": 0.75, "model.pt.ep2.40": 0.625}
    content: dict[str, Any] = {
        "val_acc_step_or_eoch": {**results, "model.pt.ep0": 0.9},  # a deleted file
        "val_loss_step_or_eoch": {name: 1 - value for name, value in results.items()},
        "avg_keep_nbest_models_type": "acc",
    }
    names = ["model.pt.ep1", "model.pt.ep2.40", "model.pt.ep2"]
    for n, name in enumerate([*names, "model.pt"]):
        content |= {"state_dict": model(n), "batch_total": 50 * n}
        torch.save(content, tmp_path / name)
    torch.save(content, tmp_path / "model.pt.best")
    run = read_run(tmp_path)
    assert run.monitor == "val_acc"
    assert [c.path.name for c in run.checkpoints[:3]] == names
    best = [tmp_path / "model.pt.ep2", tmp_path / "model.pt.ep2.40"]
    check_run(tmp_path, best, ["state_dict"], best=2)
    assert choose_checkpoints(tmp_path, last=1).paths == [str(best[0])]
