"""Recomputed statistics of BatchNorm, against those of all data at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ensembles.checkpoints import recalibrate_batch_norm


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def test_statistics_are_those_of_all_data_whatever_the_batches() -> None:
    model = network()
    data = torch.randn(23, 2, 4, 4) * torch.arange(1.0, 24)[:, None, None, None]
    recalibrate_batch_norm(model, torch.split(data, 5))  # the last has 3
    inputs = model[0](data).double().transpose(0, 1).flatten(1)
    variance, mean = torch.var_mean(inputs, 1)
    norm: Any = model[1]
    assert torch.equal(norm.running_mean, mean.float())
    assert torch.equal(norm.running_var, variance.float())
    assert norm.num_batches_tracked == 5


def test_one_batch_gives_what_torch_gives() -> None:
    data = torch.randn(16, 2, 4, 4)
    ours, theirs = network(), network()
    recalibrate_batch_norm(ours, [data])
    update_bn([data], theirs)
    torch.testing.assert_close(ours[1].running_mean, theirs[1].running_mean)
    torch.testing.assert_close(ours[1].running_var, theirs[1].running_var)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_other_buffers_are_restored(fails: bool) -> None:
    model = network().train()
    model[1].eval()  # frozen by the user
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if fails:
        with pytest.raises(RuntimeError, match="Expected 3D"):
            recalibrate_batch_norm(model, [torch.randn(3, 2, 4, 4), torch.ones(2, 9)])
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
    else:
        recalibrate_batch_norm(model, [torch.randn(3, 2, 4, 4)])
    assert [m.training for m in model] == [True, False, True, True, True]
    norm: Any = model[1]
    assert norm.track_running_stats
    assert norm.momentum == 0.1
    assert not norm._forward_pre_hooks


def test_dropout_is_off() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2)).train()
    data = torch.randn(50, 2)
    recalibrate_batch_norm(model, [data])
    norm: Any = model[1]
    torch.testing.assert_close(norm.running_mean, data.mean(0))


class Named(nn.Module):
    """Takes keyword arguments; one layer is used twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.unused = nn.BatchNorm1d(2)

    def forward(self, *, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x) + self.norm(y)  # type: ignore[no-any-return]


def test_batches_of_any_kind_are_passed_to_the_model() -> None:
    x, y = torch.randn(8, 2), torch.randn(4, 2)
    model, model_2 = Named(), Named()
    unused: Any = model.unused
    norm: Any = model_2.norm
    recalibrate_batch_norm(model, [{"x": x, "y": y[:1].expand(8, 2)}])
    recalibrate_batch_norm(
        model_2, [(x, y)], forward=lambda _, batch: [norm(z) for z in batch]
    )
    both = torch.cat([x, y])
    mean: Any = model_2.norm.running_mean
    torch.testing.assert_close(mean, both.mean(0))
    assert torch.equal(unused.running_mean, torch.zeros(2))
    plain = nn.BatchNorm1d(2)
    recalibrate_batch_norm(plain, [[x, "labels"]])
    torch.testing.assert_close(plain.running_mean, x.mean(0))


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch, found none"):
        recalibrate_batch_norm(network(), [])


def test_models_without_such_layers_are_not_run() -> None:
    recalibrate_batch_norm(nn.Linear(2, 2), iter(["never used"]))
    recalibrate_batch_norm(nn.BatchNorm1d(2, track_running_stats=False), iter(["x"]))
