"""How a command starts, and how it ends when it is told to."""

from __future__ import annotations

import csv
import importlib
import resource
import signal
import sys
from contextlib import suppress

# Numba looks for linear algebra in scipy, and for coverage to report to: together they
# take a third of the time that the command needs to start.
LONGEST_FIELD = 1 << 30
UNUSED = ("scipy.linalg", "coverage")


def load_numba() -> None:
    """Import numba, with the unused packages out of its sight.

    It is for a process of the command's own: where numba is imported in this way,
    loops of others cannot call linear algebra.
    """
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: absent
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        for name in hidden:
            del sys.modules[name]


def end_cleanly() -> None:
    """Let a run that is ended from outside clear up as if it had failed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda found, _: sys.exit(128 + found))


def raise_file_limit() -> None:
    """Let as many files be open as the system grants: each shard holds one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS grants less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def allow_long_fields() -> None:
    """Let a field of CSV be as long as a text, where Python stops at 131 072."""
    csv.field_size_limit(LONGEST_FIELD)
