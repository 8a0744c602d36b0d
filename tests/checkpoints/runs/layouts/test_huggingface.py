"""Runs that the Hugging Face Trainer has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ensembles.checkpoints import average, choose_checkpoints, read_run
from tests.checkpoints.runs.layouts.golden import check_average

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")


class Data(torch.utils.data.Dataset[Any]):
    def __init__(self) -> None:
        self.tokens = torch.randint(5, 100, (24, 6), generator=torch.manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = self.tokens[index]
        return {"input_ids": tokens, "labels": int(tokens.sum() % 2)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps with a checkpoint and an evaluation each, by accuracy."""
    folder = tmp_path_factory.mktemp("trainer")
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=6,
        per_device_train_batch_size=8,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        learning_rate=0.05,
        metric_for_best_model="acc",
        load_best_model_at_end=True,
        include_num_input_tokens_seen="all",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    torch.manual_seed(0)
    trainer = transformers.Trainer(
        transformers.BertForSequenceClassification(config),
        arguments,
        train_dataset=Data(),
        eval_dataset=Data(),
        compute_metrics=lambda p: {
            "acc": float((p.predictions.argmax(1) == p.label_ids).mean())
        },
    )
    trainer.train()
    trainer.save_model()
    return folder


def state_of(run: Path, step: int) -> dict[str, Any]:
    return dict(json.loads((run / f"checkpoint-{step}/trainer_state.json").read_text()))


def test_what_the_trainer_says_is_read(run: Path) -> None:
    read = read_run(run)
    assert (read.layout, read.notes) == ("huggingface_trainer", ())
    assert (read.monitor, read.lower_is_better) == ("eval_acc", {"eval_acc": False})
    assert [c.step for c in read.checkpoints] == [1, 2, 3, 4, 5, 6]
    for checkpoint in read.checkpoints:
        state = state_of(run, int(checkpoint.step or 0))
        assert float(checkpoint.epoch or 0) == state["epoch"]
        assert checkpoint.tokens == state["num_input_tokens_seen"]
        (logged,) = (
            entry
            for entry in state["log_history"]
            if entry["step"] == checkpoint.step and "eval_loss" in entry
        )
        assert checkpoint.metrics["eval_acc"] == logged["eval_acc"]


def test_the_best_is_that_of_the_trainer(run: Path) -> None:
    state = state_of(run, 6)
    chosen = choose_checkpoints(run, best=1)
    assert chosen.paths == [state["best_model_checkpoint"]]
    assert chosen.checkpoints[0].metrics["eval_acc"] == state["best_metric"]


@pytest.mark.parametrize(
    ("choice", "steps"),
    [
        ({"last": 3}, [4, 5, 6]),
        ({"steps": ":4", "last": 2}, [3, 4]),
        ({"steps": "2:6:2"}, [2, 4, 6]),
        ({"epochs": ":1"}, [1, 2, 3]),
        ({"tokens": "96:200"}, [2, 3, 4]),
    ],
)
def test_checkpoints_are_chosen_and_averaged(
    run: Path, choice: dict[str, Any], steps: list[int]
) -> None:
    chosen = choose_checkpoints(run, **choice)
    assert chosen.steps == steps
    members = [load_file(f"{path}/model.safetensors") for path in chosen.paths]
    check_average(average(chosen.paths), members)
