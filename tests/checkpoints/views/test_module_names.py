"""Modules of adapters, found among the tensors of a base."""

import pytest

from ensembles.checkpoints.views.module_names import names_in_base

LANGUAGE = [f"model.layers.{i}.mlp.up.weight" for i in range(2)]


@pytest.mark.parametrize("prefix", ["", "model.", "a.b."])
@pytest.mark.parametrize("base_prefix", ["", "model.", "language_model.model."])
def test_prefixes_may_differ(prefix: str, base_prefix: str) -> None:
    modules = [f"{prefix}layers.{i}.mlp.up" for i in range(2)]
    base = [f"{base_prefix}layers.{i}.mlp.up.weight" for i in range(2)]
    assert names_in_base(modules, base) == dict(zip(modules, base, strict=True))


def test_parts_of_a_multimodal_model_have_prefixes_of_their_own() -> None:
    base = ["model.language_model.layers.0.q.weight", "model.visual.blocks.0.q.weight"]
    base += ["lm_head.weight"]
    modules = ["language_model.model.layers.0.q", "visual.blocks.0.q", "lm_head"]
    assert names_in_base(modules, base) == dict(zip(modules, base, strict=True))


def test_the_first_modules_may_be_absent() -> None:
    modules = ["model.new.0", "model.layers.0.mlp.up", "model.layers.1.mlp.up"]
    base = [f"net.{name}" for name in LANGUAGE]
    assert names_in_base(modules, base) == dict(zip(modules[1:], base, strict=True))


def test_modules_that_stand_for_several_tensors_are_left_out() -> None:
    base = [f"{part}.layers.0.q.weight" for part in ("encoder", "decoder")]
    assert names_in_base(["layers.0.q"], base) == {}


def test_tensors_are_found_by_their_whole_name() -> None:
    base = ["h.experts.gate_up_proj", "h.bias"]
    names = ["h.experts.gate_up_proj", "h.bias"]
    assert names_in_base(names, base) == dict(zip(names, base, strict=True))


def test_underscores_of_kohya_stand_for_dots() -> None:
    base = [
        "unet/mid_block.attentions.0.proj_in.weight",
        "text_encoder/text_model.encoder.layers.0.mlp.fc1.weight",
        "text_encoder_2/text_model.encoder.layers.0.mlp.fc1.weight",
    ]
    modules = [
        "lora_unet_mid_block_attentions_0_proj_in",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    ]
    assert names_in_base(modules, base) == dict(zip(modules, base, strict=True))
    assert names_in_base(["lora_te3_text_model_encoder_layers_0_mlp_fc1"], base) == {}
