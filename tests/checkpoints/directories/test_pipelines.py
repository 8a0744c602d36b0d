"""Pipelines of diffusers: every component averaged, the rest carried over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.building import load, save

UNET = "diffusion_pytorch_model"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "requires_safety_checker": False,
    "image_encoder": [None, None],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
OTHER_FILES = {
    "scheduler/scheduler_config.json": "{}",
    "tokenizer/vocab.json": "{}",
    "tokenizer/merges.txt": "",
    "text_encoder/config.json": '{"dtype": "float32"}',
    "unet/config.json": '{"sample_size": 16}',
}
FILES = {
    *OTHER_FILES,
    "model_index.json",
    f"unet/{UNET}.safetensors",
    "text_encoder/model.safetensors",
}


def pipeline(folder: Path, value: float, names: Any = None) -> Path:
    """A pipeline of two components with weights, in files of the given names."""
    names = names or (f"{UNET}.safetensors", "model.safetensors")
    for path, content in OTHER_FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    for component, name in zip(("unet", "text_encoder"), names, strict=True):
        tensors = {
            "conv.weight": np.full((2, 3), value, np.float32),
            f"{component}.bias": np.full(4, -value, np.float32),
        }
        if name.endswith(".bin"):
            state = {key: torch.from_numpy(array) for key, array in tensors.items()}
            torch.save(state, folder / component / name)
        else:
            save(folder / component / name, tensors)
    return folder


def two(folder: Path, names: Any = None) -> list[Path]:
    return [
        pipeline(folder / name, value, names) for name, value in (("a", 1), ("b", 3))
    ]


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def values(path: Path) -> dict[str, Any]:
    return {name: np.unique(value).tolist() for name, value in load(path).items()}


@pytest.mark.parametrize(
    "names", [None, (f"{UNET}.bin", "pytorch_model.bin")], ids=["safetensors", "bin"]
)
def test_components_are_averaged_and_the_rest_carried_over(
    tmp_path: Path, names: Any
) -> None:
    paths, out = two(tmp_path, names), tmp_path / "out"
    report = average(paths, out)
    assert not report.plan.notes
    assert files(out) == FILES
    for name, content in OTHER_FILES.items():
        assert (out / name).read_text() == content
    unet, text = (
        out / f"unet/{UNET}.safetensors",
        out / "text_encoder/model.safetensors",
    )
    assert values(unet) == {"conv.weight": [2], "unet.bias": [-2]}
    assert values(text) == {"conv.weight": [2], "text_encoder.bias": [-2]}
    assert set(average(paths)) == {
        *("unet/conv.weight", "unet/unet.bias", "text_encoder/conv.weight"),
        "text_encoder/text_encoder.bias",
    }
    average([out, out], out.with_name("again"))
    assert files(out.with_name("again")) == FILES


def test_components_are_cut_into_shards_each_with_its_index(tmp_path: Path) -> None:
    average(two(tmp_path), tmp_path / "out", shard_size=20)
    index = json.loads(
        (tmp_path / f"out/unet/{UNET}.safetensors.index.json").read_text()
    )
    assert index["weight_map"] == {
        "conv.weight": f"{UNET}-00001-of-00002.safetensors",
        "unet.bias": f"{UNET}-00002-of-00002.safetensors",
    }
    assert (tmp_path / "out/text_encoder/model.safetensors.index.json").exists()
    assert len(average([tmp_path / "out"])) == 4


def test_a_new_dtype_is_in_the_configuration_of_components(tmp_path: Path) -> None:
    average(two(tmp_path), tmp_path / "out", dtype="bfloat16")
    config = json.loads((tmp_path / "out/text_encoder/config.json").read_text())
    assert config == {"dtype": "bfloat16"}
    assert (tmp_path / "out/unet/config.json").read_text() == '{"sample_size": 16}'


def test_an_optional_component_with_weights_is_averaged(tmp_path: Path) -> None:
    paths = two(tmp_path)
    for path, value in zip(paths, (1.0, 5.0), strict=True):
        tensors = {"w": np.full(2, value)}
        save(path / "safety_checker/model.safetensors", tensors)
    average(paths, tmp_path / "out")
    assert values(tmp_path / "out/safety_checker/model.safetensors") == {"w": [3]}


def test_a_component_that_one_member_lacks_is_told(tmp_path: Path) -> None:
    paths = two(tmp_path)
    save(paths[0] / "safety_checker/model.safetensors", {"w": np.ones(2)})
    with pytest.raises(ValueError, match=r"'safety_checker/w': .*b lacks it"):
        plan(paths, tmp_path / "out")


def test_weights_of_one_variant_are_averaged_under_its_name(tmp_path: Path) -> None:
    names = (f"{UNET}.fp16.safetensors", "model.fp16.safetensors")
    average(two(tmp_path, names), tmp_path / "out")
    assert f"unet/{names[0]}" in files(tmp_path / "out")
    assert values(tmp_path / f"out/unet/{names[0]}")["conv.weight"] == [2]


def test_variants_and_the_pipeline_in_one_file_are_left_out(tmp_path: Path) -> None:
    paths = two(tmp_path)
    save(paths[0] / f"unet/{UNET}.fp16.safetensors", {"conv.weight": np.ones(2)})
    save(paths[0] / "v1-5-pruned.safetensors", {"model.conv": np.ones(2)})
    notes = "\n".join(plan(paths, tmp_path / "out").notes)
    assert f"copies or variants: unet/{UNET}.fp16.safetensors" in notes
    assert "v1-5-pruned.safetensors (the pipeline in one file)" in notes
    average(paths, tmp_path / "out")
    assert files(tmp_path / "out") == FILES


def test_shards_of_a_variant_alone_are_refused(tmp_path: Path) -> None:
    (path, _) = two(tmp_path)
    (path / f"unet/{UNET}.safetensors").unlink()
    (path / f"unet/{UNET}.safetensors.index.fp16.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a/unet must have weights without a variant"):
        plan([path])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flax_model.msgpack", r"a/text_encoder contains no readable .*JAX weights"),
        ("model.onnx", r"a/text_encoder contains no readable .*graphs for inference"),
        ("tf_model.h5", r"a/text_encoder contains no readable .*TensorFlow weights"),
        (
            "model.part",
            r"a/text_encoder contains no readable .*only config\.json, model",
        ),
    ],
)
def test_a_component_of_another_framework_is_refused_by_name(
    tmp_path: Path, name: str, message: str
) -> None:
    (path, _) = two(tmp_path)
    (path / "text_encoder/model.safetensors").rename(path / "text_encoder" / name)
    with pytest.raises(ValueError, match=message):
        plan([path])


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "config.json",
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            r"a/unet has quantized weights \(config\.json has 'bitsandbytes'",
        ),
        ("adapter_config.json", {"peft_type": "LORA"}, "a/unet is a PEFT adapter"),
    ],
)
def test_a_component_without_a_mean_is_refused(
    tmp_path: Path, name: str, config: Any, message: str
) -> None:
    (path, _) = two(tmp_path)
    (path / "unet" / name).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        plan([path])


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "/etc"])
def test_a_component_outside_of_its_directory_is_refused(
    tmp_path: Path, name: str
) -> None:
    (path, _) = two(tmp_path)
    (path / "model_index.json").write_text(json.dumps({**INDEX, name: ["a", "b"]}))
    with pytest.raises(ValueError, match="must name folders of its own directory"):
        plan([path])


def test_configurations_of_components_that_differ_are_noted(tmp_path: Path) -> None:
    paths = two(tmp_path)
    (paths[1] / "unet/config.json").write_text('{"sample_size": 32}')
    notes = "\n".join(plan(paths, tmp_path / "out").notes)
    assert "unet/config.json (in sample_size)" in notes


def test_a_pipeline_without_readable_weights_is_refused(tmp_path: Path) -> None:
    (path, _) = two(tmp_path)
    for name in (f"unet/{UNET}", "text_encoder/model"):
        (path / f"{name}.safetensors").unlink()
    with pytest.raises(ValueError, match="a/text_encoder contains no readable weig"):
        plan([path])


def test_the_last_pipelines_of_a_run_are_found(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        pipeline(tmp_path / f"run/checkpoint-{step}", step)
    found = choose_checkpoints([str(tmp_path / "run")], last=2)
    assert [Path(path).name for path in found.paths] == [
        "checkpoint-200",
        "checkpoint-300",
    ]
    average(found.paths, tmp_path / "out")
    assert values(tmp_path / f"out/unet/{UNET}.safetensors")["conv.weight"] == [250]
