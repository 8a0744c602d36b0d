# mypy: disable-error-code="no-untyped-call, attr-defined"
"""Numba's dispatchers of loops, with machine code cached on disk where possible."""

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
from ensembles.kernels.source_stamp import STAMP, read_stamp

N_DIGEST = 16  # bytes of a digest
VERSIONS = f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode()


def make_dispatcher(
    function: Callable[..., Any], inline: Literal["never", "always"]
) -> Callable[..., Any]:
    """Numba's dispatcher of a loop.

    Parameters
    ----------
    function : callable of arrays and numbers
        Loop that Numba can compile in nopython mode.
    inline : {"never", "always"}
        ``"always"`` compiles the function as a part of each caller.

    Returns
    -------
    callable
        With ``NUMBA_DISABLE_JIT=1`` the function itself, without floating-point
        warnings, which machine code does not issue either.
    """
    if numba.config.DISABLE_JIT:
        return np.errstate(all="ignore")(function)
    dispatcher: Any = numba.njit(nogil=True, inline=inline)(function)
    try:
        dispatcher._cache = LoopCache(function)
    except RuntimeError:  # no writable cache folder
        dispatcher._cache = NoCache()
    return dispatcher  # type: ignore[no-any-return]  # Numba has no types


class NoCache(NullCache):
    """Replaces the cache if no folder is writable: each process compiles the loop."""

    def load_overload(self, signature: Any, target: Any) -> None:
        compiling.announce(is_kept=False)


class LoopCache(FunctionCache):
    """Numba's cache on disk, ignored if it is stale, damaged or not writable."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        base = Path(self._cache_path, self._impl.filename_base)
        self._cache_file = LoopFiles(base, stamp)  # type: ignore[assignment]

    def load_overload(self, signature: Any, target: Any) -> Any:
        overload = None
        # The cache of another installation may raise anything; compile instead.
        with suppress(Exception):
            overload = super().load_overload(signature, target)
        if overload is None:
            compiling.announce(is_kept=True)
        return overload

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
    stamp : object
        Stamp of the loop's source file, from Numba's cache locator.
    """

    def __init__(self, base: Path, stamp: Any) -> None:
        self.base = base
        self.stamp = repr(stamp).encode()

    def load(self, key: Any) -> Any:
        """Machine code of a signature, None if no valid file has it."""
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, payload = content[:N_DIGEST], content[N_DIGEST:]
        if digest != self._digest(payload):
            return None
        stored_key, data = pickle.loads(payload)
        return data if stored_key == key else None

    def save(self, key: Any, data: Any) -> None:
        """Write machine code to a file, unless a source file changed since import."""
        if read_stamp() != STAMP:
            return
        payload = dumps((key, data))
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:16]}")
        try:
            temporary.write_bytes(self._digest(payload) + payload)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def flush(self) -> None:
        """Remove all files of the loop."""
        for path in self.base.parent.glob(f"{self.base.name}.*.nbc"):
            path.unlink(missing_ok=True)

    def _path(self, key: Any) -> Path:
        name = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
        return self.base.with_name(f"{self.base.name}.{name}.nbc")

    def _digest(self, payload: bytes) -> bytes:
        digest = hashlib.blake2b(VERSIONS + STAMP + self.stamp, digest_size=N_DIGEST)
        digest.update(payload)
        return digest.digest()
