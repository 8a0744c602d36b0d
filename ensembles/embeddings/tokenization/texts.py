"""Input texts as UTF-8: validation, encoding and division into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.tokenization.text_loops import to_bytes
from ensembles.parallel import cut

Bytes = NDArray[np.uint8]
Int64 = NDArray[np.int64]
Ends = Int64 | NDArray[np.int32]

# Texts per batch; their rows stay in the CPU caches until they are pooled.
CHUNK = 512
MOST_CHARACTERS = 1 << 20  # of a batch of several texts


class Encoded(NamedTuple):
    """UTF-8 bytes of all texts, and their offsets of shape ``(n_texts + 1,)``."""

    buffer: Bytes
    offsets: Ends

    def texts(self) -> list[str]:
        """The texts as str; invalid UTF-8 becomes U+FFFD."""
        data, ends = self.buffer.data, self.offsets.tolist()
        return [
            str(data[start:stop], "utf-8", "replace") for start, stop in pairwise(ends)
        ]


# Texts as a list, or as UTF-8 buffers of a column.
Part = list[str] | Encoded


def encoded(part: Part, first: int = 0) -> Encoded:
    """Encode texts as one UTF-8 buffer with offsets.

    Parameters
    ----------
    part : list of str or Encoded
        Texts; None and NaN become empty texts. Buffers that are already encoded are
        not copied.
    first : int, default=0
        Index of the first text in the user's input, for error messages.

    Returns
    -------
    Encoded
        The texts, with int64 offsets.

    Raises
    ------
    TypeError
        If an element is neither a str nor a missing value.

    Notes
    -----
    UTF-8 cannot represent surrogates: a surrogate pair becomes the character that it
    encodes, a lone surrogate U+FFFD.
    """
    if isinstance(part, Encoded):
        return Encoded(part.buffer, part.offsets.astype(np.int64, copy=False))
    if len(part) == 1 and isinstance(part[0], str) and part[0].isascii():
        # Fast path for one sentence per call; the code below takes three times as long.
        offsets = np.zeros(2, np.int64)
        offsets[1] = len(part[0])
        return Encoded(np.frombuffer(part[0].encode(), np.uint8), offsets)
    try:
        joined = "".join(part)
    except TypeError:
        return encoded(checked(part, first))
    ends = accumulate(map(len, part), initial=0)
    offsets = np.fromiter(ends, np.int64, len(part) + 1)
    try:
        buffer = np.frombuffer(joined.encode(), np.uint8)
    except UnicodeEncodeError:
        return encoded([mended(text) for text in part])
    if not joined.isascii():
        to_bytes(buffer, offsets)
    return Encoded(buffer, offsets)


def mended(text: str) -> str:
    """Replaces surrogate pairs by their character, lone surrogates by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def decoded(part: Part, first: int = 0) -> list[str]:
    """Texts as str, without surrogates; missing values become empty texts."""
    if isinstance(part, Encoded):
        return part.texts()
    try:
        "".join(part).encode()
    except TypeError:
        return decoded(checked(part, first))
    except UnicodeEncodeError:
        return [mended(text) for text in part]
    return part


def parts_of(texts: Any) -> list[Part]:  # Any: a column of any library
    """Convert texts to lists or UTF-8 buffers, without copying where possible.

    Parameters
    ----------
    texts : sequence, array or column of str
        Texts. If pyarrow is installed, the buffers of pyarrow, pandas and polars
        columns are used in place. None, NaN and other missing values are empty texts.

    Returns
    -------
    list of (list of str or Encoded)
        One part, or one per chunk of a column. Elements of a list are not checked yet.

    Raises
    ------
    TypeError
        If ``texts`` is a single str or bytes, or cannot be iterated over.
    """
    if isinstance(texts, list):
        return [texts]
    if isinstance(texts, str | bytes):
        raise TypeError(
            f"texts must be a sequence of str, found one {type(texts).__name__}; "
            "write [text]"
        )
    if hasattr(texts, "__arrow_c_stream__") or hasattr(texts, "__arrow_c_array__"):
        column = _column(texts)
        if column is not None:
            return column
    if hasattr(texts, "tolist"):
        return [texts.tolist()]
    return [list(texts)]


