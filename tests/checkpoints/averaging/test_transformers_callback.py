"""Averages in runs of the Hugging Face Trainer, stopped and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import EMA, SWA, ParameterAverage, average, inspect, plan
from tests.checkpoints.averaging.runs import AVERAGES, kill, killed, same

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from ensembles.checkpoints.averaging.transformers_callback import (  # noqa: E402
    TransformersAveraging,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def make_trainer(
    folder: Path,
    callbacks: Iterable[Any] = (),
    model: Any = None,
    **options: Any,
) -> Any:
    transformers.set_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    data = [{"input_ids": [i % 20, 3], "labels": i % 2} for i in range(32)]
    options = {"max_steps": 12, "save_steps": 3, "save_strategy": "steps"} | options
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    return transformers.Trainer(
        model or transformers.BertForSequenceClassification(config),
        arguments,
        train_dataset=data,
        eval_dataset=data[:8],
        callbacks=list(callbacks),
    )


def states(averaging: TransformersAveraging) -> dict[str, Any]:
    assert averaging.average is not None
    return averaging.average.state_dict()


class At(transformers.TrainerCallback):  # type: ignore[name-defined]
    """Calls a function at a step, before the step is saved."""

    def __init__(self, function: Callable[[], object], step: int = 8) -> None:
        self.function, self.step = function, step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.function()


def fail() -> None:
    raise RuntimeError("failed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A run without a stop: its folder, trainer and averages."""
    folder = tmp_path_factory.mktemp("whole")
    averaging = TransformersAveraging(AVERAGES)
    trainer = make_trainer(folder, [averaging])
    trainer.train()
    return folder, trainer, averaging


def test_averages_are_those_of_the_checkpoints(whole: tuple[Path, Any, Any]) -> None:
    folder, trainer, averaging = whole
    assert averaging.average.step == 12
    assert averaging.average.n_members("ema") == 12
    assert averaging.average.n_members("swa") == 9
    raw = make_trainer(folder / "raw", save_steps=1)
    raw.train()
    assert same(dict(trainer.model.state_dict()), dict(raw.model.state_dict()))
    steps = [folder / "raw" / f"checkpoint-{step}" for step in range(4, 13)]
    expected = average(steps)
    for name, value in averaging.average.averaged_state_dict("swa").items():
        np.testing.assert_array_equal(value.numpy(), expected[name])


