"""Averages of skorch nets, stopped and resumed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from ensembles.checkpoints import EMA, SWA, average
from tests.checkpoints.averaging.runs import AVERAGES, kill, killed, same

skorch = pytest.importorskip("skorch")

from skorch.callbacks import (  # noqa: E402
    Callback,
    Checkpoint,
    LoadInitState,
)

from ensembles.checkpoints.averaging.skorch_callback import (  # noqa: E402
    SkorchAveraging,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = (X.sum(1) > 0).astype(np.int64)


class Network(torch.nn.Module):
    """A network with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)
        )

    def forward(self, X: Any) -> Any:
        return self.layers(X)


class At(Callback):
    """Calls a function at the start of an epoch."""

    def __init__(self, function: Any, epoch: int = 4) -> None:
        self.function, self.epoch = function, epoch

    def on_epoch_begin(self, net: Any, **_: Any) -> None:
        if len(net.history) == self.epoch:
            self.function()


def net(*callbacks: Any, n_epochs: int = 6, **options: Any) -> Any:
    torch.manual_seed(0)
    return skorch.NeuralNetClassifier(
        Network,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        max_epochs=n_epochs,
        batch_size=16,
        iterator_train__shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **options,
    )


def saving(folder: Path) -> Any:
    return Checkpoint(dirname=str(folder), monitor=None, f_average="average.pt")


def test_updates_follow_optimizer_steps() -> None:
    fitted = net(SkorchAveraging(SWA()), n_epochs=3).fit(X, Y)
    assert fitted.average_.n_members() == fitted.average_.step == 6
    raw = {name: value.clone() for name, value in fitted.module_.state_dict().items()}
    before = fitted.predict_proba(X)
    with fitted.average_.swap():
        assert not np.array_equal(fitted.predict_proba(X), before)
    assert same(dict(fitted.module_.state_dict()), raw)
    assert np.array_equal(fitted.predict_proba(X), before)


def test_a_training_that_was_killed_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole = net(SkorchAveraging(AVERAGES)).fit(X, Y)
    checkpoint = saving(tmp_path)
    first = net(SkorchAveraging(AVERAGES), checkpoint, At(kill))
    assert killed(lambda: first.fit(X, Y))
    checkpoint = saving(tmp_path)
    loading = LoadInitState(checkpoint)
    second = net(SkorchAveraging(AVERAGES), checkpoint, loading, n_epochs=3).fit(X, Y)
    assert len(second.history) == 6
    assert same(dict(second.module_.state_dict()), dict(whole.module_.state_dict()))
    assert same(second.average_.state_dict(), whole.average_.state_dict())
    for name in AVERAGES:
        found = average([tmp_path / "average.pt"], key=name)
        assert same(dict(found), whole.average_.state_dict()[name])


def test_averages_that_are_not_saved_are_warned_of(tmp_path: Path) -> None:
    checkpoint = Checkpoint(dirname=str(tmp_path), monitor=None)
    with pytest.warns(
        UserWarning, match="Checkpoint does not save averages; pass f_av"
    ):
        net(SkorchAveraging(EMA(0.9)), checkpoint, n_epochs=2).fit(X, Y)


@pytest.mark.filterwarnings("ignore:Checkpoint does not save averages")
def test_averages_that_do_not_continue_are_warned_of(tmp_path: Path) -> None:
    checkpoint = Checkpoint(dirname=str(tmp_path), monitor=None)
    callbacks = [SkorchAveraging(EMA(0.9)), checkpoint, LoadInitState(checkpoint)]
    net(*callbacks, n_epochs=2).fit(X, Y)
    with pytest.warns(UserWarning, match="continues after 2 epochs, and its averages"):
        net(*callbacks, n_epochs=1).fit(X, Y)


def test_the_order_of_callbacks_is_checked(tmp_path: Path) -> None:
    checkpoint = saving(tmp_path)
    with pytest.raises(ValueError, match="must come before LoadInitState in callbacks"):
        net(checkpoint, LoadInitState(checkpoint), SkorchAveraging(EMA(0.9))).fit(X, Y)


def test_a_second_fit_starts_new_and_a_partial_fit_continues() -> None:
    fitted = net(SkorchAveraging(SWA()), n_epochs=2).fit(X, Y)
    fitted.partial_fit(X, Y)
    assert fitted.average_.n_members() == 8
    fitted.fit(X, Y)
    assert fitted.average_.n_members() == 4


def test_a_fit_after_a_failure_updates_once_a_step() -> None:
    def fail() -> None:
        raise RuntimeError("failed")

    fitted = net(SkorchAveraging(SWA()), At(fail, epoch=2), n_epochs=3)
    with pytest.raises(RuntimeError, match="failed"):
        fitted.fit(X, Y)
    assert fitted.average_.n_members() == 2
    fitted.partial_fit(X, Y)
    assert fitted.average_.n_members() == 8


def test_nets_with_averages_are_cloned_and_pickled(tmp_path: Path) -> None:
    keeping = Checkpoint(
        dirname=str(tmp_path), monitor=None, f_pickle="net.pkl", f_average="average.pt"
    )
    averaging = SkorchAveraging(EMA(0.9), options={"buffers": "copy"})
    fitted = net(averaging, keeping, n_epochs=1).fit(X, Y)
    with (tmp_path / "net.pkl").open("rb") as file:
        loaded = pickle.load(file)
    assert loaded.average_.model is loaded.module_
    assert same(loaded.average_.state_dict(), fitted.average_.state_dict())
    loaded.partial_fit(X, Y)
    assert loaded.average_.n_members() == 4
    cloned = clone(fitted).fit(X, Y)
    assert cloned.average_.n_members() == 2


def test_gradients_may_be_accumulated() -> None:
    class Accumulating(skorch.NeuralNetClassifier):  # type: ignore[name-defined]
        def train_step(self, batch: Any, **params: Any) -> Any:
            step = self.train_step_single(batch, **params)
            if len(self.history[-1, "batches"]) % 2 == 0:
                self.optimizer_.step()
                self.optimizer_.zero_grad()
            return step

    fitted = Accumulating(
        Network,
        max_epochs=3,
        batch_size=16,
        verbose=0,
        train_split=None,
        criterion=torch.nn.CrossEntropyLoss,
        callbacks=[SkorchAveraging(SWA())],
    ).fit(X, Y)
    assert fitted.average_.n_members() == 3
