"""What several tests share: a generator, a clean interpreter, no unexpected skips."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import settings

ROOT = Path(__file__).parents[1]
Interpreter = Callable[..., str]

# Before click 8.2 a runner mixes stderr into stdout unless it is told.
if "mix_stderr" in inspect.signature(CliRunner.__init__).parameters:
    CliRunner.__init__.__defaults__ = ("utf-8", None, False, False)

# A first call may compile, which takes a second or two. In CI each run tests the same.
settings.register_profile("ensembles", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "ensembles")


# Why a test may be skipped, and when. With CI set, any other skip fails the run: an
# extra that failed to install would silence its tests.
FITTING = (
    "the cut goes through a member|takes a fixed number of members|the order matters"
    "|files are replaced in one step|directories are exchanged|its weights are equal"
    r"|a transformer has no labels|does not have a \w+ method|Linux alone tells"
)
EXPECTED = {
    FITTING: True,
    "ENSEMBLES_DATA": not os.environ.get("ENSEMBLES_DATA"),
    "nothing is compiled|loops in plain Python": "NUMBA_DISABLE_JIT" in os.environ,
    r"torch\.distributed": sys.platform != "linux",  # builds for it always have it
    "SCIPY_ARRAY_API": not os.environ.get("SCIPY_ARRAY_API"),  # scikit-learn's own
    r"sklearn\.callback": find_spec("sklearn.callback") is None,  # before 1.9
}
skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that is skipped."""
    note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a module that is skipped as a whole."""
    note_skip(report)


def note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Keep where and why, unless it is expected."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = str(report.longrepr[2])
    if not any(may and re.search(why, reason) for why, may in EXPECTED.items()):
        skipped.append(f"{report.nodeid}: {reason}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of xdist skipped while it collected."""
    skipped.extend(getattr(node, "workeroutput", {}).get("skipped", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that skipped what it should not."""
    if hasattr(session.config, "workeroutput"):
        modules = [line for line in skipped if "::" not in line]
        session.config.workeroutput["skipped"] = modules
    elif skipped and os.environ.get("CI") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was skipped without being expected."""
    if skipped:
        terminalreporter.section("skipped, though it is not expected")
        for line in sorted(set(skipped)):
            terminalreporter.line(line)


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
            timeout=600,  # machines may be busy
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
