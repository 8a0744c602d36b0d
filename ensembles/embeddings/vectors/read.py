"""Read word vectors of any supported format, with format detection."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.embeddings.files.binary_files import (
    NotUtf8,
    check_regular,
    decompressed,
    is_gzip,
)
from ensembles.embeddings.vectors import (
    fasttext,
    model_directory,
    npz,
    safetensors,
    text,
    word2vec,
)
from ensembles.embeddings.vectors.ngrams import NgramVectors
from ensembles.embeddings.vectors.vector_table import as_stored, static_table
from ensembles.embeddings.vectors.word_vectors import (
    WordVectors,
    as_float32,
    check_finite,
    from_mapping,
    from_pairs,
)
from ensembles.file_signatures import (
    WIDE,
    check_no_pointer,
    compression_of,
)

BEGINNING = 4096  # bytes used to detect the format
ERRORS = ("strict", "replace", "ignore", "backslashreplace")
MAX_INVALID = 0.01  # share of tokens that are not UTF-8 in a file of words
FORMATS = {".npz": npz.read, ".safetensors": safetensors.read}
PICKLE = b"\x80"


def read_vectors(
    vectors: Any, *, limit: int | None = None, errors: str | None = None
) -> WordVectors:
    r"""Read word vectors from a file, a directory or an object in memory.

    Parameters
    ----------
    vectors : path, mapping, pair or object
        A path or an object in memory. Files: text (GloVe, word2vec, fastText ``.vec``),
        binary word2vec or fastText (``.bin``), ``.npz`` and ``.safetensors``, also
        compressed by gzip, which is decompressed to a temporary file. Directories: the
        input token embeddings of a model2vec, sentence-transformers or transformers
        model, or a saved `SentenceEmbedder`. Objects: a mapping of token to vector, a
        pair of tokens and matrix, a gensim KeyedVectors or a model with one, a
        model2vec StaticModel, or `WordVectors`, which are returned unchanged.
    limit : int or None, default=None
        Number of vectors to read, the first ones, which are the most frequent in most
        files; None reads all.
    errors : {"strict", "replace", "ignore", "backslashreplace"} or None, default=None
        Handling of tokens that are not UTF-8: raise an error, replace the bytes by
        U+FFFD, drop them, or write escapes such as ``\xe9``. None is
        "backslashreplace" with a warning if at most 1 % of the tokens are not UTF-8, as
        in some fastText and word2vec files, and "strict" otherwise.

    Returns
    -------
    WordVectors
        Memory-mapped from safetensors, uncompressed npz and the n-grams of fastText,
        without a conversion of float32, float16, bfloat16 and int8. Mapped vectors are
        not checked for NaN.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If a file is malformed, with the position in the message, or of unknown format.
        Pickles are refused, so that no file can run code.
    TypeError
        If ``vectors`` is of an unsupported type, or in memory and not numeric.

    Warns
    -----
    UserWarning
        If ``errors`` is None and a few tokens are not UTF-8; if a token is duplicated,
        on first use of the vectors: the first one counts.

    Examples
    --------
    >>> read_vectors({"the": [1.0, 0.0], "cat": [0.0, 2.0]})
    WordVectors('dict', 2 tokens, 2 dimensions)
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, found {limit}")
    if errors not in (None, *ERRORS):
        raise ValueError(f"errors must be one of {', '.join(ERRORS)}, found {errors!r}")
    if isinstance(vectors, str | os.PathLike):
        try:
            path = Path(vectors)
            read = _read_compressed if is_gzip(path) else _read_path
            return read(path, limit, errors)
        except FileNotFoundError:
            raise FileNotFoundError(missing(vectors)) from None
        except TypeError as error:  # of arrays in the file, not of an argument
            raise ValueError(str(error)) from None
    word_vectors = _from_memory(vectors)
    return word_vectors if limit is None else _limited(word_vectors, limit)


def missing(path: Any) -> str:
    """Error message for a missing path, which may be meant as a Hub model name."""
    return (
        f"no word vectors or model at {str(path)!r}. Models on the Hugging Face Hub "
        "are not downloaded: run "
        f"hf download {path} --local-dir FOLDER, and pass FOLDER"
    )


def _read_compressed(path: Path, limit: int | None, errors: str | None) -> WordVectors:
    with decompressed(path) as copy:
        try:
            word_vectors = _read_path(copy, limit, errors)
        except (TypeError, ValueError) as error:
            raise ValueError(str(error).replace(str(copy), str(path))) from None
    return replace(word_vectors, source=str(path))


def _read_path(path: Path, limit: int | None, errors: str | None) -> WordVectors:
    if errors is not None:
        return _read(path, limit, errors)
    try:
        return _read(path, limit, "strict")
    except NotUtf8 as error:
        word_vectors = _read(path, limit, "surrogateescape")
        tokens = [_escaped(token) for token in word_vectors.tokens]
        pairs = zip(tokens, word_vectors.tokens, strict=True)
        escaped = [token for token, original in pairs if token != original]
        if len(escaped) > MAX_INVALID * len(tokens):
            raise error from None
    warnings.warn(
        f"{len(escaped)} of {len(tokens)} tokens of {path} are not UTF-8, such as "
        f"{escaped[0]!r}: their bytes are read as escapes",
        stacklevel=3,
    )
    return replace(word_vectors, tokens=tokens)


