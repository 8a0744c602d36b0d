# mypy: disable-error-code="no-untyped-call, attr-defined"
"""Compilation of loops to machine code, which is cached on disk where possible.

Modules with loops import ``ensembles.kernels.jit``: `read_stamp` finds them, and
this one, by that name.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import llvmlite
import numba
import numpy as np
from numba.core.caching import FunctionCache, NullCache
from numba.core.serialize import dumps

from ensembles.kernels import compiling

LANE = 1024  # elements worked on at a time: 8 KiB in float64
PACKAGE = Path(__file__).parents[1]
N_DIGEST = 16  # bytes of a digest


def read_stamp() -> bytes:
    """Digest of the modules of this package that hold loops, and of the compiler.

    Returns
    -------
    bytes
        Another one after any edit of such a module: loops are compiled into loops of
        other modules.
    """
    found = hashlib.blake2b(
        f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode()
    )
    # Twice as fast as Path.rglob: most commands run it at their start.
    for folder, folders, names in os.walk(PACKAGE):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                with open(os.path.join(folder, name), "rb") as file:
                    source = file.read()
                if b"kernels.compiled" in source:
                    found.update(source)
    return found.digest()


# Before the other modules are imported: one that is edited later does not match it.
STAMP = read_stamp()


def compiled(
    function: Callable[..., Any], inline: Literal["never", "always"] = "never"
) -> Any:
    """Machine code of a loop, compiled at its first call.

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
    try:
        dispatcher._cache = LoopCache(function)
    except RuntimeError:  # no folder can be written to
        dispatcher._cache = NoCache()
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Part of the callers' machine code: compiled with them, not before."""
    return compiled(function, "always")


class NoCache(NullCache):
    """Without a folder for it, machine code is compiled in each process."""

    def load_overload(self, signature: Any, target: Any) -> None:
        compiling.announce(is_kept=False)


class LoopCache(FunctionCache):
    """Numba's cache on disk; a stale, damaged or unwritable one is as good as none."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        own = self._impl.locator.get_source_stamp()
        base = Path(self._cache_path, self._impl.filename_base)
        self._cache_file = LoopFiles(base, own)  # type: ignore[assignment]

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = None
        # Whatever a cache of another installation raises, the loop can be compiled.
        with suppress(Exception):
            found = super().load_overload(signature, target)
        if found is None:
            compiling.announce(is_kept=True)
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(signature, data)


class LoopFiles:
    """Files with the machine code of one loop, one file for each signature.

    Numba's own files are stamped by the source file of the loop alone, although the
    loop holds lines and constants of other modules, and nothing tells whether their
    bytes are damaged.

    Parameters
    ----------
    base : Path
        Folder of the files, and how their names begin.
    own : bytes
        Stamp of the source file of the loop.
    """

    def __init__(self, base: Path, own: Any) -> None:
        self.base = base
        self.own = repr(own).encode()

    def load(self, key: Any) -> Any:
        """Machine code of that key, None if there is none that can be used."""
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, payload = content[:N_DIGEST], content[N_DIGEST:]
        if digest != self._digest(payload):
            return None
        kept, data = pickle.loads(payload)
        return data if kept == key else None

    def save(self, key: Any, data: Any) -> None:
        """Keep machine code under a key, unless a source file was edited meanwhile."""
        if read_stamp() != STAMP:
            return
        payload = dumps((key, data))
        path = self._path(key)
        place = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:16]}")
        try:
            place.write_bytes(self._digest(payload) + payload)
            os.replace(place, path)
        finally:
            place.unlink(missing_ok=True)

    def flush(self) -> None:
        """Remove all files of the loop."""
        for path in self.base.parent.glob(f"{self.base.name}.*.nbc"):
            path.unlink(missing_ok=True)

    def _path(self, key: Any) -> Path:
        name = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
        return self.base.with_name(f"{self.base.name}.{name}.nbc")

    def _digest(self, payload: bytes) -> bytes:
        stamped = hashlib.blake2b(STAMP + self.own, digest_size=N_DIGEST)
        stamped.update(payload)
        return stamped.digest()
