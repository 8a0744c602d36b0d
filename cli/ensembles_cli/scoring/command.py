"""Scores of checkpoints, printed by a shell command of the user."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from ensembles.regular_files import read_regular
from ensembles_cli.scoring import shell
from ensembles_cli.scoring.printed_score import Reading, Unclear, read_score, shortened

if TYPE_CHECKING:
    from ensembles.checkpoints import Journal

PLACEHOLDER = "{}"
# Environment variable for the path: the shell does not execute its value.
VARIABLE = "ENSEMBLES_CHECKPOINT"
QUOTED = re.compile(r"""(["'])\{\}(?:\1|/)""")
LINES_SHOWN = 5
# Bytes at the end of the output that are searched for the score.
TAIL = 1 << 20
# Programs and settings, which a command reads; its output files change in every run.
PROGRAM = re.compile(
    r".*\.(py|ipynb|sh|bash|zsh|pl|rb|r|jl|lua|m?js|ts|ya?ml|toml|cfg|ini)", re.I
)


class ScoringCommand:
    """Score a checkpoint with a shell command.

    Parameters
    ----------
    text : str
        Shell command with {} in place of the checkpoint path.
    timeout : float or None
        Seconds after which the command and its child processes are killed; None sets
        no limit.
    key : str or None, default=None
        Name of the score in the output, as in `read_score`, also for None.

    Attributes
    ----------
    reading : Reading or None
        Last score, with its line of the output; None before the first one.

    Raises
    ------
    click.UsageError
        If {} is missing or quoted.
    """

    def __init__(
        self, text: str, timeout: float | None = None, key: str | None = None
    ) -> None:
        if PLACEHOLDER not in text:
            raise click.UsageError(
                f"--score must contain {PLACEHOLDER} in place of the checkpoint path, "
                f"such as 'python eval.py {PLACEHOLDER}': found {text!r}"
            )
        quoted = QUOTED.search(text)
        if quoted:
            raise click.UsageError(_quoting_error(quoted[0]))
        self.text = text
        self.timeout = timeout
        self.key = key
        self.reading: Reading | None = None

    def __call__(self, path: Path) -> float:
        """Run the command on a checkpoint and return the score.

        Raises
        ------
        ValueError
            If the command fails or times out, its output has no clear score, or the
            path needs quotes and {} is already inside quotes.
        """
        absolute = str(path.absolute())  # the command may change the working directory
        command_line = run = self.text.replace(PLACEHOLDER, shlex.quote(absolute))
        if shlex.quote(absolute) != absolute:
            self._check_quotes()
            run = self.text.replace(PLACEHOLDER, f'"${VARIABLE}"')
        # Files, not pipes, which background processes of the command may keep open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            status = shell.run(
                run,
                out,
                errors,
                timeout=self.timeout,
                environment={VARIABLE: absolute},
            )
            if status is None:
                fault = f"was killed after {self.timeout:g} seconds"
                raise ValueError(_failure(command_line, fault, errors))
            if status != 0:
                fault = f"ended with {_ending(status)}"
                raise ValueError(_failure(command_line, fault, errors, out))
            try:
                self.reading = read_score(_tail(out), self.key)
            except Unclear as error:
                raise ValueError(
                    _failure(command_line, str(error), out, errors)
                ) from None
        return self.reading.value

    def _check_quotes(self) -> None:
        fault = quotes_around(self.text)
        if fault is not None:
            raise ValueError(_quoting_error(fault))

    def files(self) -> dict[str, str]:
        """Digests of the programs and settings in the command line, such as eval.py.

        Returns
        -------
        dict of str to str
            SHA-256 of each file, by its path in the command line.
        """
        try:
            words = shlex.split(self.text)
        except ValueError:  # not valid shell syntax
            words = self.text.split()
        digests = {}
        for word in dict.fromkeys(words):
            if PROGRAM.fullmatch(word) and PLACEHOLDER not in word:
                with suppress(OSError, ValueError):  # missing, or not a regular file
                    content = read_regular(Path(word))
                    digests[word] = hashlib.sha256(content).hexdigest()
        return digests

    def journal(self, path: str) -> Journal:
        """Journal that keeps the scores of this command.

        Parameters
        ----------
        path : str
            Path of its file.

        Returns
        -------
        Journal
        """
        from ensembles.checkpoints import Journal

        key = "" if self.key is None else f" --score-key {self.key}"
        return Journal(path, self.text + key, self.files())


def quotes_around(text: str) -> str | None:
    """Find quotes or a here-document around {} in a shell command.

    Quotes inside ``$(…)`` or backticks are independent of those around them.

    Parameters
    ----------
    text : str
        Shell command with {} in place of the path.

    Returns
    -------
    str or None
        The command from the opening quote on; None if {} is not quoted.

    Examples
    --------
    >>> quotes_around('echo "$(wc -l < {})" "file {}"')
    '"file {}"'
    """
    # Quotes and substitutions that are open at the position, with their offsets.
    open_quotes: list[tuple[str, int]] = []
    position = 0
    while position < len(text):
        rest, kind = text[position:], open_quotes[-1][0] if open_quotes else ""
        step = 1
        if rest.startswith("\\"):
            step = 2
        elif rest.startswith(PLACEHOLDER) and kind == '"':
            return text[open_quotes[-1][1] :]
        elif rest[0] == "'" and kind != '"':
            step = (rest.find("'", 1) + 1) or len(rest)
            if PLACEHOLDER in rest[:step]:
                return rest
        elif rest.startswith("$("):
            open_quotes.append((")", position))
            step = 2
        elif rest[0] == kind:
            open_quotes.pop()
        elif rest[0] in '"`':
            open_quotes.append((rest[0], position))
        elif re.match(r"<<(?!<)", rest) and kind != '"' and PLACEHOLDER in rest:
            return rest
        step = 3 if rest.startswith("<<<") and kind != '"' else step
        position += step
    return None


def _ending(status: int) -> str:
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"exit status {status}"


def _quoting_error(quoted: str) -> str:
    """Error message for quotes around {}."""
    return (
        f"--score must contain {PLACEHOLDER} without quotes, found {quoted}; remove "
        "the quotes: the path is quoted if necessary"
    )


def _failure(line: str, fault: str, *printed: BinaryIO) -> str:
    """Error message with the last lines of the first file that has output."""
    for file in printed:
        lines = [text.rstrip() for text in _tail(file).splitlines() if text.strip()]
        if lines:
            last_lines = [f"\n  {shortened(text)}" for text in lines[-LINES_SHOWN:]]
            return f"{line} {fault}; its last lines:{''.join(last_lines)}"
    return f"{line} {fault}"


def _tail(file: BinaryIO) -> str:
    """Text at the end of a file, without ANSI styles and without a truncated word."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    content = file.read()
    if size > TAIL:
        content = re.sub(rb"\A\S++", b"", content)
    return click.unstyle(content.decode(errors="replace"))
