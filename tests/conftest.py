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

# A first call may compile, which takes a second or two. In CI each run tests the same.
settings.register_profile("ensembles", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "ensembles")


@pytest.fixture(autouse=True)
def compile_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a command has to compile depends on what ran before."""
    monkeypatch.setattr("ensembles.kernels.compiling.listen", lambda _: None)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def interpreter() -> Interpreter:
    """Run code in a new process, where nothing is imported yet; what it printed.

    What it writes to stderr fails the test: a library says nothing. The command may say
    that it compiles, which depends on what ran before.
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
        lines = done.stderr.splitlines()
        assert [line for line in lines if not line.startswith("compiling ")] == []
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
