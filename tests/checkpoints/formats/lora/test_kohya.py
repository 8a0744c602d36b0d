"""Adapters with the names of kohya, in and out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import average_adapters
from ensembles.checkpoints.directories.adapter_files import open_adapter
from ensembles.checkpoints.formats.lora.kohya import kohya_name
from tests.checkpoints.adapters.lora_files import (
    factors,
    kohya_updates,
    peft_updates,
    save_kohya,
    save_peft,
)

NAMES = {"lora_unet_a_0_q": (4, 5), "lora_te1_text_model_fc1": (6, 5)}


def test_a_missing_alpha_or_zero_is_the_rank(tmp_path: Path) -> None:
    scales = []
    for number, alpha in enumerate([None, 0.0, 1.0, 6.0]):
        path = tmp_path / f"{number}.safetensors"
        adapter = open_adapter(save_kohya(path, factors(0, NAMES), alpha))
        scales.append({update.scale for update in adapter.updates.values()})
    assert scales == [{1.0}, {1.0}, {0.5}, {3.0}]


def test_the_result_has_alphas_and_the_metadata_of_the_members(tmp_path: Path) -> None:
    paths = [
        save_kohya(tmp_path / f"{i}.safetensors", factors(i, NAMES), alpha)
        for i, alpha in enumerate([1.0, 4.0])
    ]
    metadata = {"ss_base_model_version": "sdxl_base_v1-0", "ss_tag_frequency": "{}"}
    for path in paths:
        save_file(load_file(path), path, metadata)
    out = tmp_path / "out.safetensors"
    average_adapters(paths, out, rule="task_arithmetic", weights=[0.5, -0.25])
    updates = [kohya_updates(path) for path in paths]
    for name, update in kohya_updates(out).items():
        expected = 0.5 * updates[0][name] - 0.25 * updates[1][name]
        np.testing.assert_allclose(update, expected, atol=1e-6)
    with safe_open(out, "numpy") as file:
        kept = file.metadata()
    assert kept["ss_base_model_version"] == "sdxl_base_v1-0"
    assert kept["ss_network_dim"] == "4"
    assert "ss_tag_frequency" not in kept


def test_names_are_paths_with_underscores() -> None:
    assert kohya_name("text_encoder_2.layers.0.fc1") == "lora_te2_layers_0_fc1"
    assert kohya_name("transformer.x_y.0") == "lora_unet_x_y_0"


def test_adapters_of_peft_are_written_with_the_names_of_kohya(tmp_path: Path) -> None:
    paths = [save_peft(tmp_path / f"{i}", factors(i)) for i in range(2)]
    out = tmp_path / "out.safetensors"
    report = average_adapters(paths, out)
    assert any("names of kohya" in note for note in report.plan.notes)
    means = {
        kohya_name(name): (update + peft_updates(paths[1])[name]) / 2
        for name, update in peft_updates(paths[0]).items()
    }
    actual = kohya_updates(out)
    assert actual.keys() == means.keys()
    for name, update in actual.items():
        np.testing.assert_allclose(update, means[name], atol=1e-6)


def test_an_adapter_of_kohya_takes_the_paths_of_another_adapter(tmp_path: Path) -> None:
    peft = save_peft(tmp_path / "a", factors(0))
    renamed = {kohya_name(name): pair for name, pair in factors(1).items()}
    kohya = save_kohya(tmp_path / "b.safetensors", renamed)
    average_adapters([kohya, peft], tmp_path / "out")
    for name, update in peft_updates(tmp_path / "out").items():
        other = kohya_updates(kohya)[kohya_name(name)]
        expected = (peft_updates(peft)[name] + other) / 2
        np.testing.assert_allclose(update, expected, atol=1e-6)
    renamed["lora_unet_other"] = next(iter(factors(2).values()))
    unknown = save_kohya(tmp_path / "c.safetensors", renamed)
    with pytest.raises(ValueError, match=r"'lora_unet_other', and no other adapter"):
        average_adapters([unknown, peft], tmp_path / "none")
    with pytest.raises(ValueError, match="would be a directory of PEFT"):
        average_adapters([kohya], tmp_path / "none")


def test_files_of_diffusers_keep_their_names_and_have_no_scale(tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        pairs = factors(seed, {"unet.mid.q": (4, 5)})
        tensors = {
            f"unet.mid.q.lora_{part}.weight": factor
            for part, factor in zip("AB", pairs["unet.mid.q"], strict=True)
        }
        options = {"unet.r": 2, "unet.lora_alpha": 6}
        paths.append(tmp_path / f"{seed}.safetensors")
        save_file(tensors, paths[-1], {"lora_adapter_metadata": json.dumps(options)})
    out = tmp_path / "out.safetensors"
    average_adapters(paths, out)
    merged, members = load_file(out), [load_file(path) for path in paths]
    a, b = (f"unet.mid.q.lora_{part}.weight" for part in "AB")
    expected = 1.5 * sum(member[b] @ member[a] for member in members)
    np.testing.assert_allclose(merged[b] @ merged[a], expected, atol=1e-5)
    assert set(merged) == {a, b}


def test_different_conventions_of_names_are_not_joined(tmp_path: Path) -> None:
    """One file names fused layers, the other their parts: nothing would be added."""
    kohya = save_kohya(
        tmp_path / "a.safetensors", factors(0, {"lora_unet_blocks_0_qkv": (9, 5)})
    )
    pairs = factors(1, {"transformer.blocks.0.to_k": (3, 5)})
    tensors = {
        f"transformer.blocks.0.to_k.lora_{part}.weight": factor
        for part, factor in zip("AB", *pairs.values(), strict=True)
    }
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="in different ways, and have none in common"):
        average_adapters(
            [kohya, tmp_path / "b.safetensors"], tmp_path / "out.safetensors"
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lora_unet_q.hada_w1_a", "'lora_unet_q.hada_w1_a' is not of LoRA"),
        ("lora_unet_q.dora_scale", r"uses DoRA.*\(dora_scale\)"),
    ],
)
def test_other_methods_are_refused_by_name(
    tmp_path: Path, name: str, message: str
) -> None:
    path = save_kohya(tmp_path / "a.safetensors", factors(0, {"lora_unet_q": (4, 5)}))
    save_file(load_file(path) | {name: np.ones((4, 1), np.float32)}, path)
    with pytest.raises(ValueError, match=message):
        average_adapters([path, path], tmp_path / "out.safetensors")
