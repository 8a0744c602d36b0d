"""Ranks of torchrun that write one output; one of them is killed.

`make crash-test` kills one in each of twenty runs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from ensembles.checkpoints import average
from tests.checkpoints.building import save_shards

ROOT = Path(__file__).parents[3]
N_RANKS = 4
LARGE = 1_000_000  # elements of a shard
WRITING = 0.3  # seconds in which ranks write their shards


def command(members: list[str], out: Path) -> list[str]:
    """Command that averages members with several ranks."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python"]
    rank = [sys.executable, "-m", "ensembles_cli", "avg", *members, "-o", str(out)]
    return [*torchrun, f"--nproc-per-node={N_RANKS}", *rank, "--threads", "1"]


def start(members: list[str], out: Path) -> subprocess.Popen[bytes]:
    places = f"{ROOT}{os.pathsep}{ROOT / 'cli'}"
    return subprocess.Popen(
        command(members, out),
        env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def ranks_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Wait for the processes of all ranks; empty if torchrun has ended."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        with suppress(OSError):
            pids = [int(pid) for pid in children.read_text().split()]
            if len(pids) == N_RANKS:
                return pids
        time.sleep(0.001)
    return []


def tree(path: Path) -> dict[str, bytes]:
    """Contents of all files of a directory; empty if it does not exist."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def crash_test(folder: Path, n_runs: int, rng: np.random.Generator) -> int:
    """Kill one rank of each run at a random moment; return in how many it ran.

    Half of the kills wait until ranks write. The same command, started again, gives
    the files of a single process.
    """
    members = []
    for name in "ab":
        shards = [
            {f"t{index}": rng.normal(size=LARGE).astype(np.float32)}
            for index in range(2 * N_RANKS)
        ]
        members.append(str(save_shards(folder / "members" / name, shards)))
    average(members, folder / "single")
    expected = tree(folder / "single")
    out = folder / "out"
    started = time.perf_counter()
    assert start(members, out).wait() == 0
    seconds = time.perf_counter() - started
    assert tree(out) == expected
    n_killed = 0
    for _ in range(n_runs):
        for path in [out, *folder.glob(f".{out.name}*")]:
            shutil.rmtree(path)
        n_killed += _kill_one(start(members, out), folder, rng, seconds)
        assert tree(out) in ({}, expected)
        assert start(members, out).wait() == 0
        assert tree(out) == expected
    return n_killed


def _kill_one(
    process: subprocess.Popen[bytes],
    folder: Path,
    rng: np.random.Generator,
    seconds: float,
) -> bool:
    """Kill a rank of a run, and wait for the end of the run; whether it failed."""
    pids = ranks_of(process)
    if rng.random() < 0.5:
        while process.poll() is None and not [*folder.glob(".out*")]:
            time.sleep(0.0005)
        seconds = WRITING
    with suppress(subprocess.TimeoutExpired):
        process.wait(float(rng.uniform(0, seconds)))
    if pids and process.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(int(rng.choice(pids)), signal.SIGKILL)
    return process.wait() != 0
