"""Random predictions of members in files, and the cost of reading them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

N_FAMILIES = 8  # members of one kind err alike


def make(path: Path, n_members: int, n_rows: int, n_classes: int) -> None:
    """Write probabilities, float32 (n_members, n_rows, n_classes), and labels beside.

    Members see a common truth through noise of their kind and their own, and are sure
    of themselves to different degrees.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(n_classes, size=n_rows)
    np.save(path.with_suffix(".labels.npy"), labels)
    shape = (n_members, n_rows, n_classes)
    out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    truth = rng.standard_normal(shape[1:], np.float32)
    truth[np.arange(n_rows), labels] += 2
    kinds = rng.standard_normal((N_FAMILIES, *shape[1:]), np.float32)
    for member in range(n_members):
        own = rng.standard_normal(shape[1:], np.float32)
        logits = truth * np.float32(rng.uniform(0.3, 1))
        logits += np.float32(0.7) * kinds[member % N_FAMILIES]
        logits += own * np.float32(rng.uniform(0.3, 1.5))
        logits *= np.float32(rng.uniform(0.5, 3))
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        out[member] = logits / logits.sum(axis=1, keepdims=True)
    out.flush()


def read(path: Path) -> tuple[Any, Any]:
    """Memory-mapped predictions, and labels."""
    return np.load(path, mmap_mode="r"), np.load(path.with_suffix(".labels.npy"))


def floor(n_members: int, n_rows: int, n_passes: int) -> float:
    """CPU seconds to add up one number per member and row, in each round."""
    numbers = np.ones((n_members, n_rows), np.float32)
    started = time.process_time()
    for _ in range(n_passes):
        numbers.sum()
    return time.process_time() - started
