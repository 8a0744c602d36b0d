"""Process setup of a command: imports, signals and resource limits."""

from __future__ import annotations

import csv
import resource
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

import click

from ensembles.kernels import compiling, jit

LONGEST_FIELD = 1 << 30
COMPILER = ("numba", "llvmlite")
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def prepare_compiling() -> None:
    """Print when loops are compiled, and import Numba without what they do not need.

    For a process that runs only the command: compiled functions of other packages
    could no longer use linear algebra.
    """
    compiling.listen(announce_compiling)
    jit.HIDDEN[:] = ["scipy.linalg", "coverage"]


def announce_compiling(is_kept: bool) -> None:
    """Print that loops are compiled, and whether the result is cached.

    Parameters
    ----------
    is_kept : bool
        Whether the compiled code is cached for later runs.
    """
    note = (
        "once (some seconds), kept for later runs"
        if is_kept
        else "(some seconds); set NUMBA_CACHE_DIR to a writable folder to keep the "
        "result for later runs"
    )
    click.echo(f"compiling {note}", err=True)


def end_cleanly() -> None:
    """Turn termination signals into exceptions, so that temporary files are removed.

    A signal that is ignored, as under nohup, stays ignored.
    """
    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    caller = frame
    while caller is not None:
        if caller.f_globals.get("__name__", "").partition(".")[0] in COMPILER:
            # An exception in a compiler callback is lost, or crashes: retry later.
            arguments = [threading.main_thread().ident, number]
            timer = threading.Timer(0.05, signal.pthread_kill, arguments)
            timer.daemon = True  # the timer must not delay the exit
            timer.start()
            return
        caller = caller.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def raise_file_limit() -> None:
    """Raise the limit of open files to the maximum; each shard needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS allows less than the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def allow_long_fields() -> None:
    """Raise the maximum length of a CSV field, 131,072 by default in Python."""
    csv.field_size_limit(LONGEST_FIELD)
