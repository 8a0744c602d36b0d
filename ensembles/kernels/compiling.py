"""Who is told when loops are compiled, which takes seconds at the first call."""

from __future__ import annotations

import threading
from collections.abc import Callable

_lock = threading.Lock()
_listeners: list[Callable[[bool], None]] = []


def listen(listener: Callable[[bool], None]) -> None:
    """Call a function once, when the first loop of this process is compiled.

    Parameters
    ----------
    listener : callable (is_kept)
        It replaces an earlier one. ``is_kept`` states whether later processes find the
        machine code in a cache.
    """
    with _lock:
        _listeners[:] = [listener]


def announce(*, is_kept: bool) -> None:
    """Call the listener, if there is one that was not called yet.

    Parameters
    ----------
    is_kept : bool
        Whether there is a cache to keep the machine code in.
    """
    with _lock:
        heard, _listeners[:] = _listeners[:], []
    for listener in heard:
        listener(is_kept)
