"""The command as a whole: help, and errors of one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import ensembles
from ensembles_cli.main import COMMANDS, SUMMARIES, cli
from tests.conftest import ROOT


def walk() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command


def ensemble(*arguments: object, stdout: int = subprocess.PIPE) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ensembles_cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout or "", done.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize(
    "command", [[], *[[name] for name in sorted(COMMANDS)]], ids=str
)
def test_every_command_has_help(command: list[str], flag: str) -> None:
    result = CliRunner().invoke(cli, [*command, flag])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert result.stderr == ""


def test_every_command_and_option_has_help() -> None:
    assert set(COMMANDS) == set(SUMMARIES)
    for name, command in walk():
        assert command.help, name
        assert len(SUMMARIES[name]) < 80
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, f"{name} {param.opts}"
            assert "\b" not in (command.help or "").split("\n\n")[0]


def test_the_list_of_commands_has_a_summary_of_each() -> None:
    out = " ".join(CliRunner().invoke(cli, ["--help"]).stdout.split())
    for name, summary in SUMMARIES.items():
        assert f"{name} {summary}" in out


def test_no_help_line_is_wider_than_a_terminal() -> None:
    for command in ([], *[[name] for name in COMMANDS]):
        lines = CliRunner().invoke(cli, [*command, "--help"]).stdout.splitlines()
        assert max(map(len, lines)) <= 80


def test_scoring_commands_in_the_help_are_programs() -> None:
    words = CliRunner().invoke(cli, ["soup", "--help"]).stdout
    for score in re.findall("--score '(.*?)'", words):
        assert score.split()[0] in ("python", "./loss.sh", "./f1.sh")


def test_the_version_is_the_version_of_the_library() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.stdout == f"ensemble, version {ensembles.__version__}\n"


@pytest.mark.parametrize("arguments", [["average"], ["avg"], ["avg", "a", "--no-such"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("word", "near"),
    [
        *[("soop", "soup"), ("similarity", "similar"), ("rule", "rules")],
        *[("encode", "embed"), ("selection", "selections"), ("eval", "evaluate")],
    ],
)
def test_an_unknown_command_gets_the_nearest_as_a_hint(word: str, near: str) -> None:
    result = CliRunner().invoke(cli, [word, "a.pt"])
    assert result.exit_code == 2
    assert f"No such command '{word}'. Did you mean '{near}'?" in result.stderr


def test_a_command_unlike_all_others_gets_the_list_of_commands() -> None:
    words = CliRunner().invoke(cli, ["xyzzy"]).stderr
    assert all(name in words for name in COMMANDS)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\0" * 100, b"PK\x03\x04", b"\xff" * 8 + b"{}"],
    ids=["absent", "empty", "zeros", "zip", "huge header"],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_no_traceback_is_printed(
    tmp_path: Path, content: bytes | None, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    if content is not None:
        path.write_bytes(content)
    result = CliRunner().invoke(cli, ["avg", str(path), "-o", str(tmp_path / "o.pt")])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert re.fullmatch(rf"error: .*a\.{suffix}.*\n", result.stderr)
    assert result.stdout == ""
    assert not (tmp_path / "o.pt").exists()


def test_a_real_process_prints_one_line_a_problem_and_exits_1(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    code, out, words = ensemble("avg", *paths)
    assert code == 1
    assert out == ""
    assert words == f"error: no checkpoint at {paths[0]}\nno checkpoint at {paths[1]}\n"


def test_a_closed_stdout_is_not_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    _, _, words = ensemble("rules", stdout=write)
    os.close(write)
    assert words == ""
