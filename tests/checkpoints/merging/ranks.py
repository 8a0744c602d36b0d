"""A warm process that forks the ranks of an average, and kills one of them.

It reads one JSON object a line and answers with one. ``delay`` kills rank ``victim``
after so many seconds; ``step`` kills it before or after a step of the writing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from ensembles.checkpoints import average
from ensembles.checkpoints.merging import work_folder


def kill_at(step: str) -> None:
    """Make a step of the writing the last of the process, as ``before publish``."""
    when, name = step.split()
    module: Any = work_folder
    if name.startswith("os."):
        module, name = os, name.removeprefix("os.")
    usual: Callable[..., Any] = getattr(module, name)

    def last(*args: Any, **options: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = usual(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, last)


def start(order: dict[str, Any], rank: int) -> int:
    """Fork one rank."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if order.get("step") and rank == order["victim"]:
            kill_at(order["step"])
        average(**order["job"], rank=rank, threads=1)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Run some ranks at the same time; return how each ended."""
    started = time.perf_counter()
    children = [start(order, rank) for rank in order["ranks"]]
    if order.get("delay") is not None:
        time.sleep(order["delay"])
        os.kill(children[order["ranks"].index(order["victim"])], signal.SIGKILL)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    codes = [os.waitstatus_to_exitcode(status) for status in statuses]
    return {"codes": codes, "seconds": time.perf_counter() - started}


def serve() -> None:
    """Answer each order with the exit codes of its ranks."""
    average([{"w": np.ones(3, np.float32)}] * 2)  # kernels are loaded once
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
