"""Directories as libraries and trainers write them: nothing is lost without a word."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.building import load, save

ONE = {"w": np.ones((2, 2), np.float32), "v": np.ones(3, np.float32)}
TWO = {name: value + 2 for name, value in ONE.items()}
MEAN = {name: value + 1 for name, value in ONE.items()}
HEAD = {"weight": np.ones((1, 2), np.float32), "bias": np.ones(1, np.float32)}


def torch_file(path: Path, tensors: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    return path


def two(folder: Path, build: Callable[[Path, float], Any]) -> list[Path]:
    """Two members, the second one's numbers larger by two."""
    for name, add in (("a", 0.0), ("b", 2.0)):
        save(folder / name / "model.safetensors", {k: v + add for k, v in ONE.items()})
        build(folder / name, add)
    return [folder / "a", folder / "b"]


def notes_of(paths: list[Path], out: Path) -> str:
    return "\n".join(plan(paths, out).notes)


@pytest.mark.parametrize(
    "name",
    ["sparse_linear.pt", "colbert_linear.pt", "mm_projector.bin", "value_head.bin"],
)
def test_a_head_in_a_file_of_torch_is_averaged_under_its_name(
    tmp_path: Path, name: str
) -> None:
    def build(folder: Path, add: float) -> None:
        torch_file(folder / name, {k: v + np.float32(add) for k, v in HEAD.items()})

    average(two(tmp_path, build), tmp_path / "out")
    state = torch.load(tmp_path / "out" / name, weights_only=True)
    assert {k: v.unique().tolist() for k, v in state.items()} == {
        "weight": [2.0],
        "bias": [2.0],
    }
    assert load(tmp_path / "out/model.safetensors").keys() == ONE.keys()


@pytest.mark.parametrize("name", ["value_head", "multimodal_projector", "2_head"])
def test_a_head_in_a_file_of_safetensors_is_averaged_under_its_name(
    tmp_path: Path, name: str
) -> None:
    def build(folder: Path, add: float) -> None:
        tensors = {k: v + np.float32(add) for k, v in HEAD.items()}
        save(folder / f"{name}.safetensors", tensors)

    paths = two(tmp_path, build)
    average(paths, tmp_path / "out", shard_size=20)
    found = load(tmp_path / f"out/{name}.safetensors")
    assert {k: v.tolist() for k, v in found.items()} == {
        "weight": [[2, 2]],
        "bias": [2],
    }
    assert set(average(paths)) == {*ONE, f"{name}/weight", f"{name}/bias"}
    assert average([tmp_path / "out"]).keys() == average(paths).keys()


def test_a_head_keeps_the_keys_and_values_around_its_tensors(tmp_path: Path) -> None:
    def build(folder: Path, add: float) -> None:
        tensor = torch.full((3,), add)
        torch.save({"weight": tensor, "dim": 5, "none": None}, folder / "flat.bin")
        nested = {"state_dict": {"module.w": tensor}, "cfg": {"sizes": [1, 2]}}
        torch.save(nested, folder / "head.pt")
        torch.save({"a": tensor, "b": tensor}, folder / "tied.pth")

    paths = two(tmp_path, build)
    average(paths, tmp_path / "out")

    def written(name: str, out: str = "out") -> Any:
        return torch.load(tmp_path / out / name, weights_only=True)

    one = torch.ones(3)
    flat, head, tied = map(written, ("flat.bin", "head.pt", "tied.pth"))
    assert torch.equal(flat.pop("weight"), one)
    assert flat == {"dim": 5, "none": None}
    assert torch.equal(head["state_dict"].pop("module.w"), one)
    assert head == {"state_dict": {}, "cfg": {"sizes": [1, 2]}}
    assert [torch.equal(tied[name], one) for name in ("a", "b")] == [True, True]
    average(paths, tmp_path / "half", dtype="float16", exclude=["tied/a"])
    assert written("flat.bin", "half")["weight"].dtype == torch.float16
    assert written("tied.pth", "half").keys() == {"b"}


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"unet.q.lora_A.weight": ONE["w"]}, "a PEFT adapter"),
        ({"q.qweight": np.ones((2, 2), np.int32)}, "quantized weights"),
    ],
)
def test_a_further_file_without_a_mean_is_left_and_named(
    tmp_path: Path, tensors: dict[str, Any], why: str
) -> None:
    def build(folder: Path, add: float) -> None:
        save(folder / "more.safetensors", tensors)

    paths = two(tmp_path, build)
    assert f"not in the result: more.safetensors ({why})" in notes_of(
        paths, tmp_path / "out"
    )
    assert average(paths).keys() == ONE.keys()


