"""Equal and similar texts of a file: which texts to keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Counts, Float64
from ensembles.atomic_io import atomic_output, temporary_sibling
from ensembles.embeddings.files.text_files import to_list
from ensembles.embeddings.files.vector_files import npy_writer
from ensembles.embeddings.similarity.near_duplicates import near_duplicates
from ensembles.embeddings.similarity.search import Progress
from ensembles.embeddings.similarity.text_index import map_npy
from ensembles.embeddings.tokenization.texts import decode_utf8

OBJECTS = ".jsonl"  # suffix of a file with an object per line
DIGEST_SIZE = 16  # bytes; different texts never share a digest in practice


class Duplicate(NamedTuple):
    """A text that is dropped.

    Attributes
    ----------
    row : int
        Index of the text.
    kept_row : int
        Index of the text that represents it.
    cosine : float
        Cosine similarity of both.
    is_equal : bool
        Whether both texts are equal.
    """

    row: int
    kept_row: int
    cosine: float
    is_equal: bool


@dataclass(frozen=True, eq=False)
class TextDuplicates:
    """Texts, and which of them are kept.

    Parameters
    ----------
    texts : list of str
        All texts; equal texts share one object.
    representatives : ndarray of shape (n_texts,), int64
        Index of the text itself if it is kept, else of the kept text for it.
    cosines : ndarray of shape (n_texts,), float64
        Cosine with the representative; 1 for kept and for equal texts.
    is_equal : ndarray of shape (n_texts,), bool
        Whether an earlier text is equal.
    """

    texts: list[str]
    representatives: Counts
    cosines: Float64
    is_equal: NDArray[np.bool_]

    @property
    def keep(self) -> NDArray[np.bool_]:
        """Mask of the kept texts."""
        return np.asarray(self.representatives == np.arange(len(self.texts)))

    def summary(self) -> dict[str, int]:
        """Numbers of texts: all, kept, and dropped as equal or as similar."""
        n_equal = int(self.is_equal.sum())
        return {
            "texts": len(self.texts),
            "kept": int(self.keep.sum()),
            "equal": n_equal,
            "similar": int((~self.keep).sum()) - n_equal,
        }

    def kept(self) -> Iterator[tuple[int, str]]:
        """Yield the kept texts in order, with their indices."""
        for row in np.flatnonzero(self.keep).tolist():
            yield row, self.texts[row]

    def dropped(self) -> Iterator[Duplicate]:
        """Yield the dropped texts in order."""
        for row in np.flatnonzero(~self.keep).tolist():
            kept_row = int(self.representatives[row])
            is_equal = self.texts[row] == self.texts[kept_row]
            yield Duplicate(row, kept_row, float(self.cosines[row]), is_equal)


@contextmanager
def no_progress(n_pairs: int) -> Iterator[Progress]:
    """Yield a callable that shows nothing."""
    yield lambda n_compared: None


def find_text_duplicates(
    batches: Iterable[Any],
    transform: Callable[[list[str]], NDArray[Any]],
    threshold: float,
    *,
    out: Path,
    n_jobs: int | None = None,
    reading: AbstractContextManager[Progress | None] = nullcontext(),  # noqa: B008
    comparing: Callable[[int], AbstractContextManager[Progress]] = no_progress,
) -> TextDuplicates:
    """Find texts that are equal or similar to an earlier text that is kept.

    Parameters
    ----------
    batches : iterable of Batch
        Texts in batches, as `read_texts` yields them.
    transform : callable (list of str) -> vectors
        Model of the texts; it is called once for each different text.
    threshold : float
        Smallest cosine of similar texts, above 0 and at most 1; see `near_duplicates`.
    out : Path
        Path that `write_duplicates` will write; its directory holds the vectors while
        the function runs.
    n_jobs : int or None, default=None
        Number of threads that compare vectors; None is 1, -1 all processors.
    reading : context manager, default=nullcontext()
        Yields a callable (int) that is called with the number of bytes that were read
        and embedded since the last call, or None; it ends before texts are compared.
    comparing : callable (int) -> context manager, default=no_progress
        Called with the number of pairs of texts before they are compared; the context
        manager yields the ``progress`` of `near_duplicates`.

    Returns
    -------
    TextDuplicates
        The texts and their representatives. Texts without known tokens have zero
        vectors; they are duplicates only of equal texts.

    Raises
    ------
    ValueError
        If a text has a line break, and ``out`` holds one text per line.
    """
    firsts: dict[bytes, int] = {}
    texts: list[str] = []
    first_rows: list[int] = []  # of the first equal text
    with temporary_sibling(out, folder=True) as folder:
        empty = transform([])
        shape = (empty.shape[1], empty.dtype)
        with reading as progress, npy_writer(folder / "vectors.npy", *shape) as add:
            for batch in batches:
                new = []
                for text in decode_utf8(to_list(batch.texts)):
                    key = hashlib.blake2b(text.encode(), digest_size=DIGEST_SIZE)
                    first = firsts.setdefault(key.digest(), len(texts))
                    if first == len(texts):
                        check_line(text, first, out)
                        new.append(text)
                    texts.append(texts[first] if first < len(texts) else text)
                    first_rows.append(first)
                add(transform(new))
                if progress is not None:
                    progress(batch.n_bytes)
        vectors = map_npy(folder / "vectors.npy")
        n_pairs = len(vectors) * (len(vectors) - 1) // 2
        with comparing(n_pairs) as compared:
            found = near_duplicates(
                vectors, threshold, n_jobs=n_jobs, progress=compared
            )
        del vectors
    first_of = np.array(first_rows, np.int64)
    is_equal = first_of != np.arange(len(texts))
    different = np.flatnonzero(~is_equal)
    numbers = np.searchsorted(different, first_of)
    representatives = different[found.representatives][numbers]
    return TextDuplicates(texts, representatives, found.cosines[numbers], is_equal)


def check_line(text: str, row: int, out: Path) -> None:
    """Raise if a text does not fit on a line of ``out``."""
    if "\n" in text and out.suffix != OBJECTS:
        raise ValueError(
            f"{out} holds one text per line, but text {row} has a line break; write "
            f"NAME{OBJECTS} instead"
        )


def write_duplicates(
    found: TextDuplicates, out: Path, report: Path | None = None, *, force: bool = False
) -> None:
    """Write the kept texts, and a report of the dropped ones.

    Parameters
    ----------
    found : TextDuplicates
        The texts.
    out : Path
        Output file, written atomically: ``.jsonl`` holds an object with ``row`` and
        ``text`` per line, any other suffix one text per line.
    report : Path or None, default=None
        File of JSON lines with the `Duplicate` of each dropped text, and both texts.
        None writes none.
    force : bool, default=False
        Whether existing files are replaced.

    Raises
    ------
    FileExistsError
        If a file exists and not ``force``.
    """
    with atomic_output(out, folder=False, force=force) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            for row, text in found.kept():
                if out.suffix == OBJECTS:
                    text = json.dumps({"row": row, "text": text}, ensure_ascii=False)
                file.write(f"{text}\n")
        if report is not None:
            _write_report(found, report, force=force)


def _write_report(found: TextDuplicates, path: Path, *, force: bool) -> None:
    with (
        atomic_output(path, folder=False, force=force) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        for one in found.dropped():
            texts = {"text": found.texts[one.row], "kept": found.texts[one.kept_row]}
            line = json.dumps({**one._asdict(), **texts}, ensure_ascii=False)
            file.write(f"{line}\n")
