"""Commands of the user in a shell, ended with all that they have started."""

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

RUN = "ENSEMBLES_RUN"  # in the environment of all that a command starts
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
    """Exit status of a shell command, None if it was ended by the timeout.

    Parameters
    ----------
    line : str
    out, errors : binary files
        What it prints.
    timeout : float or None
        Seconds; None waits for as long as it takes.
    environment : mapping of str to str
        Variables besides those of this process.

    Returns
    -------
    int or None
        Negative is the number of the signal that ended it.
    """
    mark = uuid.uuid4().hex
    process: subprocess.Popen[bytes] | None = None
    try:
        with _held_back():
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
        _end(process, mark)
        return None
    except BaseException:
        _end(process, mark)
        raise


@contextmanager
def _held_back() -> Iterator[None]:
    """Let signals wait while a process starts that must end with this one."""
    arrived: list[int] = []

    def keep(number: int, frame: object) -> None:
        arrived.append(number)

    heard = [n for n in ENDS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {int(number): signal.signal(number, keep) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


def _end(process: subprocess.Popen[bytes] | None, mark: str) -> None:
    """Ask a command and all that it has started to end, then kill what is left.

    Launchers such as torchrun start workers in sessions of their own, and end them
    when they are asked to.
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
    """Processes of a command that still run, by the mark in their environment.

    Whatever their session and parent are. Without /proc, as on macOS, none is known.
    """
    wanted, found = f"{RUN}={mark}".encode(), list[int]()
    for entry in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # of others, or gone
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
