"""Reader of npz files, whose uncompressed arrays are memory-mapped."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ensembles.embeddings.files.binary_files import check_regular, map_array
from ensembles.embeddings.vectors.named_arrays import choose_arrays, from_arrays
from ensembles.embeddings.vectors.word_vectors import WordVectors

LOCAL_HEADER = 30  # bytes of a local zip header before the file name
MOST_EXPANDED = 1032  # maximum compression ratio of zlib
HEADERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def read(path: Path, limit: int | None, errors: str) -> WordVectors:
    """Read word vectors from an npz file.

    The arrays, parameters and errors are documented in `from_arrays`. Arrays of objects
    are refused, because their pickles could run code.
    """
    size = check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            names = [n.removesuffix(".npy") for n in infos if n.endswith(".npy")]
            arrays_by_name = {
                name: _npz_array(path, archive, infos[f"{name}.npy"], size)
                for name in choose_arrays(names, str(path))
            }
    except (zipfile.BadZipFile, struct.error, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a complete npz file: {error}") from None
    except (NotImplementedError, RuntimeError) as error:  # unsupported or encrypted zip
        raise ValueError(
            f"{path} must be an npz file as numpy writes it: {error}"
        ) from None
    return from_arrays(arrays_by_name, str(path), limit, errors)


def _npz_array(
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
                f"{path}: {info.filename} is not an array: "
                f"{error or type(error).__name__}"
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
            offset = _data_offset(path, info) + head
            if offset + n_bytes > size:
                raise ValueError(f"{where} extends past the end of the file")
            return map_array(path, dtype, shape, offset)
        flat = np.frombuffer(member.read(n_bytes), dtype)
    return flat.reshape(shape, order="F" if by_column else "C")


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Offset of the data; the local header may differ from the central directory."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(LOCAL_HEADER)
    name, extra = struct.unpack("<HH", head[26:30])
    return int(info.header_offset + LOCAL_HEADER + name + extra)
