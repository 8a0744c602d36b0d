"""Index of texts and their vectors: a directory whose files are memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Counts, Float64
from ensembles.atomic_io import atomic_output, check_absent, explain_disk_full
from ensembles.embeddings.files.binary_files import map_array
from ensembles.embeddings.files.text_files import to_list
from ensembles.embeddings.files.vector_files import Add, npy_writer
from ensembles.embeddings.postprocessing.quantization import l2_normalize
from ensembles.embeddings.similarity.unit_rows import UnitRows
from ensembles.embeddings.tokenization.texts import encode_utf8
from ensembles.regular_files import read_json

SUFFIX = ".index"
VERSION = 1
VECTORS, TEXTS, OFFSETS, FACTS = "vectors.npy", "texts.bin", "offsets.npy", "index.json"
N_PROBED = 4  # texts whose vectors are computed again to recognize the model
SAME_MODEL = 0.99  # cosine; rounding and batches change vectors of a model a little


@contextmanager
def open_index_writer(
    path: Path, n_columns: int, dtype: Any, *, force: bool, facts: Mapping[str, Any]
) -> Iterator[Add]:
    """Open an index for appending batches; it is written atomically.

    Parameters
    ----------
    path : Path
        Directory to write.
    n_columns : int
        Number of columns of the vectors.
    dtype : numpy dtype
        Data type of the vectors. Vectors of floats are L2-normalized, and those of
        float64 become float32.
    force : bool
        Whether an existing directory is replaced.
    facts : mapping of str to JSON value
        How the vectors were made: the model and its options.

    Yields
    ------
    callable (texts, vectors)
        Appends a batch of rows.

    Raises
    ------
    FileExistsError
        If ``path`` exists and not ``force``, or is a file.
    """
    check_absent(path, folder=True, force=force)
    dtype = np.dtype(np.float32 if np.dtype(dtype) == np.float64 else dtype)
    n_bytes = 0
    with (
        explain_disk_full(path),
        atomic_output(path, folder=True, force=force) as folder,
        ExitStack() as closing,
    ):
        add_vectors = closing.enter_context(
            npy_writer(folder / VECTORS, n_columns, dtype)
        )
        add_offsets = closing.enter_context(npy_writer(folder / OFFSETS, 1, np.int64))
        file = closing.enter_context((folder / TEXTS).open("wb"))

        def add(texts: Any, vectors: Any) -> None:
            nonlocal n_bytes
            if dtype.kind == "f":
                vectors = l2_normalize(np.array(vectors, np.float32))
            if not np.isfinite(vectors).all():
                raise ValueError("vectors must be finite, found NaN or infinity")
            encoded = encode_utf8(to_list(texts))
            file.write(encoded.buffer.data)
            add_vectors(vectors)
            add_offsets(n_bytes + encoded.offsets[:-1, None])
            n_bytes += len(encoded.buffer)

        yield add
        add_offsets(np.array([[n_bytes]]))
        closing.close()
        text = json.dumps({"version": VERSION, **facts}, ensure_ascii=False)
        (folder / FACTS).write_text(text, "utf-8")


class TextIndex:
    """Texts and their vectors in a directory that `open_index_writer` wrote.

    Parameters
    ----------
    path : Path
        The directory.

    Attributes
    ----------
    vectors : ndarray of shape (n_texts, n_columns)
        Memory-mapped vectors; those of floats have length 1 or 0.
    facts : dict
        How the vectors were made.

    Raises
    ------
    ValueError
        If the directory is not an index, or a file in it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            while not self._open():
                pass
        except (ValueError, FileNotFoundError, IndexError) as error:
            raise ValueError(
                f"{path} is not a complete index that ensemble embed -o NAME{SUFFIX} "
                f"wrote: {error}"
            ) from None

    def _open(self) -> bool:
        """Map all files; False if the directory was replaced at the same time."""
        folder = self.path.stat()
        try:
            self._map()
        except (ValueError, FileNotFoundError, IndexError):
            if os.path.samestat(folder, self.path.stat()):
                raise
        return os.path.samestat(folder, self.path.stat())

    def _map(self) -> None:
        self.facts = check_facts(read_json(self.path / FACTS))
        self.vectors = map_npy(self.path / VECTORS)
        self._offsets: Counts = map_npy(self.path / OFFSETS)[:, 0]
        shape = ((self.path / TEXTS).stat().st_size,)
        self._bytes: NDArray[np.uint8] = np.empty(shape, np.uint8)
        if shape[0]:
            self._bytes = map_array(self.path / TEXTS, np.dtype(np.uint8), shape, 0)
        n_texts = len(self._offsets) - 1
        if self._offsets.dtype != np.int64:
            raise ValueError(f"{OFFSETS} has {self._offsets.dtype}")
        if n_texts != len(self.vectors) or self._offsets[-1] != shape[0]:
            raise ValueError(
                f"{len(self.vectors)} vectors, {n_texts} texts of "
                f"{self._offsets[-1]} bytes in a file of {shape[0]}"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def rows(self) -> UnitRows:
        """The vectors, for `semantic_search`."""
        are_unit = self.vectors.dtype == np.float32
        return UnitRows(self.vectors, str(self.path), are_unit=are_unit)

    def texts(self, rows: Any) -> list[str]:
        """Texts of some rows.

        Parameters
        ----------
        rows : array-like of int
            Indices of the texts.

        Returns
        -------
        list of str
        """
        texts = []
        for row in np.asarray(rows).tolist():
            start, stop = self._offsets[row : row + 2].tolist()
            if not 0 <= start <= stop <= len(self._bytes):
                raise ValueError(f"{self.path} is damaged at the text {row}")
            texts.append(bytes(self._bytes[start:stop]).decode("utf-8", "replace"))
        return texts

    def probe_cosines(self, transform: Any) -> Float64:
        """Cosines of vectors of some texts with those in the index.

        Parameters
        ----------
        transform : callable (list of str) -> vectors
            Model to compare with that of the index.

        Returns
        -------
        ndarray of shape (at most 4,)
            Cosines of texts whose vector in the index is not zero.

        Raises
        ------
        ValueError
            If the vectors differ in the number of columns.
        """
        filled = np.flatnonzero(np.asarray(self.vectors[:1024]).any(axis=1))[:N_PROBED]
        vectors = transform(self.texts(filled))
        probes, stored = UnitRows(vectors, "vectors of the model"), self.rows()
        stored.check_same_dim(probes)
        return probes.cosines(np.arange(len(filled)), stored, filled)

    def check_model(self, transform: Any, model: Any) -> None:
        """Raise unless a model computes the vectors of the index.

        Parameters
        ----------
        transform : callable (list of str) -> vectors
            The model.
        model : path
            Its path, for the message.

        Raises
        ------
        ValueError
            If the vectors of some texts differ from those in the index.
        """
        lowest = self.probe_cosines(transform).min(initial=1)
        if not lowest >= SAME_MODEL:
            raise ValueError(
                f"{model} is not the model of {self.path}, or has other options: the "
                f"cosine of its vector of a text with the one in the index is "
                f"{lowest:.2f}; make the index again, or pass --queries-by for a model "
                "that is aligned with that of the index"
            )


def check_facts(facts: Any) -> dict[str, Any]:
    """Validate the content of ``index.json``.

    Parameters
    ----------
    facts : object
        What the file holds.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If it is of another version, or lacks the model.
    """
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise ValueError(
            f"{FACTS} has no version {VERSION}, which this release reads; make the "
            "index again"
        )
    kinds = {"model": str, "options": dict}
    for name, kind in kinds.items():
        if not isinstance(facts.get(name), kind):
            raise ValueError(f"{FACTS} has no valid {name!r}")
    return facts


def map_npy(path: Path) -> NDArray[Any]:
    """Memory-map an array that `npy_writer` wrote.

    Parameters
    ----------
    path : Path
        File of the array.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{path.name} has the version {version}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    if len(shape) != 2 or is_fortran or dtype.kind not in "fiu":
        raise ValueError(f"{path.name} has {dtype} of shape {shape}")
    if path.stat().st_size != offset + dtype.itemsize * shape[0] * shape[1]:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes for {shape}")
    if not shape[0]:
        return np.empty(shape, dtype)
    return map_array(path, dtype, shape, offset)
