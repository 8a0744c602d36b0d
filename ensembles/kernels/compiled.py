# mypy: disable-error-code="no-untyped-call, attr-defined"
"""Compilation to machine code, kept on disk where there is a place for it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import numba
import numpy as np
from numba.core.caching import FunctionCache

LANE = 1024  # elements worked on at a time: 8 KiB in float64


def compiled(
    function: Callable[..., Any], inline: Literal["never", "always"] = "never"
) -> Any:
    """Machine code of a loop, made at its first call.

    Parameters
    ----------
    function : callable of arrays and numbers
    inline : {"never", "always"}, default="never"
        Whether each caller takes its lines in as its own: they are then compiled once,
        with the caller.

    Returns
    -------
    callable
        The function's ``py_func`` is what came in; or, where numba is told not to
        compile (``NUMBA_DISABLE_JIT=1``), the function itself, as silent about
        overflow as machine code.
    """
    if numba.config.DISABLE_JIT:
        return np.errstate(all="ignore")(function)
    dispatcher = numba.njit(nogil=True, inline=inline)(function)
    with suppress(RuntimeError):  # nowhere to keep it: compile in memory
        dispatcher._cache = MendingCache(function)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Part of the callers' machine code: compiled with them, not before."""
    return compiled(function, "always")


class MendingCache(FunctionCache):
    """Numba's cache on disk, where a full or broken one is as good as none."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)
        except (OSError, EOFError, pickle.UnpicklingError):
            with suppress(OSError):
                self.flush()
        return None

    def save_overload(self, signature: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(signature, data)
