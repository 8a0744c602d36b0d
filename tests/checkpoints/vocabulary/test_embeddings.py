"""Tensors with a row for each token, by their names and the configuration."""

from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints.directories.open import read_layout
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.vocabulary.embeddings import (
    n_vocabulary_rows,
    resized,
    vocabulary_axes,
)


def model_of(config: dict[str, Any], **shapes: tuple[int, ...]) -> Checkpoint:
    arrays = {
        name.replace("_0_", ".0.").replace("__", "."): np.zeros(shape, np.float32)
        for name, shape in shapes.items()
    }
    model = read_layout(arrays, 0)
    model.config.update(config)
    return model


CASES: dict[str, dict[str, Any]] = {
    "llama": {
        "model__embed_tokens__weight": 0,
        "lm_head__weight": 0,
        "model__norm__weight": (4,),
    },
    "gpt2": {"transformer__wte__weight": 0, "transformer__wpe__weight": (40, 4)},
    "neox": {"gpt_neox__embed_in__weight": 0, "embed_out__weight": 0},
    "bert": {
        "bert__embeddings__word_embeddings__weight": 0,
        "bert__embeddings__position_embeddings__weight": (40, 4),
        "bert__embeddings__token_type_embeddings__weight": (2, 4),
        "bert__embeddings__LayerNorm__weight": (4,),
        "cls__predictions__bias": -1,
        "cls__predictions__decoder__weight": 0,
        "cls__predictions__decoder__bias": -1,
        "cls__predictions__transform__dense__weight": (4, 4),
    },
    "roberta": {
        "roberta__embeddings__word_embeddings__weight": 0,
        "lm_head__bias": -1,
        "lm_head__decoder__weight": 0,
        "lm_head__dense__weight": (4, 4),
    },
    "t5": {"shared__weight": 0, "encoder__embed_tokens__weight": 0},
    "bart": {"model__shared__weight": 0, "final_logits_bias": -2},
    "mamba": {"backbone__embeddings__weight": 0, "lm_head__weight": 0},
    "internlm": {"model__tok_embeddings__weight": 0, "output__weight": 0},
    "layers": {"wte__weight": 0, "h_0_attn__out_proj__weight": (30, 4)},
}


@pytest.mark.parametrize("name", CASES)
def test_vocabulary_axes_of_common_models(name: str) -> None:
    forms = {0: (30, 4), -1: (30,), -2: (1, 30)}
    shapes = {n: forms.get(s, s) for n, s in CASES[name].items()}
    axes = vocabulary_axes(model_of({"vocab_size": 30}, **shapes), 28)
    expected = {
        n.replace("__", "."): int(s == -2)
        for n, s in CASES[name].items()
        if isinstance(s, int)
    }
    assert axes == expected


def test_the_configuration_of_the_text_model_has_the_size() -> None:
    config = {"text_config": {"vocab_size": 30}, "vision_config": {"vocab_size": 5}}
    assert n_vocabulary_rows(model_of(config, wte__weight=(30, 4)), 10) == 30
    assert resized(config, 31)["text_config"] == {"vocab_size": 31}
    assert resized(config, 31)["vision_config"] == {"vocab_size": 5}


def test_without_a_configuration_the_embeddings_have_the_size() -> None:
    assert n_vocabulary_rows(model_of({}, wte__weight=(30, 4)), 10) == 30
    with pytest.raises(ValueError, match="embeddings with 30, 31 rows"):
        n_vocabulary_rows(model_of({}, a_emb=(30, 4), b_emb=(31, 4)), 10)


def test_embeddings_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"embeddings with 29 rows.*wte.weight \(30"):
        vocabulary_axes(model_of({"vocab_size": 29}, wte__weight=(30, 4)), 28)


def test_a_second_table_with_tokens_is_refused() -> None:
    shapes = {"embed__weight": (30, 4), "embed_tokens_per_layer__weight": (29, 4)}
    with pytest.raises(ValueError, match="cannot be matched: embed_tokens_per_layer"):
        vocabulary_axes(model_of({"vocab_size": 30}, **shapes), 28)
