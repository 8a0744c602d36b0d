"""Notification of the first compilation of a loop, which takes seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable

_lock = threading.Lock()
_listeners: list[Callable[[bool], None]] = []


def listen(listener: Callable[[bool], None]) -> None:
    """Register a function to call once, before this process first compiles a loop.

    Parameters
    ----------
    listener : callable (is_kept)
        Replaces an earlier listener. ``is_kept`` is True if the machine code is cached
        for later processes.
    """
    with _lock:
        _listeners[:] = [listener]


def announce(*, is_kept: bool) -> None:
    """Call the registered listener, unless it was already called.

    Parameters
    ----------
    is_kept : bool
        Whether the machine code is cached for later processes.
    """
    with _lock:
        listeners, _listeners[:] = _listeners[:], []
    for listener in listeners:
        listener(is_kept)
