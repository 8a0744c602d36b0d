"""What must not be averaged is refused by its name."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_safetensors

from ensembles.checkpoints import average, convert, diff, plan
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
def test_quantized_weights_are_refused_by_their_tensors(
    tmp_path: Path, tensors: dict[str, Any], what: str
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(ValueError, match=rf"quantized weights \(.*{what}.*convert it"):
        plan([path, path])


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "gptq", "awq", "mxfp4"])
def test_quantized_weights_are_refused_by_their_config(
    tmp_path: Path, method: str
) -> None:
    config = {"quantization_config": {"quant_method": method}}
    path = model(tmp_path, {"w": np.ones(3, np.float32)}, config)
    with pytest.raises(ValueError, match=rf"config\.json has '{method}'"):
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
    with pytest.raises(ValueError, match=r"quantized weights \(.*(blocks|W_q)"):
        plan([path, path])


@pytest.mark.parametrize("name", ["attention.W_q", "res_blocks"])
def test_floats_of_such_names_are_averaged(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.safetensors", {name: SCALE, "res_scales": SCALE})
    assert name in average([path, path])


DOWN, UP = np.ones((4, 8), np.float32), np.ones((16, 4), np.float32)
ALPHA = np.array(4.0, np.float32)
I32, U8 = np.ones((4, 4), np.int32), np.ones((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["u.lora_down.weight", "u.lora_up.weight", "u.alpha"], "LoRA"),
        (["u.lora_down.weight", "u.lora_up.weight", "u.lora_mid.weight"], "LoRA"),
        (["u.lora.down.weight", "u.lora.up.weight"], "LoRA"),
        (["to_q_lora.down.weight", "to_q_lora.up.weight"], "LoRA"),
        (["b.0.qkv_lora1.down.weight", "b.0.qkv_lora1.up.weight"], "LoRA"),
        (["q.lora_linear_layer.down.weight", "q.lora_linear_layer.up.weight"], "LoRA"),
        (["q.lora_a", "q.lora_b"], "LoRA"),
        (["q.lora_a.weight", "q.lora_b.weight", "q.magnitude"], "LoRA"),
        (["q.lora_kernel_a", "q.lora_kernel_b"], "LoRA"),
        (["blk.0.q.weight.loraA", "blk.0.q.weight.loraB"], "LoRA"),
        (["q.adapter.linear_in.weight", "q.adapter.linear_out.weight"], "LoRA"),
        (["lora_kqv_adapter.linear_in.weight", "x"], "LoRA"),
        (["unet:0:down", "unet:0:up"], "LoRA"),  # cloneofsimo/lora#187
        (["transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"], "PEFT"),
        (["lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a"], "LoHa"),
        (["q.mindpet_delta_lora_a", "q.mindpet_delta_lora_b"], "LoRA"),
        (["b.1.down", "b.1.up", "lora_controlnet"], "LoRA"),
        (["l.linear_qkv.adapter_q.linear_in.weight", "x"], "LoRA"),
        (["a.adapter_down.0.phm_rule", "a.adapter_down.0.W_left"], "Compacter"),
        (["u.hada_w1_a", "u.hada_w1_b", "u.alpha"], "LoHa"),
        (["base_model.model.q.hada_w2_a", "x"], "LoHa"),
        (["u.lokr_w1", "u.lokr_w2_a"], "LoKr"),
        (["u.oft_blocks", "u.alpha"], "OFT"),
        (["base_model.model.q.oft_R.weight", "x"], "OFT"),
        (["q.boft_R", "q.boft_s"], "BOFT"),
        (["q.vera_lambda_b", "q.vera_lambda_d"], "VeRA"),
        (["q.vblora_logits_A", "vblora_vector_bank"], "VB-LoRA"),
        (["q.fourierft_spectrum", "x"], "FourierFT"),
        (["q.hra_u", "x"], "HRA"),
        (["q.randlora_lambda", "q.randlora_gamma"], "RandLoRA"),
        (["q.road_theta", "q.road_alpha"], "RoAd"),
        (["q.gralora_A_general.weight", "x"], "GraLoRA"),
        (["q.lora_B0.weight", "q.lora_B1.weight"], "PEFT"),
        (["u.a1.weight", "u.a2.weight", "u.alpha"], "low-rank"),
        (["u.q_layer.weight", "u.p_layer.weight", "u.alpha"], "low-rank"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_every_public_family_of_adapters_is_refused(
    tmp_path: Path, names: list[str], family: str
) -> None:
    tensors = dict(zip(names, (DOWN, UP, ALPHA), strict=False))
    path = save(tmp_path / "a.safetensors", tensors)
    message = rf"a\.safetensors is a {family} adapter \(tensor .*merge each adapter"
    with pytest.raises(ValueError, match=message):
        plan([path, path])


@pytest.mark.parametrize(
    "tensors",
    [
        {"base_model.model.k.ia3_l": DOWN[:, :1], "base_model.model.d.ia3_l": DOWN},
        {"prompt_embeddings": DOWN},
        {"base_model.model.q.c3a_kernel": DOWN},
        {"w_lora.lora.0.weight": DOWN, "w_lora.lora.2.weight": UP, "w_lora.bias": DOWN},
        {"emb.weight": UP, "head.weight": UP, "u.alpha": ALPHA}
        | {"u.fc1.weight": DOWN, "u.fc2.weight": UP},
        {
            "adapter.down.weight": DOWN,
            "adapter.up.weight": UP,
            "adapter.up.bias": ALPHA,
        },
        {"u.diff": DOWN, "u.diff_b": DOWN[0]},
        {"mamba.linear_fc1_lora_A_list.0.weight": DOWN, "flora_a": UP},
        {"u.q.weight": UP @ UP.T, "u.o.weight": UP @ UP.T, "u.alpha": ALPHA},
        {"attn.q_a_proj.weight": DOWN, "attn.q_b_proj.weight": UP, "x.alpha": ALPHA},
    ],
    ids=[
        *("ia3", "prompt", "c3a", "rwkv", "gate", "bottleneck", "full difference"),
        *("zamba", "full rank", "latent attention"),
    ],
)
def test_updates_that_are_linear_in_what_is_stored_are_averaged(
    tmp_path: Path, tensors: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    assert average([path, path]).keys() == tensors.keys()


@pytest.mark.parametrize(
    "tensors",
    [
        {"b.weight": F8, "b.scale_weight": SCALE, "b.scale_input": SCALE},
        {"scaled_fp8": F8[:0, 0], "b.weight": F8},
        {"b.weight": F8, "b.weight_scale": np.ones((4, 1), np.uint8)},
        {"b.weight": np.ones((4, 4), np.uint8), "b.comfy_quant": U8[0]},
        {"q.weight": I32, "q.scales": SCALE, "q.biases": SCALE},
        {"q.weight._data": U8.view(np.int8), "q.weight._scale": SCALE},
        {"q.weight:_data": U8.view(np.int8), "q.weight:_scale": SCALE},
        {"q._weight_qdata": U8.view(np.int8), "q._weight_scale": SCALE},
        {"q.codes": U8.view(np.int8), "q.codebooks": SCALE, "q.scales": SCALE},
        {"q.indices": I32, "q.centroids.weight": SCALE},
        {"q.weight": U8, "q.weight_scales": SCALE},
        {"q.weight_int8": U8.view(np.int8), "q.weight_zero_point": SCALE},
        {"q_w.kernel_quantized": U8, "q_w.kernel_scale": SCALE},
        {"q.Qidxs": I32, "q.SU": SCALE},
        {"q.trellis": I32, "q.suh": SCALE},
        {"q.in_proj_weight": U8, "q.in_proj_weight_absmax": SCALE},
        {"q.q_weight": I32, "q.q_scale": I32},
        {"q._packed_params._packed_params": U8},
        {"q.weight._data._data": U8, "q.weight._scale": SCALE, "q.weight._shift": F8},
        {"l.0.q_weight": SCALE, "l.1.q_weight": I32},
        {"q.B": I32, "q.s": SCALE, "q.workspace": I32[0]},
        {"q.weight_q": U8.view(np.int8), "q.weight_s": SCALE},
        {"q.compressed": SCALE, "q.bitmask": U8},
        {"conv.weight": np.ones((2, 2, 3, 3), np.int8), "conv.step": SCALE},
        {"q.weight": U8.view(np.int8), "q.a": ALPHA, "q.b": ALPHA},
    ],
    ids=lambda tensors: ", ".join(tensors),
)
def test_a_narrow_tensor_beside_its_scale_is_refused(
    tmp_path: Path, tensors: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(ValueError, match=r"has quantized weights \(.*convert it to"):
        plan([path, path], integers="first")


@pytest.mark.parametrize(
    "config",
    [
        {"quantization": {"bits": 4, "group_size": 64}},
        {"text_config": {"quantization_config": {"quant_method": "awq"}}},
        {"compression_config": {"format": "pack-quantized"}},
        {"a_config": {"llm_config": {"quantization_config": {"quant_method": "awq"}}}},
    ],
    ids=["mlx", "text_config", "compressed-tensors", "nested"],
)
def test_quantization_is_read_from_any_key_of_the_config(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"quantized weights \(config\.json has"):
        plan([model(tmp_path, {"w": SCALE}, config)])


@pytest.mark.parametrize(
    "tensors",
    [
        {"emb.position_ids": np.arange(4)[None], "emb.scale": SCALE},
        {"bn.num_batches_tracked": np.array(3), "bn.scale": SCALE},
        {"attn.bias": U8, "attn.masked_bias": SCALE, "attn.logit_scale": SCALE},
        {"attn.relative_position_index": I32, "attn.logit_scale": SCALE},
        {"norm.weight": F8, "norm.scale": F8},
        {"blk.weight": F8, "blk.norm.scale": SCALE, "logit_scale": ALPHA},
        {"fq.fake_quant_enabled": np.ones(1, np.uint8), "fq.scale": SCALE},
        {"q.weight_quantizer._amax": SCALE, "q.weight": SCALE},
        {"text.token_counts": np.ones((4, 4), np.int32), "text.token_scale": SCALE},
        {"attn._extra_state": U8[0, :0], "attn.weight": SCALE},
        {"attn._extra_state": U8[0], "attn.weight": SCALE},
        {"blk.weight": F8, "blk.scale_shift_table": SCALE, "blk.layer_scale": SCALE},
        {"attn.weight": F8, "attn.attn_scale": SCALE, "attn.logit_scale": SCALE},
        {"token.codes": np.ones((4, 4), np.int64), "token.scale": SCALE},
        {"vocabulary.idx": np.arange(8, dtype=np.int32), "vocabulary.scale": SCALE},
        {"mamba.B": SCALE, "mamba.A": SCALE, "conv.weight_mask": U8},
    ],
    ids=lambda tensors: ", ".join(tensors),
)
def test_integers_beside_a_scale_of_something_else_are_averaged(
    tmp_path: Path, tensors: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    assert average([path, path]).keys() == tensors.keys()


def test_an_empty_quantization_config_says_nothing(tmp_path: Path) -> None:
    config: dict[str, Any] = {"quantization_config": None, "quantization": {}}
    assert average([model(tmp_path, {"w": SCALE}, config)]).keys() == {"w"}


EMPTY = np.ones(0, np.float32)


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": EMPTY},
        {"a.weight": EMPTY, "a.bias": EMPTY},
        {"emb": SCALE, "a.weight": EMPTY, "b.weight": SCALE, "c.weight": SCALE},
        {"gamma": EMPTY, "beta": EMPTY, "a.weight": SCALE},
        {"a.bias": EMPTY, "a.weight": SCALE, "b": SCALE},
        {"attn.in_proj_weight": EMPTY, "b": SCALE, "c": SCALE},
        # sediment1024/PhysRAG#3
        {"seq_proj.weight": EMPTY, "seq_proj.bias": SCALE, "b": SCALE, "alpha": ALPHA},
        # deepspeedai/DeepSpeed#1394: of one element each
        {f"layers.{i}.fc.{n}": SCALE[0] for i in range(4) for n in ("weight", "bias")},
    ],
    ids=lambda tensors: ", ".join(tensors),
)
def test_placeholders_of_a_sharded_run_are_refused(
    tmp_path: Path, tensors: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    message = r"placeholders of size [01] .*zero_to_fp32\.py"
    with pytest.raises(ValueError, match=message):
        plan([path, path])


@pytest.mark.parametrize("n_full", [0, 9])
def test_placeholders_of_a_deepspeed_file_are_refused(
    tmp_path: Path, n_full: int
) -> None:
    import torch

    path = tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    module = {"w": torch.empty(0), "b": torch.empty(0)}
    module |= {f"full{i}": torch.ones(3) for i in range(n_full)}
    shapes = [{"w": torch.Size([4, 4]), "b": torch.Size([4])}]
    torch.save({"module": module, "param_shapes": shapes, "ds_version": "0.1"}, path)
    with pytest.raises(ValueError, match=r"placeholders .*zero_to_fp32\.py"):
        plan([path, path])


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": SCALE, "cache": EMPTY},
        {"fc.weight": np.ones((0, 3), np.float32), "fc.bias": EMPTY, "w": SCALE},
        {"emb.weight": np.ones((0, 3), np.float32), "w": SCALE},
        {"mask": np.ones(0, np.int64), "weight": SCALE},
        {f"act{i}.weight": SCALE[0] for i in range(9)}
        | {f"fc{i}.weight": SCALE for i in range(9)},
    ],
    ids=lambda tensors: ", ".join(tensors),
)
def test_buffers_that_are_empty_in_every_member_are_kept(
    tmp_path: Path, tensors: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    assert average([path, path]).keys() == tensors.keys()


def test_an_empty_tensor_that_may_be_a_buffer_is_noted(tmp_path: Path) -> None:
    tensors = {"a": SCALE, "b": EMPTY, "c": SCALE, "mask": np.ones(0, np.int64)}
    path = save(tmp_path / "a.safetensors", tensors | {"none": SCALE[:0]})
    (note,) = plan([path]).notes
    assert note.startswith(f"{path}: tensor 'b' of size 0: an empty buffer, or a")


def test_names_of_any_length_are_looked_at_in_linear_time(tmp_path: Path) -> None:
    names = [part * 30_000 for part in ("a_", "lora_", "_", ".", "q.weight_")]
    tensors = {name: np.ones((1, 2), np.uint8) for name in names}
    path = save(tmp_path / "a.safetensors", tensors | {"w": SCALE})
    start = time.process_time()
    plan([path])
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "name", ["_fsdp_wrapped_module._flat_param", "flat_param_0", "layers.0.flat_param"]
)
def test_a_rank_of_fsdp_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.safetensors", {name: np.ones(9, np.float32)})
    with pytest.raises(ValueError, match=r"one rank's shard .*FULL_STATE_DICT"):
        plan([path])


def test_one_of_several_tensor_parallel_ranks_is_refused(tmp_path: Path) -> None:
    content = {"module": {"w": torch.ones(2)}, "mp_world_size": 1}
    names = ("mp_rank_00_model_states.pt", "mp_rank_00/model_optim_rng.pt")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(content, tmp_path / name)
        assert [t.name for t in plan([tmp_path / name]).targets] == ["w"]
    for name in names:
        other = tmp_path / name.replace("rank_00", "rank_01")
        other.parent.mkdir(exist_ok=True)
        torch.save(content, other)
        with pytest.raises(
            ValueError, match=r"mp_rank_01.* beside it.*ds_to_universal"
        ):
            plan([tmp_path / name])


def test_a_file_of_one_rank_that_was_copied_alone_is_refused(tmp_path: Path) -> None:
    content = {"module": {"w": torch.ones(2)}, "mp_world_size": 2}
    torch.save(content, tmp_path / "mp_rank_00_model_states.pt")
    for path in (tmp_path, tmp_path / "mp_rank_00_model_states.pt"):
        with pytest.raises(ValueError, match="has one of 2 parts of a model"):
            plan([path])


@pytest.mark.parametrize("name", ["last-model_part-{}.pt", "last-shard{}.pt"])
def test_one_of_several_parts_of_a_model_is_refused(tmp_path: Path, name: str) -> None:
    """As fairseq saves them; both would be averaged if their shapes agree."""
    paths = [tmp_path / name.format(index) for index in range(2)]
    torch.save({"model": {"w": torch.ones(2)}}, paths[0])
    assert len(plan(paths[:1]).targets) == 1
    torch.save({"model": {"w": torch.zeros(2)}}, paths[1])
    torch.save({"model": {"w": torch.zeros(2)}}, tmp_path / "other-shard1.pt")
    with pytest.raises(ValueError, match=rf"one part of a model: {paths[1].name} bes"):
        plan(paths)


def test_a_safetensors_file_with_the_chunks_of_a_rank_is_refused(
    tmp_path: Path,
) -> None:
    name = "shard-00001-model-00001-of-00001.safetensors"
    save(tmp_path / name, {"w": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match=r"one rank's chunks.*consolidate_safetensors"):
        plan([tmp_path / name])


def test_tensors_that_cannot_be_averaged_can_be_excluded(tmp_path: Path) -> None:
    """Rotary frequencies are complex; other tensors are sparse or quantized."""
    state = {"w": torch.ones(2), "freqs_cis": torch.ones(3, dtype=torch.complex64)}
    sparse = {"s": torch.eye(2).to_sparse()}
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        torch.save({"model": {**state, **sparse}, "step": 3}, path)
    with pytest.raises(ValueError, match=r"complex64.*--exclude freq.*1 more.*'s'"):
        plan(paths)
    with pytest.raises(ValueError, match="is sparse"):
        plan(paths, exclude=["freqs*"])
    for function in (diff, convert):
        with pytest.raises(ValueError, match="has dtype complex64, which cannot be"):
            function(paths[0], tmp_path / "b.pt")
    planned = plan(paths, tmp_path / "out.pt", exclude=["freqs*", "s"])
    assert "tensor 'freqs_cis' is left out" in "\n".join(planned.notes)
    assert "matches no tensor" not in "\n".join(planned.notes)
    average(paths, tmp_path / "out.pt", exclude=["freqs*", "s"])
    assert [*torch.load(tmp_path / "out.pt")] == ["w"]


def test_unknown_dtypes_of_safetensors_files_can_be_excluded(tmp_path: Path) -> None:
    save_safetensors(
        {"w": torch.ones(2), "c": torch.ones(3, dtype=torch.complex64)},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(ValueError, match=r"'c' has dtype C64.*--exclude c"):
        plan([tmp_path / "a.safetensors"])
    assert [*average([tmp_path / "a.safetensors"], exclude=["c"])] == ["w"]
