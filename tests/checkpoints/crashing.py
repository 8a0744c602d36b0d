"""Runs that are killed, or whose system calls fail, one after the other.

A process that has imported everything forks each run, and reads orders and writes
results as lines of JSON. `make crash-test` takes all cases and a thousand kills of real
processes; a part of them is in ``test_crashes.py``.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ensembles import atomic_io
from ensembles.checkpoints import average, convert
from tests.checkpoints.building import save, save_shards
from tests.checkpoints.merging import torchrun

ROOT = Path(__file__).parents[2]
KINDS = ("safetensors", "directory", "pt")
# Checkpoints of several ranks, see directories/ranks.py.
SHARDED = ("fsdp-2", "fsdp-4", "tensor-2", "tensor-4")
# Cases of which each system call is killed: some 700, because each chunk is read.
EACH_CALL = {("fsdp-4", "average"), ("tensor-2", "convert")}
RANKS = Path(__file__).parent / "directories" / "ranks.py"
ERRORS = ("ENOSPC", "EIO", "EINTR", "EDQUOT")
# System calls of the writing path, and those that read members.
CALLS: list[tuple[Any, str]] = [
    *((os, name) for name in ("open", "mkdir", "truncate", "fsync", "rmdir", "unlink")),
    *((os, name) for name in ("rename", "replace", "link", "chmod", "chown", "utime")),
    *((os, name) for name in ("preadv", "pwrite", "write", "pwritev")),
    *((os, name) for name in ("sendfile", "copy_file_range")),
    (fcntl, "flock"),
]
SHORT = {"preadv", "pwrite", "write", "sendfile", "copy_file_range"}
# If one of these fails, the next run may have to remove the rest.
REMOVALS = {"unlink", "rmdir", "open", "rename"}
LARGE = 1_000_000  # elements of the members that processes are killed over
WRITING = 0.1  # seconds in which a process writes them
OPEN, WRITE = io.open, os.write
Tree = dict[str, bytes]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def shortened(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of a call that moves a part of the bytes."""
    if name == "preadv":
        fd, (buffer,), *rest = arguments
        return (fd, [buffer[: (len(buffer) + 1) // 2]], *rest)
    if name in ("sendfile", "copy_file_range"):
        last = {"sendfile": 3, "copy_file_range": 2}[name]
        return (*arguments[:last], 1)
    fd, buffer, *rest = arguments
    return (fd, buffer[: (len(buffer) + 1) // 2], *rest)


class Injection:
    """System calls of this process are counted, and one of them is changed.

    ``how`` is "kill" before the call, "half" to kill after a part of the bytes, "short"
    for a part of the bytes, or the name of an error; "count" changes none. Calls in
    ``missing`` are those that the system does not have.
    """

    def __init__(self, at: int, how: str, missing: tuple[str, ...] = ()) -> None:
        self.at = at
        self.how = how
        self.calls: list[str] = []
        for module, name in CALLS:
            if hasattr(module, name):
                setattr(module, name, self.wrapped(name, getattr(module, name)))
        libc = atomic_io._call_libc

        def call_libc(name: str, *arguments: Any) -> None:
            if name in missing:
                raise OSError(errno.ENOSYS, "not on this system")
            self.wrapped(name, partial(libc, name))(*arguments)

        atomic_io._call_libc = call_libc
        vars(io)["open"] = vars(builtins)["open"] = self.opened

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 != self.at or self.how == "count":
                return call(*arguments, **options)
            if self.how == "kill":
                die()
            if self.how in ("half", "short"):
                outcome = call(*shortened(name, arguments), **options)
                if self.how == "half":
                    die()
                return outcome
            number = getattr(errno, self.how)
            paths = [str(a) for a in arguments[:1] if isinstance(a, str | Path)]
            raise OSError(number, os.strerror(number), *paths)

        return changed

    def opened(self, file: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        """Open a file; what is written to it goes through a counted system call."""
        if not set(mode) & set("wax+"):
            return OPEN(file, mode, *given, **options)
        raw = self.wrapped("open", io.FileIO)(file, mode.translate({98: "", 116: ""}))
        write = self.wrapped("write", lambda fd, data: WRITE(fd, data))

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                return int(write(self.fileno(), memoryview(data).cast("B")))

        raw = File(os.dup(raw.fileno()), "w" if "+" not in mode else "w+")
        if options.get("buffering", given[0] if given else -1) == 0:
            return raw
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, "utf-8")


def write(command: str, members: list[str], out: Any, **options: Any) -> None:
    """Write the average of members, or convert the first."""
    if command == "convert":
        convert(members[0], out, **options)
    else:
        average(members, out, **options)


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Run a command in this process; return its calls and its error."""
    injection = Injection(order["at"], order["how"], tuple(order["missing"]))
    error = None
    try:
        places = order["members"], order["out"]
        write(order["command"], *places, force=order["force"], threads=1)
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    return {"calls": injection.calls, "error": error}


def fork(order: dict[str, Any]) -> tuple[int, int]:
    """Start a run; return its process and the pipe that it writes its result to."""
    pipe, result = os.pipe()
    child = os.fork()
    if child:
        os.close(result)
        return child, pipe
    try:
        WRITE(result, json.dumps(run(order)).encode())
    finally:
        os._exit(0)


def serve() -> None:
    """Fork the runs of each order and write how they ended."""
    with tempfile.TemporaryDirectory() as folder:  # loaded once, not by each run
        average([{"w": np.ones(3, np.float32)}] * 2, Path(folder) / "out.pt")
    for line in sys.stdin:
        order = json.loads(line)
        started = time.perf_counter()
        results = []
        for child, pipe in [fork(order) for _ in range(order["n_runs"])]:
            if order["delay"] is not None:
                time.sleep(order["delay"])
                os.kill(child, signal.SIGKILL)
            with OPEN(pipe, "rb") as file:
                text = file.read()
            _, status = os.waitpid(child, 0)
            answer = json.loads(text) if text else {"calls": [], "error": None}
            seconds = time.perf_counter() - started
            results.append(
                answer | {"killed": os.WIFSIGNALED(status), "seconds": seconds}
            )
        sys.stdout.write(json.dumps(results) + "\n")
        sys.stdout.flush()


class Server:
    """A process that forks runs: starting Python for each takes a second."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )

    def run(self, **order: Any) -> list[dict[str, Any]]:
        assert self._process.stdin
        assert self._process.stdout
        usual = {"at": -1, "how": "count", "missing": [], "delay": None, "n_runs": 1}
        self._process.stdin.write(json.dumps(usual | order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, list)
        return answer

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@contextmanager
def served() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def tree(path: Path) -> Tree | None:
    """Contents of a file, or of all files of a directory; None if there is none."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        return {str(file.relative_to(path)): file.read_bytes() for file in files}
    return {"": path.read_bytes()} if path.exists() else None


class Case:
    """Members, an output over nothing or over an old one, and other files.

    Without ``members``, two are written that have so many elements.
    """

    def __init__(
        self,
        folder: Path,
        server: Server,
        kind: str,
        is_over: bool,
        size: int = 1000,
        *,
        members: list[str] | None = None,
        command: str = "average",
    ) -> None:
        self.folder = folder
        self.server = server
        self.kind = kind
        self.is_over = is_over
        suffix = "" if kind == "directory" else f".{kind}"
        self.out = folder / f"out{suffix}"
        self.command = command
        self._rng = np.random.default_rng(0)
        self.members = members or [
            self._member(f"members/{name}{suffix}", size) for name in "ab"
        ]
        self._save_others()
        write(command, self.members, self.out)
        self.new = tree(self.out)
        if not members:
            self._check_values()
        self.old = self.prepare()
        self.others = self._others()

    def _member(self, name: str, size: int) -> str:
        """Write a checkpoint, of two shards if it is a directory."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        normal = self._rng.normal
        w, b = normal(size=size).astype(np.float32), normal(size=3).astype(np.float32)
        if self.kind == "directory":
            save_shards(path, [{"w": w}, {"b": b}])
            (path / "config.json").write_text(json.dumps({"model_type": "x"}))
            (path / "vocab.txt").write_text("a\nb\n")
        elif self.kind == "pt":
            import torch

            torch.save({"w": torch.from_numpy(w), "b": torch.from_numpy(b)}, path)
        else:
            save(path, {"w": w, "b": b})
        return str(path)

    def _check_values(self) -> None:
        """The output of an undisturbed run is the mean in float64, rounded once."""
        found = average([self.out])
        members = [average([member]) for member in self.members]
        assert found.keys() == {"w", "b"}
        for name, value in found.items():
            stack = [np.asarray(member[name], np.float64) for member in members]
            expected = ((stack[0] + stack[1]) / 2).astype(np.float32)
            assert np.asarray(value).tobytes() == expected.tobytes()

    def _save_others(self) -> None:
        """Files that no run may change, two of them with similar names."""
        (self.folder / "sub").mkdir()
        names = ["notes.txt", "sub/notes.txt", f".{self.out.name}.tmp-elsewhere-1"]
        for name in [*names, f".other.tmp-{os.uname().nodename}-{'0' * 32}"]:
            (self.folder / name).write_text("mine")
        (self.folder / "link").symlink_to("notes.txt")

    def prepare(self) -> Tree | None:
        """Put nothing, or an old result, at the output; return its contents."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.unlink(missing_ok=True)
        if not self.is_over:
            return None
        if self.kind == "directory":
            save_shards(self.out, [{"old": np.ones(9)}, {"older": np.ones(9)}])
        else:
            save(self.out, {"old": np.ones(9)})
            self.out.chmod(0o640)
        return tree(self.out)

    def _others(self) -> dict[str, Any]:
        """Kind, permissions, time and contents of all other files."""
        found: dict[str, Any] = {}
        excluded = {self.out, *self.leftovers()}
        for path in sorted(self.folder.rglob("*")):
            if excluded & {path, *path.parents}:
                continue
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
        return found

    def leftovers(self) -> list[Path]:
        """Temporary paths of runs on this machine."""
        mark = f".{self.out.name}.tmp-{os.uname().nodename}-"
        return [path for path in self.folder.iterdir() if path.name.startswith(mark)]

    def run_together(
        self, n_runs: int, *, is_over: bool | None = None, **order: Any
    ) -> list[dict[str, Any]]:
        """Runs at the same time, with ``force`` if an old output is there."""
        force = self.is_over if is_over is None else is_over
        order |= {"command": self.command, "members": self.members}
        return self.server.run(force=force, n_runs=n_runs, out=str(self.out), **order)

    def run(self, **order: Any) -> dict[str, Any]:
        """One run."""
        return self.run_together(1, **order)[0]

    def calls(self, **order: Any) -> list[str]:
        """Names of the system calls of an undisturbed run."""
        self.prepare()
        answer = self.run(**order)
        assert answer["error"] is None
        names = answer["calls"]
        assert isinstance(names, list)
        return names

    def check(self, where: str, *, may_be_absent: bool = False) -> None:
        """The output is the old or the new one, and no other file has changed."""
        found = tree(self.out)
        assert found in (self.old, self.new) or (may_be_absent and found is None), where
        assert self._others() == self.others, where

    def check_next(self, where: str) -> None:
        """The next run succeeds and removes leftovers."""
        answer = self.run(is_over=True)
        assert answer["error"] is None, where
        assert tree(self.out) == self.new, where
        assert self.leftovers() == [], where
        assert self._others() == self.others, where

    def kill_each(self, missing: tuple[str, ...] = ()) -> int:
        """Kill a run before each system call, and in the middle of each write."""
        calls = self.calls(missing=missing)
        first = calls.index("flock") - 1  # before, members are read
        for at, name in enumerate(calls[first:], first):
            for how in ["kill", "half"][: 1 + (name in SHORT - {"preadv"})]:
                where = f"{how} at call {at}, {name}"
                self.prepare()
                assert self.run(at=at, how=how, missing=missing)["killed"], where
                self.check(where, may_be_absent="renameat2" in missing)
                if self.leftovers():
                    self.check_next(where)
        return len(calls)

    def fail_each(
        self, errors: Callable[[int], tuple[str, ...]], missing: tuple[str, ...] = ()
    ) -> int:
        """Let each system call fail; ``errors`` has the names of errors by number."""
        calls = self.calls(missing=missing)
        for at, name in enumerate(calls):
            for error in errors(at):
                where = f"{error} at call {at}, {name}"
                self.prepare()
                answer = self.run(at=at, how=error, missing=missing)
                self._check_failure(answer, name, where)
        return len(calls)

    def _check_failure(self, answer: dict[str, Any], name: str, where: str) -> None:
        self.check(where)
        message = answer["error"]
        if message is None:
            assert tree(self.out) == self.new, where
        else:
            assert "\n" not in message, (where, message)
            places = [str(self.folder), *self.members]
            assert any(place in message for place in places), (where, message)
        if name not in REMOVALS:
            assert self.leftovers() == [], (where, message)
        else:
            self.check_next(where)

    def shorten_each(self) -> int:
        """Let each read and write move a part of its bytes; the run succeeds."""
        calls = self.calls()
        cut = [at for at, name in enumerate(calls) if name in SHORT]
        for at in cut:
            where = f"short call {at}, {calls[at]}"
            self.prepare()
            assert self.run(at=at, how="short")["error"] is None, where
            assert tree(self.out) == self.new, where
        return len(cut)

    def kill_at_random(self, rng: np.random.Generator, seconds: float) -> float:
        """Kill a forked run within so many seconds; return how long a run takes."""
        self.prepare()
        answer = self.run(delay=float(rng.uniform(0, seconds)))
        self.check("a random kill")
        self.check_next("a random kill")
        return seconds if answer["killed"] else min(seconds, answer["seconds"]) * 0.9

    def kill_process(self, rng: np.random.Generator, seconds: float) -> bool:
        """Kill a process of the command at a random moment; whether it was running.

        Half of the kills wait until the process writes: before, it imports for most of
        its time.
        """
        self.prepare()
        command = [sys.executable, "-m", "ensembles_cli", "avg", *self.members]
        run = subprocess.Popen(
            [*command, "-o", str(self.out), *["--force"] * self.is_over],
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if rng.random() < 0.5:
            while run.poll() is None and not self.leftovers():
                time.sleep(0.0005)
            seconds = WRITING
        with suppress(subprocess.TimeoutExpired):
            run.wait(float(rng.uniform(0, seconds)))
        run.kill()
        killed = run.wait() == -signal.SIGKILL
        self.check("a kill of a process")
        self.check_next("a kill of a process")
        return killed


def sharded_case(
    folder: Path, server: Server, saved: Path, layout: str, command: str, is_over: bool
) -> Case:
    """Case of three checkpoints of several ranks, which ranks.py has saved."""
    folder.mkdir(exist_ok=True)
    members = [str(path) for path in sorted((saved / layout).iterdir())]
    return Case(folder, server, "directory", is_over, members=members, command=command)


def crash_test(n_kills: int, seed: int) -> None:
    """Take each case, then kill processes; an assertion fails at the first fault."""
    rng = np.random.default_rng(seed)
    for number, (kind, is_over) in enumerate(product(KINDS, (False, True))):
        with tempfile.TemporaryDirectory() as name, served() as server:
            for folder in ("small", "large"):
                (Path(name) / folder).mkdir()
            case = Case(Path(name) / "small", server, kind, is_over)
            n_calls = 0
            for missing in ((), ("renameat2",)):
                n_calls += case.kill_each(missing)
                case.fail_each(lambda at: ERRORS, missing)
            n_short = case.shorten_each()
            case = Case(Path(name) / "large", server, kind, is_over, LARGE)
            started = time.perf_counter()
            case.kill_process(rng, 60)
            seconds = time.perf_counter() - started
            n_runs = n_kills // 6 + (number < n_kills % 6)
            n_killed = sum(case.kill_process(rng, seconds) for _ in range(n_runs))
        report(
            f"{kind} over {over(is_over)}: {n_calls} system calls killed and failed, "
            f"{n_short} cut short; {n_killed} of {n_runs} processes killed while they "
            "ran"
        )
    crash_test_of_ranks(n_kills // 50, rng)


def crash_test_of_ranks(n_kills: int, rng: np.random.Generator) -> None:
    """Kill averages and conversions of sharded checkpoints, and ranks of torchrun."""
    with tempfile.TemporaryDirectory() as name, served() as server:
        saved = Path(name) / "saved"
        saved.mkdir()
        subprocess.run([sys.executable, RANKS, saved], check=True)
        commands = ("average", "convert")
        for layout, command, is_over in product(SHARDED, commands, (False, True)):
            folder = Path(name) / f"{layout}-{command}-{is_over}"
            case = sharded_case(folder, server, saved, layout, command, is_over)
            n_calls = 0
            if is_over and (layout, command) in EACH_CALL:
                n_calls = case.kill_each()
                case.fail_each(lambda at: (ERRORS[at % len(ERRORS)],))
            seconds = 1.0
            for _ in range(n_kills):
                seconds = case.kill_at_random(rng, seconds)
            report(
                f"{command} of {layout} over {over(is_over)}: {n_calls} system calls "
                f"killed and failed; {n_kills} kills at random moments"
            )
    with tempfile.TemporaryDirectory() as name:
        n_killed = torchrun.crash_test(Path(name), n_kills, rng)
        report(f"torchrun: one of four ranks killed in {n_killed} of {n_kills} runs")


def over(is_over: bool) -> str:
    return "an old output" if is_over else "nothing"


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        crash_test(int(sys.argv[1]), int(sys.argv[2]))
