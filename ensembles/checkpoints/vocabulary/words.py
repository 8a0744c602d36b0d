"""Tokens of different tokenizers in one form: their text, and their place in words."""

from __future__ import annotations

from typing import Any

from ensembles.checkpoints.vocabulary.tokenizer import Tokenizer

# Special tokens by the key of tokenizer_config.json: they may have any text.
SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
WORD = "▁"  # of SentencePiece, in place of a space
Word = tuple[str, str | bytes]


def words_of(tokenizer: Tokenizer) -> dict[str, Word]:
    """Kind and text of each token.

    Parameters
    ----------
    tokenizer : Tokenizer
        Tokenizer with byte-level tokens (``Ġthe``), or with marks of word starts
        (``▁the``) or continuations (``##ing``).

    Returns
    -------
    dict of str to (str, str or bytes)
        Kind "special" with the name of the token's part, such as "eos"; "start" for
        the start of a word and "inside" for others, with their text; "bytes" for parts
        of characters. Tokens of two tokenizers with the same value mean the same.
    """
    config = tokenizer.config
    special: dict[str, Word] = {}
    for kind in SPECIAL:
        token = config.get(f"{kind}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            special.setdefault(content, ("special", kind))
    data = tokenizer.data
    parts = {*_types(data.get("pre_tokenizer")), *_types(data.get("decoder"))}
    is_byte_level = "ByteLevel" in parts
    prefix = data["model"].get("continuing_subword_prefix") or ""
    words: dict[str, Word] = {}
    for token in tokenizer.ids:
        if token in special:
            words[token] = special[token]
        elif token in tokenizer.added:
            words[token] = ("inside", token)
        elif is_byte_level:
            words[token] = _decoded(token)
        elif data["model"].get("type") == "WordPiece":
            is_inside = token.startswith(prefix)
            words[token] = (
                ("inside", token.removeprefix(prefix))
                if is_inside
                else ("start", token)
            )
        elif token.startswith(WORD):
            words[token] = ("start", token.removeprefix(WORD).replace(WORD, " "))
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            words[token] = _text(bytes.fromhex(token[3:5]))
        else:
            words[token] = ("inside", token)
    return words


def _types(part: Any) -> set[str]:
    """Types of a part of ``tokenizer.json``, also those in a sequence."""
    if not isinstance(part, dict):
        return set()
    inner = [e for key in ("pretokenizers", "decoders") for e in part.get(key, [])]
    return {str(part.get("type")), *(t for entry in inner for t in _types(entry))}


def _decoded(token: str) -> Word:
    """Kind and text of a byte-level token."""
    try:
        return _text(bytes(BYTES[character] for character in token))
    except KeyError:  # not written by a byte-level model
        return "inside", token


def _text(content: bytes) -> Word:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return "bytes", content
    return ("start", text[1:]) if text.startswith(" ") else ("inside", text)


def _byte_characters() -> dict[str, int]:
    """Byte of each character of byte-level tokens, as GPT-2 numbers them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTES = _byte_characters()
