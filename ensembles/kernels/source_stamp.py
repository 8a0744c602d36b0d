"""Digest of the sources of all compiled loops."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def read_stamp() -> bytes:
    """Digest of all modules of this package with loops.

    Returns
    -------
    bytes
        Changes with an edit of any such module, because the machine code of a loop
        contains loops of other modules.
    """
    digest = hashlib.blake2b()
    # Twice as fast as Path.rglob; most commands run it at startup.
    for folder, folders, names in os.walk(PACKAGE):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                with open(os.path.join(folder, name), "rb") as file:
                    source = file.read()
                if b"kernels.jit" in source:
                    digest.update(source)
    return digest.digest()


# Computed before the other modules are imported, so that later edits do not match it.
STAMP = read_stamp()
