"""Entry point of the command line, also of ``python -m ensembles_cli``."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys

OBJECTS = 10_000  # allocations between two collections, 700 in Python


def main() -> None:
    """Run the command; an interrupt during imports exits without a traceback."""
    # Modules live until the exit. Searching them for cycles of objects that are not
    # used takes up to 0.1 s of a short command, most of it at the exit.
    gc.set_threshold(OBJECTS)
    atexit.register(gc.freeze)
    # Threads of OpenBLAS wait for work at full load for 0.1 s, also when NumPy is
    # imported. 2**20 cycles are enough between two products of matrices.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    try:
        from ensembles_cli.main import cli
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    cli(prog_name="ensemble")


if __name__ == "__main__":
    main()
