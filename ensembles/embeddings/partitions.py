"""Vectors of the texts of a Dask bag or data frame, computed by the workers.

A worker loads the model once, whatever the number of its partitions. A model that is
passed as a path is loaded from there by each worker, so that a saved embedder's table
is memory-mapped, and shared by the workers of a machine; a fitted model is pickled.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from ensembles.atomic_io import LARGEST_WRITE, atomic_output
from ensembles.embeddings.auto_model import load_model
from ensembles.embeddings.files.vector_files import SUFFIXES, open_vector_writer
from ensembles.parallel import chunks

INSTALL = "pip install 'ensemble-avg[dask]'"
BLOCK = 1 << 15  # texts whose vectors a worker holds while it writes a file


def embed_partitions(model: Any, texts: Any, *, column: str | None = None) -> Any:
    """Vectors of the texts of a Dask bag or data frame, as a Dask array.

    Nothing is computed before the array is. A partition's vectors are one task, which
    Dask repeats on another worker if its worker fails.

    Parameters
    ----------
    model : path or fitted text transformer
        Directory of a saved `SentenceEmbedder` or of a transformer, or a file of word
        vectors, at a path that is the same on all workers; or a fitted model, such as
        `SentenceEmbedder`, which is pickled, and sent to each worker, not with each
        partition.
    texts : dask.bag.Bag, dask.dataframe.Series or dask.dataframe.DataFrame
        Texts. None, NaN and other missing values count as empty texts.
    column : str or None, default=None
        Column of a data frame that holds the texts. None for a bag, a series or a data
        frame of one column.

    Returns
    -------
    dask.array.Array of shape (n_texts, n_features_out)
        One vector per text, in the order of the texts, with one chunk per partition.
        The numbers of rows are unknown (NaN) until it is computed.

    Raises
    ------
    ValueError
        If a data frame has no such column, or several and ``column`` is None; when it
        is computed, if the model at the path of a worker is another than the caller's.
    TypeError
        If ``texts`` is not a Dask collection of texts.
    ImportError
        If Dask is not installed.

    See Also
    --------
    write_partitions : Write the vectors to files, for results larger than memory.
    vectors_digest : Digest by which two runs can be compared.

    Examples
    --------
    >>> import dask.bag
    >>> from ensembles.embeddings import SentenceEmbedder
    >>> vectors = {"good": [1.0, 0.0], "film": [0.0, 1.0]}
    >>> embedder = SentenceEmbedder(vectors, weights=None).fit()
    >>> texts = dask.bag.from_sequence(["Good film", "film", ""], npartitions=2)
    >>> embed_partitions(embedder, texts).compute(scheduler="threads")
    array([[0.5, 0.5],
           [0. , 1. ],
           [0. , 0. ]], dtype=float32)
    """
    partitions = _delayed_partitions(texts, column)
    import dask.array

    source, example = _model_source(model)
    blocks = [
        dask.array.from_delayed(
            part,
            shape=(np.nan, example.shape[1]),
            dtype=example.dtype,
            meta=example,
        )
        for part in _tasks(_embed, source, partitions)
    ]
    return dask.array.concatenate(blocks, allow_unknown_chunksizes=True)


def write_partitions(
    model: Any,
    texts: Any,
    path: str | os.PathLike[str],
    *,
    column: str | None = None,
    suffix: str = ".parquet",
    force: bool = False,
) -> list[int]:
    """Write the vectors of each partition of a Dask bag or data frame to a file.

    A worker holds the texts of a partition and the vectors of 32,768 of them. The
    directory appears when all files are complete. Files are numbered in the order of
    the partitions: ``part-00000.parquet``.

    Parameters
    ----------
    model : path or fitted text transformer
        Model, as in `embed_partitions`.
    texts : dask.bag.Bag, dask.dataframe.Series or dask.dataframe.DataFrame
        Texts, as in `embed_partitions`.
    path : path
        Output directory, in a folder that all workers share.
    column : str or None, default=None
        Column of a data frame that holds the texts. None for a bag, a series or a data
        frame of one column.
    suffix : {".parquet", ".npy"}, default=".parquet"
        Format: Parquet has the columns ``text`` and ``vector``, ``.npy`` an array.
    force : bool, default=False
        Whether to replace an existing directory.

    Returns
    -------
    list of int
        Number of texts in each file.

    Raises
    ------
    ValueError
        If the suffix is unknown, and as in `embed_partitions`.
    TypeError
        If ``texts`` is not a Dask collection of texts.
    FileExistsError
        If the directory exists and ``force`` is False.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f"suffix must be {' or '.join(SUFFIXES)}, found {suffix!r}")
    partitions = _delayed_partitions(texts, column)
    import dask

    source, example = _model_source(model)
    # A worker may have another working directory.
    path = Path(path).absolute()
    with atomic_output(path, folder=True, force=force) as folder:
        width = max(5, len(str(len(partitions))))
        names = [f"part-{n:0{width}}{suffix}" for n in range(len(partitions))]
        files = [folder / name for name in names]
        tasks = _tasks(_write, source, partitions, files, example=example)
        return list(dask.compute(*tasks))


