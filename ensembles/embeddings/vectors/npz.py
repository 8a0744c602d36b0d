"""Reader of npz files: uncompressed arrays are memory-mapped, pickles are refused."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ensembles.embeddings.files.mapped_files import check_regular, mapped_array
from ensembles.embeddings.vectors.safetensors import chosen, from_arrays
from ensembles.embeddings.vectors.word_vectors import WordVectors

LOCAL_HEADER = 30  # bytes of a local zip header before the file name
MOST_EXPANDED = 1032  # maximum compression ratio of zlib
HEADERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word vectors from an npz file with the arrays of `from_arrays`.

    Parameters
    ----------
    path : Path
        The npz file.
    limit : int or None
        Number of tokens to read, the first ones; None reads all.
    errors : str
        Error handler for tokens that are not UTF-8, as in ``bytes.decode``.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If the file is not a complete npz file, or its arrays are missing or do not fit
        together.
    TypeError
        If an array has the wrong dtype, such as objects, whose pickles could run code.
    """
    size = check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            listed = {info.filename: info for info in archive.infolist()}
            names = [n.removesuffix(".npy") for n in listed if n.endswith(".npy")]
            found = {
                name: _array(path, archive, listed[f"{name}.npy"], size)
                for name in chosen(names, str(path))
            }
    except (zipfile.BadZipFile, struct.error, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole npz file: {error}") from None
    except (NotImplementedError, RuntimeError) as error:  # unsupported or encrypted zip
        raise ValueError(
            f"{path} is no npz file as numpy writes them: {error}"
        ) from None
    return from_arrays(found, str(path), limit, errors)


def _array(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int
) -> NDArray[Any]:
    with archive.open(info) as member:
        try:
            shape, by_column, dtype = HEADERS[npy.read_magic(member)](member)
        except KeyError as error:
            raise ValueError(
                f"{path}: {info.filename} is of version {error} of the format npy "
                f"(known: {', '.join(map(str, HEADERS))})"
            ) from None
        except (ValueError, TokenError, MemoryError, RecursionError) as error:
            raise ValueError(
                f"{path}: {info.filename} is no array: {error or type(error).__name__}"
            ) from None
        where = f"{path}: {info.filename}"
        if dtype.hasobject:
            raise TypeError(
                f"{where} must hold numbers or strings, found objects, which could run "
                "code; save them as numpy strings: np.array(tokens, 'U')"
            )
        n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        head = member.tell()
        if head + n_bytes != info.file_size or n_bytes > size * MOST_EXPANDED:
            raise ValueError(f"{where} of shape {shape} needs {n_bytes} bytes")
        stored = info.compress_type == zipfile.ZIP_STORED
        if stored and not by_column and n_bytes and not info.flag_bits & 1:
            place = _start(path, info) + head
            if place + n_bytes > size:
                raise ValueError(f"{where} goes past the end of the file")
            return mapped_array(path, dtype, shape, place)
        flat = np.frombuffer(member.read(n_bytes), dtype)
    return flat.reshape(shape, order="F" if by_column else "C")


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Offset of the data; the local header may differ from the central directory."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(LOCAL_HEADER)
    name, extra = struct.unpack("<HH", head[26:30])
    return int(info.header_offset + LOCAL_HEADER + name + extra)
