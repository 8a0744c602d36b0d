"""Sentence vectors of a teacher, computed in chunks and cached on disk."""

from __future__ import annotations

import fcntl
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from ensembles.embeddings.distillation.teachers import (
    identity,
    replica,
    runs_in_threads,
)
from ensembles.embeddings.postprocessing.quantization import l2_normalize
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.parallel import chunks, map_threads

CHUNK = 1024  # texts that are encoded together, and recorded in the cache
VECTORS, JOURNAL, LOCK = "vectors.npy", "journal.jsonl", "lock"
Progress = Callable[[int], None]


class TeacherVectors(NamedTuple):
    """Vectors of texts.

    Attributes
    ----------
    vectors : ndarray of shape (n_texts, dim), float16
        L2-normalized vector of each text; zero where the teacher's is zero.
    n_truncated : int
        Number of texts longer than the teacher reads.
    """

    vectors: NDArray[np.float16]
    n_truncated: int


def teacher_vectors(
    model: Any,
    texts: list[str],
    *,
    cache: Path | None = None,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> TeacherVectors:
    """L2-normalized vectors of texts, in float16.

    Parameters
    ----------
    model : fitted text transformer
        Teacher. A `SentenceEncoder` on the CPU runs in several threads, with one thread
        of PyTorch each, so that a vector does not depend on their number.
    texts : list of str
        Texts, without missing values.
    cache : Path or None, default=None
        Directory in which the vectors are recorded chunk by chunk. Those of the same
        texts and teacher are not computed again, also after a killed run. None keeps
        them in memory.
    n_threads : int, default=1
        Number of threads.
    progress : callable (int) or None, default=None
        Called with a number of finished texts.

    Returns
    -------
    TeacherVectors

    Raises
    ------
    ValueError
        If a vector has NaN or infinity, or the teacher does not return one dense vector
        for each text.
    BlockingIOError
        If another run records the same vectors in ``cache``.
    """
    store = _Memory() if cache is None else _Files(cache, model, texts)
    if progress is not None and store.done:
        progress(sum(stop - start for start, stop in store.done))
    jobs = [job for job in chunks(len(texts), CHUNK) if job not in store.done]
    lock = threading.Lock()
    is_threaded = runs_in_threads(model)

    def start_worker() -> Callable[[tuple[int, int]], None]:
        encoder = replica(model) if is_threaded else model

        def run(job: tuple[int, int]) -> None:
            part = texts[slice(*job)]
            with _one_torch_thread() if is_threaded else nullcontext():
                block, n_truncated = _encode(encoder, part)
            with lock:
                store.put(job, len(texts), block, n_truncated)
                if progress is not None:
                    progress(len(part))

        return run

    with closing(store):
        map_threads(jobs, start_worker, n_threads if is_threaded else 1)
    return store.result()


def warn_of_other_vectors(cache: Path, models: list[Any], texts: list[str]) -> None:
    """Warn if a cache has vectors, but none of these texts by one of these teachers."""
    folders = [folder_of(cache, model, texts) for model in models]
    if cache.is_dir() and not any(folder.exists() for folder in folders):
        others = [path for path in cache.iterdir() if (path / JOURNAL).exists()]
        if others:
            warnings.warn(
                f"{cache} has vectors of other texts or of another teacher, which are "
                "not used; delete it if they are not needed",
                stacklevel=3,
            )


def folder_of(cache: Path, model: Any, texts: list[str]) -> Path:
    """Directory of the vectors of these texts by this teacher."""
    return cache / f"{identity(model)}-{digest_of(texts)}"


def _encode(model: Any, texts: list[str]) -> tuple[NDArray[np.float16], int]:
    """Normalized vectors of a chunk of texts, and its number of truncated texts."""
    coverage = Coverage()
    if hasattr(model, "transform_counted"):
        found = model.transform_counted(texts, coverage)
    else:
        found = model.transform(texts)
    if hasattr(found, "tocsr"):
        raise ValueError(
            f"a teacher must return dense vectors, found {type(found).__name__} of "
            f"{type(model).__name__}; add a step such as TruncatedSVD to it"
        )
    vectors = np.array(found, np.float32, ndmin=2)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(
            f"a teacher must return one vector per text: for {len(texts)} texts, "
            f"{type(model).__name__} returned the shape {np.shape(found)}"
        )
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(
            "vectors of a teacher must be finite, found NaN or infinity for "
            f"{texts[broken[0]][:60]!r}"
        )
    return l2_normalize(vectors).astype(np.float16), coverage.n_truncated


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Run PyTorch in the calling thread only: its sums depend on their division."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


class _Memory:
    """Vectors in memory."""

    def __init__(self) -> None:
        self.done: set[tuple[int, int]] = set()
        self.n_truncated = 0
        self.vectors: NDArray[np.float16] = np.empty((0, 0), np.float16)

    def put(
        self, job: tuple[int, int], n_texts: int, block: NDArray[np.float16], n: int
    ) -> None:
        """Store the vectors of a chunk."""
        if not len(self.vectors):
            self.vectors = self.allocate((n_texts, block.shape[1]))
        if block.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"a teacher must return vectors of one length, found {block.shape[1]} "
                f"and {self.vectors.shape[1]}"
            )
        self.vectors[slice(*job)] = block
        self.n_truncated += n

    def allocate(self, shape: tuple[int, int]) -> NDArray[np.float16]:
        """Array of zeros."""
        return np.zeros(shape, np.float16)

    def close(self) -> None:
        """Let other runs use what was stored."""

    def result(self) -> TeacherVectors:
        """All vectors."""
        return TeacherVectors(self.vectors, self.n_truncated)


