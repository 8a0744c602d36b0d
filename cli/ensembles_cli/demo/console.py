"""Console output of the demo: text, tables, progress bars and commands."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")


def run_ensemble(arguments: Sequence[str]) -> str:
    """Run the command ``ensemble`` and return its output, stderr first.

    Raises
    ------
    ValueError
        If the command fails; the message contains its stderr.
    """
    process = subprocess.run(
        [sys.executable, "-m", "ensembles_cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise ValueError(f"'{shell_line(arguments)}' failed: {process.stderr.strip()}")
    return process.stderr + process.stdout


def shell_line(arguments: Sequence[str]) -> str:
    """Format arguments as a shell command line."""
    return shlex.join(["ensemble", *arguments])


@dataclass(frozen=True)
class DemoConsole:
    """Console of the demo, with a function that runs the command ``ensemble``."""

    console: Console
    ensemble: Callable[[Sequence[str]], str] = run_ensemble

    def title(self, text: str) -> None:
        """Print a section title."""
        self.console.print()
        self.console.print(Text(text, style="bold"))
        self.console.print(Text("─" * len(text), style="dim"))

    def print(self, text: str) -> None:
        """Print text, wrapped to the width of the console."""
        self.console.print(Text(text))

    def run_command(self, *arguments: str) -> None:
        """Print a command line, run it and print its output."""
        self.console.print()
        self.print_command(*arguments)
        for line in self.ensemble(arguments).splitlines():
            self.console.print(Text(f"  {line}", style="dim"), soft_wrap=True)

    def print_command(self, *arguments: str) -> None:
        """Print a command line without wrapping, so that it can be copied."""
        line = Text(f"$ {shell_line(arguments)}", style="cyan")
        self.console.print(line, soft_wrap=True)

    def track(self, items: Sequence[Item], label: str) -> Iterable[Item]:
        """Iterate over items, with a progress bar if the console is a terminal."""
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            TimeRemainingColumn(),
        )
        hidden = not self.console.is_terminal
        with Progress(
            *columns, console=self.console, transient=True, disable=hidden
        ) as progress:
            yield from progress.track(items, description=label)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table; cells with a * are bold."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="right" if index else "left")
        for row in rows:
            table.add_row(*(Text(c, style="bold" if "*" in c else "") for c in row))
        self.console.print(table)