def vectors_digest(vectors: Any) -> str:
    """Digest of vectors and their order, of an array or of a Dask array.

    Parameters
    ----------
    vectors : array of shape (n_texts, n_columns)
        NumPy array, or Dask array with all columns in one chunk; its workers then
        return 8 bytes a row.

    Returns
    -------
    str
        "xxh3-128:" and the XXH3 digest of the 64-bit XXH3 digests of the rows, as 32
        hexadecimal digits. It does not depend on the partitions.
    """
    if hasattr(vectors, "map_blocks"):
        hashes = vectors.map_blocks(
            _row_hashes, dtype=np.uint64, drop_axis=1, meta=np.empty(0, np.uint64)
        ).compute()
    else:
        hashes = _row_hashes(np.asarray(vectors))
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(hashes.astype('<u8').data)}"


def _row_hashes(vectors: NDArray[Any]) -> NDArray[np.uint64]:
    """XXH3 digest of the bytes of each row."""
    rows = np.ascontiguousarray(vectors).view(np.uint8)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(row.data) for row in rows), np.uint64, len(rows))


class _ModelAt(NamedTuple):
    """Model at a path, with the digest of its files, in place of its pickle."""

    path: str
    digest: str


_models: dict[_ModelAt, Any] = {}  # loaded by this process
_loading = threading.Lock()


def _model_source(model: Any) -> tuple[Any, NDArray[Any]]:
    """What a task receives as its model, and an empty array like its result."""
    source = model
    if isinstance(model, str | os.PathLike):
        path = Path(model).absolute()
        source = _ModelAt(str(path), _digest(path))
    elif not hasattr(model, "transform"):
        raise TypeError(
            f"model must be a path or a fitted text transformer, found {model!r:.80}"
        )
    return source, np.asarray(_loaded(source).transform([""]))[:0]


def _loaded(source: Any) -> Any:
    """Model of a task; the process loads a path once."""
    if not isinstance(source, _ModelAt):
        return source
    with _loading:
        if source not in _models:
            path, digest = Path(source.path), _digest(Path(source.path))
            if digest != source.digest:
                raise ValueError(
                    f"{path} must hold the same model on all workers: its digest is "
                    f"{digest} here, and {source.digest} where the call was made"
                )
            _models.clear()  # a worker that serves for weeks keeps one
            _models[source] = load_model(path)
        return _models[source]


def _digest(path: Path) -> str:
    """Digest of the names and bytes of the files of a model."""
    total = xxhash.xxh3_128()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    for file in files if path.is_dir() else [path]:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        contents = xxhash.xxh3_128()
        with file.open("rb", buffering=0) as opened:
            while block := opened.read(LARGEST_WRITE):
                contents.update(block)
        total.update(f"{name}\0{contents.hexdigest()}\n".encode())
    return total.hexdigest()


def _delayed_partitions(texts: Any, column: str | None) -> list[Any]:
    """One delayed object per partition."""
    try:
        import dask
    except ImportError:
        raise ImportError(f"partitions need the package dask: {INSTALL}") from None
    if not dask.is_dask_collection(texts) or not hasattr(texts, "to_delayed"):
        raise TypeError(
            "texts must be a Dask bag, series or data frame, found "
            f"{type(texts).__name__}; dask.bag.from_sequence(texts) makes a bag"
        )
    if getattr(texts, "ndim", 1) == 2:
        texts = texts[_checked_column(list(texts.columns), column)]
    elif column is not None:
        raise ValueError(
            f"column applies to a data frame only, found {column!r} for "
            f"{type(texts).__name__}"
        )
    return list(np.ravel(texts.to_delayed()))


def _checked_column(columns: list[Any], column: str | None) -> Any:
    if column is None and len(columns) == 1:
        return columns[0]
    if column not in columns:
        names = ", ".join(map(repr, columns))
        raise ValueError(f"column must be one of {names}, found {column!r}")
    return column


def _tasks(
    function: Callable[..., Any],
    source: Any,
    partitions: list[Any],
    *arguments: Any,
    **options: Any,
) -> list[Any]:
    """A delayed call for each partition; they share one delayed model."""
    from dask import delayed

    # One key of the graph: a worker receives it once, and Dask keeps it, so that it
    # survives a worker. Tokens would hash the table.
    name = f"model-{uuid.uuid4().hex}"
    model = delayed(source, name=name, traverse=False)
    call = delayed(function, pure=False, traverse=False)
    rows = zip(partitions, *arguments, strict=True)
    return [call(model, *row, **options) for row in rows]


def _embed(source: Any, texts: Any) -> Any:
    """Vectors of a partition."""
    return np.asarray(_loaded(source).transform(_as_texts(texts)))


def _write(source: Any, texts: Any, path: Path, example: NDArray[Any]) -> int:
    """Write the vectors of a partition, and return their number."""
    model, texts = _loaded(source), _as_texts(texts)
    n_columns, dtype = example.shape[1], example.dtype
    with open_vector_writer(path, n_columns, dtype, force=True) as add:
        rows = getattr(texts, "iloc", texts)  # [:] of a series may go by its labels
        for start, stop in chunks(len(texts), BLOCK):
            block = rows[start:stop]
            add(block, model.transform(block))
    return len(texts)


def _as_texts(texts: Any) -> Any:
    """Partition of a bag, which may be an iterator, or of a series."""
    return texts if hasattr(texts, "dtype") else list(texts)
