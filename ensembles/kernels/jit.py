"""Compilation of loops to machine code at their first call, once it is worthwhile.

Modules with loops import ``ensembles.kernels.jit``: `read_stamp` finds them, and
this one, by that name. Numba is imported at the first call of a loop.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any, Literal

# Digests the sources before modules with loops are imported.
from ensembles.kernels.source_stamp import STAMP  # noqa: F401

LANE = 1024  # elements per step of a loop: 8 KiB in float64
PIECE = 8192  # elements per step of NumPy, whose intermediate arrays are not budgeted
# Number of members' elements for which NumPy takes about 0.5 s longer than loops: the
# time to import Numba, to load a compiled loop from the cache, and to exit with LLVM.
WORTHWHILE = 1 << 27

# Modules that Numba would import if they are installed, but that loops do not need. The
# command lists some here, which makes the import of Numba a third faster.
HIDDEN: list[str] = []

_lock = threading.RLock()
_n_elements = 0  # given to `use_loops` so far


def use_loops(n_elements: int) -> bool:
    """Whether this process has had enough work to make compiled loops worthwhile.

    Before that, NumPy computes the same result.

    Parameters
    ----------
    n_elements : int
        Number of elements of all members in this call, which is added to the count of
        the process; a multiple if NumPy takes more than about 5 ns per element.

    Returns
    -------
    bool
    """
    global _n_elements
    # An approximate count suffices if threads overwrite each other's. Each call costs
    # NumPy some microseconds more.
    _n_elements += n_elements + LANE
    return _n_elements > WORTHWHILE


def prepare_loops(n_elements: int) -> None:
    """Import Numba in another thread if a coming job makes loops worthwhile.

    Parameters
    ----------
    n_elements : int
        Number of elements of all members in the job.
    """
    global _n_elements
    if _n_elements <= WORTHWHILE < _n_elements + n_elements:
        _n_elements = WORTHWHILE + 1
        threading.Thread(target=_import_loop_cache).start()


def _import_loop_cache() -> Any:
    """Import Numba and `ensembles.kernels.loop_cache`, without modules in `HIDDEN`."""
    with _lock:
        absent = [name for name in HIDDEN if name not in sys.modules]
        hidden = [] if "numba" in sys.modules else absent
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: absent
        try:
            importlib.import_module("numba.np.arraymath")
        finally:
            for name in hidden:
                del sys.modules[name]
        return importlib.import_module("ensembles.kernels.loop_cache")


class Loop:
    """A function that is compiled at its first call.

    Parameters
    ----------
    function : callable of arrays and numbers
        Loop that Numba can compile in nopython mode.
    inline : {"never", "always"}
        ``"always"`` compiles the function as a part of each caller.
    """

    def __init__(
        self, function: Callable[..., Any], inline: Literal["never", "always"]
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.inline = inline
        self._dispatcher: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Run the machine code."""
        return (self._dispatcher or self.dispatcher())(*arguments)

    def dispatcher(self) -> Callable[..., Any]:
        """Numba's dispatcher; the plain function with ``NUMBA_DISABLE_JIT=1``."""
        with _lock:
            if self._dispatcher is None:
                names = self.function.__globals__
                # Numba compiles calls of dispatchers, and does not know this class.
                for name in self.function.__code__.co_names:
                    if isinstance(names.get(name), Loop):
                        names[name] = names[name].dispatcher()
                make_dispatcher = _import_loop_cache().make_dispatcher
                self._dispatcher = make_dispatcher(self.function, self.inline)
            return self._dispatcher


# Decorators of loops; `inlined` compiles the function as a part of each caller.
compiled = functools.partial(Loop, inline="never")
inlined = functools.partial(Loop, inline="always")
