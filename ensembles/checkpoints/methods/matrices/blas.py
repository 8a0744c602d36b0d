"""Linear algebra of NumPy with one thread, for results that no thread count changes.

LAPACK adds in another order with another number of threads. Versions of OpenBLAS also
had errors where several threads of a program used several threads each: numpy#29391.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_n_threads: list[list[int]] = []  # before each block that runs now, by library


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit the linear algebra of NumPy to one thread inside a ``with`` block.

    The limit holds for the whole process, until all blocks that overlap in its threads
    have ended. NumPy on macOS may use Accelerate, which cannot be limited.

    Yields
    ------
    None
    """
    with _lock:
        _n_threads.append([library.num_threads for library in _libraries()])
        _set_threads([1] * len(_libraries()))
    try:
        yield
    finally:
        with _lock:
            if len(_n_threads) == 1:
                _set_threads(_n_threads[0])
            # The first block has the numbers of threads before all blocks.
            _n_threads.pop()


def _set_threads(numbers: list[int]) -> None:
    for library, number in zip(_libraries(), numbers, strict=True):
        # From version 3.8 on, threadpoolctl ignores all threads but the first that has
        # set a limit.
        set_threads = getattr(library, "_real_set_num_threads", None)
        (set_threads or library.set_num_threads)(number)


@functools.cache
def _libraries() -> list[Any]:
    """Libraries for linear algebra in use; to list them takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)
