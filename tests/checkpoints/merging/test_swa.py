"""A second opinion: torch's own averaging of models, kind by kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ensembles.checkpoints import average
from tests.checkpoints.models import KINDS, example, snapshots

kinds = pytest.mark.parametrize("kind", KINDS)
COUNT = "num_batches_tracked"


def torch_average(members: list[nn.Module]) -> dict[str, torch.Tensor]:
    """State dict of AveragedModel over the members, buffers included."""
    averaged = AveragedModel(members[0], use_buffers=True)
    for member in members:
        averaged.update_parameters(member)
    return {
        name.removeprefix("module."): value
        for name, value in averaged.state_dict().items()
        if name != "n_averaged"
    }


def assert_same(found: nn.Module, members: list[nn.Module]) -> None:
    state, expected = found.state_dict(), torch_average(members)
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert value.dtype == expected[name].dtype
        if name.endswith(COUNT):
            counts = [member.state_dict()[name] for member in members]
            assert value == max(counts)
        else:
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


@kinds
def test_files_of_torch_average_to_what_torch_averages(
    kind: str, tmp_path: Path
) -> None:
    members = snapshots(kind)
    paths = [tmp_path / f"{step}.pt" for step in range(len(members))]
    for member, path in zip(members, paths, strict=True):
        torch.save(member.state_dict(), path)
    average(paths, tmp_path / "averaged.pt")
    model = snapshots(kind, 1)[0]
    state = torch.load(tmp_path / "averaged.pt", weights_only=True)
    model.load_state_dict(state, strict=True)
    assert_same(model, members)
    assert model(example(kind)).isfinite().all()


@kinds
def test_safetensors_average_to_what_torch_averages(kind: str, tmp_path: Path) -> None:
    members = snapshots(kind)
    paths = [tmp_path / f"{step}.safetensors" for step in range(len(members))]
    for member, path in zip(members, paths, strict=True):
        safetensors.torch.save_model(member, str(path))
    average(paths, tmp_path / "averaged.safetensors")
    model = snapshots(kind, 1)[0]
    missing, unexpected = safetensors.torch.load_model(
        model, str(tmp_path / "averaged.safetensors"), strict=True
    )
    assert not missing
    assert not unexpected
    assert_same(model, members)


@kinds
def test_state_dicts_average_to_what_torch_averages(kind: str) -> None:
    members = snapshots(kind)
    model = snapshots(kind, 1)[0]
    found = average([member.state_dict() for member in members])
    model.load_state_dict(found, strict=True)
    assert_same(model, members)


def test_files_of_torch_become_safetensors_and_back(tmp_path: Path) -> None:
    members = snapshots("tied GPT")
    for step, member in enumerate(members):
        torch.save(member.state_dict(), tmp_path / f"{step}.pt")
    average([tmp_path / f"{step}.pt" for step in range(3)], tmp_path / "a.safetensors")
    average([tmp_path / "a.safetensors"], tmp_path / "a.pt")
    for path in ("a.safetensors", "a.pt"):
        model = snapshots("tied GPT", 1)[0]
        if path.endswith(".pt"):
            state = torch.load(tmp_path / path, weights_only=True)
            head, embedding = state["lm_head.weight"], state["embedding.weight"]
            assert head.untyped_storage().data_ptr() == (
                embedding.untyped_storage().data_ptr()
            )
            model.load_state_dict(state, strict=True)
        else:
            safetensors.torch.load_model(model, str(tmp_path / path), strict=True)
        assert_same(model, members)


def test_tied_tensors_are_written_once(tmp_path: Path) -> None:
    members = snapshots("tied GPT", 2)
    for step, member in enumerate(members):
        torch.save(member.state_dict(), tmp_path / f"{step}.pt")
    average([tmp_path / "0.pt", tmp_path / "1.pt"], tmp_path / "a.safetensors")
    with safetensors.safe_open(str(tmp_path / "a.safetensors"), "pt") as file:
        assert "embedding.weight" in file.keys()  # noqa: SIM118
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        assert file.metadata()["lm_head.weight"] == "embedding.weight"


def test_weights_give_an_exponential_moving_average(tmp_path: Path) -> None:
    members = snapshots("autoencoder")
    keep: Any = torch.optim.swa_utils.get_ema_multi_avg_fn
    ema = AveragedModel(members[0], multi_avg_fn=keep(0.75))
    for member in members:
        ema.update_parameters(member)
    found = average([m.state_dict() for m in members], weights=[9 / 16, 3 / 16, 1 / 4])
    for name, value in found.items():
        expected = ema.state_dict()[f"module.{name}"]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
