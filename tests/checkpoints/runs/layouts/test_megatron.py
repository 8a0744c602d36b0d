"""Runs of Megatron-LM: distributed checkpoints, windows of iterations and tokens."""

from __future__ import annotations

import argparse
import math
from decimal import Decimal
from pathlib import Path

import pytest
import torch

from ensembles.checkpoints import read_run
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.runs.layouts.golden import (
    assert_same,
    averaged,
    counters,
    mean,
    names_of,
    save_distributed,
    state,
)

LENGTH, BATCH = 4096, 256  # tokens of a sequence, sequences of an iteration
ITERATIONS = (1000, 2000, 3000, 4000)
TRACKER = "latest_checkpointed_iteration.txt"


def save(folder: Path, iteration: int) -> Path:
    """Checkpoint of an iteration, with the arguments in ``common.pt``."""
    path = folder / f"iter_{iteration:07d}"
    path.mkdir(parents=True)
    arguments = argparse.Namespace(
        seq_length=LENGTH, consumed_train_samples=iteration * BATCH, lr=1e-4
    )
    common = {"args": arguments, "iteration": iteration, "checkpoint_version": 3.0}
    torch.save(common, path / "common.pt")
    optimizer = {"optimizer.state.exp_avg": torch.ones(3)}
    save_distributed(state(iteration) | optimizer, path)
    (path / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of a run with four checkpoints."""
    folder = tmp_path / "gpt"
    for iteration in ITERATIONS:
        save(folder, iteration)
    (folder / TRACKER).write_text("4000")
    (folder / "progress.txt").write_text("…")
    return folder


def window_of_script(end: int, billions: float) -> list[int]:
    """Iterations that weighted_merge.py takes for a window of tokens."""
    n_iterations = math.ceil(billions * 1e9 / (LENGTH * BATCH))
    return [i for i in ITERATIONS if max(end - n_iterations, 0) <= i <= end]


@pytest.mark.parametrize(("end", "billions"), [(4000, 2.2), (3000, 1.5), (2000, 9)])
def test_a_window_of_tokens_is_that_of_its_own_script(
    run: Path, tmp_path: Path, end: int, billions: float
) -> None:
    tokens = end * LENGTH * BATCH
    window = f"{max(int(tokens - billions * 1e9), 0)}:{tokens}"
    iterations = window_of_script(end, billions)
    assert names_of(run, tokens=window) == [f"iter_{i:07d}" for i in iterations]
    if len(iterations) > 1:
        result = averaged(run, tmp_path / "out.pt", tokens=window)
        assert_same(result, mean([state(i) for i in iterations]))
        assert not [name for name in result if "optimizer" in name]


def test_tokens_are_samples_times_the_length_of_a_sequence(run: Path) -> None:
    described = read_run(run)
    assert described.layout == "megatron"
    tokens = {counters(c)[0]: c.tokens for c in described.checkpoints}
    assert tokens == {i: Decimal(i * LENGTH * BATCH) for i in ITERATIONS}


CONFIG = """model:
  hidden_size: 64
  seq_length: 4096
dataset:
  sequence_length: {length}
train:
  global_batch_size: 256
"""


@pytest.mark.parametrize(("length", "known"), [(4096, True), (2048, False)])
def test_tokens_of_megatron_bridge_are_in_two_files(
    run: Path, length: int, known: bool
) -> None:
    for iteration in ITERATIONS:
        path = run / f"iter_{iteration:07d}"
        torch.save({"iteration": iteration}, path / "common.pt")
        samples = torch.tensor(iteration * BATCH, dtype=torch.int64)
        torch.save({"consumed_train_samples": samples}, path / "train_state.pt")
        (path / "run_config.yaml").write_text(CONFIG.format(length=length))
    tokens = [c.tokens for c in read_run(run).checkpoints]
    expected = [Decimal(i * LENGTH * BATCH) for i in ITERATIONS]
    assert tokens == (expected if known else [None] * 4)


def test_an_iteration_after_the_tracker_is_not_complete(run: Path) -> None:
    (run / TRACKER).write_text("3000\n")
    assert names_of(run, last=2) == ["iter_0002000", "iter_0003000"]
    assert any("iter_0004000" in note for note in read_run(run).notes)


@pytest.mark.parametrize("name", ["metadata.json", ".metadata"])
def test_a_checkpoint_without_its_last_file_is_not_complete(
    run: Path, name: str
) -> None:
    (run / "iter_0004000" / name).unlink()
    assert names_of(run, last=1) == ["iter_0003000"]
    assert any("iter_0004000" in note for note in read_run(run).notes)


@pytest.mark.parametrize("text", ["release", "", "4000 5000", "\0"])
def test_a_tracker_without_a_number_says_nothing(run: Path, text: str) -> None:
    (run / TRACKER).write_text(text)
    assert names_of(run, last=1) == ["iter_0004000"]
    noted = any(TRACKER in note for note in read_run(run).notes)
    assert noted == (text != "release")


def test_damaged_arguments_leave_the_iterations(run: Path) -> None:
    common = run / "iter_0002000" / "common.pt"
    common.write_bytes(common.read_bytes()[:200])
    chosen = choose_checkpoints(run, tokens=":")
    assert "iter_0002000" not in [Path(path).name for path in chosen.paths]
    assert any("common.pt" in note for note in chosen.notes)
    assert len(names_of(run, steps=":")) == 4


def test_a_release_is_not_a_member(run: Path) -> None:
    save(run, 9).rename(run / "release")
    assert "release" not in names_of(run, steps=":")
