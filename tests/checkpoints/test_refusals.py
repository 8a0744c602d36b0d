"""What must not be averaged is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles.checkpoints import average, plan
from tests.checkpoints.building import save

F8 = np.ones((4, 4), ml_dtypes.float8_e4m3fn)
SCALE = np.ones((1, 1), np.float32)
PACKED = np.ones((4, 2), np.int32)


def model(folder: Path, tensors: dict[str, Any], config: Any = None) -> Path:
    save(folder / "m/model.safetensors", tensors)
    if config is not None:
        (folder / "m/config.json").write_text(json.dumps(config))
    return folder / "m"


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.layers.0.q_proj.lora_A.weight",
        "base_model.model.layers.0.q_proj.lora_B.default.weight",
        "layers.0.lora_embedding_A",
        "layers.0.lora_magnitude_vector.default.weight",
        "lora_A",
    ],
)
def test_adapters_are_refused_by_their_tensors(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.safetensors", {name: np.ones((2, 2), np.float32)})
    with pytest.raises(
        ValueError, match=r"a PEFT adapter \(tensor .*merge each adapter"
    ):
        plan([path, path])


def test_adapters_are_refused_by_their_config(tmp_path: Path) -> None:
    save(tmp_path / "m/adapter_model.safetensors", {"lora_A": np.ones(2, np.float32)})
    (tmp_path / "m/adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"m is a PEFT adapter.*merge each adapter"):
        plan([tmp_path / "m"])


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"q.weight": F8, "q.weight_scale_inv": SCALE}, "weight_scale_inv"),
        ({"q.weight": F8, "q.weight_scale": SCALE}, "weight_scale"),
        ({"q.weight": F8, "q.scale": SCALE}, "scale"),
        ({"q.weight": np.ones((4, 2), np.uint8), "q.weight_scale": F8}, "weight_scale"),
        ({"q.weight": np.ones((4, 2), np.uint8), "q.weight_scale_2": SCALE}, "scale_2"),
        ({"q.weight": np.ones((4, 4), np.int8), "q.weight_scale": SCALE}, "scale"),
        ({"q.qweight": PACKED, "q.scales": SCALE}, "qweight"),
        ({"q.weight_packed": PACKED, "q.weight_scale": SCALE}, "weight_packed"),
        ({"q.weight": PACKED.astype(np.uint8), "q.weight.absmax": SCALE}, "absmax"),
        ({"q.weight": np.ones((4, 4), np.int8), "q.SCB": SCALE}, "SCB"),
        (
            {
                "q.weight": np.ones((8, 1), np.uint8),
                "q.weight.quant_state.bitsandbytes__nf4": np.ones(9, np.uint8),
            },
            "quant_state",
        ),
    ],
    ids=range(11),
)
def test_quantised_weights_are_refused_by_their_tensors(
    tmp_path: Path, tensors: dict[str, Any], what: str
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(ValueError, match=rf"quantised weights \(.*{what}.*convert it"):
        plan([path, path])


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "gptq", "awq", "mxfp4"])
def test_quantised_weights_are_refused_by_their_config(
    tmp_path: Path, method: str
) -> None:
    config = {"quantization_config": {"quant_method": method}}
    path = model(tmp_path, {"w": np.ones(3, np.float32)}, config)
    with pytest.raises(ValueError, match=rf"config\.json says '{method}'"):
        plan([path])


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": F8},
        {"ln.scale": np.ones(4, np.float32), "ln.bias": np.ones(4, np.float32)},
        {"q": np.ones(3, np.float32), "q.scale": SCALE},
        {"explora_A": np.ones(3, np.float32)},
        {"logit_scale": np.array(2.0, np.float32)},
    ],
    ids=["fp8 alone", "norm", "float32 with a scale", "another name", "clip"],
)
def test_what_only_looks_like_it_is_averaged(
    tmp_path: Path, tensors: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    assert average([path, path]).keys() == tensors.keys()


@pytest.mark.parametrize("second", [True, False])
def test_every_member_is_looked_at(tmp_path: Path, second: bool) -> None:
    good = save(tmp_path / "a.safetensors", {"w": np.ones(2, np.float32)})
    bad = save(tmp_path / "b.safetensors", {"x.lora_A.weight": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match=r"b\.safetensors is a PEFT adapter"):
        plan([good, bad] if second else [bad, good])


@pytest.mark.parametrize(
    "tensors",
    [
        {
            "up_proj_blocks": PACKED.astype(np.uint8),
            "up_proj_scales": F8.view(np.uint8),
        },
        {"q.W_q": PACKED.astype(np.uint8)},
        {"q.W_q": SCALE, "q.scale": SCALE, "q.zero": SCALE},
    ],
    ids=["mxfp4", "hqq", "hqq seen as floats"],
)
def test_packed_weights_in_a_single_file_are_refused(
    tmp_path: Path, tensors: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(ValueError, match=r"quantised weights \(.*(blocks|W_q)"):
        plan([path, path])


@pytest.mark.parametrize("name", ["attention.W_q", "res_blocks"])
def test_floats_of_such_names_are_averaged(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.safetensors", {name: SCALE, "res_scales": SCALE})
    assert name in average([path, path])
