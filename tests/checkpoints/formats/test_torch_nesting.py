"""Files of torch whose state dict lies beside other tensors or above them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.formats import torch_zip

STATE = {"layer.w": torch.arange(6.0).view(2, 3), "layer.b": torch.ones(3)}
STRAY = torch.tensor(0.5)


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "a.pt")
    return folder / "a.pt"


def test_a_stray_tensor_is_not_taken_for_the_state_dict(tmp_path: Path) -> None:
    path = saved(tmp_path, {"net": STATE, "loss": STRAY})
    assert average([path]).keys() == STATE.keys()


def test_a_stray_tensor_does_not_hide_two_state_dicts(tmp_path: Path) -> None:
    path = saved(tmp_path, {"gen": STATE, "disc": STATE, "step": STRAY})
    with pytest.raises(ValueError, match=r"not obvious \(found: gen, disc\).* key="):
        plan([path])


def test_a_small_dict_does_not_hide_the_tensors_beside_it(tmp_path: Path) -> None:
    path = saved(tmp_path, STATE | {"extra": {"scale": STRAY}})
    with pytest.raises(ValueError, match=r"not obvious \(found: extra\)"):
        plan([path])


@pytest.mark.parametrize("key", [None, "model"])
@pytest.mark.parametrize(
    ("inner", "at"), [(STATE, "enc"), ({"deep": STATE}, r"enc\.deep")]
)
def test_tensors_deeper_down_are_not_left_out(
    tmp_path: Path, key: str | None, inner: Any, at: str
) -> None:
    path = saved(tmp_path, {"model": {"enc": inner, "temp": STRAY}})
    with pytest.raises(ValueError, match=rf"deeper down, at '{at}'.* with key=NAME"):
        plan([path], key=key)


def test_only_the_records_of_the_state_dict_are_verified(tmp_path: Path) -> None:
    moment = torch.full((1000,), 7.0)
    path = saved(tmp_path, {"model": STATE, "optimizer": {"state": {0: {"m": moment}}}})
    names = [Path(record.name).name for record in torch_zip.read(path).records]
    assert names == ["data.pkl", "0", "1"]
    content = bytearray(path.read_bytes())
    content[content.index(moment.numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert average([path]).keys() == STATE.keys()


def test_a_flipped_bit_in_the_pickle_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path, STATE)
    path.write_bytes(path.read_bytes().replace(b"layer.w", b"layer.v", 1))
    with pytest.raises(ValueError, match=r"a\.pt is damaged: entry '.*data\.pkl'"):
        average([path])
