"""Which of several files of weights in a directory are meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.directories.weight_files import main_weight_files
from tests.checkpoints.building import save

A = {"w": np.ones(3, np.float32)}
B = {"w": np.zeros(3, np.float32)}


def indexed(folder: Path, stem: str, suffix: str = ".safetensors") -> str:
    """One shard and its index; the name of the shard."""
    name = f"{stem}-00001-of-00001{suffix}"
    save(folder / name, B)
    index = {"weight_map": {"w": name}}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return name


def test_the_files_of_weights_are_chosen_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    for stem in ("other", "diffusion_pytorch_model", "model"):
        assert main_weight_files(tmp_path)[0] != [f"{stem}-00001-of-00001.safetensors"]
        assert main_weight_files(tmp_path)[0] != [indexed(tmp_path, stem)]
        assert main_weight_files(tmp_path)[0][0].startswith(stem)
    save(tmp_path / "model.safetensors", A)
    assert main_weight_files(tmp_path)[0] == ["model.safetensors"]


def test_one_file_of_torch_goes_before_its_index(tmp_path: Path) -> None:
    shard = indexed(tmp_path, "pytorch_model", ".bin")
    assert main_weight_files(tmp_path)[0] == [shard]
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert main_weight_files(tmp_path)[0] == ["pytorch_model.bin"]


def test_a_variant_does_not_win_over_the_main_one(tmp_path: Path) -> None:
    indexed(tmp_path, "model.fp16")
    assert main_weight_files(tmp_path)[0] == []
    shard = indexed(tmp_path, "model")
    assert main_weight_files(tmp_path)[0] == [shard]


@pytest.mark.parametrize(
    "mapping", [{"gone": "gone.safetensors"}, {"x": "model.safetensors"}]
)
def test_a_stale_index_beside_the_single_file_is_passed_over(
    tmp_path: Path, mapping: Any
) -> None:
    save(tmp_path / "model.safetensors", A)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": mapping}))
    assert average([tmp_path])["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("pipeline", [True, False])
def test_folders_with_weights_are_named(tmp_path: Path, pipeline: bool) -> None:
    save(tmp_path / "unet/diffusion_pytorch_model.safetensors", A)
    save(tmp_path / "text_encoder_2/model.safetensors", A)
    if pipeline:
        (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="text_encoder_2, unet; average these one by"):
        plan([tmp_path])
