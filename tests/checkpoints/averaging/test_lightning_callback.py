"""Averages in runs of Lightning, stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import EMA, SWA, average, inspect
from tests.checkpoints.averaging.runs import AVERAGES, kill, killed, same

lightning = pytest.importorskip("lightning")

from ensembles.checkpoints.averaging.lightning_callback import (  # noqa: E402
    LightningAveraging,
)

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):  # type: ignore[name-defined]
    """A network with BatchNorm and a frozen layer; keeps what is validated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: Any = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)
        )
        self.frozen: Any = torch.nn.Linear(2, 2).requires_grad_(False)
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        return torch.nn.functional.cross_entropy(self.frozen(self.net(x)), y)

    def validation_step(self, batch: Any, index: int) -> None:
        self.seen.append(self.net[0].weight.detach().clone())

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.1)


class At(lightning.Callback):  # type: ignore[name-defined]
    """Calls a function after an optimizer step."""

    def __init__(self, function: Any, step: int = 6) -> None:
        self.function, self.step = function, step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.function()


def data() -> Any:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    sets = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
    return torch.utils.data.DataLoader(sets, 4)


def fit(
    folder: Path,
    *callbacks: Any,
    n_epochs: int = 3,
    path: Any = None,
    module: Module | None = None,
    **options: Any,
) -> tuple[Any, Module]:
    """Train with a checkpoint after every epoch of four steps."""
    keep = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, save_on_train_epoch_end=False
    )
    trainer = lightning.Trainer(
        max_epochs=n_epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep, *callbacks],
        **options,
    )
    module = module or Module()
    trainer.fit(module, data(), data(), ckpt_path=path)
    return trainer, module


