"""A warm process that forks runs and kills them: starting Python each time is slow.

It reads one JSON object a line and answers with one. ``delay`` kills the run after so
many seconds; ``step`` kills it before or after a step of the writing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ensembles import atomic_io
from ensembles.checkpoints import average
from ensembles.checkpoints.formats import output
from ensembles.checkpoints.formats.zip_files import crc


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str) -> None:
    """Make a step of the writing the run's last, as ``before _flush`` says."""
    when, name = step.split()
    home: Any = atomic_io
    if name.startswith("os."):
        home, name = os, name.removeprefix("os.")
    usual: Callable[..., Any] = getattr(home, name)

    def last(*args: Any, **named: Any) -> Any:
        if when == "before":
            die()
        found = usual(*args, **named)
        if when == "after":
            die()
        return found

    setattr(home, name, last)


def half_a_block(fd: int, buffer: memoryview, offset: int) -> None:
    """Write the header and half of what comes next."""
    os.pwrite(fd, buffer[: len(buffer) // 2 if offset else len(buffer)], offset)
    if offset:
        die()


def half_a_removal(place: Path) -> None:
    """Remove one file of an old directory."""
    sorted(place.iterdir())[0].unlink()
    die()


def run(order: dict[str, Any]) -> None:
    """One run, in a process of its own."""
    if order.get("no_exchange"):
        atomic_io._rename = lambda *_: False
    if order.get("step") == "half a block":
        for module in (output, crc):  # of the sinks of each format
            vars(module)["pwrite_all"] = half_a_block
    elif order.get("step") == "half a removal":
        shutil.rmtree = half_a_removal  # type: ignore[assignment]
    elif order.get("step"):
        arm(order["step"])
    average(order["members"], order["out"], force=order.get("force", False), threads=2)


def serve() -> None:
    """Fork a run for each order and say how it ended."""
    average([{"w": np.ones(3, np.float32)}] * 2)  # kernels are loaded once, not by each
    for line in sys.stdin:
        order = json.loads(line)
        started = time.perf_counter()
        child = os.fork()
        if not child:
            code = 1
            try:
                run(order)
                code = 0
            finally:
                os._exit(code)
        if order.get("delay") is not None:
            time.sleep(order["delay"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        answer = {
            "killed": os.WIFSIGNALED(status),
            "done": os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0,
            "seconds": time.perf_counter() - started,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
