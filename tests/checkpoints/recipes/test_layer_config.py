"""Configurations of stacked layers, as transformers reads them."""

import re
from typing import Any

import pytest

from ensembles.checkpoints.recipes.layer_config import (
    LayerOrigin,
    part_of,
    rewritten,
)


def stack(config: dict[str, Any], numbers: list[int], n_layers: int = 4) -> Any:
    origins = [LayerOrigin("a", config, number) for number in numbers]
    return rewritten(config, "model.layers", n_layers, origins)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"layer_types": list("wxyz")}, {"layer_types": list("yzwy")}),
        ({"num_key_value_heads": [1, 2, 3, 4]}, {"num_key_value_heads": [3, 4, 1, 3]}),
        ({"hybrid_override_pattern": "M*M-"}, {"hybrid_override_pattern": "M-MM"}),
        ({"mlp_only_layers": [0, 3]}, {"mlp_only_layers": [1, 2]}),
        ({"eos_token_id": [1, 2, 3, 4]}, {"eos_token_id": [1, 2, 3, 4]}),
        ({"architectures": ["A"] * 4}, {"architectures": ["A"] * 4}),
        (
            {"sliding_window_pattern": 2, "model_type": "gemma2"},
            {
                "sliding_window_pattern": 2,
                "model_type": "gemma2",
                "layer_types": [
                    "sliding_attention",
                    "full_attention",
                    "sliding_attention",
                    "sliding_attention",
                ],
            },
        ),
        (
            {"use_sliding_window": True, "max_window_layers": 3},
            {
                "use_sliding_window": True,
                "max_window_layers": 3,
                "layer_types": [
                    "full_attention",
                    "sliding_attention",
                    "full_attention",
                    "full_attention",
                ],
            },
        ),
    ],
)
def test_entries_of_layers_follow_their_layers(
    entries: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = {"num_hidden_layers": 4} | entries
    made = stack(config, [2, 3, 0, 2])
    assert made.config == {"num_hidden_layers": 4} | expected
    assert not made.problems
    assert bool(made.notes) is (made.config != config)


@pytest.mark.parametrize(
    ("entries", "numbers", "part"),
    [
        (
            {"decoder_sparse_step": 2},
            [0, 1, 1],
            "layer 2 of the result is layer 1 of a",
        ),
        ({"first_k_dense_replace": 1}, [0, 0, 1], "layer 1 of the result is layer 0"),
        ({"moe_layer_freq": 2}, [0, 1, 3], "has not experts by moe_layer_freq=2"),
        ({"full_attention_interval": 4}, [0, 3], "has full_attention by full_att"),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            [1],
            "scales a layer by its number",
        ),
        ({"num_hidden_layers": 5}, [1], "that is 4.*'num_hidden_layers': 5"),
        ({"num_hidden_layers": None}, [1], "that is 4.*found none"),
    ],
)
def test_layers_that_no_entry_describes_are_refused(
    entries: dict[str, Any], numbers: list[int], part: str
) -> None:
    config = {"num_hidden_layers": 4} | entries
    (problem,) = stack(config, numbers).problems
    assert re.search(part, problem)


def test_periodic_layers_may_be_repeated_by_whole_periods() -> None:
    config = {"num_hidden_layers": 4, "decoder_sparse_step": 2}
    assert not stack(config, [0, 1, 2, 3, 2, 3]).problems


@pytest.mark.parametrize(
    ("config", "name", "path"),
    [
        ({"n_layer": 2}, "transformer.h", "n_layer"),
        ({"num_layers": 2, "num_decoder_layers": 2}, "decoder.block", "num_decoder_"),
        (
            {"num_layers": 2, "num_decoder_layers": 2, "is_encoder_decoder": True},
            "encoder.block",
            "num_layers",
        ),
        (
            {"encoder_layers": 2, "decoder_layers": 2},
            "model.encoder.layers",
            "encoder_layers",
        ),
        (
            {
                "text_config": {"num_hidden_layers": 2},
                "vision_config": {"num_hidden_layers": 2},
            },
            "model.language_model.layers",
            "text_config.num_hidden_layers",
        ),
        (
            {"text_config": {"num_hidden_layers": 2}, "vision_config": {"depth": 2}},
            "model.visual.blocks",
            "vision_config.depth",
        ),
    ],
)
def test_the_number_of_layers_is_that_of_the_part(
    config: dict[str, Any], name: str, path: str
) -> None:
    (keys,) = part_of(config, name, 2)
    assert ".".join(keys).startswith(path)
