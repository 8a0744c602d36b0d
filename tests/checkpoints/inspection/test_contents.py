"""Contents of checkpoints of every format, from their headers alone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from ensembles.checkpoints import Module, average, inspect
from ensembles.checkpoints.formats.builtin import FORMATS
from ensembles.checkpoints.formats.checkpoint import TensorInfo
from ensembles.checkpoints.formats.safetensors import encode_header
from ensembles.checkpoints.inspection.module_tree import module_tree
from tests.checkpoints.building import pair, save, save_raw, save_shards

# Formats that state dicts in memory can be written to.
WRITTEN = sorted(
    name
    for name, format_ in FORMATS.items()
    if format_.write is not None and not getattr(format_, "needs_first", False)
)
LAYER = {
    **{f"self_attn.{n}_proj.weight": (8192, 8192) for n in "qo"},
    **{f"self_attn.{n}_proj.weight": (1024, 8192) for n in "kv"},
    **{f"mlp.{n}_proj.weight": (28672, 8192) for n in ("gate", "up")},
    "mlp.down_proj.weight": (8192, 28672),
    **{f"{n}_layernorm.weight": (8192,) for n in ("input", "post_attention")},
}


def llama_70b() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Layout of Llama 3 70B, 141 GB in bfloat16."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (128256, 8192)}
    for layer in range(80):
        shapes |= {f"model.layers.{layer}.{name}": s for name, s in LAYER.items()}
    shapes |= {"model.norm.weight": (8192,), "lm_head.weight": (128256, 8192)}
    dtype = np.dtype(ml_dtypes.bfloat16)
    return {name: (dtype, shape) for name, shape in shapes.items()}


def outline(module: Module, depth: int, level: int = 0) -> list[str]:
    """Names of modules, indented."""
    lines = []
    for child in module.children:
        lines.append("  " * level + child.name)
        if level + 1 < depth:
            lines += outline(child, depth, level + 1)
    return lines


def n_bytes_read() -> int:
    """Bytes that this process has read so far, also from the page cache."""
    text = Path("/proc/self/io").read_text()
    return int(text.split("rchar: ")[1].split()[0])


def test_a_model_of_70b_is_read_from_its_header_and_fits_on_a_screen(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    header = encode_header(llama_70b(), {"format": "pt"})
    path.write_bytes(header)
    found_size = 2 * 70_553_706_496
    os.truncate(path, len(header) + found_size)  # all data is a hole
    found = inspect(path)
    assert found.tree.n_parameters == 70_553_706_496
    assert found.tree.nbytes == found_size
    assert found.tree.n_tensors == 723
    assert dict(found.tree.dtypes) == {"bfloat16": 70_553_706_496}
    assert outline(found.tree, 3) == [
        "model",
        "  embed_tokens",
        "  layers.0-79",
        "    self_attn",
        "    mlp",
        "    input_layernorm",
        "    post_attention_layernorm",
        "  norm",
        "lm_head",
    ]
    layers = found.tree.children[0].children[1]
    assert (layers.n_modules, layers.n_tensors) == (80, 720)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells")
@pytest.mark.parametrize("name", WRITTEN)
def test_only_headers_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{FORMATS[name].suffixes[0]}"
    w = np.ones((1024, 2048), np.float32)
    average([{"a.w": w, "b.w": w[:1]}], path)
    inspect(path)  # imports what it needs
    before = n_bytes_read()
    found = inspect(path)
    assert n_bytes_read() - before < 1 << 20 < path.stat().st_size
    assert found.format == name
    assert [(t.name, t.dtype, t.shape) for t in sorted(found.tensors)] == [
        ("a.w", "float32", (1024, 2048)),
        ("b.w", "float32", (1, 2048)),
    ]


def test_layers_of_one_structure_are_one_node() -> None:
    def tensor(name: str, size: int = 2) -> TensorInfo:
        return TensorInfo(name, "float32", (size,), 4 * size)

    names = [f"h.{i}.fc.{n}" for i in (0, 1, 3, 10) for n in ("weight", "bias")]
    tensors = [*map(tensor, names), tensor("h.2.fc.weight", 3), tensor("scale", 1)]
    tensors += [tensor(f"moe.{i}.e.{j}.w") for i in range(2) for j in range(3)]
    tree = module_tree(tensors)
    assert outline(tree, 2) == ["h", "  0-1,3,10.fc", "  2.fc", "moe.0-1.e.0-2"]
    assert [t.name for t in tree.tensors] == ["scale"]
    assert tree.children[1].n_modules == 6
    assert tree.n_tensors == len(tensors)
    assert tree.n_parameters == sum(t.size for t in tensors)
    assert tree.nbytes == sum(t.nbytes for t in tensors)
    assert dict(tree.dtypes) == {"float32": tree.n_parameters}


def test_names_with_very_many_dots_do_not_exhaust_the_stack() -> None:
    tree = module_tree([TensorInfo("a." * 50_000 + "w", "float32", (1,), 4)])
    assert tree.n_parameters == 1


def test_other_state_dicts_and_values_of_a_pytorch_file_are_listed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "last.ckpt"
    w = torch.ones(3, 2)
    content = {
        "state_dict": {"fc.weight": w, "head.weight": w},
        "weights_ema": {"fc.weight": w.double()},
        "optimizer_states": [{"state": {0: {"exp_avg": w}}}],
        "epoch": 7,
        "name": "run",
    }
    torch.save(content, path)
    found = inspect(path)
    assert found.state_dict == "state_dict"
    assert [tensor.name for tensor in found.tensors] == ["fc.weight"]
    assert found.aliases == {"head.weight": "fc.weight"}
    assert [tuple(entry) for entry in found.state_dicts] == [
        ("weights_ema", 1, 6, 48),
        ("optimizer_states.0.state.0", 1, 6, 24),
    ]
    assert found.values == {
        "optimizer_states": "1 tensor, 24 bytes",
        "epoch": "7",
        "name": "'run'",
    }
    assert any("key='weights_ema'" in note for note in found.notes)
    other = inspect(path, key="weights_ema")
    assert other.tensors == [TensorInfo("fc.weight", "float64", (3, 2), 48)]


def test_a_file_without_one_obvious_state_dict_lists_all(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": {"w": torch.ones(2)}, "b": {"w": torch.ones(3)}}, path)
    found = inspect(path)
    assert found.tensors == []
    assert [entry.key for entry in found.state_dicts] == ["a", "b"]
    assert "must have one obvious state dict" in found.refusals[0]


def test_files_of_a_directory_are_listed_with_their_use(tmp_path: Path) -> None:
    folder = save_shards(tmp_path / "m", [{"w": np.ones(2)}, {"v": np.ones(3)}])
    (folder / "config.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"1234")
    (folder / "runs").mkdir()
    found = inspect(folder)
    assert found.is_directory
    assert found.format == "safetensors"
    assert [(file.name, file.role) for file in found.files] == [
        ("config.json", "copied"),
        ("model-00001-of-00002.safetensors", "weights"),
        ("model-00002-of-00002.safetensors", "weights"),
        ("model.safetensors.index.json", "rewritten"),
        ("optimizer.pt", "other"),
        ("runs/", "other"),
    ]
    sizes = {file.name: file.nbytes for file in found.files}
    assert sizes["optimizer.pt"] == 4
    assert sizes["runs/"] is None
    assert found.refusals == []


def test_the_provenance_of_a_result_is_shown(tmp_path: Path) -> None:
    out = average(pair(tmp_path), tmp_path / "out.safetensors").out
    recipe = inspect(out).recipe
    assert recipe is not None
    assert recipe["rule"] == "mean"
    assert len(recipe["members"]) == 2


def adapter(folder: Path) -> Path:
    tensors = {f"q.lora_{n}.weight": np.ones((2, 4), np.float32) for n in "AB"}
    save(folder / "m/adapter_model.safetensors", tensors)
    (folder / "m/adapter_config.json").write_text('{"peft_type": "LORA"}')
    return folder / "m"


def quantized(folder: Path) -> Path:
    tensors = {"q.qweight": np.ones((4, 2), np.int32), "q.scales": np.ones(2)}
    return save(folder / "q.safetensors", tensors)


def with_foreign_dtype(folder: Path) -> Path:
    header = {"q.x": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    return save_raw(folder / "f4.safetensors", json.dumps(header).encode(), b"12")


def run(folder: Path) -> Path:
    for step in (1, 2):
        save(folder / f"run/step-{step}.safetensors", {"q.w": np.ones(step)})
    return folder / "run"


@pytest.mark.parametrize(
    ("build", "names", "why"),
    [
        (adapter, ["q.lora_A.weight", "q.lora_B.weight"], "is a PEFT adapter"),
        (quantized, ["q.qweight", "q.scales"], "has quantized weights"),
        (with_foreign_dtype, ["q.x"], "F4"),
        (
            run,
            ["step-1.safetensors/q.w", "step-2.safetensors/q.w"],
            "contains no readable weights",
        ),
    ],
)
def test_what_cannot_be_averaged_is_listed_with_the_reason(
    tmp_path: Path, build: Any, names: list[str], why: str
) -> None:
    found = inspect(build(tmp_path))
    assert [tensor.name for tensor in found.tensors] == names
    assert found.format == "safetensors"
    assert len(found.refusals) == 1
    assert why in found.refusals[0]


def test_bytes_of_a_dtype_that_is_not_supported_are_counted(tmp_path: Path) -> None:
    (tensor,) = inspect(with_foreign_dtype(tmp_path)).tensors
    assert tensor == TensorInfo("q.x", "F4", (4,), 2)


def test_a_file_that_cannot_be_read_at_all_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x10" + b"\0" * 7 + b"{" * 16)
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        inspect(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it is empty"):
        inspect(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        inspect(tmp_path / "absent")


def test_a_format_that_lists_nothing_more_is_listed_by_its_layout(
    tmp_path: Path,
) -> None:
    """Also in a directory that is rejected."""
    folder = adapter(tmp_path)
    (folder / "broken.safetensors").write_bytes(b"x")
    found = inspect(folder)
    assert len(found.tensors) == 2
    assert any("broken.safetensors" in note for note in found.notes)


def test_a_state_dict_in_memory_that_is_rejected_is_one_error() -> None:
    with pytest.raises(ValueError, match="has dtype complex128"):
        inspect({"w": np.ones(2, complex)})


@pytest.mark.parametrize(
    "entry",
    [
        "1",
        '{"dtype": "F4", "shape": [1e999], "data_offsets": [0, 2]}',
        '{"dtype": "F4", "shape": [-1], "data_offsets": [0, 2]}',
        '{"dtype": "F4", "shape": [1], "data_offsets": [2, 0]}',
        '{"dtype": "F4", "shape": [%s], "data_offsets": [0, 2]}' % ("9" * 400),
    ],
)
def test_an_entry_that_lies_is_one_error(tmp_path: Path, entry: str) -> None:
    path = save_raw(tmp_path / "a.safetensors", b'{"w": %s}' % entry.encode(), b"12")
    with pytest.raises(ValueError, match=r"a\.safetensors(: tensor 'w'| is not)"):
        inspect(path)


def test_damaged_headers_are_listed_or_one_error(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = save(tmp_path / "a.safetensors", {"a.w": np.ones(3), "b": np.ones((2, 2))})
    content = path.read_bytes()
    errors = []
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(8, len(content) - 56, rng.integers(1, 4)):
            damaged[place] = rng.integers(32, 127)
        path.write_bytes(damaged)
        try:
            found = inspect(path)
        except ValueError as error:
            errors.append(str(error))
        else:
            assert found.tree.nbytes <= len(content)
    assert 0 < len(errors) < 300
    assert all(message.startswith(str(path)) for message in errors)