def test_a_run_that_failed_is_resumed_bit_for_bit(
    whole: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    _, trainer, expected = whole
    with pytest.raises(RuntimeError, match="failed"):
        make_trainer(tmp_path, [TransformersAveraging(AVERAGES), At(fail)]).train()
    averaging = TransformersAveraging(AVERAGES)
    resumed = make_trainer(tmp_path, [averaging])
    resumed.train(resume_from_checkpoint=True)
    assert same(dict(resumed.model.state_dict()), dict(trainer.model.state_dict()))
    assert same(states(averaging), states(expected))


def test_a_run_that_was_killed_is_resumed_bit_for_bit(
    whole: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    run = make_trainer(tmp_path, [TransformersAveraging(AVERAGES), At(kill)])
    assert killed(run.train)
    _, trainer, expected = whole
    averaging = TransformersAveraging(AVERAGES)
    resumed = make_trainer(tmp_path, [averaging])
    resumed.train(resume_from_checkpoint=True)
    assert same(dict(resumed.model.state_dict()), dict(trainer.model.state_dict()))
    assert same(states(averaging), states(expected))


def test_checkpoints_have_averaged_models_and_are_read(
    whole: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    folder, trainer, averaging = whole
    last = folder / "checkpoint-12"
    assert not (folder / "checkpoint-3" / "averaged" / "swa").exists()
    for name in AVERAGES:
        loaded = transformers.BertForSequenceClassification.from_pretrained(
            last / "averaged" / name
        )
        expected = averaging.average.averaged_state_dict(name)
        assert same(dict(loaded.state_dict()), dict(expected))
    raw = average([last])
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(raw[name], value.numpy())
    from_state = average([last / "trainer_averages.pt"], key="ema")
    for name, value in from_state.items():
        assert torch.equal(value, states(averaging)["ema"][name])
    assert "swa (" in str(inspect(last / "trainer_averages.pt").refusals)
    members = [folder / f"checkpoint-{n}" for n in (9, 12)]
    assert any(
        "averaged/ (a folder" in n for n in plan(members, tmp_path / "out").notes
    )
    average(members, tmp_path / "out")
    assert not (tmp_path / "out" / "trainer_averages.pt").exists()


def test_a_checkpoint_without_averages_is_not_resumed_silently(
    whole: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoint-12")
    (tmp_path / "checkpoint-9" / "trainer_averages.pt").unlink()
    trainer = make_trainer(tmp_path, [TransformersAveraging(AVERAGES)])
    with pytest.raises(
        ValueError, match=r"at step 9, .*; resume from checkpoint-6, which"
    ):
        trainer.train(resume_from_checkpoint=True)
    averaging = TransformersAveraging(AVERAGES, resume=False)
    make_trainer(tmp_path, [averaging]).train(resume_from_checkpoint=True)
    assert averaging.average is not None
    assert averaging.average.n_members("ema") == 3
    other = tmp_path / "other"
    averaging = TransformersAveraging(AVERAGES, resume=whole[0] / "checkpoint-6")
    moved = make_trainer(other, [averaging])
    moved.train(resume_from_checkpoint=str(whole[0] / "checkpoint-6"))
    assert same(states(averaging), states(whole[2]))


class Record(transformers.TrainerCallback):  # type: ignore[name-defined]
    """Parameters while the model is evaluated."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        self.seen.append(model.classifier.weight.detach().clone())


def test_averaged_parameters_are_evaluated_on_request(tmp_path: Path) -> None:
    record = Record()
    trainer = make_trainer(
        tmp_path, [record], max_steps=4, eval_strategy="steps", eval_steps=2
    )
    data = trainer.eval_dataset
    trainer.eval_dataset = {"a": data, "b": data}
    averaging = TransformersAveraging({"swa": SWA(start=3)}, evaluate="swa")
    averaging.attach(trainer)
    raw: list[torch.Tensor] = []
    trainer.add_callback(
        type(
            "Raw",
            (transformers.TrainerCallback,),
            {
                "on_step_end": lambda self, args, state, control, model=None, **_: (
                    raw.append(model.classifier.weight.detach().clone())
                )
            },
        )()
    )
    trainer.train()
    assert averaging.average is not None
    swa = averaging.average.averaged_state_dict()["classifier.weight"]
    # One batch of each of two sets, at steps 2 (no members yet) and 4.
    assert [torch.equal(x, raw[1]) for x in record.seen] == [True, True, False, False]
    assert [torch.equal(x, swa) for x in record.seen] == [False, False, True, True]
    assert torch.equal(trainer.model.classifier.weight, raw[3])
    trainer.predict(data)
    assert torch.equal(record.seen[-1], swa)
    assert torch.equal(trainer.model.classifier.weight, raw[3])


def test_evaluation_without_the_trainer_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [TransformersAveraging(EMA(0.9), evaluate="ema")])
    with pytest.raises(ValueError, match=r"call averaging.attach\(trainer\)"):
        trainer.train()


def test_an_unknown_average_is_refused_before_the_first_step(tmp_path: Path) -> None:
    averaging = TransformersAveraging(EMA(0.9), evaluate="swa")
    trainer = make_trainer(tmp_path)
    averaging.attach(trainer)
    with pytest.raises(ValueError, match="must be one of 'ema', found 'swa'"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_callback_is_attached_once(tmp_path: Path) -> None:
    averaging = TransformersAveraging(EMA(0.9))
    trainer = make_trainer(tmp_path, [averaging])
    with pytest.raises(ValueError, match="has this callback already"):
        averaging.attach(trainer)


def test_the_best_checkpoint_has_raw_parameters_and_a_warning(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
    )
    TransformersAveraging(EMA(0.9), evaluate="ema").attach(trainer)
    with pytest.warns(UserWarning, match="load averaged/ema of the best checkpoint"):
        trainer.train()


def test_updates_follow_optimizer_steps_not_batches(tmp_path: Path) -> None:
    averaging = TransformersAveraging(SWA())
    trainer = make_trainer(
        tmp_path, [averaging], gradient_accumulation_steps=3, max_steps=4
    )
    trainer.train()
    assert averaging.average is not None
    assert averaging.average.n_members() == averaging.average.step == 4
    skipped = type("Optimizer", (), {"step_was_skipped": True})()
    state = type("State", (), {"global_step": 5})()
    averaging.on_step_end(None, state, None, optimizer=skipped)
    assert averaging.average.n_members() == 4


def test_compiled_models_and_other_modules_are_saved(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, input_ids: Any, labels: Any) -> dict[str, Any]:
            logits = self.layer(input_ids.float())
            loss = torch.nn.functional.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    averaging = TransformersAveraging(EMA(0.9), dtype=torch.float32)
    trainer = make_trainer(tmp_path, [averaging], model=Plain(), save_only_model=True)
    trainer.train()
    last = tmp_path / "checkpoint-12"
    assert not (last / "trainer_averages.pt").exists()
    found = average([last / "averaged" / "ema"])
    assert isinstance(averaging.average, ParameterAverage)
    expected = averaging.average.averaged_state_dict()
    assert torch.equal(found["layer.bias"], expected["layer.bias"])
