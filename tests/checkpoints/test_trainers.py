"""Checkpoints of real trainers: read as data, averaged, and resumed from."""

from __future__ import annotations

import argparse
import enum
import os
import sys
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan

lightning = pytest.importorskip("lightning")
omegaconf = pytest.importorskip("omegaconf")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")


class Mode(enum.Enum):
    FAST = 1


class Small(torch.nn.Module):
    """Layers with ties, buffers, and an integer counter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.last = torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)))  # type: ignore[no-any-return]


class Lit(lightning.LightningModule):  # type: ignore[name-defined]
    """Module with hyperparameters that are no plain values."""

    def __init__(
        self, lr: float = 0.1, path: Path = Path("data"), mode: Mode = Mode.FAST
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = Small()

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.1)


def batches() -> torch.utils.data.DataLoader[Any]:
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
    return torch.utils.data.DataLoader(data, 16)


def fit(folder: Path, n_epochs: int, **options: Any) -> Any:
    """Train with Lightning, and keep every checkpoint in the folder."""
    keep = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, save_top_k=-1, monitor="loss"
    )
    trainer = lightning.Trainer(
        max_epochs=n_epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep],
    )
    trainer.fit(Lit(), batches(), **options)
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints of a run of Lightning."""
    folder = tmp_path_factory.mktemp("lightning")
    fit(folder, 3)
    paths = sorted(folder.glob("*.ckpt"))
    assert len(paths) == 3
    return paths


def states(paths: list[Path], key: str) -> list[dict[str, torch.Tensor]]:
    return [torch.load(path, weights_only=False)[key] for path in paths]


def check_mean(
    result: Mapping[str, torch.Tensor], members: list[dict[str, torch.Tensor]]
) -> None:
    """Compare tensors with their float64 mean, and counters with the largest."""
    assert result.keys() == members[0].keys()
    for name, value in result.items():
        stack = np.stack([member[name].double().numpy() for member in members])
        expected = stack.max(0) if "num_batches" in name else stack.mean(0)
        dtype = members[0][name].numpy().dtype
        assert np.array_equal(value.numpy(), expected.astype(dtype)), name


