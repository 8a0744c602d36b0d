"""Names of a member brought to those of an estimator, or of another member."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ensembles.checkpoints import ModelSoup
from ensembles.checkpoints.compatibility.key_mapping import renaming
from ensembles.checkpoints.formats import state_dict

PREFIXES = ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "net.backbone."]


def estimator() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def members() -> list[nn.Module]:
    torch.manual_seed(0)
    start = estimator()
    found = [copy.deepcopy(start) for _ in range(2)]
    for place, member in enumerate(found):
        for parameter in member.parameters():
            parameter.data += 0.1 * place
    return found


def prefixed(module: nn.Module, prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in module.state_dict().items()}


@pytest.mark.parametrize("kind", [".pt", ".ckpt", ".safetensors", "state dict"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_one_prefix_of_all_names_is_no_obstacle(
    tmp_path: Path, prefix: str, kind: str
) -> None:
    first, second = members()
    given: list[Any] = []
    for place, member in enumerate((first, second)):
        state = prefixed(member, prefix)
        path = tmp_path / f"{place}{kind}"
        if kind == ".safetensors":
            save_file(state, path)
        elif kind == ".ckpt":
            torch.save({"state_dict": state, "epoch": 1}, path)
        elif kind == ".pt":
            torch.save(state, path)
        given.append(state if kind == "state dict" else path)
    found = ModelSoup(estimator(), given).fit().estimator_.state_dict()
    wanted = ModelSoup(estimator(), [first, second]).fit().estimator_.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_wrapped_modules_are_members() -> None:
    class Parallel(nn.Module):  # as DistributedDataParallel holds it
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    first, second = members()
    averaged = torch.optim.swa_utils.AveragedModel(second)  # counts its members
    soup = ModelSoup(estimator(), [Parallel(first), averaged]).fit()
    wanted = ModelSoup(estimator(), [first, second]).fit().estimator_.state_dict()
    for name, value in soup.estimator_.state_dict().items():
        assert torch.equal(value, wanted[name])


def test_the_estimator_may_be_the_wrapped_one() -> None:
    first, second = members()
    torch.manual_seed(0)
    wrapped = nn.ModuleDict({"encoder": estimator()})
    found = ModelSoup(wrapped, [first, prefixed(second, "module.")]).fit().estimator_
    wanted = ModelSoup(estimator(), [first, second]).fit().estimator_
    for ours, theirs in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def tensors(*names: str, shape: tuple[int, ...] = (2,), dtype: Any = "f4") -> Any:
    state = {name: np.zeros(shape, dtype) for name in names}
    return state_dict.read(state, "x").layout


NAMES = ("embeddings.weight", "layer.0.weight", "layer.0.bias")


@pytest.mark.parametrize(
    ("removed", "added"),
    [
        ("", "bert."),
        ("roberta.", ""),
        ("model.", "module."),
        ("module._orig_mod.", "_orig_mod."),
        ("model.model.", "model."),
        ("student.", "teacher.net."),
    ],
)
def test_a_prefix_may_stand_on_either_side(removed: str, added: str) -> None:
    names = tensors(*(removed + name for name in NAMES))
    wanted = tensors(*(added + name for name in NAMES))
    assert renaming(names, wanted) == {removed + name: added + name for name in NAMES}


def test_a_body_finds_its_place_beside_other_parts() -> None:
    wanted = {
        **tensors(*(f"0.auto_model.{name}" for name in NAMES)),
        **tensors("2.linear.weight", shape=(3, 3)),
    }
    found = renaming(tensors(*NAMES), wanted)
    assert found == {name: f"0.auto_model.{name}" for name in NAMES}


@pytest.mark.parametrize(
    "name",
    [
        "layer._orig_mod.0.weight",  # one block compiled
        "layer.0._checkpoint_wrapped_module.weight",
        "_fsdp_wrapped_module.layer.0._fsdp_wrapped_module.weight",
        "_forward_module.layer.module.0.weight",
    ],
)
def test_wrappers_may_stand_anywhere(name: str) -> None:
    wanted = tensors("embeddings.weight", "layer.0.weight")
    names = tensors("embeddings.weight", name)
    assert renaming(names, wanted) == {
        "embeddings.weight": "embeddings.weight",
        name: "layer.0.weight",
    }
    assert renaming(wanted, names) is not None


def test_what_fits_at_two_places_or_in_another_shape_is_not_renamed() -> None:
    two = tensors("encoder.weight", "decoder.weight")
    assert renaming(tensors("weight"), two) is None
    assert renaming(tensors("module.weight"), tensors("weight", shape=(3,))) is None
    # A layer is not another one, whose number differs.
    layers = tensors("0.weight", "0.bias", "1.weight", "1.bias")
    assert renaming(tensors("2.weight", "2.bias"), layers) is None
    assert renaming(tensors("a.weight"), tensors("b.weight", "c.bias")) is None


def test_integers_that_are_counted_beside_are_left_where_they_are() -> None:
    names = {**tensors("module.a"), **tensors("n_averaged", shape=(), dtype="i8")}
    assert renaming(names, tensors("a")) == {"module.a": "a"}
