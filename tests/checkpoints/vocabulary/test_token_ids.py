"""Ids of special tokens follow their tokens."""

import json

from ensembles.checkpoints.vocabulary.token_ids import (
    ids_in_tokenizer_config,
    with_token_ids,
)
from ensembles.checkpoints.vocabulary.tokenizer import Tokenizer

OLD = Tokenizer("old", {"<s>": 0, "</s>": 1, "<pad>": 2, "<end>": 3}, {}, {})
NEW = Tokenizer("new", {"</s>": 0, "<s>": 5, "<end>": 7}, {}, {})
CONFIG = {
    "bos_token_id": 0,
    "eos_token_id": [1, 3],
    "pad_token_id": 2,
    "hidden_size": 1,
    "text_config": {"eos_token_id": 3, "decoder_start_token_id": None},
}


def test_ids_are_translated_by_their_tokens() -> None:
    assert with_token_ids(CONFIG, OLD, NEW, {}) == {
        "bos_token_id": 5,
        "eos_token_id": [0, 7],
        "pad_token_id": None,
        "hidden_size": 1,
        "text_config": {"eos_token_id": 7, "decoder_start_token_id": None},
    }


def test_ids_of_the_model_of_the_tokenizer_come_first() -> None:
    owner = {"eos_token_id": 7, "hidden_size": 9, "text_config": {"eos_token_id": 0}}
    changed = with_token_ids(CONFIG, OLD, NEW, owner)
    assert (changed["eos_token_id"], changed["text_config"]["eos_token_id"]) == (7, 0)
    assert (changed["bos_token_id"], changed["hidden_size"]) == (5, 1)


def test_a_tokenizer_alone_names_its_special_tokens() -> None:
    config = {"eos_token": {"content": "<end>"}, "bos_token": "<s>", "unk_token": None}
    files = {"tokenizer_config.json": json.dumps(config).encode()}
    tokenizer = NEW.__class__("new", NEW.ids, {}, files)
    ids = ids_in_tokenizer_config(tokenizer)
    assert ids == {"eos_token_id": 7, "bos_token_id": 5}
