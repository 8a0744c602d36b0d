"""Entry point of the command line, also of ``python -m ensembles_cli``."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command; an interrupt during imports exits without a traceback."""
    try:
        from ensembles_cli.main import cli
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    cli(prog_name="ensemble")


if __name__ == "__main__":
    main()
