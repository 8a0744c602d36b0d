"""Ways to average checkpoints or only copy their bytes, each in its own process.

Run as ``python ways.py NAME OUT MEMBER...``, where members are directories with the
same files. `command` gives the whole command line of each way.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

CHUNK = 512 << 10  # bytes of one read or write of the floor
STEP = 1 << 20  # elements of one step of the numpy loop
N_THREADS = 2


def command(
    way: str, out: Path, members: Sequence[Path], peer: str | None
) -> list[str]:
    """Command line of a way, such as ``ensemble median`` or ``mergekit slerp``."""
    kind, _, rule = way.partition(" ")
    paths = [str(member) for member in members]
    if kind == "ensemble":
        avg = [sys.executable, "-m", "ensembles_cli", "avg", *paths, "-o", str(out)]
        return [*avg, "--force", "--rule", rule, "--threads", str(N_THREADS)]
    if kind == "mergekit":
        config = out.with_suffix(".yml")
        config.write_text(_mergekit(rule, paths))
        run = [peer or "", "-m", "mergekit.scripts.run_yaml", str(config), str(out)]
        return [*run, "--no-copy-tokenizer"]
    return [sys.executable, __file__, way, str(out), *paths]


def _mergekit(rule: str, paths: list[str]) -> str:
    """A recipe of mergekit; JSON is YAML."""
    models: list[dict[str, object]] = [{"model": path} for path in paths]
    recipe: dict[str, object] = {"merge_method": rule, "dtype": "bfloat16"}
    if rule == "slerp":
        recipe |= {"base_model": paths[0], "parameters": {"t": 0.5}}
    else:
        for model in models:
            model["parameters"] = {"weight": 1.0}
    return json.dumps(recipe | {"models": models})


def floor(out: Path, members: list[Path], *, fsync: bool) -> None:
    """Read all members and write the bytes of one, with two threads."""
    files = _files(members[0])
    jobs = [
        (index, start)
        for index, file in enumerate(files)
        for start in range(0, (members[0] / file).stat().st_size, CHUNK)
    ]
    inputs = [[os.open(m / file, os.O_RDONLY) for m in members] for file in files]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    outputs = [os.open(out / file, flags, 0o666) for file in files]

    def move(part: list[tuple[int, int]]) -> None:
        # Of whole pages: AMD's rep movsb copies four times slower to an address a few
        # bytes further into its page than the source is, as malloc's often are.
        buffer = mmap.mmap(-1, CHUNK)
        for index, start in part:
            for fd in inputs[index]:
                n_read = os.preadv(fd, [buffer], start)
            os.pwrite(outputs[index], memoryview(buffer)[:n_read], start)

    # From both ends: two threads that write to one file wait for each other.
    half = len(jobs) // 2
    threads = [
        threading.Thread(target=move, args=[part])
        for part in (jobs[:half], jobs[: half - 1 : -1])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if fsync:
        for fd in outputs:
            os.fsync(fd)


def numpy_loop(out: Path, members: list[Path]) -> None:
    """Chunks of maps, summed in float32: the mean is off in 1 of 80 elements."""
    import ml_dtypes
    import numpy as np

    for file in _files(members[0]):
        maps = [np.memmap(member / file, np.uint8, "r") for member in members]
        start = 8 + int(maps[0][:8].view(np.uint64)[0])
        with (out / file).open("wb") as target:
            target.write(maps[0][:start].data)
            stack = [each[start:].view(ml_dtypes.bfloat16) for each in maps]
            for begin in range(0, stack[0].size, STEP):
                total = stack[0][begin : begin + STEP].astype(np.float32)
                for member in stack[1:]:
                    total += member[begin : begin + STEP].astype(np.float32)
                total /= len(stack)
                mean = total.astype(ml_dtypes.bfloat16)
                target.write(mean.view(np.uint8).data)


def torch_loop(out: Path, members: list[Path]) -> None:
    """The obvious loop: load all, add in float32, save."""
    import torch
    from safetensors.torch import load_file, save_file

    for file in _files(members[0]):
        states = [load_file(member / file) for member in members]
        mean = {}
        for name, first in states[0].items():
            total = torch.zeros_like(first, dtype=torch.float32)
            for state in states:
                total += state[name].float()
            mean[name] = (total / len(states)).to(first.dtype)
        save_file(mean, out / file, {"format": "pt"})


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


WAYS: dict[str, Callable[[Path, list[Path]], None]] = {
    "floor": lambda out, members: floor(out, members, fsync=False),
    "floor + fsync": lambda out, members: floor(out, members, fsync=True),
    "numpy loop": numpy_loop,
    "torch loop": torch_loop,
}

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir()
    WAYS[sys.argv[1]](folder, [Path(path) for path in sys.argv[3:]])
