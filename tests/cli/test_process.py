"""How a command is ended from outside, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from ensembles_cli.main import cli
from ensembles_cli.process import ENDS, announce_compiling, end_cleanly
from tests.conftest import ROOT


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of the tests come back."""
    before = {number: signal.getsignal(number) for number in ENDS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", ENDS)
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    end_cleanly()
    assert signal.getsignal(number) is signal.SIG_IGN
    signal.raise_signal(number)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", ENDS)
def test_a_signal_waits_until_the_compiler_has_ended(number: signal.Signals) -> None:
    for other in ENDS:
        signal.signal(other, signal.SIG_DFL)
    end_cleanly()
    kind = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(kind):
        signal.raise_signal(number)
    code = "import signal\ndef load(number):\n signal.raise_signal(number)"
    names = {"__name__": "llvmlite.binding"}
    exec(code, names)
    names["load"](number)  # type: ignore[operator]  # it is a function
    with pytest.raises(kind) as caught:
        time.sleep(10)
    assert getattr(caught.value, "code", 128 + number) == 128 + number


def test_an_interrupt_while_the_command_loads_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "ensembles_cli", "--help"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'cli'}"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, b"")


@pytest.mark.parametrize(("given", "is_plain"), [("1", True), ("", False)])
def test_colours_may_be_turned_off(
    given: str, is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", given)
    result = CliRunner().invoke(cli, ["avg", "no.pt", "-o", "out.pt"], color=True)
    assert result.stderr.startswith("error: no" if is_plain else "\x1b[31merror: no")


AVG = """
import sys
from ensembles.kernels import jit
from ensembles_cli.main import cli
jit.WORTHWHILE = -1
cli(["avg", *sys.argv[1:3], "-o", sys.argv[3], "--force"])
"""


def test_a_command_that_compiles_says_so_once_and_later_ones_do_not(
    tmp_path: Path,
) -> None:
    paths = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        save_file({"w": np.ones(3, np.float32)}, path)

    def run(cache: Path) -> list[str]:
        python_path = f"{ROOT}{os.pathsep}{ROOT / 'cli'}"
        done = subprocess.run(
            [sys.executable, "-c", AVG, *paths, str(tmp_path / "out.safetensors")],
            env={"PYTHONPATH": python_path, "NUMBA_CACHE_DIR": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "wrote" in done.stdout + done.stderr
        lines = done.stderr.splitlines()
        return [line for line in lines if line.startswith("compiling")]

    (line,) = run(tmp_path / "cache")
    assert "kept for later runs" in line
    assert run(tmp_path / "cache") == []
    assert list((tmp_path / "cache").rglob("*.nbc"))


def test_where_nothing_can_be_kept_the_way_out_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    announce_compiling(False)
    assert "set NUMBA_CACHE_DIR to a writable folder" in capsys.readouterr().err
