"""Small networks fine-tuned from one start, on digits, for `bench_soups`."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

N_MEMBERS = 20
BATCH_SIZE = 32
START_EPOCHS = 15


class Parts(NamedTuple):
    """Images and labels: training, validation, test, and distorted test."""

    train: tuple[Any, Any]
    choose: tuple[Any, Any]
    test: tuple[Any, Any]
    shift: tuple[Any, Any]


def parts(seed: int) -> Parts:
    """Digits in three parts; the test part also with four distortions."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train, rest, train_y, rest_y = train_test_split(
        images, labels, train_size=0.4, random_state=seed, stratify=labels
    )
    choose, test, choose_y, test_y = train_test_split(
        rest, rest_y, train_size=0.4, random_state=seed, stratify=rest_y
    )
    spoilt = spoil(test, np.random.default_rng(seed))
    return Parts(
        (train, train_y),
        (choose, choose_y),
        (test, test_y),
        (np.concatenate(spoilt), np.tile(test_y, len(spoilt))),
    )


def spoil(images: Any, rng: np.random.Generator) -> list[Any]:
    """Images with noise, with a hole, moved by a pixel, and faint."""
    noisy = images + rng.normal(scale=0.3, size=images.shape)
    holed = images.copy()
    for image in holed:
        row, column = rng.integers(0, 6, 2)
        image[:, row : row + 3, column : column + 3] = 0
    moved = np.stack(
        [
            np.roll(image, rng.choice([-1, 1]), axis=int(rng.integers(1, 3)))
            for image in images
        ]
    )
    faint = 0.4 * images + 0.3
    return [part.astype(np.float32) for part in (noisy, holed, moved, faint)]


def network() -> nn.Module:
    """Two convolutions and two layers, without counts of batches."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def fine_tunes(data: Parts, seed: int) -> tuple[nn.Module, list[nn.Module]]:
    """A start and its fine-tunes, which differ in order, rate, length and noise."""
    torch.manual_seed(seed)
    start = trained(network(), data.train, seed, n_epochs=START_EPOCHS, rate=2e-3)
    rng = np.random.default_rng(seed)
    members = []
    for place in range(N_MEMBERS):
        members.append(
            trained(
                copy.deepcopy(start),
                data.train,
                1000 * seed + place + 1,
                n_epochs=int(rng.integers(5, 16)),
                rate=float(10 ** rng.uniform(-3.5, -2)),
                noise=float(rng.choice([0, 0.05, 0.1])),
                decay=float(rng.choice([0, 1e-4, 1e-2])),
            )
        )
    return start, members


def trained(
    model: nn.Module,
    data: tuple[Any, Any],
    seed: int,
    *,
    n_epochs: int,
    rate: float,
    noise: float = 0,
    decay: float = 0,
) -> nn.Module:
    """The model after some passes over the images."""
    images, labels = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    model.train()
    for _ in range(n_epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(BATCH_SIZE):
            batch = images[rows]
            batch = batch + noise * torch.randn(batch.shape, generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: Any, X: Any, y: Any) -> float:
    """Accuracy, times 100."""
    with torch.no_grad():
        return 100 * float((model(torch.as_tensor(X)).argmax(1).numpy() == y).mean())


def probabilities(model: Any, X: Any) -> np.ndarray:
    """Of each digit, by the network."""
    with torch.no_grad():
        return torch.softmax(model(torch.as_tensor(X)), 1).numpy()
