"""Compilation to machine code, kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

LANE = 1024  # elements worked on at a time: 8 KiB in float64


def compiled(function: Callable[..., Any]) -> Any:
    """Machine code of a loop, made at its first call.

    Parameters
    ----------
    function : callable of arrays and numbers

    Returns
    -------
    callable
        The function's ``py_func`` is what came in; or, where numba is told not to
        compile (``NUMBA_DISABLE_JIT=1``), the function itself, as silent about
        overflow as machine code.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when loaded
        return np.errstate(all="ignore")(function)
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep it: compile in memory
        return numba.njit(nogil=True)(function)
