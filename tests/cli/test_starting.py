"""How a command is ended from outside, at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ensembles_cli.main import cli
from ensembles_cli.starting import ENDS, end_cleanly
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