def checked(texts: list[Any], first: int = 0) -> list[str]:
    """Check texts, and replace missing values by empty texts.

    Parameters
    ----------
    texts : list
        Texts, None, NaN, or missing values of pandas.
    first : int, default=0
        Index of the first text in the user's input, for error messages.

    Returns
    -------
    list of str
        The texts; "" for missing values.

    Raises
    ------
    TypeError
        If an element is neither a str nor a missing value.
    """
    return [_checked(text, index) for index, text in enumerate(texts, first)]


def _checked(text: Any, index: int) -> str:
    if isinstance(text, str):
        return text
    missing = text is None or type(text).__name__ in {"NAType", "NaTType"}
    if missing or (isinstance(text, float | np.floating) and math.isnan(text)):
        return ""
    hint = ""
    if isinstance(text, list | tuple) and all(isinstance(word, str) for word in text):
        hint = (
            "; a list of tokens becomes a text by ' '.join(tokens), and "
            "tokenizer='whitespace' then finds the same tokens"
        )
    raise TypeError(
        f"texts must be str, None or NaN: texts[{index}] is {text!r:.80} of type "
        f"{type(text).__name__}{hint}"
    )


def _column(texts: Any) -> list[Part] | None:
    """Parts of a string column; None for other data or without pyarrow."""
    try:
        import pyarrow as pa
    except ImportError:
        return None
    try:
        chunked = pa.chunked_array([texts] if isinstance(texts, pa.Array) else texts)
    except (TypeError, ValueError, pa.ArrowException):
        return None  # e.g. mixed types: the conversion to a list names the element
    kind = chunked.type
    if pa.types.is_dictionary(kind):
        if pa.types.is_string_view(kind.value_type):  # pyarrow cannot decode these
            return [chunked.to_pylist()]
        kind = kind.value_type
    if not (pa.types.is_large_string(kind) or pa.types.is_string(kind)):
        if not pa.types.is_string_view(kind):
            return None
        kind = pa.large_string()
    if kind != chunked.type:
        chunked = chunked.cast(kind)
    if chunked.null_count:
        chunked = chunked.fill_null("")
    return [_chunk(chunk) for chunk in chunked.chunks]


def _chunk(chunk: Any) -> Encoded:
    """Buffers of a pyarrow string array, without a copy."""
    _, ends, data = chunk.buffers()
    wide = np.dtype(np.int64 if str(chunk.type).startswith("large") else np.int32)
    if not len(chunk):
        return Encoded(np.empty(0, np.uint8), np.zeros(1, np.int64))
    offsets: Ends = np.frombuffer(ends, wide)[
        chunk.offset : chunk.offset + len(chunk) + 1
    ]
    buffer = np.frombuffer(b"" if data is None else data, np.uint8)
    return Encoded(buffer, offsets)


def n_texts(part: Part) -> int:
    """Number of texts in a part."""
    return len(part.offsets) - 1 if isinstance(part, Encoded) else len(part)


def piece(part: Part, start: int, stop: int) -> Part:
    """Texts ``start`` to ``stop - 1`` of a part."""
    if isinstance(part, Encoded):
        return Encoded(part.buffer, part.offsets[start : stop + 1])
    return part[start:stop]


def pieces(part: Part, first: int = 0) -> Iterator[tuple[int, Part]]:
    """Divide a part into batches of `CHUNK` texts.

    Parameters
    ----------
    part : list of str or Encoded
        Texts to divide.
    first : int, default=0
        Index of the first text of the part.

    Yields
    ------
    first : int
        Index of the first text of the batch.
    piece : list of str or Encoded
        The batch; the last one may be smaller.
    """
    for start, stop in cut(n_texts(part), CHUNK):
        yield first + start, piece(part, start, stop)


def halves(part: Part, first: int) -> Iterator[tuple[int, Part]]:
    """Halves a batch until each has at most `MOST_CHARACTERS` or a single text."""
    n = n_texts(part)
    if n > 1 and n_characters(part) > MOST_CHARACTERS:
        yield from halves(piece(part, 0, n // 2), first)
        yield from halves(piece(part, n // 2, n), first + n // 2)
    else:
        yield first, part


def n_characters(part: Part) -> int:
    """Total length of texts: in characters, or in bytes if they are encoded."""
    if isinstance(part, Encoded):
        return int(part.offsets[-1] - part.offsets[0])
    try:
        return sum(map(len, part))
    except TypeError:
        return sum(len(text) for text in part if isinstance(text, str))
