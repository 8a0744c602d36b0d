"""Tables and bars, on a terminal and in a pipe."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from ensembles.checkpoints.methods.builtin import RULES
from ensembles_cli.console import bar, table
from ensembles_cli.demo.console import DemoConsole
from ensembles_cli.main import cli
from tests.checkpoints.building import save


class Terminal(io.StringIO):
    """Somewhere to write that passes for a terminal."""

    def isatty(self) -> bool:
        return True


def shown(draw: Callable[[], object]) -> str:
    """What is read on a terminal, without its colours and moves of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written(draw, Terminal()))


def written(draw: Callable[[], object], to: io.StringIO) -> str:
    with redirect_stdout(to), redirect_stderr(to):
        draw()
    return to.getvalue()


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which nothing is broken into lines."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "2000")
    monkeypatch.delenv("NO_COLOR", raising=False)


MARKUP = [
    *("x[i].safetensors", "see [/i]", "d[/e]/a.pt", "[bold]loud[/bold]", "[red]"),
    *("[link=file:///etc/passwd]x[/link]", r"\[b]", ":smile:", "[@click=f()]x", "[]"),
    *("a{b}c", "{task.description}", "100%", "[not bold]", "[[x]]", "日本[b]"),
]


@pytest.mark.parametrize("text", MARKUP)
def test_a_table_on_a_terminal_shows_what_it_is_given(text: str) -> None:
    rows = [[text, "1"], ["b", text]]
    assert shown(lambda: table(["name", f"with {text}"], rows)).count(text) == 3


@pytest.mark.parametrize("text", MARKUP)
def test_a_bar_shows_what_it_is_given(text: str) -> None:
    def draw() -> None:
        with bar(text, 10) as progress:
            progress(10)

    assert text in shown(draw)


@pytest.mark.parametrize("text", MARKUP)
def test_the_demo_shows_what_it_is_given(text: str) -> None:
    def draw() -> None:
        console = DemoConsole(Console(force_terminal=True, width=400))
        console.title(text)
        console.print(text)
        console.table([text, "score"], [[text, "1"]])
        assert list(console.track([1], text)) == [1]

    assert shown(draw).count(text) >= 5


def test_the_formulas_of_the_rules_are_shown_whole_on_a_terminal() -> None:
    found = shown(lambda: cli.main(["rules"], standalone_mode=False))
    for rule in RULES.values():
        assert " ".join((rule.__doc__ or "").split("\n\n")[0].split()) in found
    assert "min(x[i] where w[i] is not 0)" in found


@pytest.mark.parametrize("screen", [Terminal, io.StringIO])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tb", r"a\tb"),
        ("a\nb", r"a\nb"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b2Jgone", r"\x9b2Jgone"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("a\u2067b\u2068c\u2069", r"a\u2067b\u2068c\u2069"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
        ("\x07bell", r"\x07bell"),
    ],
)
def test_characters_that_control_a_terminal_are_written_out(
    text: str, expected: str, screen: type[io.StringIO]
) -> None:
    found = written(lambda: table(["name", "value"], [[text, "1"]]), screen())
    assert expected in found
    assert text not in found


def test_a_line_in_a_pipe_has_as_many_columns_as_its_header() -> None:
    rows = [["1", text] for text in ("a cat\tsat", "the [/dog]", "x\ny")]
    found = written(lambda: table(["cosine", "text"], rows), io.StringIO())
    assert [len(line.split("\t")) for line in found.splitlines()] == [2, 2, 2, 2]


@pytest.mark.parametrize("name", ["x[i].safetensors", "d[/e].safetensors"])
def test_an_error_shows_a_path_as_it_is(name: str) -> None:
    result = CliRunner().invoke(cli, ["avg", name, "-o", "o.safetensors"])
    assert result.stderr == f"error: no checkpoint matches {name!r}\n"


@pytest.mark.parametrize("is_damaged", [True, False])
def test_names_of_files_do_not_control_the_terminal(
    tmp_path: Path, is_damaged: bool
) -> None:
    """The colors of messages are kept."""
    path = tmp_path / "\x1b[2J\x9b5mevil\u202e.safetensors"
    save(path, {"w": np.ones(3, np.float32)})
    if is_damaged:
        os.truncate(path, 20)
    out = tmp_path / "\x1b[2Jout.safetensors"
    arguments = ["avg", str(path), str(path), "-o", str(out), "--sha256"]
    result = CliRunner().invoke(cli, arguments, color=True)
    assert result.exit_code == is_damaged
    words = result.stdout + result.stderr
    assert not re.search("\x1b\\[2|\x9b|\u202e", words)
    assert r"\x1b[2J\x9b5mevil\u202e.safetensors" in words
    assert is_damaged or r"wrote " + str(tmp_path) + r"/\x1b[2Jout" in words
