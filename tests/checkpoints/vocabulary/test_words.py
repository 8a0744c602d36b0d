"""Tokens of different tokenizers that mean the same have the same form."""

import json
from typing import Any

from ensembles.checkpoints.vocabulary.tokenizer import parse_tokenizer
from ensembles.checkpoints.vocabulary.words import words_of


def words(model: dict[str, Any], config: dict[str, Any], **parts: Any) -> dict:  # type: ignore[type-arg]
    data = {"model": model, "added_tokens": [], **parts}
    files = {
        "tokenizer.json": json.dumps(data).encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }
    return words_of(parse_tokenizer("m", files))


def vocabulary(tokens: str) -> dict[str, Any]:
    return {"vocab": {token: index for index, token in enumerate(tokens.split())}}


def test_words_of_three_kinds_of_tokenizers_agree() -> None:
    byte_level = words(
        {"type": "BPE", **vocabulary("Ġthe ing Ċ Ã¼ Ã <s>")},
        {"bos_token": {"content": "<s>"}},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]},
    )
    pieces = words(
        {"type": "BPE", **vocabulary("▁the ing <0x0A> ü <0xC3> <begin>")},
        {"bos_token": "<begin>"},
    )
    assert [*byte_level.values()] == [*pieces.values()]
    assert byte_level["Ã¼"] == ("inside", "ü")
    word_piece = words(
        {
            "type": "WordPiece",
            "continuing_subword_prefix": "##",
            **vocabulary("the ##ing"),
        },
        {},
    )
    assert [*word_piece.values()] == [*pieces.values()][:2]
