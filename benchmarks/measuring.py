"""Cost of a command: wall time, CPU time, memory; page cache; the machine."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

PAUSE = 0.01  # seconds between two looks at the memory
CHUNK = 512 << 10
# Options that name a place.
PLACES = ["--cache", "--debian", "--folder", "--kept", "--model", "--peer", "--results"]
TRIES = 5  # the kernel may keep a page that is in use
DROP = Path("/proc/sys/vm/drop_caches")


class Cost(NamedTuple):
    """Wall seconds, CPU seconds and peak bytes."""

    wall: float
    cpu: float
    anonymous: int


def run(command: Sequence[str]) -> Cost:
    """Cost of a command that succeeds.

    Memory is the highest RssAnon seen every 10 ms; the kernel counts it per thread and
    may be some hundred KiB behind. The processor's time is that of the whole process.
    Modules are compiled once and kept, as an installation does.

    Raises
    ------
    RuntimeError
        If it ends with an error.
    """
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=kept,
        )
        peak = 0
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            wall = time.perf_counter() - started
            if ended:
                break
            peak = max(peak, anonymous(process.pid))
            time.sleep(PAUSE)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            text = errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command[:4])} … failed:\n{text}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak)


def anonymous(pid: int) -> int:
    """Anonymous memory of a process in bytes; 0 if the system does not report it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) << 10
    return 0


def settle(scratch: Path, n_bytes: int) -> None:
    """Bring disk and memory into the same state before every command.

    What was written before goes to the disk. Then a file is written and removed: a
    virtual machine hands idle memory back to its host, and the first to use it again
    pays up to five times the price of a write.
    """
    os.sync()
    block = memoryview(bytearray(CHUNK))
    with scratch.open("wb", buffering=0) as file:
        for _ in range(0, n_bytes, CHUNK):
            file.write(block)
    scratch.unlink()


def warm(paths: Iterable[Path]) -> None:
    """Bring files into the page cache."""
    buffer = bytearray(8 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def drop(paths: Iterable[Path]) -> str | None:
    """Method that dropped files from the page cache; None if it failed."""
    files = list(paths)
    for _ in range(TRIES):
        os.sync()
        way = _ask_to_drop(files)
        if not any(map(_is_cached, files)):
            return way
        time.sleep(1)
    return None


def _ask_to_drop(files: Iterable[Path]) -> str:
    try:
        DROP.write_text("1")
    except OSError:
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return "posix_fadvise"
    return str(DROP)


def _is_cached(path: Path) -> bool:
    """Whether the middle of a file can be read without waiting for the disk."""
    with path.open("rb", buffering=0) as file, suppress(BlockingIOError):
        middle = path.stat().st_size // 2
        return os.preadv(file.fileno(), [bytearray(1)], middle, os.RWF_NOWAIT) > 0
    return False


def machine() -> dict[str, Any]:
    """Processor, cores, kernel, memory, versions."""
    facts: dict[str, Any] = {"cpu": platform.processor(), "cores": os.cpu_count()}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                facts["cpu"] = line.partition(":")[2].strip()
        kib = int(Path("/proc/meminfo").read_text().split()[1])
        facts["memory_gib"] = round(kib / (1 << 20), 1)
    facts["kernel"] = f"{platform.system()} {platform.release()}"
    facts["python"] = platform.python_version()
    for name in ("ensemble-avg", "numpy", "numba", "ml_dtypes", "safetensors", "torch"):
        with suppress(PackageNotFoundError):
            facts[name] = version(name)
    return facts


def version_in(python: str, package: str) -> str:
    """Version of a package in another environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


def command() -> str:
    """The command of this process, without paths of this machine."""
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    for before, word in pairwise(["", *sys.argv[1:]]):
        words.append(before.strip("-").upper() if before in PLACES else word)
    return shlex.join(words)


def data() -> Path:
    """Folder of texts and vectors that `ENSEMBLES_DATA` names."""
    if "ENSEMBLES_DATA" not in os.environ:
        raise SystemExit("ENSEMBLES_DATA must name the folder of the data")
    return Path(os.environ["ENSEMBLES_DATA"])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }
