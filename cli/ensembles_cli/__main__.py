"""Entry point of the command line, also of ``python -m ensembles_cli``."""

from __future__ import annotations

import atexit
import gc
import signal
import sys

OBJECTS = 100_000  # allocations between two collections, 700 in Python


def main() -> None:
    """Run the command; an interrupt during imports exits without a traceback."""
    # Modules live until the exit. Searching them for cycles of objects that are not
    # used takes 0.2 s of a short command, half of it at the exit.
    gc.set_threshold(OBJECTS, 50, 100)
    atexit.register(gc.freeze)
    try:
        from ensembles_cli.main import cli
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    cli(prog_name="ensemble")


if __name__ == "__main__":
    main()
