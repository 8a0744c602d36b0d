"""Adapters with the names and configuration of PEFT are read as PEFT reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints.directories.adapter_files import has_adapter, open_adapter
from ensembles.checkpoints.formats.lora.adapter import LowRankUpdate

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([[1, 0], [0, 2], [1, -1], [3, 1]], np.float32)


def save(folder: Path, tensors: dict[str, Array], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    options = {"peft_type": "LORA", "r": 2, "lora_alpha": 3} | config
    (folder / "adapter_config.json").write_text(json.dumps(options))
    return folder


def dense(update: LowRankUpdate) -> Float64:
    a, b = update.read()
    return update.scale * (b @ a)


def names(module: str, middle: str = "") -> dict[str, Array]:
    stem = f"base_model.model.{module}.lora_"
    return {f"{stem}A{middle}.weight": A, f"{stem}B{middle}.weight": B}


def test_scales_are_those_of_peft(tmp_path: Path) -> None:
    """Scales of ``LoraLayer.scaling`` in peft 0.21 for the same options."""
    modules = ("block.0.q_proj", "block.1.q_proj", "block.10.q_proj", "block.0.k_proj")
    tensors: dict[str, Array] = {}
    for module in modules:
        tensors |= names(module)
    patterns = {"0.q_proj": 8, "block.1.q_proj": 4, "^block.0.k_proj": 10}
    folder = save(tmp_path / "a", tensors, alpha_pattern=patterns)
    updates = open_adapter(folder).updates
    assert [updates[module].scale for module in modules] == [4.0, 2.0, 1.5, 5.0]
    folder = save(tmp_path / "a", tensors, use_rslora=True, lora_alpha=2)
    scales = [update.scale for update in open_adapter(folder).updates.values()]
    assert scales == pytest.approx([2**0.5] * 4)


def test_layers_of_every_kind_are_read(tmp_path: Path) -> None:
    """Shapes of ``Embedding``, ``Conv2d`` and ``ParamWrapper`` in peft 0.21."""
    stem = "base_model.model."
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((2, 3, 5, 5)).astype(np.float32)
    ones = rng.standard_normal((4, 2, 1, 1)).astype(np.float32)
    a = rng.standard_normal((3 * 2, 5)).astype(np.float32)  # three experts
    b = rng.standard_normal((7, 2 * 3)).astype(np.float32)
    tensors = {
        f"{stem}emb.lora_embedding_A": A,
        f"{stem}emb.lora_embedding_B": B,
        f"{stem}conv.lora_A.weight": kernel,
        f"{stem}conv.lora_B.weight": ones,
        f"{stem}mlp.experts.lora_A.weight": a,
        f"{stem}mlp.experts.lora_B.weight": b,
    }
    folder = save(tmp_path / "a", tensors, target_parameters=["experts.up"])
    updates = open_adapter(folder).updates
    assert updates["emb"].is_transposed
    np.testing.assert_allclose(dense(updates["emb"])[0], 1.5 * (B @ A))
    conv = np.einsum("orhw,rikl->oikl", ones.astype(float), kernel.astype(float))
    assert updates["conv"].kernel == (5, 5)
    np.testing.assert_allclose(dense(updates["conv"])[0], 1.5 * conv.reshape(4, -1))
    experts = np.einsum("ore,eri->eoi", b.reshape(7, 2, 3), a.reshape(3, 2, 5))
    assert updates["mlp.experts"].n_experts == 3
    assert updates["mlp.experts"].weight == "mlp.experts.up"
    np.testing.assert_allclose(dense(updates["mlp.experts"]), 1.5 * experts, rtol=1e-5)


def test_a_lora_mid_is_part_of_the_first_factor(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    up, middle, down = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((4, 2, 1, 1), (2, 2, 3, 3), (2, 5, 1, 1))
    )
    tensors = {
        "lora_unet_conv.lora_up.weight": up,
        "lora_unet_conv.lora_mid.weight": middle,
        "lora_unet_conv.lora_down.weight": down,
        "lora_unet_conv.alpha": np.array(4.0, np.float32),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    update = open_adapter(tmp_path / "a.safetensors").updates["lora_unet_conv"]
    expected = np.einsum("oruv,rskl,siuv->oikl", up, middle, down)
    assert (update.n_inputs, update.kernel) == (5 * 9, (3, 3))
    np.testing.assert_allclose(
        dense(update)[0].reshape(4, 5, 3, 3), 2 * expected, atol=1e-5
    )


def test_names_of_the_adapter_and_of_wrappers_are_left_out(tmp_path: Path) -> None:
    tensors = names("q", ".default")
    tensors["base_model.model.head.modules_to_save.default.weight"] = A
    tensors["base_model.model.q.base_layer.bias"] = A[0]
    adapter = open_adapter(save(tmp_path / "a", tensors, bias="lora_only"))
    assert list(adapter.updates) == ["q"]
    assert list(adapter.replaced) == ["head.weight", "q.bias"]
    assert adapter.names["q.bias"] == "base_model.model.q.base_layer.bias"


def test_files_of_diffusers_have_the_scale_in_their_metadata_or_alphas(
    tmp_path: Path,
) -> None:
    tensors = {"unet.mid.q.lora_A.weight": A, "unet.mid.q.lora_B.weight": B}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, path)
    assert open_adapter(path).naming == "diffusers"
    assert open_adapter(path).updates["unet.mid.q"].scale == 1
    options = {"unet.r": 2, "unet.lora_alpha": 5, "unet.alpha_pattern": {"mid.q": 7}}
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(options)})
    assert open_adapter(path).updates["unet.mid.q"].scale == 3.5
    save_file(tensors | {"unet.mid.q.alpha": np.array([8.0])}, path)
    assert open_adapter(path).updates["unet.mid.q"].scale == 4


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({"base_model.model.q.lora_A.weight": A}, {}, "must have lora_A and lora_B"),
        ({}, {}, "/a must have tensors"),
        (names("q"), {"r": 4}, r"module 'q' must have rank 4.*found 2 rows"),
        (names("q"), {"peft_type": "LOHA"}, "must be an adapter of LoRA.*'LOHA'"),
        (names("q") | names("k", ".x") | names("v", ".y"), {}, "must have one adapter"),
        (names("q"), {"alpha_pattern": {"(": 1}}, "regular expressions"),
        (names("q"), {"lora_alpha": 1e999}, "finite scale"),
        (names("q"), {"lora_alpha": None}, "/a: lora_alpha and .* numbers, found None"),
        (names("q"), {"r": "2"}, "/a: r and the values of rank_pattern .* found '2'"),
        (names("q"), {"alpha_pattern": ["q"]}, "/a: alpha_pattern must be an object"),
        (names("q"), {"target_parameters": "q"}, "must be a list of names, found 'q'"),
        (
            {
                "base_model.model.q.lora_A.weight": A,
                "base_model.model.q.lora_B.weight": B[:, :1],
            },
            {},
            "factors of the same rank",
        ),
        (
            {
                "base_model.model.q.lora_A.weight": A.astype(np.int8),
                "base_model.model.q.lora_B.weight": B,
            },
            {},
            "factors of floats, found int8",
        ),
    ],
)
def test_damaged_adapters_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, Array], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_adapter(save(tmp_path / "a", tensors, **config))


def test_adapters_are_recognized_by_configuration_or_names(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", names("q"))
    assert has_adapter(folder)
    assert has_adapter(folder / "adapter_model.safetensors")
    assert open_adapter(folder / "adapter_model.safetensors").naming == "peft"
    save_file({"q.weight": A}, tmp_path / "model.safetensors")
    assert not has_adapter(tmp_path / "model.safetensors")
    assert not has_adapter(tmp_path)
    assert not has_adapter(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"must be a LoRA adapter.*'q.weight'"):
        open_adapter(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no adapter at"):
        open_adapter(tmp_path / "absent")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no adapter_config\.json"):
        open_adapter(folder)
