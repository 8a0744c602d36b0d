"""Eight tasks on handwritten digits and a small network, for `bench_tasks`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from task_training import Part, Settings, Task, trained, with_state
from torch import Tensor, nn

WIDTH = 256
N_FEATURES = 64
SETTINGS = Settings(600, 1e-3, batch_size=32, n_shared_steps=4800)
QUICK = Settings(60, 1e-3, batch_size=32, n_shared_steps=480)
FACTS: dict[str, Any] = {}
QUICK_FACTS = FACTS
BASE = Settings(1500, 2e-3, batch_size=32)
Images = np.ndarray[Any, np.dtype[np.float32]]


class Block(nn.Module):
    """A residual block of two linear layers, as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's output to its input."""
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def network() -> nn.Module:
    """Linear layers, most of them in residual blocks."""
    blocks = [Block() for _ in range(3)]
    return nn.Sequential(
        nn.Linear(64, WIDTH), *blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, N_FEATURES)
    )


def distortions(rng: np.random.Generator) -> dict[str, Callable[[Images], Images]]:
    """Changes of images of shape (n, 8, 8), each of one task."""
    order = rng.permutation(64)
    return {
        "rotated": lambda x: np.rot90(x, axes=(1, 2)),
        "mirrored": lambda x: x[:, :, ::-1],
        "permuted": lambda x: x.reshape(-1, 64)[:, order].reshape(-1, 8, 8),
        "inverted": lambda x: 1 - x,
        "noisy": lambda x: x + rng.normal(scale=0.3, size=x.shape),
        "occluded": lambda x: occlude(x, rng),
    }


def occlude(images: Images, rng: np.random.Generator) -> Images:
    """Images with a square of 4 x 4 pixels set to zero."""
    images = images.copy()
    for image in images:
        row, column = rng.integers(0, 5, 2)
        image[row : row + 4, column : column + 4] = 0
    return images


def make(
    seed: int, folder: Path, *, quick: bool = False
) -> tuple[nn.Module, list[Task]]:
    """The network trained on upright digits, and eight other tasks."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8)
    torch.manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(N_FEATURES, 14))[0].T.contiguous()
    parts = split(images, labels, seed)
    tasks = [
        task(name, [(change(x), y) for x, y in parts], vectors[:10])
        for name, change in distortions(rng).items()
    ]
    for start, name, label in (
        (10, "parity", lambda y: y % 2),
        (12, "above four", lambda y: (y > 4).astype(int)),
    ):
        pairs = [(x, label(y)) for x, y in parts]
        tasks.append(task(name, pairs, vectors[start : start + 2]))
    backbone, upright = network(), task("upright", parts, vectors[:10])
    state = trained(folder / "base.safetensors", backbone, [upright], BASE, seed)
    return with_state(backbone, state), tasks


def split(images: Images, labels: Any, seed: int) -> list[tuple[Images, Any]]:
    """Training, validation and test parts; all tasks have the same test images."""
    train_x, rest_x, train_y, rest_y = train_test_split(
        images, labels, train_size=0.4, random_state=seed, stratify=labels
    )
    choose_x, test_x, choose_y, test_y = train_test_split(
        rest_x, rest_y, train_size=0.33, random_state=seed, stratify=rest_y
    )
    return [(train_x, train_y), (choose_x, choose_y), (test_x, test_y)]


def task(name: str, parts: list[tuple[Images, Any]], head: Tensor) -> Task:
    """A task of flat images."""
    tensors = []
    for images, labels in parts:
        flat = np.ascontiguousarray(images.reshape(len(images), -1), np.float32)
        tensors.append(Part({"input": torch.from_numpy(flat)}, torch.as_tensor(labels)))
    return Task(name, *tensors, head)
