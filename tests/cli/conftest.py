"""What tests of the command share: a folder of its own, signals that are heard."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli

Avg = Callable[..., Result]


@pytest.fixture
def avg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Avg:
    """Run the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, ["avg", *map(str, arguments)])

    return run


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Hear hang-ups, though the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
