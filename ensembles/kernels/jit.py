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

LANE = 1024  # elements per step of a loop: 8 KiB in float64
PACKAGE = Path(__file__).parents[1]
N_DIGEST = 16  # bytes of a digest


def read_stamp() -> bytes:
    """Digest of all modules of this package with loops, and of the compiler version.

    Returns
    -------
    bytes
        Changes with an edit of any such module, because the machine code of a loop
        contains loops of other modules.
    """
    found = hashlib.blake2b(
        f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode()
    )
    # Twice as fast as Path.rglob; most commands run it at startup.
    for folder, folders, names in os.walk(PACKAGE):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                with open(os.path.join(folder, name), "rb") as file:
                    source = file.read()
                if b"kernels.jit" in source:
                    found.update(source)
    return found.digest()


# Computed before the other modules are imported, so that later edits do not match it.
STAMP = read_stamp()


def compiled(
    function: Callable[..., Any], inline: Literal["never", "always"] = "never"
) -> Any:
    """Compile a loop to machine code at its first call.

    Parameters
    ----------
    function : callable of arrays and numbers
        Loop that Numba can compile in nopython mode.
    inline : {"never", "always"}, default="never"
        ``"always"`` compiles the function as a part of each caller.

    Returns
    -------
    callable
        Numba dispatcher whose ``py_func`` is ``function``. With ``NUMBA_DISABLE_JIT=1``
        the function itself, without floating-point warnings, which machine code does
        not issue either.
    """
    if numba.config.DISABLE_JIT:
        return np.errstate(all="ignore")(function)
    dispatcher = numba.njit(nogil=True, inline=inline)(function)
    try:
        dispatcher._cache = LoopCache(function)
    except RuntimeError:  # no writable cache folder
        dispatcher._cache = NoCache()
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function as a part of each caller."""
    return compiled(function, "always")


class NoCache(NullCache):
    """Replaces the cache if no folder is writable: each process compiles the loop."""

    def load_overload(self, signature: Any, target: Any) -> None:
        compiling.announce(is_kept=False)


class LoopCache(FunctionCache):
    """Numba's cache on disk, ignored if it is stale, damaged or not writable."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        own = self._impl.locator.get_source_stamp()
        base = Path(self._cache_path, self._impl.filename_base)
        self._cache_file = LoopFiles(base, own)  # type: ignore[assignment]

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = None
        # The cache of another installation may raise anything; compile instead.
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

    Numba's own files depend on the source file of the loop alone, although the machine
    code contains code and constants of other modules, and they have no checksum.

    Parameters
    ----------
    base : Path
        Common prefix of the paths of the files.
    own : object
        Stamp of the loop's source file, from Numba's cache locator.
    """

    def __init__(self, base: Path, own: Any) -> None:
        self.base = base
        self.own = repr(own).encode()

    def load(self, key: Any) -> Any:
        """Machine code of a signature, None if no valid file has it."""
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
        """Write machine code to a file, unless a source file changed since import."""
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
