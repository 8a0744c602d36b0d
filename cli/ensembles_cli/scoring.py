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

from ensembles_cli.printing import verbatim
from ensembles_cli.starting import ENDS

PLACE = "{}"
QUOTED = re.compile(r"""(["'])\{\}(?:\1|/)""")
# What stands in quotes, besides what is escaped.
STRETCH = re.compile(r"""\\.|'[^']*+'|"(?:\\.|[^"\\])*+\"""", re.DOTALL)
LINES_SHOWN, LONGEST_SHOWN = 5, 200
# Bytes at the end of what is printed, among which a number is looked for.
TAIL = 1 << 20
# All that follows is possessive: what a command prints is read in one pass.
VALUE = r"(?:(?:\d++\.?+\d*+|\.\d++)(?:e[-+]?\d++)?+|nan|inf(?:inity)?+)"
# Between digits: a point in some countries, or what parts thousands, or a list; a
# fraction, a power.
GLUE = r"(?:[,'\u2019\u00a0\u2009\u202f/]|(?:\*\*?|\u00d7|\^)[-+]?)"
RAISED = r"[\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]"
# What has digits and is no number: a path, an address, a device in quotes, and, by
# what is glued to its end, a word, a time, a date or a version.
NUMBER = re.compile(
    rf"(?<![\w.+/^-])(?:"
    rf"(?P<found>[-+]?{VALUE}(?:{GLUE}{VALUE})*+{RAISED}*+)"
    rf"(?P<more>(?::\d[\d:.,]*+|[\w+/-]|\.\w)[\w.+/-]*+(?:(?<=T\d\d):[\d:.]++)?+"
    r"(?:[+-]\d\d:\d\d|(?<=[+-]\d\d):\d\d|(?<=\.\d):\d++|(?<=\.\d\d):\d++"
    r"|(?<=\.\d\d\d):\d++)?+)?+"
    rf"|\w++://\S++|localhost:\d++|(?:[\w.+-]*+/)++[\w.+-]*+)"
    rf"|(?P<quote>[\"'])\w[\w.-]*+:\d++(?P=quote)",
    re.IGNORECASE,
)
# Of 1,234 nobody knows whether it is 1.234.
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}(?:(?:,\d{3})*\.\d*|(?:,\d{3})+)")
SIGNS = dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-")
SIGNS |= {"+/-": "\u00b1", "+-": "\u00b1"}


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
            raise click.UsageError(_unquoted(quoted[0]))
        self.text = text
        self.timeout = timeout

    def __call__(self, path: Path) -> float:
        """Score of the checkpoint at a path.

        Raises
        ------
        ValueError
            If the command fails, hangs, or what it prints last is no finite number,
            or one that can be read in two ways; if the path needs quotes and its
            place is within others.
        """
        place = str(path.absolute())  # the command may change the folder
        if shlex.quote(place) != place:
            self._check_quotes()
        line = self.text.replace(PLACE, shlex.quote(place))
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

    def _check_quotes(self) -> None:
        for found in STRETCH.finditer(self.text):
            quoted = found[0]
            # A command that is put in there has quotes of its own.
            inner = quoted[0] == '"' and ("$(" in quoted or "`" in quoted)
            if PLACE in quoted and not inner:
                raise ValueError(_unquoted(verbatim(quoted)))

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

    heard = [n for n in ENDS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {int(number): signal.signal(number, keep) for number in heard}
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


def _unquoted(found: str) -> str:
    """What is wrong with quotes around the path, which its own would undo."""
    return (
        f"--score must say {PLACE} without quotes, found {found}; write {PLACE} bare, "
        "any path is quoted where that is needed"
    )


def _last_number(line: str, out: BinaryIO, errors: BinaryIO) -> float:
    found = _last_found(_tail(out))
    if found is None:
        raise ValueError(_told(line, "printed no number", out, errors))
    if THOUSANDS.fullmatch(found):
        found = found.replace(",", "")
    try:
        score = float(found)
    except ValueError:
        fault = (
            f"printed last {_cut(found)!r}, no number that can be read: print a plain "
            "number last, such as 1234.5"
        )
        raise ValueError(_told(line, fault, out)) from None
    if not math.isfinite(score):
        raise ValueError(_told(line, f"printed {_cut(found)}", errors))
    return score


def _last_found(text: str) -> str | None:
    """The last that looks like a number, with the sign of a deviation before it."""
    for sign, plain in SIGNS.items():
        text = text.replace(sign, plain)
    for line in reversed(text.splitlines()):
        numbers = [m for m in NUMBER.finditer(line) if m["found"] and not m["more"]]
        if numbers:
            before = line[: numbers[-1].start()].rstrip()
            return "\u00b1 " * before.endswith("\u00b1") + numbers[-1]["found"]
    return None


def _told(line: str, fault: str, *printed: BinaryIO) -> str:
    """What went wrong, with the last lines of the first file that has any."""
    for file in printed:
        lines = [text.rstrip() for text in _tail(file).splitlines() if text.strip()]
        if lines:
            shown = [f"\n  {_cut(text)}" for text in lines[-LINES_SHOWN:]]
            return (
                f"{verbatim(line)} {fault}; its last lines:{verbatim(''.join(shown))}"
            )
    return f"{verbatim(line)} {fault}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}\u2026"


def _tail(file: BinaryIO) -> str:
    """Text at the end of a file, without colours; no word without its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    content = file.read()
    if size > TAIL:
        content = re.sub(rb"\A\S++", b"", content)
    return click.unstyle(content.decode(errors="replace"))
