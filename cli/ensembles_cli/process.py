"""How a command starts, and how it ends when it is told to."""

from __future__ import annotations

import csv
import importlib
import resource
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

import click

from ensembles.kernels import compiling

# Numba looks for linear algebra in scipy, and for coverage to report to: together they
# take a third of the time that the command needs to start.
LONGEST_FIELD = 1 << 30
UNUSED = ("scipy.linalg", "coverage")
COMPILER = ("numba", "llvmlite")
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


def tell_of_compiling() -> None:
    """Print one line on stderr when loops are compiled, as that takes seconds."""
    compiling.listen(announce_compiling)


def announce_compiling(is_kept: bool) -> None:
    """Print that loops are compiled, and whether later runs are spared it.

    Parameters
    ----------
    is_kept : bool
    """
    kept = (
        "once (some seconds), kept for later runs"
        if is_kept
        else "(some seconds); set NUMBA_CACHE_DIR to a folder that can be written to, "
        "to keep the result for later runs"
    )
    click.echo(f"compiling {kept}", err=True)


def end_cleanly() -> None:
    """Let a run that is ended from outside clear up as if it had failed.

    A signal that is ignored, as under nohup, stays so.
    """
    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    at = frame
    while at is not None:
        if at.f_globals.get("__name__", "").partition(".")[0] in COMPILER:
            # What is raised in a callback of machine code is lost, or a crash.
            again = [threading.main_thread().ident, number]
            timer = threading.Timer(0.05, signal.pthread_kill, again)
            timer.daemon = True  # a run that ends before has ended well
            timer.start()
            return
        at = at.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def raise_file_limit() -> None:
    """Let as many files be open as the system grants: each shard holds one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS grants less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def allow_long_fields() -> None:
    """Let a field of CSV be as long as a text, where Python stops at 131 072."""
    csv.field_size_limit(LONGEST_FIELD)