class _Files(_Memory):
    """Vectors in a memory-mapped file, with a journal of the complete chunks.

    A line of the journal has the digest of its chunk, so that a chunk that did not
    reach the disk before a crash of the machine is computed again.
    """

    def __init__(self, cache: Path, model: Any, texts: list[str]) -> None:
        super().__init__()
        self._folder = folder_of(cache, model, texts)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file, self._journal = self._folder / VECTORS, self._folder / JOURNAL
        self._lock = self._locked()  # until it is closed
        if self._file.exists() and self._journal.exists():
            self._read(len(texts))

    def _locked(self) -> IO[bytes]:
        """Lock of the folder, in which two runs would overwrite each other's file."""
        file = (self._folder / LOCK).open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BlockingIOError(
                f"another run computes the vectors in {self._folder}; wait until it "
                "ends, and repeat this one"
            ) from None
        except OSError:  # a file system without locks
            pass
        return file

    def _read(self, n_texts: int) -> None:
        try:
            vectors = np.lib.format.open_memmap(self._file, mode="r+")
        except (ValueError, OSError):  # killed before its header was complete
            return
        if len(vectors) != n_texts or vectors.dtype != np.float16:
            return
        self.vectors = vectors
        for line in self._journal.read_bytes().splitlines():
            try:
                start, stop, n_truncated, digest = json.loads(line)
            except ValueError:  # killed while the line was written
                continue
            job = (start, stop)
            if job not in self.done and digest == _digest(vectors[start:stop]):
                self.done.add(job)
                self.n_truncated += n_truncated

    def allocate(self, shape: tuple[int, int]) -> NDArray[np.float16]:
        """Memory-mapped file of zeros."""
        return np.lib.format.open_memmap(
            self._file, mode="w+", dtype=np.float16, shape=shape
        )

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def put(
        self, job: tuple[int, int], n_texts: int, block: NDArray[np.float16], n: int
    ) -> None:
        """Store the vectors of a chunk, then record it."""
        super().put(job, n_texts, block, n)
        line = json.dumps([*job, n, _digest(block)])
        with self._journal.open("a") as file:
            # A line that a killed run left incomplete ends here.
            file.write(f"\n{line}\n")


def _digest(block: NDArray[np.float16]) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(block).data)


def digest_of(texts: list[str]) -> str:
    """Digest of texts and their order."""
    digest = xxhash.xxh3_128()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
