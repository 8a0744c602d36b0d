"""Input texts as UTF-8: validation, encoding and division into batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.tokenization.word_loops import to_byte_offsets
from ensembles.parallel import chunks

Bytes = NDArray[np.uint8]
Int64 = NDArray[np.int64]
Ends = Int64 | NDArray[np.int32]

UNFOLDED = np.arange(256).astype(np.uint8)  # identity: no case folding

# Texts per slice; their rows stay in the CPU caches until they are pooled.
BATCH_SIZE = 512
MAX_CHARACTERS = 1 << 20  # of a batch of several texts


class Utf8Texts(NamedTuple):
    """UTF-8 bytes of all texts, and their offsets of shape ``(n_texts + 1,)``."""

    buffer: Bytes
    offsets: Ends

    def texts(self) -> list[str]:
        """The texts as str; invalid UTF-8 becomes U+FFFD."""
        data, ends = self.buffer.data, self.offsets.tolist()
        return [
            str(data[start:stop], "utf-8", "replace") for start, stop in pairwise(ends)
        ]


class WordSpans(NamedTuple):
    """Words in a buffer: start and end of each, and the case folding of bytes."""

    buffer: Bytes
    spans: Int64
    folded: Bytes

    def words(self) -> list[bytes]:
        """The words, without folding."""
        data = self.buffer.data
        return [bytes(data[span[0] : span[1]]) for span in self.spans.tolist()]

    @property
    def n_bytes(self) -> int:
        """Total length of the words in bytes."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())


def join_words(words: Sequence[bytes]) -> WordSpans:
    """Concatenate words into one buffer."""
    ends = to_offsets(np.fromiter(map(len, words), np.int64, len(words)))
    spans = np.stack([ends[:-1], ends[1:]], axis=1)
    return WordSpans(np.frombuffer(b"".join(words), np.uint8), spans, UNFOLDED)


def to_offsets(lengths: Int64) -> Int64:
    """Offsets from lengths: 0, then the cumulative sums."""
    offsets = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def decode_words(words: Iterable[bytes]) -> list[str]:
    """Words as str; invalid UTF-8 becomes U+FFFD."""
    return [word.decode(errors="replace") for word in words]


# Texts as a list, or as UTF-8 buffers of a column.
TextBatch = list[str] | Utf8Texts


def encode_utf8(batch: TextBatch, first: int = 0) -> Utf8Texts:
    """Encode texts as one UTF-8 buffer with offsets.

    Parameters
    ----------
    batch : list of str or Utf8Texts
        Texts; None and NaN become empty texts. Buffers that are already encoded are
        not copied.
    first : int, default=0
        Index of the first text in the user's input, for error messages.

    Returns
    -------
    Utf8Texts
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
    if isinstance(batch, Utf8Texts):
        return Utf8Texts(batch.buffer, batch.offsets.astype(np.int64, copy=False))
    if len(batch) == 1 and isinstance(batch[0], str) and batch[0].isascii():
        # Fast path for one sentence per call; the code below takes three times as long.
        offsets = np.zeros(2, np.int64)
        offsets[1] = len(batch[0])
        return Utf8Texts(np.frombuffer(batch[0].encode(), np.uint8), offsets)
    try:
        joined = "".join(batch)
    except TypeError:
        return encode_utf8(check_elements(batch, first))
    ends = accumulate(map(len, batch), initial=0)
    offsets = np.fromiter(ends, np.int64, len(batch) + 1)
    try:
        buffer = np.frombuffer(joined.encode(), np.uint8)
    except UnicodeEncodeError:
        return encode_utf8([replace_surrogates(text) for text in batch])
    if not joined.isascii():
        to_byte_offsets(buffer, offsets)
    return Utf8Texts(buffer, offsets)


def replace_surrogates(text: str) -> str:
    """Replace surrogate pairs by their character, lone surrogates by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def decode_utf8(batch: TextBatch, first: int = 0) -> list[str]:
    """Texts as str, without surrogates; missing values become empty texts."""
    if isinstance(batch, Utf8Texts):
        return batch.texts()
    try:
        "".join(batch).encode()
    except TypeError:
        return decode_utf8(check_elements(batch, first))
    except UnicodeEncodeError:
        return [replace_surrogates(text) for text in batch]
    return batch


def as_batches(texts: Any) -> list[TextBatch]:  # Any: a column of any library
    """Convert texts to lists or UTF-8 buffers, without copying where possible.

    Parameters
    ----------
    texts : sequence, array or column of str
        Texts. If pyarrow is installed, the buffers of pyarrow, pandas and polars
        columns are used in place. None, NaN and other missing values are empty texts.

    Returns
    -------
    list of (list of str or Utf8Texts)
        One batch, or one per chunk of a column. Elements of a list are not checked.

    Raises
    ------
    TypeError
        If ``texts`` is a single str or bytes, or cannot be iterated over.
    """
    if isinstance(texts, list):
        return [texts]
    if isinstance(texts, str | bytes):
        raise TypeError(
            f"texts must be a sequence of str, found a single {type(texts).__name__}; "
            "pass [text]"
        )
    if hasattr(texts, "__arrow_c_stream__") or hasattr(texts, "__arrow_c_array__"):
        column = _arrow_batches(texts)
        if column is not None:
            return column
    if hasattr(texts, "tolist"):
        return [texts.tolist()]
    return [list(texts)]


