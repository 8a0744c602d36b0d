"""What several tests share: a seeded generator, and a clean interpreter to run in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
Interpreter = Callable[..., str]

# A first call may compile, which takes a second or two.
settings.register_profile("ensembles", deadline=None)
settings.load_profile("ensembles")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def interpreter() -> Interpreter:
    """Run code in a new process, where nothing is imported yet; what it printed.

    What it writes to stderr fails the test: a library says nothing.
    """

    def run(code: str, *arguments: object, **environment: str) -> str:
        known = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"}
        known.pop("COVERAGE_PROCESS_START", None)
        done = subprocess.run(
            [sys.executable, "-P", "-W", "error", "-c", code, *map(str, arguments)],
            env={**known, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


@pytest.fixture
def loaded(interpreter: Interpreter) -> Callable[..., set[str]]:
    """Top-level names of all modules that some code has loaded when it ends."""

    def run(code: str, *arguments: object) -> set[str]:
        listing = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
        names = json.loads(interpreter(code + listing, *arguments).splitlines()[-1])
        return {name.partition(".")[0] for name in names}

    return run
