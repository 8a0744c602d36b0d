"""Runs that are killed, and states that are compared bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch

from ensembles.checkpoints import EMA, LAWA, SWA
from ensembles.checkpoints.averaging.moving_averages import Average

AVERAGES: dict[str, Average] = {
    "ema": EMA(0.9),
    "swa": SWA(start=4),
    "lawa": LAWA(k=2, every=2),
}


def same(a: Any, b: Any) -> bool:
    """Whether tensors in dicts and lists are equal, bit for bit, and all else too."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def killed(train: Callable[[], object]) -> bool:
    """Whether a function was ended by SIGKILL, in a process of its own."""
    pid = os.fork()
    if not pid:
        try:
            train()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def kill() -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)
