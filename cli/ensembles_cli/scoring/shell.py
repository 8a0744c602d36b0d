"""Run shell commands, and kill them with all of their child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ensembles_cli.process import ENDS

RUN = "ENSEMBLES_RUN"  # environment variable that child processes inherit
GRACE = 5.0  # seconds from SIGTERM to SIGKILL
PROCESSES = Path("/proc")


def run(
    line: str,
    out: BinaryIO,
    errors: BinaryIO,
    *,
    timeout: float | None,
    environment: Mapping[str, str],
) -> int | None:
    """Run a shell command, and kill its process tree on a timeout or an exception.

    Parameters
    ----------
    line : str
        Shell command.
    out, errors : binary files
        Files for stdout and stderr.
    timeout : float or None
        Seconds to wait; None waits without limit.
    environment : mapping of str to str
        Environment variables in addition to those of this process.

    Returns
    -------
    int or None
        Exit status, negative for the signal that terminated the command; None after a
        timeout.
    """
    mark = uuid.uuid4().hex
    process: subprocess.Popen[bytes] | None = None
    try:
        with _deferred_signals():
            process = subprocess.Popen(
                line,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                process_group=0,
                env={**os.environ, **environment, RUN: mark},
            )
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        _terminate(process, mark)
        return None
    except BaseException:
        _terminate(process, mark)
        raise


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Defer signals until a process has started, so that it can be killed."""
    received: list[int] = []

    def record(number: int, frame: object) -> None:
        received.append(number)

    handled = [n for n in ENDS if signal.getsignal(n) is not signal.SIG_IGN]
    handlers = {int(number): signal.signal(number, record) for number in handled}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)


def _terminate(process: subprocess.Popen[bytes] | None, mark: str) -> None:
    """Terminate a command and its child processes, then kill the remaining ones.

    SIGTERM comes first, because launchers such as torchrun start workers in separate
    sessions and terminate them on that signal.
    """
    if process is None:
        return
    _signal_all(process, mark, signal.SIGTERM)
    stop = time.monotonic() + GRACE
    while time.monotonic() < stop and (process.poll() is None or _started(mark)):
        time.sleep(0.05)
    while True:
        _signal_all(process, mark, signal.SIGKILL)
        if not _started(mark):
            break
        time.sleep(0.05)
    process.wait()


def _signal_all(
    process: subprocess.Popen[bytes], mark: str, number: signal.Signals
) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
    for started in _started(mark):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(started, number)


def _started(mark: str) -> list[int]:
    """Running processes of a command, identified by the mark in their environment.

    Session and parent do not matter. Without /proc, as on macOS, the list is empty.
    """
    variable, ids = f"{RUN}={mark}".encode(), list[int]()
    for entry in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # processes of other users, or exited ones
            if variable in (entry / "environ").read_bytes().split(b"\0"):
                ids.append(int(entry.name))
    return ids