def test_a_head_that_one_member_lacks_is_told(tmp_path: Path) -> None:
    paths = two(tmp_path, lambda folder, add: None)
    torch_file(paths[1] / "value_head.bin", HEAD)
    with pytest.raises(ValueError, match=r"'value_head/weight': .*b has it, .*a lacks"):
        plan(paths, tmp_path / "out")


def test_a_router_is_averaged_with_all_its_routes(tmp_path: Path) -> None:
    routes = ["query_0_StaticEmbedding", "document_0_Transformer"]

    def build(folder: Path, add: float) -> None:
        (folder / "model.safetensors").unlink()
        config = {"types": dict.fromkeys(routes, "x"), "structure": {}}
        (folder / "router_config.json").write_text(json.dumps(config))
        (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Dense"}]')
        for name in [*routes, "1_Dense"]:
            tensors = {k: v + np.float32(add) for k, v in ONE.items()}
            save(folder / name / "model.safetensors", tensors)
            (folder / name / "config.json").write_text("{}")

    paths = two(tmp_path, build)
    average(paths, tmp_path / "out")
    for name in [*routes, "1_Dense"]:
        found = load(tmp_path / "out" / name / "model.safetensors")
        assert found["w"].tolist() == MEAN["w"].tolist()
        assert (tmp_path / "out" / name / "config.json").exists()
    (paths[0] / "modules.json").unlink()  # a router alone
    (paths[1] / "modules.json").unlink()
    assert len(average(paths)) == 4


def test_a_router_in_a_router_is_averaged(tmp_path: Path) -> None:
    for number in (0, 1):
        folder = tmp_path / f"m{number}/0_Router"
        save(folder / "q_0_Router/d_0_Dense/model.safetensors", ONE)
        for place, route in (
            (folder, "q_0_Router"),
            (folder / "q_0_Router", "d_0_Dense"),
        ):
            config = {"types": {route: "x"}}
            (place / "router_config.json").write_text(json.dumps(config))
        (folder.parent / "modules.json").write_text('[{"path": "0_Router"}]')
    paths = [tmp_path / "m0", tmp_path / "m1"]
    assert set(average(paths)) == {f"0_Router/q_0_Router/d_0_Dense/{n}" for n in ONE}
    average(paths, tmp_path / "out")
    place = tmp_path / "out/0_Router/q_0_Router/d_0_Dense/model.safetensors"
    assert load(place).keys() == ONE.keys()


def test_a_router_that_leaves_its_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "router_config.json").write_text('{"types": {"../x": "y"}}')
    with pytest.raises(
        ValueError, match=r"router_config\.json must name folders of its own directory"
    ):
        plan([tmp_path])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.fp16.safetensors", None),
        ("pytorch_model.bin", None),
        ("consolidated.safetensors", None),
        ("consolidated.00.pth", b"PK"),
        ("tf_model.h5", b"\x89HDF"),
        ("flax_model.msgpack", b"x"),
        ("model.onnx", b"x"),
        ("open_clip_pytorch_model.bin", b"x"),
        ("ema.safetensors", None),
    ],
)
def test_other_copies_of_the_weights_are_named_and_left(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    def build(folder: Path, add: float) -> None:
        if content is not None:
            (folder / name).write_bytes(content)
        elif name.endswith(".bin"):
            torch_file(folder / name, ONE)
        else:
            save(folder / name, ONE)

    paths = two(tmp_path, build)
    notes = notes_of(paths, tmp_path / "out")
    assert (
        f"took model.safetensors; left out further copies or variants: {name}" in notes
    )
    average(paths, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]
    assert load(tmp_path / "out/model.safetensors")["v"].tolist() == [2, 2, 2]


def test_folders_of_copies_and_of_other_weights_are_named(tmp_path: Path) -> None:
    def build(folder: Path, add: float) -> None:
        save(folder / "onnx/model.safetensors", ONE)
        save(folder / "speech_tokenizer/model.safetensors", ONE)
        save(folder / "checkpoint-500/model.safetensors", ONE)

    notes = notes_of(two(tmp_path, build), tmp_path / "out")
    assert "copies or variants: onnx/" in notes
    assert "not in the result: speech_tokenizer/ (a folder with weight files)" in notes
    assert "checkpoint-500" not in notes


def test_states_of_trainers_are_left_out_with_one_note(tmp_path: Path) -> None:
    names = [
        *(
            "optimizer.pt",
            "optimizer.bin",
            "scheduler.pt",
            "scaler.pt",
            "rng_state.pth",
        ),
        *("training_args.bin", "random_states_0.pkl", "rng_state_0.pth", "optim.pt"),
        *("trainer_state.json", "zero_to_fp32.py", "latest", "eval_results.json"),
        *("all_results.json", "events.out.tfevents.17.host", "train.log"),
        *("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "dl_state_dict.bin"),
    ]

    def build(folder: Path, add: float) -> None:
        for name in names:
            (folder / name).write_bytes(b"x")

    paths = two(tmp_path, build)
    (note,) = plan(paths, tmp_path / "out").notes
    assert "out leaves out the training state of" in note
    average(paths, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]


def test_small_files_in_folders_are_carried_over(tmp_path: Path) -> None:
    def build(folder: Path, add: float) -> None:
        for name in ("sub/deep/code.py", "assets/mel.json", "runs/events", "vocab.bin"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("x")
        np.savez(folder / "dict.npz", mean=np.ones(2))

    paths = two(tmp_path, build)
    assert "dict.npz is copied from the first member" in notes_of(paths, tmp_path / "o")
    average(paths, tmp_path / "out")
    found = {
        str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")
    }
    assert found == {
        *("model.safetensors", "sub", "sub/deep", "sub/deep/code.py", "assets"),
        *("assets/mel.json", "vocab.bin", "dict.npz"),
    }
    average(paths, tmp_path / "out", force=True)  # its folders are no foreign ones


@pytest.mark.parametrize(
    "name",
    [
        *("trainer.py", "optim.py", "scheduler_config.json", "sampler.json"),
        *("scaler.pkl", "assets_24/x.txt", "voices-12/v.json", "2/lexicon.txt"),
        "step_tokenizer/x.json",
    ],
)
def test_what_only_looks_like_a_state_of_training_is_carried_over(
    tmp_path: Path, name: str
) -> None:
    def build(folder: Path, add: float) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
        for step in ("checkpoint-10", "run_20", "3"):
            save(folder / step / "model.safetensors", ONE)

    paths = two(tmp_path, build)
    assert "not in the result" not in notes_of(paths, tmp_path / "out")
    average(paths, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        Path(name).parts[0],
    }


def test_a_file_of_voices_is_averaged_or_named(tmp_path: Path) -> None:
    def build(folder: Path, add: float) -> None:
        torch_file(folder / "voices.pth", {"anna": np.full(4, add, np.float32)})
        speakers = {"anna": {"latent": torch.ones(2), "rate": 3}}
        torch.save({"a": speakers, "b": speakers}, folder / "speakers.pt")

    paths = two(tmp_path, build)
    assert "speakers.pt is copied from the first member" in notes_of(
        paths, tmp_path / "o"
    )
    average(paths, tmp_path / "out")
    voices = torch.load(tmp_path / "out/voices.pth", weights_only=True)
    assert voices["anna"].tolist() == [1, 1, 1, 1]
    assert (tmp_path / "out/speakers.pt").exists()


def test_a_link_that_leaves_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")

    def build(folder: Path, add: float) -> None:
        (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
        (folder / "kept.txt").write_text("x")
        (folder / "link.txt").symlink_to(folder / "kept.txt")
        (folder / "sub").symlink_to(tmp_path)

    paths = two(tmp_path, build)
    notes = notes_of(paths, tmp_path / "o")
    assert "notes.txt (a link out of the directory), sub/ (a link" in notes
    average(paths, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        *("kept.txt", "link.txt", "model.safetensors")
    ]


def test_links_within_a_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots/abc").mkdir(parents=True)
    save(repository / "blobs/1", ONE)
    (repository / "blobs/2").write_text("{}")
    for name, blob in (("model.safetensors", "1"), ("config.json", "2")):
        (repository / "snapshots/abc" / name).symlink_to(f"../../blobs/{blob}")
    average([repository / "snapshots/abc"], tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors"]
    with pytest.raises(ValueError, match=r"pass its subfolder snapshots/abc instead"):
        plan([repository])


@pytest.mark.parametrize("shard_size", [None, 10**9, 16])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_model_of_diffusers_keeps_its_name(
    tmp_path: Path, suffix: str, shard_size: int | None
) -> None:
    stem = "diffusion_pytorch_model"
    for name in "ab":
        if suffix == "bin":
            torch_file(tmp_path / name / f"{stem}.bin", ONE)
        else:
            save(tmp_path / name / f"{stem}.safetensors", ONE)
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "out", shard_size=shard_size)
    if shard_size == 16:
        names = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
        names += [f"{stem}.safetensors.index.json"]
    else:
        names = [f"{stem}.safetensors"]
    assert sorted(os.listdir(tmp_path / "out")) == names


def test_linear_adapters_of_peft_are_averaged(tmp_path: Path) -> None:
    for name, add in (("a", 0), ("b", 2)):
        tensors = {"base_model.model.k.ia3_l": np.full((4, 1), add, np.float32)}
        save(tmp_path / name / "adapter_model.safetensors", tensors)
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    (value,) = load(tmp_path / "out/adapter_model.safetensors").values()
    assert value.tolist() == [[1]] * 4
    assert sorted(os.listdir(tmp_path / "out")) == [
        *("adapter_config.json", "adapter_model.safetensors")
    ]


@pytest.mark.parametrize("name", ["w", "e"])
def test_a_tied_tensor_of_torch_keeps_every_name(tmp_path: Path, name: str) -> None:
    weight = torch.ones(3, 2)
    for folder in "ab":
        (tmp_path / folder).mkdir()
        tied = {"w": weight, "e": weight, "v": torch.ones(1)}
        torch.save(tied, tmp_path / folder / "pytorch_model.bin")
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    found = load(tmp_path / "out/model.safetensors")
    assert found[name].tolist() == [[1, 1]] * 3
    assert set(found) == {"w", "e", "v"}


@pytest.mark.parametrize(
    ("names", "way"),
    [
        (["__0_0.distcp", ".metadata.tmp"], r"\.distcp: .*without \.metadata"),
        (["__0.metadata", "__0_0.distcp"], r"use_collectives=True"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], r"fsdp_0: .*without \.metadata"),
        (["shard-00001-model-00001-of-00001.safetensors"], "consolidate_safetensors"),
        (["global_step100/mp_rank_00_model_states.pt"], r"DeepSpeed.*zero_to_fp32"),
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "DeepSpeed"),
        (["zero_pp_rank_0_mp_rank_00_model_states.pt"], r"DeepSpeed.*zero_to_fp32"),
        (
            [
                "mp_rank_00_model_states.pt",
                "layer_3_expert_0_mp_rank_00_model_states.pt",
            ],
            r"DeepSpeed.*experts",
        ),
        (["layer_00-model_00-model_states.pt"], r"DeepSpeed.*zero_to_fp32"),
        (["iter_0001000/x", "latest_checkpointed_iteration.txt"], r"a Megatron"),
        (["consolidated.00.pth", "params.json"], r"layout of Llama or Mistral"),
        (["consolidated.safetensors"], r"consolidated\.safetensors: .*pass the file"),
        (["tf_model.h5", "config.json"], r"TensorFlow.*from_tf"),
        (["flax_model.msgpack"], r"JAX.*from_flax"),
        (["model-q4.gguf"], r"pass the file model-q4\.gguf"),
        (["ckpt-1.index", "ckpt-1.data-00000-of-00001"], r"TensorFlow .*numpy\.savez"),
        (["model.weights.h5"], r"TensorFlow weights"),
        (["_METADATA", "manifest.ocdbt", "d/1"], r"JAX weights.*numpy\.savez"),
        (["w/.zarray", ".zgroup"], r"\.zgroup: a Zarr store"),
        (["model.mlpackage/x"], r"graphs for inference"),
        (["weights.npz", "config.json"], r"pass the file weights\.npz"),
        (["model.onnx"], r"graphs for inference"),
        (["onnx/model.onnx", "config.json"], r"onnx: graphs for inference"),
        (["model_state.pdparams"], r"PaddlePaddle weights"),
        (["kokoro-v1.pth", "voices/a.pt"], r"pass the file kokoro-v1\.pth"),
        (["unet/x.safetensors", "vae/x.safetensors"], r"in its folders unet, vae;"),
        (["model-00001-of-00002.safetensors"], r"shards without an index"),
        (["weights.safetensors"], r"pass the file weights\.safetensors"),
        (["model.fp16.safetensors"], r"pass the file model\.fp16\.safetensors"),
        (["config.json"], r"or pytorch_model\.bin, only config\.json"),
        (
            ["step_1.pt", "step_2.pt"],
            r"the last N of them with .*last=N\) \(--last N\)",
        ),
        ([], r"it is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_what_lies_in_a_directory_without_weights_is_said(
    tmp_path: Path, names: list[str], way: str
) -> None:
    (tmp_path / "m").mkdir()
    for name in names:
        (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"m contains no readable weights: .*{way}"):
        plan([tmp_path / "m"])


def test_an_index_with_a_tensor_in_two_places_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.safetensors", ONE)
    index = '{"weight_map": {"w": "x.safetensors", "v": "y", "w": "z"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(
        ValueError, match=r"index\.json contradicts itself: key 'w' occurs twi"
    ):
        plan([tmp_path])


def test_a_configuration_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", ONE)
    (tmp_path / "config.json").write_text('{"n": 1, "n": 2}')
    with pytest.raises(
        ValueError, match=r"config\.json contradicts itself: key 'n' occurs"
    ):
        plan([tmp_path])
    (tmp_path / "config.json").write_text('{"n": 1, "n": 1}')
    assert average([tmp_path]).keys() == ONE.keys()


# Situations of public reports, named in the comments.


def test_pointers_instead_of_files_are_told(tmp_path: Path) -> None:
    # huggingface/diffusers#13559, huggingface/transformers#27923
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"

    def build(folder: Path, add: float) -> None:
        (folder / "tokenizer.json").write_text(pointer)
        (folder / "assets").mkdir()
        (folder / "assets/mel.json").write_text(pointer)

    paths = two(tmp_path, build)
    notes = notes_of(paths, tmp_path / "out")
    assert "tokenizer.json (a git-LFS pointer" in notes
    assert "assets/mel.json (a git-LFS pointer" in notes
    average(paths, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]
    (paths[0] / "model.safetensors").write_text(pointer)
    with pytest.raises(ValueError, match=r"model\.safetensors is a git-LFS pointer"):
        plan(paths, tmp_path / "out")


def test_a_module_without_a_folder_is_no_obstacle(tmp_path: Path) -> None:
    # huggingface/sentence-transformers#3776: the hub keeps no empty folders.
    def build(folder: Path, add: float) -> None:
        modules = '[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]'
        (folder / "modules.json").write_text(modules)
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text("{}")

    paths = two(tmp_path, build)
    (paths[1] / "2_Normalize").mkdir()
    average(paths, tmp_path / "out")
    assert (tmp_path / "out/1_Pooling/config.json").exists()


def test_code_and_vocabulary_of_a_custom_model_are_carried_over(tmp_path: Path) -> None:
    # arcee-ai/mergekit#105: the merged model lacked three files.
    names = ["modeling_qwen.py", "qwen.tiktoken", "cpp_kernels.py", "generation.json"]

    def build(folder: Path, add: float) -> None:
        for name in names:
            (folder / name).write_text("x")

    average(two(tmp_path, build), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*names, "model.safetensors"])


def test_every_tensor_of_several_towers_is_in_the_result(tmp_path: Path) -> None:
    # arcee-ai/mergekit#696: tensors that no table of architectures knew were dropped.
    names = ["model.visual.merger.norm.weight", "model.layers.0.linear_attn.A_log"]
    for name in "ab":
        save(tmp_path / name / "model.safetensors", dict.fromkeys(names, ONE["v"]))
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert set(load(tmp_path / "out/model.safetensors")) == set(names)


def test_an_average_in_memory_of_a_checkpoint_with_an_ema_names_both(
    tmp_path: Path,
) -> None:
    # open-mmlab/mmengine#507: names of the EMA have a prefix, and a count beside.
    state = {"w": torch.ones(2), "v": torch.ones(1)}
    ema = {f"module.{name}": value for name, value in state.items()}
    content = {"state_dict": state, "ema_state_dict": ema | {"steps": torch.tensor(7)}}
    torch.save(content | {"optimizer": {"state": {}}}, tmp_path / "epoch_3.pth")
    (note,) = plan([tmp_path / "epoch_3.pth"]).notes
    assert "'ema_state_dict' is an average of the same tensors" in note


def test_shards_of_torch_of_diffusers_become_safetensors(tmp_path: Path) -> None:
    # huggingface/diffusers#14811: an index of .bin shards is not looked for.
    stem = "diffusion_pytorch_model"
    names = {key: f"{stem}-0000{i}-of-00002.bin" for i, key in enumerate(ONE, 1)}
    for name in "ab":
        for key, file in names.items():
            torch_file(tmp_path / name / file, {key: ONE[key]})
        index = json.dumps({"weight_map": names})
        (tmp_path / name / f"{stem}.bin.index.json").write_text(index)
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        *(f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)),
        f"{stem}.safetensors.index.json",
    ]