def entries(path: Path) -> dict[str, bytes]:
    """Content of each entry of a zip file, by its name without the folder."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}


def check_copy(out: Path, first: Path) -> None:
    """Compare a zip file with the first member: only storages may differ."""
    before, after = entries(first), entries(out)
    assert list(before) == list(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert all(name.startswith("data/") for name in changed)


def test_the_average_of_a_lightning_run_resumes(
    run: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "average.ckpt"
    average(run, out)
    members = states(run, "state_dict")
    check_mean(torch.load(out, weights_only=False)["state_dict"], members)
    check_copy(out, run[0])
    trainer = fit(tmp_path / "more", 2, ckpt_path=str(out), weights_only=False)
    assert trainer.current_epoch == 2
    assert trainer.global_step == 4
    module = Lit.load_from_checkpoint(out, strict=True, weights_only=False)
    assert module.hparams == {"lr": 0.1, "path": Path("data"), "mode": Mode.FAST}
    check_mean(module.state_dict(), members)


def test_the_plan_names_what_is_kept_of_the_first_checkpoint(run: list[Path]) -> None:
    notes = plan(run, "average.ckpt").notes
    (kept,) = [note for note in notes if "keeps the other contents" in note]
    assert str(run[0]) in kept
    assert "optimizer_states" in kept


OBJECTS: dict[str, Any] = {
    "args": argparse.Namespace(lr=0.1, mode=Mode.FAST, path=Path("data")),
    "cfg": omegaconf.OmegaConf.create({"model": {"width": 8}, "steps": [1, 2]}),
    "best": np.float64(0.5),
    "scores": np.arange(3),
    "random": np.random.default_rng(0).bit_generator.state,
    "seen": {1, 2},
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_settings_beside_the_tensors_are_read_past_and_kept(
    tmp_path: Path, is_zip: bool
) -> None:
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.pt")
        torch.save(
            {"model": Small().state_dict(), **OBJECTS},
            paths[-1],
            _use_new_zipfile_serialization=is_zip,
        )
    average(paths, tmp_path / "out.pt")
    if is_zip:
        check_copy(tmp_path / "out.pt", paths[0])
    result = torch.load(tmp_path / "out.pt", weights_only=False)
    check_mean(result["model"], states(paths, "model"))
    Small().load_state_dict(result["model"], strict=True)
    assert result.keys() == {"model", *OBJECTS}
    assert result["best"] == 0.5
    assert type(result["best"]) is np.float64
    assert result["scores"].tolist() == [0, 1, 2]
    assert result["random"] == OBJECTS["random"]
    assert result["args"] == OBJECTS["args"]
    assert result["cfg"] == OBJECTS["cfg"]
    assert result["seen"] == OBJECTS["seen"]


def test_whole_modules_are_averaged_into_a_module(tmp_path: Path) -> None:
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.pt")
        torch.save(Small(), paths[-1])
    average(paths, tmp_path / "out.pt")
    check_copy(tmp_path / "out.pt", paths[0])
    members = [torch.load(p, weights_only=False).state_dict() for p in paths]
    module = torch.load(tmp_path / "out.pt", weights_only=False)
    assert isinstance(module, Small)
    check_mean(module.state_dict(), members)


def test_parameters_of_skorch_are_averaged_and_loaded(tmp_path: Path) -> None:
    import skorch

    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.int64)
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = skorch.NeuralNetClassifier(
            Small, criterion=torch.nn.CrossEntropyLoss, max_epochs=1, verbose=0
        )
        net.fit(x, y)
        net.save_params(tmp_path / f"{seed}.pt", tmp_path / f"{seed}.optimizer.pt")
        nets.append(net)
    average([tmp_path / f"{seed}.pt" for seed in range(3)], tmp_path / "out.pt")
    check_copy(tmp_path / "out.pt", tmp_path / "0.pt")
    nets[0].load_params(tmp_path / "out.pt", tmp_path / "0.optimizer.pt")
    members = [torch.load(tmp_path / f"{seed}.pt") for seed in range(3)]
    check_mean(nets[0].module_.state_dict(), members)
    nets[0].partial_fit(x, y)


def test_the_average_of_a_run_of_transformers_resumes(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = transformers.BertForSequenceClassification(config)
    data = [{"input_ids": [i % 20, 3], "labels": i % 2} for i in range(16)]

    def trainer(**options: Any) -> Any:
        arguments = transformers.TrainingArguments(
            str(tmp_path / "run"),
            per_device_train_batch_size=4,
            save_strategy="epoch",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **options,
        )
        return transformers.Trainer(model, arguments, train_dataset=data)

    trainer(num_train_epochs=3).train()
    folders = sorted((tmp_path / "run").glob("checkpoint-*"), key=os.path.getmtime)
    assert len(folders) == 3
    average(folders, tmp_path / "average", only_weights=False)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        kept = (tmp_path / "average" / name).read_bytes()
        assert kept == (folders[0] / name).read_bytes()
    result = average([tmp_path / "average"])
    members = [average([folder]) for folder in folders]
    for name, value in result.items():
        stack = np.stack([member[name] for member in members]).astype(np.float64)
        assert np.array_equal(value, stack.mean(0).astype(np.float32)), name
    loaded = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "average"
    )
    assert loaded.config.hidden_size == 8
    resumed = trainer(num_train_epochs=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "average"))
    assert resumed.state.global_step == 16


def test_classes_of_a_trainer_that_is_not_installed_are_kept(tmp_path: Path) -> None:
    """As in OpenNMT-py#859, whose script failed to import utils.optimizers."""
    lost = types.ModuleType("lost_trainer")
    lost.Optimizer = type(  # type: ignore[attr-defined]
        "Optimizer", (), {"__module__": "lost_trainer", "__qualname__": "Optimizer"}
    )
    paths = [tmp_path / "step 1.pt", tmp_path / "step 2.pt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "lost_trainer", lost)
        for add, path in enumerate(paths):
            state = {"w": torch.ones(3) + add}
            head = {"0.weight": torch.ones(2) + add}
            optimizer = lost.Optimizer()
            content = {"model": state, "generator": head, "optim": optimizer}
            torch.save(content, path)
    average(paths, tmp_path / "out.pt")
    check_copy(tmp_path / "out.pt", paths[0])
    result = average([tmp_path / "out.pt"])
    assert result["model.w"].tolist() == [1.5] * 3
    assert result["generator.0.weight"].tolist() == [1.5] * 2


def test_parameters_with_attributes_are_read(tmp_path: Path) -> None:
    """As in mergekit#243 and #31: torch stores them by _rebuild_from_type_v2."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for add, folder in enumerate(folders):
        folder.mkdir()
        weight = torch.nn.Parameter(torch.ones(3) + add)
        weight.tag = "x"  # type: ignore[attr-defined]
        torch.save({"w": weight}, folder / "pytorch_model.bin", pickle_protocol=4)
    average(folders, tmp_path / "out")
    assert average([tmp_path / "out"])["w"].tolist() == [1.5] * 3
