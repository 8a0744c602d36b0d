"""Files that several tests of sharded checkpoints read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "directories" / "ranks.py"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, PROGRAM, folder], check=True, timeout=200)
    return folder
