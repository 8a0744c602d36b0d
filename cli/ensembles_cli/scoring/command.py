"""The user's own command, run on a checkpoint: a number that it prints is the score."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click

from ensembles.regular_files import read_regular
from ensembles_cli.console import verbatim
from ensembles_cli.scoring import shell
from ensembles_cli.scoring.printed_score import Reading, Unclear, read_score, shortened

PLACE = "{}"
# The path, for a shell: what a variable holds is never run.
VARIABLE = "ENSEMBLES_CHECKPOINT"
QUOTED = re.compile(r"""(["'])\{\}(?:\1|/)""")
LINES_SHOWN = 5
# Bytes at the end of what is printed, among which a number is looked for.
TAIL = 1 << 20
# Files that a command names and reads; results that it writes change with each run.
PROGRAM = re.compile(
    r".*\.(py|ipynb|sh|bash|zsh|pl|rb|r|jl|lua|m?js|ts|ya?ml|toml|cfg|ini)", re.I
)


class ScoringCommand:
    """A shell command as a score of a checkpoint.

    Parameters
    ----------
    text : str
        In which {} stands for the path.
    timeout : float or None
        Seconds after which a run is ended, with all that it has started.
    key : str or None, default=None
        Name of the score in what is printed, as of `read_score`.

    Attributes
    ----------
    reading : Reading or None
        Where the last score was read.

    Raises
    ------
    click.UsageError
        If there is no place for the path, or it is in quotes.
    """

    def __init__(
        self, text: str, timeout: float | None = None, key: str | None = None
    ) -> None:
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
        self.key = key
        self.reading: Reading | None = None

    def __call__(self, path: Path) -> float:
        """Score of the checkpoint at a path.

        Raises
        ------
        ValueError
            If the command fails, hangs, or no score can be read in what it prints; if
            the path needs quotes and its place is within others.
        """
        place = str(path.absolute())  # the command may change the folder
        shown = run = self.text.replace(PLACE, shlex.quote(place))
        if shlex.quote(place) != place:
            self._check_quotes()
            run = self.text.replace(PLACE, f'"${VARIABLE}"')
        # Files, not pipes: what the command leaves behind may hold those open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            status = shell.run(
                run,
                out,
                errors,
                timeout=self.timeout,
                environment={VARIABLE: place},
            )
            if status is None:
                fault = f"hung for {self.timeout:g} seconds and was killed"
                raise ValueError(_told(shown, fault, errors))
            if status != 0:
                fault = f"ended with {_named(status)}"
                raise ValueError(_told(shown, fault, errors, out))
            try:
                self.reading = read_score(_tail(out), self.key)
            except Unclear as error:
                fault = verbatim(str(error))
                raise ValueError(_told(shown, fault, out, errors)) from None
        return self.reading.value

    def _check_quotes(self) -> None:
        fault = quotes_around(self.text)
        if fault is not None:
            raise ValueError(_unquoted(verbatim(fault)))

    def files(self) -> dict[str, str]:
        """Digests of programs and settings that the command names, such as eval.py.

        Returns
        -------
        dict of str to str
            SHA-256 by the words of the command.
        """
        try:
            words = shlex.split(self.text)
        except ValueError:  # of a language that is no plain shell
            words = self.text.split()
        found = {}
        for word in dict.fromkeys(words):
            if PROGRAM.fullmatch(word) and PLACE not in word:
                with suppress(OSError, ValueError):  # not there, or no regular file
                    content = read_regular(Path(word))
                    found[word] = hashlib.sha256(content).hexdigest()
        return found


def quotes_around(text: str) -> str | None:
    """Quotes, or a here-document, of a command that the path would stand in.

    A command in ``$(…)`` or backticks has quotes of its own, wherever it stands.

    Parameters
    ----------
    text : str

    Returns
    -------
    str or None
        From where they begin.

    Examples
    --------
    >>> quotes_around('echo "$(wc -l < {})" "file {}"')
    '"file {}"'
    """
    inside: list[tuple[str, int]] = []  # what has begun, and where
    place = 0
    while place < len(text):
        rest, kind = text[place:], inside[-1][0] if inside else ""
        step = 1
        if rest.startswith("\\"):
            step = 2
        elif rest.startswith(PLACE) and kind == '"':
            return text[inside[-1][1] :]
        elif rest[0] == "'" and kind != '"':
            step = (rest.find("'", 1) + 1) or len(rest)
            if PLACE in rest[:step]:
                return rest
        elif rest.startswith("$("):
            inside.append((")", place))
            step = 2
        elif rest[0] == kind:
            inside.pop()
        elif rest[0] in '"`':
            inside.append((rest[0], place))
        elif re.match(r"<<(?!<)", rest) and kind != '"' and PLACE in rest:
            return rest
        step = 3 if rest.startswith("<<<") and kind != '"' else step
        place += step
    return None


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


def _told(line: str, fault: str, *printed: BinaryIO) -> str:
    """What went wrong, with the last lines of the first file that has any."""
    for file in printed:
        lines = [text.rstrip() for text in _tail(file).splitlines() if text.strip()]
        if lines:
            shown = [f"\n  {shortened(text)}" for text in lines[-LINES_SHOWN:]]
            return (
                f"{verbatim(line)} {fault}; its last lines:{verbatim(''.join(shown))}"
            )
    return f"{verbatim(line)} {fault}"


def _tail(file: BinaryIO) -> str:
    """Text at the end of a file, without colors; no word without its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    content = file.read()
    if size > TAIL:
        content = re.sub(rb"\A\S++", b"", content)
    return click.unstyle(content.decode(errors="replace"))
