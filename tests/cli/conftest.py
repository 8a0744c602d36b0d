"""What tests of the command share: ``ensemble avg`` in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
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