def test_a_directory_of_zero_1_and_2_has_the_model_in_one_file(tmp_path: Path) -> None:
    """The states of the optimizer are those of ranks, with names of DeepSpeed."""
    steps = []
    for step in (10, 20):
        folder = tmp_path / f"run/global_step{step}"
        folder.mkdir(parents=True)
        shared = torch.full((2,), float(step))
        module = {"module.a": shared, "module.w": torch.ones(3), "module.b": shared}
        torch.save(
            {"module": module, "lr_scheduler": None, "mp_world_size": 1},
            folder / "mp_rank_00_model_states.pt",
        )
        for rank in range(2):
            name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            torch.save({"optimizer_state_dict": {}}, folder / name)
        steps.append(folder)
    (tmp_path / "run/latest").write_text("global_step20")
    (tmp_path / "run/zero_to_fp32.py").write_text("")
    notes = notes_of(steps, tmp_path / "out")
    assert "read mp_rank_00_model_states.pt; 2 files with the state of the" in notes
    assert "lr_scheduler, mp_world_size of" in notes
    average(steps, tmp_path / "out")
    found = load(tmp_path / "out/model.safetensors")
    assert {name: value.tolist() for name, value in found.items()} == {
        "a": [15, 15],
        "w": [1, 1, 1],
        "b": [15, 15],
    }
    assert [*average(steps)] == ["a", "w", "b"]
    last = choose_checkpoints([str(tmp_path / "run")], last=1)
    assert last.paths == [str(steps[1])]
    with pytest.raises(ValueError, match="pass the directory of a step"):
        plan([tmp_path / "run"])