def _escaped(token: str) -> str:
    if token.isascii():
        return token
    return token.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_readable(path: Path, first: bytes) -> None:
    """Raise if the first bytes are of a format that cannot be read."""
    if compression := compression_of(first):
        name, program = compression
        raise ValueError(
            f"{path} cannot be read: it is compressed ({name}); decompress it first: "
            f"{program} {shlex.quote(str(path))} > FILE, which can then be mapped"
        )
    if first.startswith(PICKLE):
        raise ValueError(
            f"{path} cannot be read: it is a pickle, which could run code; load it "
            "with the library that wrote it and pass the object, or save it there in "
            "word2vec format"
        )
    check_no_pointer(first, str(path))
    if first[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError(
            f"{path} cannot be read: it is a web page, probably from a failed download"
        )
    for byte_order_mark, name in WIDE.items():
        if first.startswith(byte_order_mark):
            raise ValueError(
                f"{path} cannot be read: it is {name}; convert it first: iconv -f "
                f"{name} -t UTF-8 {shlex.quote(str(path))} > FILE"
            )


def _read(path: Path, limit: int | None, errors: str) -> WordVectors:
    if path.is_dir():
        return model_directory.read(path, limit, errors)
    check_regular(path)  # opening a pipe would block until a writer opens it
    with path.open("rb") as file:
        first = file.read(BEGINNING)
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        check_no_pointer(first, str(path))
        return FORMATS[suffix](path, limit, errors)
    if not fasttext.is_fasttext(first):
        _check_readable(path, first)
    if fasttext.is_fasttext(first):
        return fasttext.read(path, limit, errors)
    if suffix == ".bin":
        is_word2vec = word2vec.header_of(first[: word2vec.LONGEST_HEADER]) is not None
        read = word2vec.read if is_word2vec else fasttext.read
        return read(path, limit, errors)
    if word2vec.is_binary(first):
        return word2vec.read(path, limit, errors)
    return text.read(path, limit, errors)


def _from_memory(vectors: Any) -> WordVectors:
    if isinstance(vectors, WordVectors):
        return vectors
    type_name = type(vectors).__name__
    if isinstance(vectors, Mapping):
        return from_mapping(vectors, type_name)
    if isinstance(vectors, tuple | list) and len(vectors) == 2:
        return from_pairs(vectors[0], vectors[1], "vectors")
    keyed = getattr(vectors, "wv", vectors)
    if hasattr(keyed, "index_to_key") and hasattr(keyed, "vectors"):
        return _from_gensim(keyed, type_name)
    if hasattr(vectors, "embedding") and hasattr(vectors, "tokenizer"):
        return _from_static(vectors, type_name)
    if isinstance(vectors, np.ndarray):
        type_name = "an array: pass the pair (tokens, array)"
    raise TypeError(
        "vectors must be a path, a mapping of token to vector, a pair of tokens and "
        f"matrix, or an object of gensim or model2vec; found {type_name}"
    )


def _limited(word_vectors: WordVectors, limit: int) -> WordVectors:
    if word_vectors.tokenizer is not None:
        raise ValueError("limit must be None, because token ids refer to all rows")
    return WordVectors(
        word_vectors.tokens[:limit],
        word_vectors.matrix[:limit],
        counts=None if word_vectors.counts is None else word_vectors.counts[:limit],
        ngrams=word_vectors.ngrams,
        source=word_vectors.source,
        format=word_vectors.format,
    )


def _from_gensim(keyed: Any, source: str) -> WordVectors:
    matrix, tokens = as_stored(np.asarray(keyed.vectors)), list(keyed.index_to_key)
    counts = keyed.expandos.get("count")
    descending = np.arange(len(tokens), 0, -1)
    if counts is not None:
        counts = np.asarray(counts, np.int64)
        # Placeholder counts, which gensim sets if a file has none.
        if np.array_equal(counts, descending) or not counts.any():
            counts = None
    ngrams = None
    if hasattr(keyed, "vectors_ngrams"):
        ngrams = NgramVectors(
            as_float32(keyed.vectors_ngrams),
            as_float32(keyed.vectors_vocab),
            int(keyed.min_n),
            int(keyed.max_n),
        )
    check_finite(matrix, tokens, source)
    return WordVectors(tokens, matrix, counts=counts, ngrams=ngrams, source=source)


def _from_static(model: Any, source: str) -> WordVectors:
    tensors = {"embeddings": np.asarray(model.embedding)}
    for name, attribute in (("mapping", "token_mapping"), ("weights", "weights")):
        if getattr(model, attribute, None) is not None:
            tensors[name] = np.asarray(getattr(model, attribute))
    matrix = static_table(tensors, "embeddings", source)
    return model_directory.with_tokenizer(
        matrix,
        model.tokenizer,
        preweighted=True,
        normalize=bool(getattr(model, "normalize", False)),
        source=source,
    )