def states(averaging: LightningAveraging) -> dict[str, Any]:
    assert averaging.average is not None
    return averaging.average.state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A run without a stop: its folder, module and averages."""
    folder = tmp_path_factory.mktemp("whole")
    averaging = LightningAveraging(AVERAGES, evaluate="ema")
    _, module = fit(folder, averaging)
    return folder, module, averaging


def test_averages_are_those_of_the_checkpoints(
    whole: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    averaging = LightningAveraging(SWA(every=4))
    _, module = fit(tmp_path, averaging)
    assert averaging.average is not None
    assert averaging.average.n_members() == 3
    expected = average(sorted(tmp_path.glob("*.ckpt")))
    found = averaging.average.averaged_state_dict()
    assert found.keys() == expected.keys()
    assert same(found, dict(expected))
    assert same(dict(module.state_dict()), dict(whole[1].state_dict()))


def test_a_run_that_was_killed_is_resumed_bit_for_bit(
    whole: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    """With validations of averaged parameters on the way."""
    averaging = LightningAveraging(AVERAGES, evaluate="ema")
    assert killed(lambda: fit(tmp_path, averaging, At(kill)))
    averaging = LightningAveraging(AVERAGES, evaluate="ema")
    _, module = fit(tmp_path, averaging, path=tmp_path / "step=4.ckpt")
    assert same(dict(module.state_dict()), dict(whole[1].state_dict()))
    assert same(states(averaging), states(whole[2]))
    assert same(module.seen[-1], whole[1].seen[-1])


@pytest.mark.parametrize("name", ["validate", "test", "predict"])
def test_what_runs_after_the_training_uses_the_average(
    whole: tuple[Path, Any, Any], name: str
) -> None:
    folder, module, averaging = whole
    raw = module.net[0].weight.detach().clone()
    expected = averaging.average.averaged_state_dict("ema")["net.0.weight"]
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[averaging],
    )
    getattr(trainer, name)(module, data())
    assert same(module.seen[-1], expected)
    assert same(module.net[0].weight.detach(), raw)
    resumed = LightningAveraging(AVERAGES, evaluate="ema")
    trainer.callbacks[trainer.callbacks.index(averaging)] = resumed
    other = Module()
    getattr(trainer, name)(other, data(), ckpt_path=folder / "step=12.ckpt")
    assert same(other.seen[-1], expected)


def test_tied_parameters_are_averaged_under_each_of_their_names(tmp_path: Path) -> None:
    class Tied(Module):
        def __init__(self) -> None:
            super().__init__()
            self.twin = torch.nn.Linear(4, 8, bias=False)
            self.twin.weight = self.net[0].weight

    averaging = LightningAveraging(EMA(0.9))
    fit(tmp_path, averaging, n_epochs=1, module=Tied())
    found = average([tmp_path / "step=4.ckpt"], key="averages.ema")
    assert averaging.average is not None
    expected = averaging.average.averaged_state_dict()["net.0.weight"]
    for name in ("net.0.weight", "twin.weight"):
        assert same(torch.as_tensor(found[name]).float(), expected)


def test_a_failure_in_a_validation_leaves_raw_parameters(tmp_path: Path) -> None:
    class Fails(lightning.Callback):  # type: ignore[name-defined]
        def on_validation_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if trainer.global_step == 8:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")
                raise RuntimeError("failed")

    raw: list[Any] = []
    averaging = LightningAveraging(AVERAGES, evaluate="swa")
    with pytest.raises(RuntimeError, match="failed"):
        fit(tmp_path, averaging, Fails(), At(lambda: raw.append(states(averaging)), 8))
    kept = averaging.average
    assert kept is not None
    assert not kept.is_swapped
    saved = torch.load(tmp_path / "inside.ckpt", weights_only=False)
    assert same(dict(saved["state_dict"]), dict(kept.model.state_dict()))
    assert not same(dict(saved["state_dict"]), kept.averaged_state_dict("swa"))
    resumed = LightningAveraging(AVERAGES, evaluate="swa")
    fit(tmp_path / "more", resumed, path=tmp_path / "step=4.ckpt")


def test_the_average_is_validated_from_its_first_member_on(tmp_path: Path) -> None:
    averaging = LightningAveraging(SWA(start=6), evaluate="swa")
    trainer, module = fit(tmp_path, averaging)
    steps = {p.stem: torch.load(p, weights_only=False) for p in tmp_path.glob("*.ckpt")}
    raw = [steps[f"step={n}"]["state_dict"]["net.0.weight"] for n in (4, 8, 12)]
    swa = [steps[f"step={n}"]["averages"]["swa"]["net.0.weight"] for n in (8, 12)]
    # Two batches are validated before training, then four after each epoch.
    assert len(module.seen) == 14
    assert torch.equal(module.seen[2], raw[0])
    assert torch.equal(module.seen[6], swa[0].float())
    assert torch.equal(module.seen[10], swa[1].float())
    assert torch.equal(module.net[0].weight, raw[2])
    other = Module()
    trainer.validate(other, data(), verbose=False)  # is not the averaged module
    assert torch.equal(other.seen[-1], Module().net[0].weight)
    # The averages of the checkpoint, not the last ones.
    trainer.validate(module, data(), ckpt_path=tmp_path / "step=8.ckpt", verbose=False)
    assert torch.equal(module.seen[-1], swa[0].float())
    assert torch.equal(module.net[0].weight, raw[1])


def test_a_checkpoint_is_read_by_average_and_inspect(
    whole: tuple[Path, Any, Any],
) -> None:
    folder, module, averaging = whole
    path = folder / "step=12.ckpt"
    assert same(dict(average([path])), dict(module.state_dict()))
    for name in AVERAGES:
        found = average([path], key=f"averages.{name}")
        assert list(found) == list(module.state_dict())
        for key, value in states(averaging)[name].items():
            assert torch.equal(found[key], value)
        assert torch.equal(found["frozen.weight"], module.frozen.weight)
    notes = "\n".join(inspect(path).notes)
    assert "took 'state_dict'" in notes
    assert "'averages.swa' is an average of the same tensors" in notes
    # Frozen parameters are stored once.
    saved = torch.load(path, weights_only=False)
    frozen = [saved["averages"]["ema"], saved["state_dict"]]
    assert len({state["frozen.weight"].data_ptr() for state in frozen}) == 1
    Module.load_from_checkpoint(path, weights_only=False)


def test_a_checkpoint_without_averages_is_not_resumed_silently(tmp_path: Path) -> None:
    fit(tmp_path, n_epochs=1)
    path = tmp_path / "step=4.ckpt"
    with pytest.raises(
        ValueError, match=r"the checkpoint has no averages: .* resume=False"
    ):
        fit(tmp_path, LightningAveraging(EMA(0.9)), path=path)
    averaging = LightningAveraging(EMA(0.9), resume=False)
    fit(tmp_path, averaging, path=path)
    assert averaging.average is not None
    assert (averaging.average.n_members(), averaging.average.step) == (8, 12)


def test_updates_follow_optimizer_steps_not_batches(tmp_path: Path) -> None:
    averaging = LightningAveraging(SWA())
    fit(tmp_path, averaging, n_epochs=2, accumulate_grad_batches=2)
    assert averaging.average is not None
    assert averaging.average.n_members() == averaging.average.step == 4


def test_a_second_fit_continues_or_starts_new(tmp_path: Path) -> None:
    averaging = LightningAveraging(SWA())
    trainer, module = fit(tmp_path, averaging)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, data(), data())
    assert averaging.average is not None
    assert averaging.average.n_members() == averaging.average.step == 16
    fit(tmp_path, averaging, module=module)
    assert averaging.average.n_members() == averaging.average.step == 12


def test_an_unknown_average_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name must be one of 'ema', found 'swa'"):
        fit(tmp_path, LightningAveraging(EMA(0.9), evaluate="swa"))