def check_elements(texts: list[Any], first: int = 0) -> list[str]:
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
    return [_check_element(text, index) for index, text in enumerate(texts, first)]


def _check_element(text: Any, index: int) -> str:
    if isinstance(text, str):
        return text
    missing = text is None or type(text).__name__ in {"NAType", "NaTType"}
    if missing or (isinstance(text, float | np.floating) and math.isnan(text)):
        return ""
    hint = ""
    if isinstance(text, list | tuple) and all(isinstance(word, str) for word in text):
        hint = (
            "; join a list of tokens with ' '.join(tokens) and use "
            "tokenizer='whitespace' (--tokenizer whitespace)"
        )
    raise TypeError(
        f"texts must be str, None or NaN: texts[{index}] is {text!r:.80} of type "
        f"{type(text).__name__}{hint}"
    )


def _arrow_batches(texts: Any) -> list[TextBatch] | None:
    """Parts of a string column; None for other data or without pyarrow."""
    try:
        import pyarrow as pa
    except ImportError:
        return None
    try:
        chunked = pa.chunked_array([texts] if isinstance(texts, pa.Array) else texts)
    except (TypeError, ValueError, pa.ArrowException):
        return None  # e.g. mixed types: the conversion to a list names the element
    dtype = chunked.type
    if pa.types.is_dictionary(dtype):
        if pa.types.is_string_view(dtype.value_type):  # pyarrow cannot decode these
            return [chunked.to_pylist()]
        dtype = dtype.value_type
    if not (pa.types.is_large_string(dtype) or pa.types.is_string(dtype)):
        if not pa.types.is_string_view(dtype):
            return None
        dtype = pa.large_string()
    if dtype != chunked.type:
        chunked = chunked.cast(dtype)
    if chunked.null_count:
        chunked = chunked.fill_null("")
    return [_arrow_buffers(chunk) for chunk in chunked.chunks]


def _arrow_buffers(chunk: Any) -> Utf8Texts:
    """Buffers of a pyarrow string array, without a copy."""
    _, ends, data = chunk.buffers()
    offset_dtype = np.dtype(
        np.int64 if str(chunk.type).startswith("large") else np.int32
    )
    if not len(chunk):
        return Utf8Texts(np.empty(0, np.uint8), np.zeros(1, np.int64))
    offsets: Ends = np.frombuffer(ends, offset_dtype)[
        chunk.offset : chunk.offset + len(chunk) + 1
    ]
    buffer = np.frombuffer(b"" if data is None else data, np.uint8)
    return Utf8Texts(buffer, offsets)


def n_texts(batch: TextBatch) -> int:
    """Number of texts in a batch."""
    return len(batch.offsets) - 1 if isinstance(batch, Utf8Texts) else len(batch)


def slice_texts(batch: TextBatch, start: int, stop: int) -> TextBatch:
    """Texts ``start`` to ``stop - 1`` of a batch."""
    if isinstance(batch, Utf8Texts):
        return Utf8Texts(batch.buffer, batch.offsets[start : stop + 1])
    return batch[start:stop]


def iter_slices(batch: TextBatch, first: int = 0) -> Iterator[tuple[int, TextBatch]]:
    """Divide a batch into slices of `BATCH_SIZE` texts.

    Parameters
    ----------
    batch : list of str or Utf8Texts
        Texts to divide.
    first : int, default=0
        Index of the first text of the batch.

    Yields
    ------
    first : int
        Index of the first text of the slice.
    texts : list of str or Utf8Texts
        The slice; the last one may be smaller.
    """
    for start, stop in chunks(n_texts(batch), BATCH_SIZE):
        yield first + start, slice_texts(batch, start, stop)


def split_long(batch: TextBatch, first: int) -> Iterator[tuple[int, TextBatch]]:
    """Halve a batch until each part has at most `MAX_CHARACTERS` or a single text."""
    n = n_texts(batch)
    if n > 1 and total_length(batch) > MAX_CHARACTERS:
        yield from split_long(slice_texts(batch, 0, n // 2), first)
        yield from split_long(slice_texts(batch, n // 2, n), first + n // 2)
    else:
        yield first, batch


def total_length(batch: TextBatch) -> int:
    """Total length of texts: in characters, or in bytes if they are encoded."""
    if isinstance(batch, Utf8Texts):
        return int(batch.offsets[-1] - batch.offsets[0])
    try:
        return sum(map(len, batch))
    except TypeError:
        return sum(len(text) for text in batch if isinstance(text, str))
