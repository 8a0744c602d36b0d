"""Damaged checkpoints: each is read, or refused with one line, in bounded memory.

`make fuzz` runs it for ten minutes.
"""

from __future__ import annotations

import importlib
import io
import json
import pickle
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.numpy import save

from ensembles.checkpoints import average

SPARE = 200 << 20  # bytes of memory beyond the size of the file
# Values that lengths, offsets, counts and dimensions are replaced by.
EXTREMES = [
    value.to_bytes(size, "little")
    for size in (1, 2, 4, 8)
    for value in (0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1)
]
OPCODES = b"()0.2QRXabcehqstu}]\x85\x86\x87\x8a\x8b\x8c\x8e\x93\x94\x81\x92"
JSON = [
    b'{"',
    b'"',
    b"[",
    b"-1",
    b"1e400",
    b"null",
    b"99999999999999999999",
    b"\\ud800",
]


def state() -> dict[str, torch.Tensor]:
    """Tensors of several dtypes, one of them a transposed view, two tied."""
    values = torch.arange(24.0)
    return {
        "layer.w": values[:6].reshape(2, 3).t(),
        "layer.b": values.bfloat16(),
        "tied": values,
        "again": values,
        "n": torch.tensor(3),
    }


def torch_bytes(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def distributed_files() -> dict[str, bytes]:
    """Files of a distributed checkpoint of one rank."""
    checkpoint: Any = importlib.import_module("torch.distributed.checkpoint")
    with tempfile.TemporaryDirectory() as folder:
        writer = checkpoint.FileSystemWriter(folder, sync_files=False)
        with warnings.catch_warnings(action="ignore"):  # it may not be meant
            checkpoint.save({"model": state()}, storage_writer=writer, no_dist=True)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def with_pickle(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """PyTorch file with another pickle, whose checksum is right."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as archive,
        zipfile.ZipFile(buffer, "w") as changed,
    ):
        for name in archive.namelist():
            data = archive.read(name)
            changed.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return buffer.getvalue()


def with_header(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Safetensors file with another header, whose length is right."""
    (size,) = struct.unpack_from("<Q", content)
    header = change(content[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def mutated(content: bytes, rng: np.random.Generator, words: list[bytes]) -> bytes:
    """Content with bytes replaced, inserted, repeated or removed."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        start = int(rng.integers(len(changed) + 1))
        stop = start + int(rng.geometric(0.1))
        kind = rng.integers(6)
        if kind == 0:
            changed[start:stop] = rng.bytes(stop - start)
        elif kind == 1:
            del changed[start:stop]
        elif kind == 2:
            changed[start:start] = changed[start:stop] * int(rng.integers(1, 50))
        elif kind == 3:
            word = words[rng.integers(len(words))]
            changed[start : start + len(word)] = word
        elif kind == 4:
            changed[start:start] = words[rng.integers(len(words))]
        elif changed:
            changed[start - 1] ^= 1 << int(rng.integers(8))
    return bytes(
        changed[: int(rng.integers(len(changed) + 1))]
        if rng.random() < 0.1
        else changed
    )


def cases(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield file names and contents of damaged checkpoints, endlessly."""
    opcodes = [bytes([code]) for code in OPCODES] + EXTREMES
    words = [*JSON, *EXTREMES]
    arrays = {name: value.float().numpy() for name, value in state().items()}
    nested = {
        "model": state(),
        "step": 3,
        "args": pickle.Unpickler,
        "m": torch.nn.Linear(2, 2),
    }
    new, old = (
        torch_bytes(nested),
        torch_bytes(nested, _use_new_zipfile_serialization=False),
    )
    plain = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    archive = io.BytesIO()
    np.savez(archive, **cast(Any, arrays))
    sharded = distributed_files()
    index = json.dumps({"weight_map": dict.fromkeys(arrays, "a.safetensors")}).encode()
    directory = {"model.safetensors.index.json": index, "a.safetensors": plain}
    while True:
        yield (
            "a.pt",
            {"a.pt": with_pickle(new, lambda data: mutated(data, rng, opcodes))},
        )
        yield "a.pt", {"a.pt": mutated(new, rng, EXTREMES)}
        yield "a.pt", {"a.pt": mutated(old, rng, opcodes)}
        yield (
            "a.safetensors",
            {
                "a.safetensors": with_header(
                    plain, lambda data: mutated(data, rng, words)
                )
            },
        )
        yield "a.safetensors", {"a.safetensors": mutated(plain, rng, words)}
        name = ["model.safetensors.index.json", "a.safetensors"][rng.integers(2)]
        yield "", directory | {name: mutated(directory[name], rng, words)}
        yield "a.npz", {"a.npz": mutated(archive.getvalue(), rng, EXTREMES)}
        name = sorted(sharded)[rng.integers(len(sharded))]
        yield "", sharded | {name: mutated(sharded[name], rng, opcodes)}


def failure(folder: Path, name: str, size: int) -> str | None:
    """Problem with reading a checkpoint; None if it is read, or refused in one line."""
    tracemalloc.start()
    try:
        average([folder / name])
    except (ValueError, FileNotFoundError) as error:
        if "\n" in str(error) or str(folder) not in str(error):
            return f"unclear message: {error}"
    except Exception as error:  # any other error is what is looked for
        return f"{type(error).__name__}: {error}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return f"{peak} bytes of memory" if peak > size + SPARE else None


def fuzz(n_cases: int, seconds: float, seed: int) -> tuple[int, str | None]:
    """Read damaged checkpoints; return their number, and the first failure if any."""
    rng = np.random.default_rng(seed)
    started = time.monotonic()
    for n_read, (name, files) in enumerate(cases(rng), 1):
        with tempfile.TemporaryDirectory() as folder:
            for file, content in files.items():
                (Path(folder) / file).write_bytes(content)
            problem = failure(Path(folder), name, sum(map(len, files.values())))
        if problem is not None:
            kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
            for file, content in files.items():
                (kept / file).write_bytes(content)
            return n_read, f"{kept / name}: {problem}"
        if n_read == n_cases or time.monotonic() - started > seconds:
            return n_read, None
    raise AssertionError("the cases do not end")


if __name__ == "__main__":
    n_done, found = fuzz(-1, float(sys.argv[1]), int(sys.argv[2]))
    sys.exit(found)
