"""The user's own command, run on a checkpoint: the last number it prints is a score."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

PLACE = "{}"
QUOTED = re.compile(r"""(["'])\{\}(?:\1|/)""")
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINES_SHOWN = 5
# Bytes at the end of what is printed, among which a number is looked for.
TAIL = 1 << 20
VALUE = r"(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
# Between digits: a point in some countries, or what parts thousands, or a list.
GLUE = r"[,'\u2019\u00a0\u2009\u202f]"
# A number that stands by itself: not in a word, a date or a version.
NUMBER = re.compile(
    rf"(?<![\w.+-])[-+]?{VALUE}(?:{GLUE}{VALUE})*(?![\w+-]|\.\w|{GLUE}\.?\d)",
    re.IGNORECASE,
)
# Of 1,234 nobody knows whether it is 1.234.
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}(?:(?:,\d{3})*\.\d*|(?:,\d{3})+)")
SIGNS = {"\u2212": "-", "+/-": "\u00b1", "+-": "\u00b1"}


class ScoringCommand:
    """A shell command as a score of a checkpoint.

    Parameters
    ----------
    text : str
        In which {} stands for the path.
    timeout : float or None
        Seconds after which a run is killed, with all that it has started.

    Raises
    ------
    click.UsageError
        If there is no place for the path, or it is in quotes.
    """

    def __init__(self, text: str, timeout: float | None = None) -> None:
        if PLACE not in text:
            raise click.UsageError(
                f"--score must say by {PLACE} where the path goes, found {text!r}; "
                f"such as 'python eval.py {PLACE}'"
            )
        quoted = QUOTED.search(text)
        if quoted:
            # The path comes with quotes where it needs them, which these would undo.
            raise click.UsageError(
                f"--score must say {PLACE} without quotes, found {quoted[0]}; write "
                f"{PLACE} bare, any path is quoted where that is needed"
            )
        self.text = text
        self.timeout = timeout

    def __call__(self, path: Path) -> float:
        """Score of the checkpoint at a path.

        Raises
        ------
        ValueError
            If the command fails, hangs, or what it prints last is no finite number,
            or one that can be read in two ways.
        """
        line = self.text.replace(PLACE, shlex.quote(str(path)))
        # Files, not pipes: what the command leaves behind may hold those open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            status = self._run(line, out, errors)
            if status is None:
                fault = f"hung for {self.timeout:g} seconds and was killed"
                raise ValueError(_told(line, fault, errors))
            if status != 0:
                fault = f"ended with {_named(status)}"
                raise ValueError(_told(line, fault, errors, out))
            return _last_number(line, out, errors)

    def _run(self, line: str, out: BinaryIO, errors: BinaryIO) -> int | None:
        """Exit status, None if it took too long."""
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
                )
            return process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            return None
        except BaseException:
            _kill(process)
            raise


@contextmanager
def _held_back() -> Iterator[None]:
    """Let signals wait while a process starts that must end with this one."""
    arrived: list[int] = []

    def keep(number: int, frame: Any) -> None:
        arrived.append(number)

    before = {int(number): signal.signal(number, keep) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    """End a process and all of its group."""
    if process is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _named(status: int) -> str:
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"exit status {status}"


def _last_number(line: str, out: BinaryIO, errors: BinaryIO) -> float:
    text = _tail(out)
    for sign, plain in SIGNS.items():
        text = text.replace(sign, plain)
    numbers = [*NUMBER.finditer(text)]
    if not numbers:
        raise ValueError(_told(line, "printed no number", out, errors))
    found = numbers[-1][0]
    if text[: numbers[-1].start()].rstrip().endswith("\u00b1"):
        found = f"\u00b1 {found}"
    elif THOUSANDS.fullmatch(found):
        found = found.replace(",", "")
    try:
        score = float(found)
    except ValueError:
        fault = (
            f"printed last {found!r}, no number that can be read: print a plain number "
            "last, such as 1234.5"
        )
        raise ValueError(_told(line, fault, out)) from None
    if not math.isfinite(score):
        raise ValueError(_told(line, f"printed {found}", errors))
    return score


def _told(line: str, fault: str, *printed: BinaryIO) -> str:
    """What went wrong, with the last lines of the first file that has any."""
    for file in printed:
        lines = [text.rstrip() for text in _tail(file).splitlines() if text.strip()]
        if lines:
            shown = "".join(f"\n  {text}" for text in lines[-LINES_SHOWN:])
            return f"{line} {fault}; its last lines:{shown}"
    return f"{line} {fault}"


def _tail(file: BinaryIO) -> str:
    """Text at the end of a file, without colours."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    return click.unstyle(file.read().decode(errors="replace"))
