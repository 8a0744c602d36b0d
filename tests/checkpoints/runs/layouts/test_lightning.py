"""Runs that Lightning has written."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import choose_checkpoints, read_run
from tests.checkpoints.runs.layouts.golden import check_run

lightning = pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")


class Classifier(lightning.LightningModule):  # type: ignore[name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 2)

    def loss(self, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", self.loss(batch))
        self.log("val/acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.5)


def fit(folder: Path, *callbacks: Any) -> Path:
    """Train five epochs of four steps."""
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
    batches = torch.utils.data.DataLoader(data, 16)
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        default_root_dir=folder,
    )
    trainer.fit(Classifier(), batches, batches)
    return folder


def keep(*folder: Path, **options: Any) -> Any:
    return lightning.pytorch.callbacks.ModelCheckpoint(*folder, **options)


@pytest.fixture(scope="module")
def top_k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best three of five checkpoints, and the last one."""
    folder = tmp_path_factory.mktemp("top_k")
    return fit(folder, keep(folder, save_top_k=3, monitor="val_loss", save_last=True))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints by steps beside the best ones, in the folder of the trainer."""
    return fit(
        tmp_path_factory.mktemp("two"),
        keep(save_top_k=-1, every_n_train_steps=5),
        keep(monitor="val_loss", save_top_k=2, filename="best-{epoch}-{step}"),
    )


def state_of(path: Path) -> dict[str, Any]:
    """State of the one ModelCheckpoint callback in a file."""
    (state,) = torch.load(path, weights_only=False)["callbacks"].values()
    return dict(state)


def test_steps_and_metrics_are_those_of_the_files(top_k: Path) -> None:
    run = read_run(top_k)
    assert (run.layout, run.notes) == ("lightning", ())
    assert run.monitor == "val_loss"
    assert run.lower_is_better == {"val_loss": True}
    own = [c for c in run.checkpoints if c.role == "checkpoint"]
    for checkpoint in own:
        content = torch.load(checkpoint.path, weights_only=False)
        assert checkpoint.step == content["global_step"]
        assert checkpoint.epoch == content["epoch"]
        score = state_of(checkpoint.path)["best_k_models"][str(checkpoint.path)]
        assert checkpoint.metrics == {"val_loss": score.item()}
    others = [(c.path.name, c.role, c.step) for c in run.checkpoints if c not in own]
    assert others == [("last.ckpt", "copy", Decimal(20))]


def test_the_best_are_those_of_the_callback(top_k: Path) -> None:
    scores = state_of(top_k / "last.ckpt")["best_k_models"]
    ranked = sorted(scores, key=lambda path: float(scores[path]))
    assert ranked[0] == state_of(top_k / "last.ckpt")["best_model_path"]
    for n in (1, 2, 3):
        check_run(top_k, [Path(p) for p in ranked[:n]], ["state_dict"], best=n)


def test_a_last_checkpoint_counts_if_no_other_has_its_step(
    top_k: Path, tmp_path: Path
) -> None:
    for name in ("epoch=2-step=12.ckpt", "epoch=3-step=16.ckpt", "last.ckpt"):
        shutil.copy(top_k / name, tmp_path / name)
    last = tmp_path / "last.ckpt"
    check_run(
        tmp_path, [tmp_path / "epoch=3-step=16.ckpt", last], ["state_dict"], last=2
    )
    chosen = choose_checkpoints(tmp_path, last=2)
    assert chosen.steps == [16, 20]
    assert chosen.notes == []


def test_files_of_two_callbacks_are_one_run(two: Path) -> None:
    inside = two / "checkpoints"
    expected = [inside / f"best-epoch={e}-step={s}.ckpt" for e, s in ((3, 16), (4, 20))]
    check_run(two, expected, ["state_dict"], last=2)
    check_run(two, expected, ["state_dict"], best=2)
    strided = [inside / f"epoch={e}-step={s}.ckpt" for e, s in ((1, 5), (2, 10))]
    check_run(two, strided, ["state_dict"], steps="5:10:5")


def test_a_metric_with_a_slash_makes_folders(tmp_path: Path) -> None:
    name = "{epoch}-{val_loss:.2f}-{val/acc:.3f}"
    fit(tmp_path, keep(save_top_k=-1, monitor="val/acc", mode="max", filename=name))
    run = read_run(tmp_path)
    assert [c.step for c in run.checkpoints] == [4, 8, 12, 16, 20]
    for checkpoint in run.checkpoints:
        assert checkpoint.metrics.keys() == {"val_loss", "val/acc"}
        assert f"val_loss={checkpoint.metrics['val_loss']:.2f}" in str(checkpoint.path)
    check_run(
        tmp_path,
        [c.path for c in run.checkpoints[-2:]],
        ["state_dict"],
        best=2,
        metric="val_loss",
    )


@pytest.mark.parametrize(
    ("name", "step", "epoch", "metrics"),
    [
        ("epoch=3-step=100.ckpt", 100, 3, {}),
        ("epoch=03.ckpt", None, 3, {}),
        ("step=100-v1.ckpt", 100, None, {}),
        ("a-epoch=3-val_loss=0.12-step=7.ckpt", 7, 3, {"val_loss": 0.12}),
        ("m--wer=-1.5-epoch=3.ckpt", None, 3, {"wer": -1.5}),
        ("epoch=3-lr=1e-05-v2.ckpt", None, 3, {"lr": 1e-5}),
    ],
)
def test_names_are_enough_for_files_without_the_state_of_lightning(
    tmp_path: Path, name: str, step: Any, epoch: Any, metrics: dict[str, float]
) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / name)
    (checkpoint,) = read_run(tmp_path).checkpoints
    assert (checkpoint.step, checkpoint.epoch) == (step, epoch)
    assert checkpoint.metrics == metrics


def test_files_of_any_name_are_read_by_their_contents(tmp_path: Path) -> None:
    fit(tmp_path, keep(tmp_path, save_top_k=3, monitor="val_loss", filename="best"))
    names = ["best.ckpt", "best-v1.ckpt", "best-v2.ckpt"]
    scores = state_of(max(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime_ns))[
        "best_k_models"
    ]
    assert sorted(Path(path).name for path in scores) == sorted(names)
    best = min(scores, key=lambda path: float(scores[path]))
    check_run(tmp_path, [Path(best)], ["state_dict"], best=1)
    assert [c.step for c in read_run(tmp_path).checkpoints] == [12, 16, 20]


def test_a_file_without_a_step_beside_others_does_not_count(tmp_path: Path) -> None:
    content = {"state_dict": {"w": torch.ones(2)}}
    for name in ("epoch=0.ckpt", "epoch=1.ckpt", "start.ckpt"):
        torch.save(content, tmp_path / name)
    chosen = choose_checkpoints(tmp_path, last=2)
    assert chosen.steps == [0, 1]
    assert "skipped start.ckpt: their names have no training step" in chosen.notes[0]
    (tmp_path / "epoch=0.ckpt").unlink()
    (tmp_path / "epoch=1.ckpt").unlink()
    assert read_run(tmp_path).layout == "numbers"


def test_of_two_monitored_metrics_none_is_the_default(tmp_path: Path) -> None:
    name = "{epoch}-{step}"
    fit(
        tmp_path,
        keep(tmp_path, save_top_k=-1, monitor="val_loss", filename=name),
        keep(tmp_path, save_top_k=2, monitor="val/acc", mode="max", filename=name),
    )
    run = read_run(tmp_path)
    assert run.monitor is None
    assert run.lower_is_better == {"val_loss": True, "val/acc": False}
    with pytest.raises(ValueError, match=r"needs metric=NAME .*has several"):
        choose_checkpoints(run, best=1)
    assert len(choose_checkpoints(run, best=3, metric="val_loss").paths) == 3
