"""Unigram tokenizers in files, which the package tokenizers loads only when needed."""

from __future__ import annotations

import json
import mmap
import re
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.embeddings.tokenization.unigram import Pieces, can_segment

START = re.compile(rb'"vocab"\s*:\s*\[')
# A piece and its score, then the comma before the next, or the end of the list.
ENTRY = re.compile(
    rb'\s*\[\s*"((?:[^"\\\x00-\x1f]|\\.)*)"\s*,'
    rb"\s*(-?)(\d+)(?:\.(\d+))?(?:[eE]([-+]?\d+))?\s*\]\s*([],])"
)
MARK = "ensembles: vocabulary"  # takes its place while the rest of the file is parsed
MOST_ADDED = 100  # added tokens, whose ids are searched for one by one
MOST_EXPONENT = 308
LARGEST = (1 << 64) - 1


class TokenizerFile:
    """Unigram tokenizer of a ``tokenizer.json``, loaded at the first use of a method.

    The package tokenizers takes about 250 bytes for each piece, and texts are tokenized
    without it. Every attribute that a ``tokenizers.Tokenizer`` has is that of the
    loaded tokenizer. The file stays open, so that it may be replaced meanwhile.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    n_ids : int
        Number of token ids, including those of added tokens.
    unknown_id : int
        Id of the unknown token.

    Raises
    ------
    ValueError
        If the file is not that of a Unigram tokenizer that `FastUnigram` replaces
        exactly, or not written as expected.
    """

    # Attributes of every tokenizer that was read from a file.
    encode_special_tokens = False

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._loaded: Any = None
        pieces, start, stop = _read_pieces(self._data)
        rest = self._data[:start] + json.dumps(MARK).encode() + self._data[stop:]
        self._forget()
        config, self.n_ids = _parse_rest(rest, pieces)
        if not can_segment(config["model"], pieces):
            raise ValueError("its segmentation may depend on more than scores")
        self.unknown_id: int = config["model"]["unk_id"]
        self._config = json.dumps(config)
        self._pieces: Pieces | None = pieces

    def __getattr__(self, name: str) -> Any:
        from tokenizers import Tokenizer

        if name.startswith("__") or not hasattr(Tokenizer, name):
            raise AttributeError(name)
        return getattr(self.load(), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_content, (self._data[:],)

    def encode_batch_fast(self, *arguments: Any, **options: Any) -> Any:
        """Encode texts by the package tokenizers."""
        return self.load().encode_batch_fast(*arguments, **options)

    def load(self) -> Any:
        """The tokenizer of the package tokenizers."""
        if self._loaded is None:
            self._loaded = _from_content(self._data[:])
            self._forget()
        return self._loaded

    def copy_config(self) -> dict[str, Any]:
        """Content of the file as tokenizers writes it, with an empty vocabulary."""
        return json.loads(self._config)  # type: ignore[no-any-return]

    def take_pieces(self) -> Pieces:
        """The vocabulary, which is read again by the next call."""
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            pieces, _, _ = _read_pieces(self._data)
            self._forget()
        return pieces

    def _forget(self) -> None:
        """Let the system take back the memory of the file's content."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)


def _from_content(content: bytes) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_buffer(content)


def _read_pieces(data: mmap.mmap) -> tuple[Pieces, int, int]:
    """Vocabulary in a file, and the bounds of its list."""
    opening = START.search(data)
    if opening is None:
        raise ValueError("it has no list of pieces")
    text, ends, scores = bytearray(), array("i", [0]), array("d")
    start = at = opening.end() - 1
    at, next_entry = start + 1, ENTRY.match
    sign = b","
    while sign == b",":
        entry = next_entry(data, at)
        if entry is None:
            raise ValueError("its list of pieces is not written as expected")
        piece, minus, whole, decimals, exponent, sign = entry.groups()
        if b"\\" in piece:
            piece = json.loads(b'"' + piece + b'"').encode()
        text += piece
        ends.append(len(text))
        score = _to_float(whole, decimals or b"", exponent)
        scores.append(-score if minus else score)
        at = entry.end()
    pieces = Pieces(np.frombuffer(text, np.uint8), np.array(ends), np.array(scores))
    _check_utf8(pieces)
    return pieces, start, at


def _to_float(whole: bytes, decimals: bytes, exponent: bytes | None) -> float:
    """The number that tokenizers reads, up to 1 ulp from the nearest of its decimals.

    serde_json rounds the digits to float64, then their quotient by a power of ten.
    """
    digits = int(whole + decimals)
    power = int(exponent or 0) - len(decimals)
    if digits > LARGEST or abs(power) > MOST_EXPONENT:
        raise ValueError("a score has too many digits")
    scale = 10.0 ** abs(power) if abs(power) <= 22 else float(f"1e{abs(power)}")
    return float(digits) * scale if power > 0 else float(digits) / scale


def _check_utf8(pieces: Pieces) -> None:
    """Raise a ValueError if a piece is not valid UTF-8."""
    step = 1 << 12
    starts = pieces.ends[:-1]
    for first in range(0, starts.size, step):
        last = min(first + step, starts.size)
        pieces.text[starts[first] : pieces.ends[last]].tobytes().decode()
    # No piece begins inside a character.
    starts = starts[starts < pieces.text.size]
    if (pieces.text[starts] & 0xC0 == 0x80).any():
        raise ValueError("a piece is not valid UTF-8")


def _parse_rest(rest: bytes, pieces: Pieces) -> tuple[dict[str, Any], int]:
    """Content of a file as tokenizers writes it, and the number of its token ids."""
    from tokenizers import Tokenizer

    original = json.loads(rest)
    model = original["model"]
    if model.get("vocab") != MARK or model.get("type", "Unigram") != "Unigram":
        raise ValueError("it is not a Unigram model")
    unknown = model.get("unk_id")
    if {*model} - {"type", "unk_id", "vocab", "byte_fallback"} or type(
        unknown
    ) is not int:
        raise ValueError("its model has other properties")
    one = {"type": "Unigram", "unk_id": 0, "vocab": [[MARK, 0.0]]}
    # The package itself checks all but the vocabulary, and fills in what is left out.
    text = json.dumps({**original, "model": one})
    try:
        config = json.loads(Tokenizer.from_str(text).to_str())
    except Exception as error:  # the Rust binding raises plain Exception
        raise ValueError(str(error)) from None
    bytes_too = bool(model.get("byte_fallback", False))
    config["model"] = {"type": "Unigram", "unk_id": unknown, "vocab": []}
    config["model"]["byte_fallback"] = bytes_too
    added, n_ids = config["added_tokens"], len(pieces.scores)
    if len(added) > MOST_ADDED:
        raise ValueError("it has many added tokens")
    numbers = pieces.ids_of([token["content"].encode() for token in added])
    for token, number in zip(added, numbers, strict=True):
        token["id"] = n_ids if number < 0 else number
        n_ids += number < 0
    written = {token["content"]: token["id"] for token in original["added_tokens"]}
    if written != {token["content"]: token["id"] for token in added}:
        raise ValueError("the ids of its added tokens are not in order")
    return config, n_ids
