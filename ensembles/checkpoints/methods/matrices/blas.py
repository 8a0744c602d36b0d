"""Linear algebra of NumPy with one thread, for results that no thread count changes.

LAPACK adds in another order with another number of threads.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_limits: list[Any] = []  # one for each block that runs now


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
        _limits.append(_limits[0] if _limits else _controller().limit(limits=1))
    try:
        yield
    finally:
        with _lock:
            limit = _limits.pop()
            if not _limits:
                limit.restore_original_limits()


@functools.cache
def _controller() -> Any:
    """Controller of the libraries in use; listing them takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
